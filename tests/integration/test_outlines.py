"""What submissions read of a stored snapshot: each once, large ones one at a time, nothing of those just sent."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.snapshot import snapshot_id
from solver_service.settings import Settings
from solver_service.store import Store, keys
from solver_service.store.blobs import BlobStore
from tests.conftest import small_snapshot
from tests.integration.test_gateway import SPEC, Gateway, assert_problem, post, upload

LARGE = small_snapshot(n=60_000, d=30)


class Reads:
    """Counts who reads from Redis, and how many at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        real = BlobStore.reader

        def counted(blobs: BlobStore, owner: str, name: str) -> tuple[int, Callable[[int, int], bytes]]:
            size, read = real(blobs, owner, name)
            with self._lock:
                self.begun += 1

            def slow(begin: int, end: int) -> bytes:
                with self._lock:
                    self.at_once += 1
                    self.most_at_once = max(self.most_at_once, self.at_once)
                time.sleep(0.01)
                found = read(begin, end)
                with self._lock:
                    self.at_once -= 1
                return found

            return size, slow

        monkeypatch.setattr(BlobStore, "reader", counted)


def test_forty_submissions_of_one_snapshot_read_it_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads ask for one that is not known yet, one of them reads it, and all get the same arrays."""
    data = LARGE.to_bytes()
    store.blobs.put_snapshot("local", snapshot_id(data), data)
    reads = Reads(monkeypatch)
    with ThreadPoolExecutor(40) as threads:
        found = list(threads.map(lambda _: store.snapshots.outline("local", snapshot_id(data), keep_s=10), range(40)))
    assert len({id(one) for one in found}) == 1
    assert reads.begun == 1
    assert found[0] is not None
    assert found[0].shapes() == LARGE.shapes()


def test_of_large_snapshots_one_is_read_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many different ones are read in turn, each in pieces: memory does not grow with their number."""
    names = []
    for seed in range(6):
        data = small_snapshot(seed, n=20_000, d=20).to_bytes()
        names.append(snapshot_id(data))
        store.blobs.put_snapshot("local", names[-1], data)
    reads = Reads(monkeypatch)
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda name: store.snapshots.outline("local", name, keep_s=10), names))
    assert None not in found
    assert (reads.begun, reads.most_at_once) == (6, 1)


def test_what_was_just_sent_is_not_read_again(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job on a snapshot that this gateway has checked needs nothing of it, nor does one with its own snapshot."""
    gateway = Gateway(Settings(redis_url=redis_url))
    reads = Reads(monkeypatch)
    with gateway.client() as client:
        name = upload(client)
        post(client, {"snapshot": name})
        post(client, {"snapshot": name, "ttl_s": 600_000})
        files = {"snapshot": ("s", small_snapshot(1).to_bytes())}
        assert client.post("/v1/solve", data={"spec": '{"objective": "ramp", "radius": 0.1}'}, files=files).is_success
        lists = {name: array.tolist() for name, array in small_snapshot(2).tensors().items()}
        post(client, {"snapshot": {"task": "classification", "tensors": lists}})
        assert gateway.store.redis.ttl(keys.snapshot("local", name)) > 600_000
    assert reads.begun == 0
    gateway.store.close()


def test_anothers_snapshot_stays_unknown_even_where_its_content_is_known(store: Store) -> None:
    """Outlines are known by content, and existence by owner."""
    data = small_snapshot().to_bytes()
    store.blobs.put_snapshot("alice", snapshot_id(data), data)
    assert store.snapshots.outline("alice", snapshot_id(data), keep_s=10) is not None
    assert store.snapshots.outline("bob", snapshot_id(data), keep_s=10) is None


def test_huge_numbers_are_looked_at_as_a_whole(redis_url: str) -> None:
    """Where a range does not tell that an objective is finite, the whole snapshot does."""
    gateway = Gateway(Settings(redis_url=redis_url))
    lists = {name: array.tolist() for name, array in small_snapshot().tensors().items()}
    lists["inputs"] = (small_snapshot().inputs * 1e37).tolist()
    lists["weight"] = (small_snapshot().weight * 1e37).tolist()
    with gateway.client() as client:
        answer = client.post("/v1/jobs", json={**SPEC, "snapshot": {"task": "classification", "tensors": lists}})
        assert answer.status_code in (202, 422), answer.text
    gateway.store.close()


def test_a_submission_that_cannot_be_finite_is_refused(store: Store, redis_url: str) -> None:
    """Two heavy samples far apart and a tiny margin: what ended as a failed job is a 422 that names the margin."""
    tensors = {"inputs": [[1000.0], [-1000.0]], "targets": [1, 1], "weight": [[1.0], [-1.0]]}
    snapshot = {"task": "classification", "tensors": {**tensors, "sample_weight": [1e38, 1e38]}}
    gateway = Gateway(Settings(redis_url=redis_url))
    with gateway.client() as client:
        body = {"objective": "hinge", "radius": 3.0, "snapshot": snapshot}
        refused = client.post("/v1/jobs", json={**body, "margin": 1e-290})
        assert_problem(refused, 422, "invalid_spec", "margin")
        assert "raise the margin" in refused.json()["detail"]
        assert client.post("/v1/jobs", json={**body, "margin": 1e-200}).status_code == 202
    gateway.store.close()
    assert store.quarantined() == 0
