"""Redis' clock as the service sees it: shared by all, and without a step in a living process."""

from typing import cast

import redis

from solver_service.store.clock import Clock


class Times:
    """A Redis whose clock can be set, and the monotonic clock of this machine."""

    def __init__(self) -> None:
        self.wall, self.here, self.asked = 1000.0, 5.0, 0

    def time(self) -> tuple[int, int]:
        self.asked += 1
        return int(self.wall), round(self.wall % 1 * 1e6)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.here += seconds


def test_it_follows_redis_and_asks_seldom() -> None:
    """Between two questions it runs on by itself."""
    times = Times()
    clock = Clock(cast(redis.Redis, times), monotonic=lambda: times.here)
    assert clock.now() == 1000.0
    times.pass_by(4)
    assert clock.now() == 1004.0
    assert times.asked == 1
    times.pass_by(4)
    assert clock.now() == 1008.0
    assert times.asked == 2


def test_a_step_is_led_in_slowly_both_ways() -> None:
    """Set by an hour, Redis' clock moves ours by at most 2 % of the time that passes, and never back."""
    for step in (3600.0, -3600.0):
        times = Times()
        clock = Clock(cast(redis.Redis, times), monotonic=lambda times=times: times.here)  # type: ignore[misc]
        last = clock.now()
        times.wall += step
        for _ in range(20):
            times.pass_by(6)
            now = clock.now()
            assert 0 < now - last <= 6 * 1.02 + 1e-6
            last = now
        assert abs(last - 1120) <= 0.02 * 120 + 1e-6
        fresh = Clock(cast(redis.Redis, times), monotonic=lambda times=times: times.here)  # type: ignore[misc]
        assert abs(fresh.now() - (1120 + step)) < 1e-6
