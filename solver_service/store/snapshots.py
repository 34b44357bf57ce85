"""Snapshots as they were read lately: a stall is usually tried with several specs, which need not fetch it each."""

import threading
from dataclasses import dataclass, field

from cachetools import TTLCache

from shared.snapshot import Snapshot
from solver_service.store.blobs import BlobStore

KEPT_BYTES = 64 * 1024 * 1024
"""So much is remembered by each process, the latest first."""
TRUST_S = 60.0
"""For so long a snapshot that was there counts as being there."""


def _nbytes(snapshot: Snapshot) -> int:
    return sum(array.nbytes for array in snapshot.tensors().values())


def _remembered() -> TTLCache[tuple[str, str, float], Snapshot]:
    return TTLCache(KEPT_BYTES, TRUST_S, getsizeof=_nbytes)


@dataclass(frozen=True)
class Snapshots:
    """Decoded snapshots, whose arrays are read-only because several jobs share them."""

    blobs: BlobStore
    _lately: TTLCache[tuple[str, str, float], Snapshot] = field(default_factory=_remembered)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, owner: str, snapshot_id: str, *, keep_s: float = 0.0) -> Snapshot | None:
        """Read an owner's snapshot, which then lives for at least `keep_s`; None when there is none.

        Raises SnapshotError for bytes that are not a snapshot.
        """
        name = (owner, snapshot_id, keep_s)
        with self._lock:
            found = self._lately.get(name)
        if found is not None:
            return found
        data = self.blobs.snapshot(owner, snapshot_id, keep_s=keep_s + TRUST_S)
        if data is None:
            return None
        snapshot = Snapshot.from_bytes(data)
        for array in snapshot.tensors().values():
            array.setflags(write=False)
        if _nbytes(snapshot) <= KEPT_BYTES:
            with self._lock:
                self._lately[name] = snapshot
        return snapshot
