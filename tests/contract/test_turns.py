"""Whose turn it is, on a real Redis: no key waits for another one's queue, and no turn is lost or left over."""

from collections import Counter
from functools import partial

import pytest

from shared.contracts import State
from solver_service.queue import QUEUES, TURNS_QUEUE
from solver_service.reaper import sweep
from solver_service.rules import jobs
from solver_service.store import Store, keys
from solver_service.store.turns import LEAST_WEIGHT
from tests.contract.test_store import add, claim


def next_owner(store: Store) -> str | None:
    """Take a turn as a worker does; whose it was."""
    picked = store.turns.pick()
    job = None if picked is None else store.jobs.get(picked)
    if job is None:
        return None
    claim(store, job)
    return job.owner


def messages(store: Store) -> int:
    return sum(store.redis.llen(queue) for queue in QUEUES)


def test_a_keys_first_job_waits_for_one_job_of_each_other_key(store: Store) -> None:
    """Behind 60 jobs of one key, another key's only job has the next turn or the one after it."""
    for number in range(60):
        add(store, owner="greedy", priority="high" if number % 2 else "low")
    for _ in range(20):
        assert next_owner(store) == "greedy"
    add(store, owner="modest")
    assert "modest" in {next_owner(store), next_owner(store)}


def test_keys_share_turns_whatever_they_queue(store: Store) -> None:
    """Three keys with 5, 20 and 60 jobs each have every third turn until the first one has none left."""
    for owner, count in (("a", 60), ("b", 20), ("c", 5)):
        for _ in range(count):
            add(store, owner=owner)
    assert Counter(next_owner(store) for _ in range(15)) == {"a": 5, "b": 5, "c": 5}
    assert Counter(next_owner(store) for _ in range(20)) == {"a": 10, "b": 10}


def test_coming_back_buys_no_turns(store: Store) -> None:
    """A key that always has just one job queued, and the next as soon as that has begun, has every second turn."""
    for _ in range(30):
        add(store, owner="steady")
    add(store, owner="eager")
    taken: Counter[str | None] = Counter()
    for _ in range(20):
        owner = next_owner(store)
        taken[owner] += 1
        if owner == "eager":
            add(store, owner="eager")
    assert abs(taken["eager"] - taken["steady"]) <= 1


def test_a_key_may_weigh_more(store: Store) -> None:
    """With weight 3 it has three turns for each one of another key."""
    store.turns.weigh("heavy", 3)
    for owner in ("heavy", "light"):
        for _ in range(30):
            add(store, owner=owner)
    assert Counter(next_owner(store) for _ in range(20)) == {"heavy": 15, "light": 5}


@pytest.mark.parametrize("odd", ["1e-17", "1e-320"])
def test_a_weight_of_nearly_nothing_does_not_end_turns(store: Store, odd: str) -> None:
    """None is given any more; one that is stored counts as the least that there is, and so it is shown."""
    with pytest.raises(ValueError, match=r"from 0\.001 to 1,000"):
        store.turns.weigh("light", float(odd))
    store.redis.hset(keys.WEIGHTS, "light", odd)
    assert store.turns.weights() == {"light": LEAST_WEIGHT}
    for owner, count in (("light", 3), ("a", 9), ("b", 9)):
        for _ in range(count):
            add(store, owner=owner)
    while store.redis.zcard(keys.turns("light")):  # all of its turns, one after the other once the others are done
        next_owner(store)
    for owner in ("a", "b") * 6:
        add(store, owner=owner)
    assert Counter(next_owner(store) for _ in range(12)) == {"a": 6, "b": 6}


@pytest.mark.parametrize("odd", ["1e17", "inf", "-inf", "-5", "nan", "words"])
def test_a_pass_that_is_none_keeps_no_key_from_its_turns(store: Store, odd: str) -> None:
    """Neither the pool's pass nor a key's: both go on from where the others are."""
    for owner in ("a", "b") * 6:
        add(store, owner=owner)
    store.redis.set(keys.PASS, odd)
    if odd not in ("nan", "words"):  # which no score can be
        store.redis.zadd(keys.PASSES, {"a": float(odd)})
    assert Counter(next_owner(store) for _ in range(6)) == {"a": 3, "b": 3}


@pytest.mark.parametrize("name", [keys.PASS, keys.PASSES, keys.WEIGHTS, keys.HANDED_ON])
def test_a_name_with_another_type_is_as_good_as_none(store: Store, name: str) -> None:
    """Jobs are taken all the same, in turns."""
    store.redis.delete(name)
    store.redis.rpush(name, "zz")
    made = [add(store, owner=owner) for owner in ("a", "b") * 2]
    if name == keys.PASSES:
        assert next_owner(store) is None  # nobody knows who waits; the reaper sends their messages again
        for job in made:
            store.jobs.send_again(job)
    assert Counter(next_owner(store) for _ in range(4)) == {"a": 2, "b": 2}


def test_priorities_order_a_keys_own_jobs(store: Store) -> None:
    """`high` goes before `normal` and `low` of the same key, and before nobody else's."""
    low, normal, high = (add(store, owner="a", priority=priority) for priority in ("low", "normal", "high"))
    other = add(store, owner="b", priority="low")
    order = [store.turns.pick() for _ in range(4)]
    assert [job for job in order if job != other.id] == [high.id, normal.id, low.id]
    assert other.id in order[:2]


def test_a_key_that_had_its_turn_is_forgotten(store: Store) -> None:
    """Nothing is kept of keys whose jobs are all done, once the others have caught up."""
    for number in range(20):
        add(store, owner=f"key-{number}")
    while next_owner(store) is not None:
        pass
    for _ in range(3):
        add(store, owner="last")
        assert next_owner(store) == "last"
    assert store.redis.zcard(keys.PASSES) <= 1


def test_cancelled_jobs_leave_no_messages(store: Store) -> None:
    """Each job that ends before its turn takes one wake-up with it, whichever; the others still have theirs."""
    made = [add(store) for _ in range(30)]
    for job in made[:25]:
        store.jobs.update(job.id, partial(jobs.cancel, now=store.jobs.now()))
    assert store.redis.llen(TURNS_QUEUE) == messages(store) == 5
    assert [next_owner(store) for _ in range(6)] == ["local"] * 5 + [None]


def test_a_job_picked_by_a_worker_that_died_waits_again(store: Store) -> None:
    """Between its turn and its claim a job is in no order; the reaper sees that it was not claimed."""
    job = add(store)
    assert store.turns.pick() == job.id
    assert store.turns.pick() is None
    store.workers.beat("w", host="h", pid=1, slots=1)
    sweep(store, forgotten=list(store.jobs.sent()))
    assert store.turns.pick() == job.id


def test_a_stale_place_is_no_turn(store: Store) -> None:
    """A job that was sent again just when it was claimed is picked, but cannot be claimed twice."""
    job = add(store)
    claim(store, job)
    store.jobs.send_again(job)
    assert store.turns.pick() == job.id
    assert claim(store, job) is None


def test_an_owners_list_ends_with_its_records(store: Store) -> None:
    """It has a life itself, and ids older than any record can be leave it with the next submission."""
    old = jobs.id_at(1.0) + "0" * 20
    store.redis.zadd(keys.jobs("alice"), {old: 0})
    job = add(store, owner="alice", run="r")
    for name in (keys.jobs("alice"), keys.jobs("alice", "r")):
        assert store.redis.zrange(name, 0, -1) == [job.id.encode()]
        assert 7 * 86400 < store.redis.ttl(name) < 30 * 86400


def test_only_the_attempt_that_holds_a_job_speaks_for_it(store: Store) -> None:
    """A late worker neither renews another attempt's lease nor overwrites its incumbent."""
    job = add(store)
    claim(store, job)
    assert store.jobs.renew(job.id, 1)
    assert store.blobs.put_incumbent(job.id, 1, b"first")
    sweep(store, silent=[job.id])
    assert not store.jobs.renew(job.id, 1)
    claim(store, job)
    before = store.jobs.leases()
    assert not store.jobs.renew(job.id, 1)
    assert not store.blobs.put_incumbent(job.id, 1, b"late")
    assert store.jobs.leases() == before
    assert store.blobs.incumbent(job.id) == b"first"
    assert store.jobs.renew(job.id, 2)
    assert store.blobs.put_incumbent(job.id, 2, b"second")
    assert store.blobs.incumbent(job.id) == b"second"


def test_who_asks_again_finds_its_own_claim(store: Store) -> None:
    """A claim whose answer was lost is not made twice, and nobody else gets it."""
    job = add(store)
    mine = partial(jobs.claim, worker="w", token="w1:task", now=store.jobs.now())
    first = store.jobs.update(job.id, mine)
    assert first is not None
    assert store.jobs.update(job.id, mine) == first
    assert store.jobs.update(job.id, partial(jobs.claim, worker="w", token="w2:task", now=0.0)) is None
    assert store.jobs.counters()["attempts|"] == 1
    found = store.jobs.get(job.id)
    assert found is not None
    assert (found.state, found.attempt) == (State.RUNNING, 1)


def test_two_workers_of_one_name_are_two(store: Store) -> None:
    """Each has its own heartbeat, its own jobs and its own count."""
    for number in (1, 2):
        store.workers.beat("twin", worker_id=f"id{number}", host="h", pid=number, slots=1)
    job = add(store)
    claimed = store.jobs.update(job.id, partial(jobs.claim, worker="twin", token="id2:t", now=store.jobs.now()))
    assert claimed is not None
    first, second = store.workers.alive()
    assert (first.name, second.name) == ("twin", "twin")
    assert (claimed.is_at(first), claimed.is_at(second)) == (False, True)
