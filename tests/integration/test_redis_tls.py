"""Redis over TLS: neither side of the service speaks to a Redis that it cannot trust, and both do to one it can."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from solver_service.errors import StoreUnavailableError
from solver_service.queue import celery_app
from solver_service.settings import Settings
from solver_service.store import Store

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")


@dataclass
class Impostor:
    """A server with a certificate of its own making, which remembers what it is told."""

    cert: Path
    port: int = 0
    heard: list[bytes] = field(default_factory=list)


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Impostor]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    found = Impostor(cert)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found.port = listener.getsockname()[1]

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                try:
                    plain.settimeout(5)
                    with context.wrap_socket(plain, server_side=True) as talk:
                        found.heard.append(talk.recv(4096))
                except OSError:
                    plain.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield found
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def speak(url: str) -> None:
    """Try both ways to this Redis: the store's, and Celery's."""
    store = Store.open(Settings(redis_url=url))
    with pytest.raises(StoreUnavailableError):
        store.ping()
    store.close()
    with celery_app(url, current=False).connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(max_retries=1, timeout=2)


def test_an_untrusted_certificate_gets_no_password(impostor: Impostor) -> None:
    """Without a word to the contrary certificates are checked: the handshake fails before anything is said."""
    speak(f"rediss://:secret@localhost:{impostor.port}/0")
    assert impostor.heard == []


@pytest.mark.parametrize("trust", ["ssl_ca_certs={cert}", "ssl_cert_reqs=none"])
def test_a_trusted_certificate_is_spoken_to(impostor: Impostor, trust: str) -> None:
    """An authority of one's own, or no check at all, as the URL says, counts for both."""
    speak(f"rediss://:secret@localhost:{impostor.port}/0?{trust.format(cert=impostor.cert)}")
    assert len(impostor.heard) >= 2
    assert all(b"secret" in word or b"HELLO" in word for word in impostor.heard)


def test_a_certificate_for_another_name_is_refused(impostor: Impostor) -> None:
    """The name in the URL has to be the certificate's."""
    speak(f"rediss://:secret@127.0.0.1:{impostor.port}/0?ssl_ca_certs={impostor.cert}")
    assert impostor.heard == []
