"""What a stall fans out into, and what answers have to keep."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.contracts import JobSpec
from shared.objectives import Objective
from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool, Tensors, least_squares
from trainer import Tunneller
from trainer.adoption.requirements import broken, parse
from trainer.pool.portfolio import RADII, VARIATIONS, Portfolio, Variation, free_jobs

STALLED = 1.0


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(120, 5, generator=generator)
    return inputs, (inputs @ torch.randn(5, 3, generator=generator)).argmax(dim=1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def errors(model: nn.Module) -> float:
    inputs, targets = data()
    with torch.no_grad():
        return float((model(inputs).argmax(dim=1) != targets).float().mean())


def tunneller(model: nn.Module, pool: FakePool, **options: Any) -> Tunneller:
    settings: dict[str, Any] = {"patience": 1, "cooldown": 0, "min_delta": 0.0, "radius": 100.0, "sync": True}
    settings |= {"mode": "min", "validate": lambda: errors(model), "data": data()} | options
    return Tunneller(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), client=pool.client(), **settings)


def test_the_plain_job_comes_first_then_what_has_paid() -> None:
    """Every variation has its turn; one that was adopted moves up, one that was not moves down."""
    portfolio = Portfolio()
    assert [job.radius for job in portfolio.jobs(5)] == list(RADII)
    portfolio.note(Variation(4.0), paid=True)
    portfolio.note(Variation(2.0), paid=False)
    first = [job.radius for job in portfolio.jobs(4)]
    assert first[:2] == [1.0, 4.0]
    assert 2.0 not in first
    again = Portfolio()
    again.load_state_dict(portfolio.state_dict())
    assert list(again.jobs(9)) == list(portfolio.jobs(9))


def test_more_jobs_than_variations_draw_new_samples() -> None:
    """A job is never sent twice."""
    jobs = list(Portfolio().jobs(2 * len(VARIATIONS)))
    assert len(jobs) == 2 * len(VARIATIONS)
    assert all(job.redraw for job in jobs[len(VARIATIONS) :])


def test_margins_vary_where_there_is_one() -> None:
    """Ramp and hinge have a margin, an absolute error has none."""
    assert Variation(margin=3.0).objective(Objective("ramp")).margin == 3.0
    assert Variation(margin=3.0).objective(Objective("mae")) == Objective("mae")


def test_as_many_jobs_as_workers_are_idle_and_at_least_one() -> None:
    """Queued jobs will take idle workers, too."""
    assert [free_jobs(8, 2, 1), free_jobs(8, 8, 40), free_jobs(0, 0, 0)] == [5, 1, 1]


def test_a_free_fanout_asks_the_pool() -> None:
    """The fake pool has one slot, which is busy: one job; answers to one stall are adopted once."""
    pool = FakePool(least_squares)
    tunnels = tunneller(network(), pool, fanout="free")
    tunnels.step(STALLED)
    tunnels.step(STALLED)
    tunnels.close()
    assert len(pool.specs) == 1


def test_answers_to_one_stall_are_adopted_once() -> None:
    """Five answers, two validations, one adoption; the others are told why not."""
    model, pool = network(), FakePool(least_squares)
    tunnels = tunneller(model, pool, fanout=5)
    tunnels.step(STALLED)
    calls = tunnels.summary().validations
    assert tunnels.step(STALLED)
    summary = tunnels.close()
    assert (summary.answers, summary.adopted) == (5, 1)
    assert summary.validations - calls <= 2
    assert len(summary.declined) == 1


def test_requirements_are_written_as_they_are_read() -> None:
    """A name, a sign and a number; anything else is named."""
    first, second = parse(["recall 3 >= 0.75", "gap<=1e-1"])
    assert (str(first), str(second)) == ("recall 3 >= 0.75", "gap <= 0.1")
    assert broken((first, second), {"recall 3": 0.7, "gap": 0.1}) == ("recall 3 >= 0.75",)
    with pytest.raises(ValueError, match="write it like"):
        parse(["recall > much"])
    with pytest.raises(ValueError, match="require names 'gap'"):
        broken((second,), {"other": 1.0})
    with pytest.raises(ValueError, match="returns a dict"):
        broken((second,), 0.5)


def test_what_is_required_comes_before_the_score() -> None:
    """A model that keeps it is adopted though its score is worse; one that does not is declined though it is better."""

    def moved(snapshot: Snapshot, spec: JobSpec) -> Tensors:
        assert [constraint.type for constraint in spec.constraints] == ["min_accuracy"]
        return {"weight": snapshot.weight + 1, "bias": snapshot.bias}  # type: ignore[dict-item]

    for required, adopted in (("size >= 10", 1), ("size <= 1", 0)):
        model = network()
        start = model[2].weight.detach().clone()

        def scores(model: nn.Sequential = model, start: Tensor = start) -> dict[str, float]:
            change = float((model[2].weight.detach() - start).abs().sum())  # type: ignore[operator]
            return {"size": change, "loss": change if adopted else -change}  # noqa: B023

        tunnels = tunneller(
            model,
            FakePool(moved),
            validate=scores,
            monitor="loss",
            require=[required],
            constraints=[{"type": "min_accuracy", "value": 0.1}],
        )
        for _ in range(3):
            tunnels.step({"loss": STALLED})
        assert min(tunnels.close().adopted, 1) == adopted
