"""A tunneller's events as they happen: to a file, to TensorBoard, to a function."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import Event, Tunneller
from trainer.adapters.jsonl import JsonLines
from trainer.adapters.tensorboard import Scalars
from trainer.journal import OnEvent

EVENTS = (
    Event("stall", 1.0, 1, 10, 1, seconds=0.01),
    Event("answered", 2.0, 2, 30, 1, job="a", before=4.0, after=1.0, seconds=0.9),
    Event("adopted", 2.1, 2, 30, 1, job="a", way="block", before=0.5, after=0.25),
    Event("rejected", 3.1, 3, 40, 2, job="b", before=0.25, after=float("nan")),
)


class Points:
    """Keeps what a SummaryWriter would be given."""

    def __init__(self) -> None:
        self.points: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.points.append((tag, scalar_value, global_step))


def tunnelled(on_event: OnEvent) -> Tunneller:
    """A small regression whose last layer is tunnelled once."""
    torch.manual_seed(0)
    inputs = torch.rand(60, 3)
    targets = inputs @ torch.tensor([[1.0], [2.0], [3.0]])
    model = nn.Sequential(nn.Linear(3, 1))

    def validate() -> float:
        with torch.no_grad():
            return float((model(inputs) - targets).square().mean())

    tunneller = Tunneller(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        data=(inputs, targets),
        validate=validate,
        mode="min",
        client=FakePool(least_squares).client(),
        radius=100.0,
        patience=1,
        sync=True,
        on_event=on_event,
    )
    for _ in range(3):
        tunneller.step(validate())
    tunneller.close()
    return tunneller


def test_every_event_is_told_at_once() -> None:
    """A listener hears what the history holds, in its order, and may look at the history meanwhile."""
    heard: list[Event] = []
    seen: list[int] = []
    tunneller: list[Tunneller] = []

    def listen(event: Event) -> None:
        heard.append(event)
        seen.extend(len(one.history) for one in tunneller)

    tunneller.append(tunnelled(listen))
    assert tuple(heard) == tunneller[0].history
    assert {"stall", "submitted", "answered", "adopted"} <= {event.kind for event in heard}


def test_a_listener_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on and tunnels; the failure is said once."""

    def fail(event: Event) -> None:
        raise OSError("the disk is full")

    assert tunnelled(fail).summary().adopted >= 1
    assert caplog.text.count("on_event failed and is told nothing more: OSError: the disk is full") == 1


def test_lines_are_json_and_hold_what_is_known(tmp_path: Path) -> None:
    """A line for each event; what it has no value for is left out, NaN is null; a second log may go on."""
    file = tmp_path / "events.jsonl"
    write = JsonLines(file, about={"run": "a"})
    for event in EVENTS[:3]:
        write(event)
    JsonLines(file, append=True)(EVENTS[3])
    lines = [json.loads(line, parse_constant=pytest.fail) for line in file.read_text().splitlines()]
    assert lines[0] == {"run": "a", "kind": "stall", "t_s": 1.0, "step": 1, "gd_step": 10, "stall": 1, "seconds": 0.01}
    assert lines[3]["after"] is None
    assert "run" not in lines[3]
    JsonLines(file)
    assert file.read_text() == ""


def test_events_become_curves_over_the_optimizer_s_steps() -> None:
    """Counts, gains, seconds of jobs; what is no finite number is left out."""
    writer = Points()
    listen = Scalars(writer, prefix="tunnel")
    for event in EVENTS:
        listen(event)
    assert writer.points == [
        ("tunnel/stalls", 1, 10),
        ("tunnel/job_s", 0.9, 30),
        ("tunnel/objective_gain", 0.75, 30),
        ("tunnel/adopted", 1, 30),
        ("tunnel/validation/before", 0.5, 30),
        ("tunnel/validation/after", 0.25, 30),
        ("tunnel/gain", 0.25, 30),
        ("tunnel/rejected", 1, 40),
    ]


def test_tensorboard_s_own_writer_takes_them(tmp_path: Path) -> None:
    """With TensorBoard installed, a run leaves curves that it can read."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:  # type: ignore[no-untyped-call]
        tunnelled(Scalars(writer))
    assert any(tmp_path.iterdir())
