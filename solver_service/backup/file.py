"""The file of a backup: entries one behind the other, and a checksum of them all at the end.

`gdsolver.pool-backup/1` and a newline; then each entry as the length of its head (4 bytes, big-endian), its head
(JSON, with `kind` and `size`), and `size` bytes. The last entry has the kind `end`, the number of entries before it
and the SHA-256 of every byte before it. Nothing in it is executed or unpickled.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from solver_service.errors import ServiceError

FORMAT = b"gdsolver.pool-backup/"
VERSION = b"1\n"
PIECE_BYTES = 256 * 1024
"""So much of an entry is in memory at a time."""
MOST_HEAD_BYTES = 64 * 1024
_LENGTH = struct.Struct(">I")


class BackupError(ServiceError):
    """The file is no backup, or not a whole one; the message says what is wrong."""


class Writer:
    """Writes entries into a new file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._entries = 0
        self._write(FORMAT + VERSION)

    def add(self, head: dict[str, Any], size: int, pieces: Iterable[bytes]) -> bool:
        """Write an entry; False, leaving nothing of it, if its bytes are not as many as was said (it has gone)."""
        begin, digest, written = self._file.tell(), self._digest.copy(), 0
        self._write_head({**head, "size": size})
        for piece in pieces:
            self._write(piece)
            written += len(piece)
        if written != size:
            self._file.seek(begin)
            self._file.truncate()
            self._digest = digest
            return False
        self._entries += 1
        return True

    def close(self) -> None:
        """Write the last entry."""
        self._write_head({"kind": "end", "size": 0, "entries": self._entries, "sha256": self._digest.hexdigest()})

    def _write_head(self, head: dict[str, Any]) -> None:
        data = json.dumps(head, sort_keys=True).encode()
        self._write(_LENGTH.pack(len(data)) + data)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)


@dataclass(frozen=True)
class Entry:
    """One entry of a file; its bytes can be read until the next one is asked for."""

    head: dict[str, Any]
    begin: int
    size: int
    file: BinaryIO

    def pieces(self) -> Iterator[bytes]:
        """The entry's bytes, a piece at a time."""
        self.file.seek(self.begin)
        for left in range(self.size, 0, -PIECE_BYTES):
            yield _exactly(self.file, min(PIECE_BYTES, left))

    def read(self) -> bytes:
        """The entry's bytes at once, for small ones."""
        return b"".join(self.pieces())


def entries(file: BinaryIO) -> Iterator[Entry]:
    """The entries of a file from its begin, the last one included. Raises BackupError for what cannot be read."""
    file.seek(0)
    if _exactly(file, len(FORMAT)) != FORMAT:
        raise BackupError("not a backup of a pool")
    if _exactly(file, len(VERSION)) != VERSION:
        raise BackupError("a backup of another release, which this one cannot read")
    kind = ""
    while kind != "end":
        head = _head(file)
        entry = Entry(head, file.tell(), head["size"], file)
        yield entry
        kind = head["kind"]
        file.seek(entry.begin + entry.size)


def check(file: BinaryIO) -> int:
    """Read a whole file: how many entries it has before the last. Raises BackupError if one byte is not as written."""
    count, before = -1, 0
    last: dict[str, Any] = {}
    for entry in entries(file):
        count, last = count + 1, entry.head
        before = before if last["kind"] == "end" else entry.begin + entry.size
    if file.read(1):
        raise BackupError("damaged: there is something behind its end")
    digest = hashlib.sha256()
    file.seek(0)
    for left in range(before, 0, -PIECE_BYTES):
        digest.update(_exactly(file, min(PIECE_BYTES, left)))
    if (last.get("entries"), last.get("sha256")) != (count, digest.hexdigest()):
        raise BackupError("damaged: its checksum is another one")
    return count


def _head(file: BinaryIO) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(_exactly(file, _LENGTH.size))
    if length > MOST_HEAD_BYTES:
        raise BackupError("damaged: an entry's head is too long")
    try:
        head = json.loads(_exactly(file, length))
    except (ValueError, RecursionError) as error:
        raise BackupError("damaged: an entry's head cannot be read") from error
    if not isinstance(head, dict) or not isinstance(head.get("kind"), str):
        raise BackupError("damaged: an entry has no kind")
    if type(head.get("size")) is not int or head["size"] < 0:
        raise BackupError("damaged: an entry has no size")
    return head


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise BackupError("cut off: its end is missing")
    return data
