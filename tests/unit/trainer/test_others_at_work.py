"""What other threads, signals' handlers and listeners write while a model or its validation is run stays."""

import gc
import os
import queue
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from tests.unit.trainer.fakes import FakePool, least_squares, unchanged
from trainer import Tunneller
from trainer.model.live import live
from trainer.restoring import beside
from trainer.restoring.attributes import attributes_kept
from trainer.restoring.draws import draws_kept
from trainer.restoring.postponed import after_put_back, postponed
from trainer.restoring.undoing import entries_of

GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(200, 6, generator=GENERATOR)
Y = torch.arange(200) % 4


class Loop:
    """A user's Trainer: all in one object, of which threads and a validation have parts."""

    def __init__(self) -> None:
        self.model = nn.Linear(6, 4)
        self.queue, self.log, self.history = queue.Queue[int](), list[int](), list[int]()
        self.number, self.seen, self.stop = 0, 0, False
        self.lock = threading.Lock()
        self.generator = torch.Generator()

    def act(self) -> None:
        """What another thread does, once."""
        self.queue.put(1)
        self.log.append(1)
        self.number += 1
        with self.lock:
            NUMBERS.append(1)
        torch.rand(1, generator=self.generator)

    def consume(self) -> None:
        """What another thread does with the queue."""
        self.queue.get()
        self.queue.task_done()

    def validate(self) -> float:
        """What a validation notes down; it lasts as long as another thread is told to be at work."""
        self.history.append(1)
        self.seen += 1
        MEANWHILE[0]()
        return 0.0

    def heard(self, _: object) -> None:
        """A listener."""
        self.log.append(1)

    def report(self) -> float:
        """What threads of one kind share."""
        NUMBERS.append(1)
        MEANWHILE[0]()
        return 0.0


NUMBERS: list[int] = []
MEANWHILE: list[Any] = [Mock()]


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    NUMBERS.clear()
    yield
    MEANWHILE[0] = Mock()


@contextmanager
def another(do: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """A thread that does it each time it is asked to, and is at other work of its own in between."""
    asked, over, ended = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    def run() -> None:
        while not ended.is_set():
            if asked.acquire(timeout=0.001):
                do()
                over.release()

    def ask() -> None:
        asked.release()
        assert over.acquire(timeout=20)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield ask
    finally:
        ended.set()
        thread.join(20)


def test_what_another_thread_writes_stays_and_what_a_validation_writes_goes() -> None:
    """A queue, a list, a number, a global list and a generator that a thread has; not what it does not name."""
    loop = Loop()
    before = loop.generator.get_state()
    with another(loop.act) as ask:
        MEANWHILE[0] = ask
        with attributes_kept(loop.model, loop.validate), draws_kept([loop]):
            loop.validate()
    assert (loop.queue.qsize(), loop.queue.unfinished_tasks) == (1, 1)
    assert (loop.log, loop.number, NUMBERS) == ([1], 1, [1])
    assert not torch.equal(loop.generator.get_state(), before)
    assert (loop.history, loop.seen) == ([], 0)


def test_a_queue_that_is_emptied_in_the_meantime_can_be_joined() -> None:
    """No item comes back, and none is unfinished for ever."""
    loop = Loop()
    loop.queue.put(1)
    with another(loop.consume) as ask:
        MEANWHILE[0] = ask
        with attributes_kept(loop.model, loop.validate):
            loop.validate()
    assert (loop.queue.qsize(), loop.queue.unfinished_tasks) == (0, 0)


def test_a_thread_that_waits_all_the_while_has_written_nothing() -> None:
    """What a validation adds to its list is taken off again: nobody else was at work."""
    loop = Loop()

    def wait() -> None:
        loop.queue.get()
        loop.log.append(1)

    def validate() -> float:
        loop.log.append(2)
        return 0.0

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while beside._frames()[thread.ident or 0].f_code.co_filename != threading.__file__:  # it waits by now
        time.sleep(0.001)
    with attributes_kept(loop.model, validate):
        validate()
    assert loop.log == []
    loop.queue.put(1)
    thread.join(20)
    assert loop.log == [1]


def test_a_timer_that_fires_meanwhile_keeps_what_it_wrote() -> None:
    """Its function is known before it is called."""
    loop = Loop()
    timer = threading.Timer(0.2, loop.act)
    timer.start()
    MEANWHILE[0] = timer.join
    with attributes_kept(loop.model, loop.validate):
        loop.validate()
    assert (loop.log, loop.number, loop.history) == ([1], 1, [])


def test_threads_that_a_validation_starts_are_its_own() -> None:
    """What they write is put back with all else."""
    loop = Loop()

    def validate() -> float:
        thread = threading.Thread(target=loop.act)
        thread.start()
        thread.join()
        return 0.0

    with attributes_kept(loop.model, validate):
        validate()
    assert (loop.log, loop.queue.qsize()) == ([], 0)


def test_where_both_write_it_stays_and_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Threads that share a list of results lose none; what the validation itself added stays, too."""
    loop, other = Loop(), Loop()
    for _ in range(2):
        with another(lambda: NUMBERS.append(1)) as ask:
            MEANWHILE[0] = ask
            with attributes_kept(loop.model, other.report):
                other.report()
    assert len(NUMBERS) == 4
    assert caplog.text.count("both may change 'NUMBERS'") == 1


class Shared(nn.Module):
    """An actor whose critic another thread trains."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic, self.other = nn.Linear(6, 4), nn.Linear(6, 1), nn.Linear(6, 1)
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("counted", torch.zeros(1))


def test_weights_that_another_thread_trains_keep_its_updates() -> None:
    """Also those of a buffer; what the pass writes into others is put back."""
    model = Shared()
    bias, other = model.critic.bias.detach().clone(), model.other.bias.detach().clone()

    @torch.no_grad()
    def train() -> None:
        model.critic.bias.add_(1)
        model.steps.add_(1)  # type: ignore[operator]
        model.critic.bias.grad = torch.ones(1)

    model.critic.bias.grad = torch.zeros(1)
    with another(train) as ask, live(model):
        ask()
        model.get_buffer("counted").add_(1)
        model.other.bias.data.add_(1)
    assert torch.equal(model.critic.bias.detach(), bias + 1)
    assert torch.equal(model.critic.bias.grad or torch.zeros(1), torch.ones(1))
    assert torch.equal(model.other.bias.detach(), other)
    assert (model.get_buffer("steps").item(), model.get_buffer("counted").item()) == (1, 0)


def test_the_collector_is_as_before() -> None:
    """It rests while the frames of threads are listed, since Python may wait for ever otherwise."""
    beside.Beside()
    assert gc.isenabled()
    gc.disable()
    try:
        beside.Beside()
        assert not gc.isenabled()
    finally:
        gc.enable()


# --- signals ----------------------------------------------------------------------------------------------------------


@contextmanager
def handled(handler: Any, number: int = signal.SIGUSR1) -> Iterator[None]:
    """With a handler of the user's."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def tunneller(loop: Loop, pool: FakePool | None = None, **options: Any) -> Tunneller:
    """One for which each step but the first is a stall."""
    settings: dict[str, Any] = {"client": (pool or FakePool(least_squares)).client(), "mode": "min", "sync": True}
    optimizer = torch.optim.SGD(loop.model.parameters(), 0.1)
    settings |= {"patience": 1, "cooldown": 0, "validate": loop.validate}
    return Tunneller(loop.model, optimizer=optimizer, **settings | options)


def test_what_a_signals_handler_sets_in_a_validation_stays() -> None:
    """SLURM's signal before the end of a job: the handler is called once all is put back, and the loop hears of it."""
    loop = Loop()
    MEANWHILE[0] = lambda: os.kill(os.getpid(), signal.SIGUSR1)
    with handled(lambda *_: setattr(loop, "stop", True)) as _, tunneller(loop) as made:
        handler = signal.getsignal(signal.SIGUSR1)
        made.observe(X, Y)
        made.step(1.0)
        assert loop.stop
        assert signal.getsignal(signal.SIGUSR1) is handler


def test_signals_wait_in_their_order_and_each_is_heard() -> None:
    """Also where handlers raise errors, and where windows lie in one another."""
    heard = list[int]()

    def fail(number: int) -> None:
        heard.append(number)
        raise RuntimeError("told to end")

    def failing(number: int, _: object) -> None:
        fail(number)

    def nested() -> None:
        with postponed():
            with postponed():
                for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR1):
                    signal.raise_signal(number)
            assert heard == []

    with handled(lambda number, _: heard.append(number)), handled(failing, signal.SIGUSR2):
        with pytest.raises(RuntimeError, match="told to end"):
            nested()
        assert heard == [signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR1]


def test_a_handler_that_is_set_meanwhile_stays() -> None:
    """Whoever sets one in a validation has meant it."""
    first, second = Mock(), Mock()
    with handled(first):
        with postponed():
            signal.signal(signal.SIGUSR1, second)
        assert signal.getsignal(signal.SIGUSR1) is second


def raising(*_: object) -> None:
    """A handler as of an alarm."""
    raise SystemExit(3)


@pytest.mark.parametrize("handler", [raising, lambda *_: sys.exit(3)])
def test_a_handler_that_ends_the_program_is_not_kept_waiting(handler: Any) -> None:
    """A validation may take longer than a cluster waits; what an alarm raises ends what hangs."""
    passed = Mock()

    def run() -> None:
        with postponed():
            signal.raise_signal(signal.SIGUSR1)
            passed()

    with handled(handler), pytest.raises(SystemExit):
        run()
    assert not passed.called


def test_ctrl_c_interrupts_a_pass_as_ever() -> None:
    """Python's own handler is left alone; a shell that runs the tests in the background has taken it away."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), postponed():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_forked_child_has_the_handlers_of_its_own() -> None:
    """A data loader's process that is told to end ends."""
    with handled(lambda *_: os._exit(7)), postponed():
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGUSR1)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_no_signal_is_touched_on_another_thread() -> None:
    """Python allows that on the main thread alone."""
    failed = list[Exception]()

    def run() -> None:
        try:
            with postponed():
                pass
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failed == []


# --- listeners --------------------------------------------------------------------------------------------------------


def test_a_listener_hears_events_once_nothing_is_to_be_put_back() -> None:
    """An answer that comes in the middle of a validation is in the list of one who keeps a list."""
    loop = Loop()
    pool = FakePool(unchanged, held=True)
    made = tunneller(loop, pool, sync=False, on_event=loop.heard)

    def answered() -> None:
        pool.release.set()
        assert made._worker.idle.wait(20)

    with made:
        made.observe(X, Y)
        made.step(1.0)
        made.step(1.0)
        assert pool.submitted.wait(20)
        MEANWHILE[0] = answered
        with made._validator._unnoticed(loop.validate):
            loop.validate()
        assert "answered" in {event.kind for event in made.history}
        assert len(loop.log) == len(made.history)


def test_calls_wait_while_any_thread_has_something_to_put_back() -> None:
    """In their order, and those that come while others are made are made after them."""
    heard = list[int]()

    def first() -> None:
        after_put_back(lambda: heard.append(2))
        heard.append(1)

    with postponed():
        after_put_back(first)
        thread = threading.Thread(target=after_put_back, args=[lambda: heard.append(3)])
        thread.start()
        thread.join()
        assert heard == []
    assert heard == [1, 3, 2]
    after_put_back(lambda: heard.append(4))
    assert heard == [1, 3, 2, 4]


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_mapping_that_another_thread_writes_into_is_read_at_once(kind: type[dict[int, int]]) -> None:
    """Entry by entry it would be another one on the way, which is an error."""
    shared, ended, switched = kind((number, 0) for number in range(2000)), threading.Event(), sys.getswitchinterval()

    def write() -> None:
        number = 0
        while not ended.is_set():
            shared[-1 - number % 3] = number
            shared.pop(-1 - number % 3)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            found = entries_of(shared)
            assert len(found) >= 4000
    finally:
        sys.setswitchinterval(switched)
        ended.set()
        writer.join()
