"""A listening socket that outlives whoever serves it: it is made first, and handed to child processes."""

import contextlib
import errno
import socket
from collections.abc import Iterator

from solver_service.errors import ServiceError
from solver_service.settings import Settings

BACKLOG = 512


class CannotListenError(ServiceError):
    """The address is taken, or not ours; the message says what to do."""


@contextlib.contextmanager
def listening(settings: Settings, fd: int | None = None) -> Iterator[socket.socket]:
    """Listen before anybody serves: the port is known at once, and stays while those who serve are started again.

    With `fd` the socket is one that was inherited. Raises CannotListenError.
    """
    try:
        if fd is not None:
            listener = socket.socket(fileno=fd)
        else:
            family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
            listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
        cure = "choose another --port" if taken else "name an address of this machine with --host"
        raise CannotListenError(f"cannot listen on {settings.host}:{settings.port}: {error}; {cure}") from error
    with listener:
        yield listener


def url_of(listener: socket.socket) -> str:
    """The address at which clients find it."""
    host, port = listener.getsockname()[:2]
    return f"http://{host if ':' not in host else f'[{host}]'}:{port}"
