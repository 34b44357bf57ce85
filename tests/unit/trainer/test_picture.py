"""A tunneller's story as a picture: what is on it, and that it can be drawn at any time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gdsolver import Tunneller
from tests.unit.trainer.fakes import FakePool
from trainer.events import Event, Kind
from trainer.journal import Journal
from trainer.picture import covered, picture, spans


def event(kind: Kind, stall: int, t_s: float, **details: Any) -> Event:
    return Event(kind, t_s, 0, 0, stall, **details)


STORY = [
    event("stall", 1, 1.0),
    event("submitted", 1, 1.5, job="a", detail="layer '0', radius 0.5"),
    event("answered", 1, 3.5, job="a"),
    event("adopted", 1, 4.0, job="a", before=0.5, after=0.75),
    event("stall", 2, 5.0),
    event("submitted", 2, 5.5, job="b", detail="layer '2', radius 0.5"),
    event("answered", 2, 6.5, job="b"),
    event("rejected", 2, 7.0, job="b", before=0.75, after=0.5),
    event("stall", 3, 8.0),
    event("submitted", 3, 8.0, job="c", detail="layer '2', radius 0.5"),
    event("adopted", 3, 9.0, job="c", before=0.75, after=0.7),
]


def summary() -> Any:
    return Journal(torch.optim.SGD([nn.Parameter(torch.zeros(1))])).summary(0.25, 3)


def test_each_stall_has_its_gain_in_its_layer() -> None:
    """A bar upwards where something was gained, downwards where it was given up, a cross where nothing was adopted."""
    gains, _, times = picture(STORY, summary(), "max").axes
    bars = {round(bar.get_x() + bar.get_width() / 2): bar for bar in gains.patches if bar.get_height()}  # type: ignore[attr-defined]
    assert {stall: pytest.approx(bar.get_height()) for stall, bar in bars.items()} == {1: 0.25, 3: -0.05}
    assert bars[1].get_facecolor() != bars[3].get_facecolor()
    assert {text.get_text() for text in gains.get_legend().get_texts()} == {"layer 0", "layer 2", "nothing adopted"}
    crosses = [tuple(line.get_xdata()) for line in gains.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert crosses == [(2,)]
    assert " 0.25 s" in {text.get_text() for text in times.texts}


def test_jobs_that_overlap_count_once() -> None:
    """A job is out from its post to its end; one that is still out, until now."""
    assert spans(STORY) == [(1, 1.5, 3.5), (2, 5.5, 6.5), (3, 8.0, 9.0)]
    assert covered([(1.0, 3.0), (2.0, 4.0), (6.0, 7.0)]) == 4.0


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_tunneller_draws_itself(ending: str, tmp_path: Path) -> None:
    """Before anything has happened, and at the end; folders are made."""
    net = nn.Linear(2, 2)
    tunneller = Tunneller(
        net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        validate=lambda: 0.5,
        mode="max",
        data=(torch.randn(20, 2), torch.arange(20) % 2),
        client=FakePool().client(),
        sync=True,
    )
    path = tmp_path / "runs" / f"report.{ending}"
    assert tunneller.report(path) == path
    empty = path.stat().st_size
    tunneller.close(polish=True, timeout=10.0)
    tunneller.report(str(path))
    assert path.stat().st_size != empty
    with pytest.raises(ValueError, match="not supported"):
        tunneller.report(tmp_path / "report.xyz")
