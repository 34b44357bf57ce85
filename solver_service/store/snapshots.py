"""Snapshots as they were read lately: a stall is usually tried with several specs, which need not fetch it each."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cachetools import LRUCache, TTLCache

from shared.outline import nbytes, outline
from shared.snapshot import Snapshot
from solver_service.store.blobs import BlobStore

KEPT_BYTES = 64 * 1024 * 1024
"""So much of whole snapshots is remembered by each process, the latest first."""
OUTLINED_BYTES = 32 * 1024 * 1024
"""The same for outlines."""
LARGE_BYTES = 1024 * 1024
"""Of snapshots larger than this one is read at a time."""
TRUST_S = 60.0
"""For so long a snapshot that was there counts as being there."""


def _remembered() -> TTLCache[tuple[str, str], Snapshot]:
    return TTLCache(KEPT_BYTES, TRUST_S, getsizeof=nbytes)


def _outlined() -> LRUCache[str, Snapshot]:
    return LRUCache(OUTLINED_BYTES, getsizeof=lambda snapshot: nbytes(snapshot) + 4096)


def _lives() -> TTLCache[tuple[str, str], float]:
    return TTLCache(10_000, TRUST_S)


class _OneByOne:
    """Lets one thread at a time work on a name, while those on other names go on."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._wanted: Counter[str] = Counter()

    @contextlib.contextmanager
    def at(self, name: str) -> Iterator[None]:
        with self._guard:
            self._wanted[name] += 1
            lock = self._locks.setdefault(name, threading.Lock())
        try:
            with lock:
                yield
        finally:
            with self._guard:
                self._wanted[name] -= 1
                if not self._wanted[name]:
                    del self._wanted[name], self._locks[name]


@dataclass(frozen=True)
class Snapshots:
    """Decoded snapshots and outlines, whose arrays are read-only because several jobs share them.

    An outline is all that the gateway needs; it is known by its content alone, and whose snapshot is still there, and
    for how long, by owner. However many threads ask, each is made once, and of large ones one at a time.
    """

    blobs: BlobStore
    _lately: TTLCache[tuple[str, str], Snapshot] = field(default_factory=_remembered)
    _outlines: LRUCache[str, Snapshot] = field(default_factory=_outlined)
    _lives_until: TTLCache[tuple[str, str], float] = field(default_factory=_lives)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _one_by_one: _OneByOne = field(default_factory=_OneByOne)
    _large: threading.Semaphore = field(default_factory=threading.Semaphore)

    def get(self, owner: str, snapshot_id: str) -> Snapshot | None:
        """Read an owner's snapshot whole; None when there is none. SnapshotError for bytes that are not a snapshot."""
        name = (owner, snapshot_id)
        with self._lock:
            found = self._lately.get(name)
        if found is not None:
            return found
        with self._large:
            data = self.blobs.snapshot(owner, snapshot_id)
            if data is None:
                return None
            snapshot = Snapshot.from_bytes(data)
        for array in snapshot.tensors().values():
            array.setflags(write=False)
        if nbytes(snapshot) <= KEPT_BYTES:
            with self._lock:
                self._lately[name] = snapshot
        return snapshot

    def outline(self, owner: str, snapshot_id: str, *, keep_s: float) -> Snapshot | None:
        """The outline of an owner's snapshot, which then lives for at least `keep_s`; None when there is none."""
        with self._lock:
            found = self._outlines.get(snapshot_id)
            lives_until = self._lives_until.get((owner, snapshot_id), 0.0)
        if lives_until < time.monotonic() + keep_s:
            lives_s = self.blobs.prolong(owner, snapshot_id, keep_s + TRUST_S)
            if lives_s is None:
                self.forget(owner, snapshot_id)
                return None
            with self._lock:
                self._lives_until[owner, snapshot_id] = time.monotonic() + lives_s - TRUST_S
        return found or self._read_outline(owner, snapshot_id)

    def _read_outline(self, owner: str, snapshot_id: str) -> Snapshot | None:
        with self._one_by_one.at(snapshot_id):
            with self._lock:
                found = self._outlines.get(snapshot_id)
            if found is not None:
                return found
            size, read = self.blobs.reader(owner, snapshot_id)
            if size == 0:
                return None
            with self._large if size > LARGE_BYTES else contextlib.nullcontext():
                made = outline(read, size)
            self._remember(snapshot_id, made)
            return made

    def outline_of(self, snapshot_id: str, data: bytes) -> Snapshot:
        """Check a file that has just come, and remember its outline. Raises SnapshotError."""
        with self._lock:
            found = self._outlines.get(snapshot_id)
        if found is None:
            found = outline(lambda begin, end: data[begin:end], len(data))
            self._remember(snapshot_id, found)
        return found

    def _remember(self, snapshot_id: str, made: Snapshot) -> None:
        for array in made.tensors().values():
            array.setflags(write=False)
        with self._lock, contextlib.suppress(ValueError):  # it is too large
            self._outlines[snapshot_id] = made

    def forget(self, owner: str, snapshot_id: str) -> None:
        """Believe no longer that the owner's snapshot is there."""
        with self._lock:
            self._lives_until.pop((owner, snapshot_id), None)
            self._lately.pop((owner, snapshot_id), None)
