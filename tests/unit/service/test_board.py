"""What a worker's processes share: no lock that a dead child could keep, and a pulse that tells a hung one."""

import os
import signal
import time

import pytest

from solver_service.worker.board import LOOK_S, SILENT_S, Board, Overseer, Pulse
from tests.conftest import wait_for

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of a process with threads


def forked(act: object) -> int:
    """Run something in a child process that then waits to be killed; its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            act()  # type: ignore[operator]
            time.sleep(60)
        finally:
            os._exit(0)
    return pid


def test_a_child_that_is_killed_at_any_instant_blocks_nobody() -> None:
    """Children that do nothing but look at the flag are killed while they look; the others still see it change."""
    board = Board(8)

    def stare() -> None:
        while True:
            board.stopping()

    for _ in range(8):
        pid = forked(stare)
        time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not board.stopping()
    board.stop()
    assert board.stopping()


def test_a_stopped_child_is_killed_and_a_healthy_one_is_not() -> None:
    """The parent sees the pulse of both; eight seconds of its own watching after the last beat the hung one ends."""
    board = Board(2)
    pids = [forked(lambda number=number: Pulse(board, number, every_s=0.01).start()) for number in range(2)]
    try:
        wait_for(lambda: set(board.pulses()) == set(pids))
        hung, healthy = pids
        os.kill(hung, signal.SIGSTOP)
        killed: list[int] = []
        overseer = Overseer(board, killed=killed.append)
        for second in range(int(SILENT_S / LOOK_S) + 2):
            beats = board.pulses()[healthy]
            wait_for(lambda beats=beats: board.pulses()[healthy] > beats)  # type: ignore[misc]
            overseer.look(LOOK_S * second)
        assert os.waitpid(hung, 0)[1] == signal.SIGKILL
        assert set(killed) == {hung}
        assert os.waitpid(healthy, os.WNOHANG) == (0, 0)
    finally:
        os.kill(pids[1], signal.SIGKILL)
        os.waitpid(pids[1], 0)


def test_a_frozen_machine_kills_no_child() -> None:
    """Where the parent itself did not look for a while, a child that could not beat meanwhile begins anew."""
    board = Board(1)
    pid = forked(lambda: board.write(0, pid=os.getpid(), beats=1))
    try:
        wait_for(lambda: board.pulses() != {})
        killed: list[int] = []
        overseer = Overseer(board, killed=killed.append)
        for second in [*range(16), *range(40, 56), *range(80, 96)]:
            overseer.look(LOOK_S * second)
        assert killed == []
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        for second in range(96, 99):
            overseer.look(LOOK_S * second)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise


def test_an_attempt_over_its_time_has_no_pulse() -> None:
    """Whatever holds the solver up: its process is found silent, and ended."""
    board = Board(1)
    pulse = Pulse(board, 0, every_s=0.01)
    pulse.start()
    wait_for(lambda: board.pulses() != {})
    with pulse.within(0.05):
        time.sleep(0.2)
        beats = board.pulses()
        time.sleep(0.1)
        assert board.pulses() == beats
    wait_for(lambda: board.pulses() != beats)
