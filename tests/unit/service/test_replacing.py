"""Children of a worker that have ended are replaced at once, after their last job or a kill."""

from types import SimpleNamespace

from solver_service.worker.app import replace_children


class Hub:
    """Celery's event loop, as far as it is asked for: what is due, and how often."""

    def __init__(self) -> None:
        self.due: list[tuple[float, object]] = []

    def call_repeatedly(self, delay: float, callback: object) -> None:
        self.due.append((delay, callback))


def test_dead_children_are_looked_for_many_times_a_second() -> None:
    """Celery's own look every five seconds would leave a slot empty for as long."""
    looked: list[bool] = []
    hub, pool = Hub(), SimpleNamespace(maintain_pool=lambda: looked.append(True))
    replace_children(SimpleNamespace(hub=hub, pool=pool))
    [(every_s, look)] = hub.due
    assert every_s < 1
    look()  # type: ignore[operator]
    assert looked
