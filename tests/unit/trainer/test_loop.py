"""The training loop: reproducible, fair to every method, and ended cleanly."""

import dataclasses

import numpy as np
import pytest
import torch

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool, Tensors, least_squares
from trainer.lab.at_stall import Renew
from trainer.lab.callbacks import Callback
from trainer.lab.loop import Settings, train, with_layer
from trainer.lab.methods import METHODS
from trainer.lab.runs import Epoch, Run, fingerprint
from trainer.lab.tasks import Request, Split, Task, load_task
from trainer.stalls.detector import StallDetector

SHORT = Settings(epochs=8, polish_s=10)


@pytest.fixture(scope="module")
def task() -> Task:
    torch.set_num_threads(1)
    whole = load_task(Request("digits", fraction=0.3), 0)
    return dataclasses.replace(whole, defaults=dataclasses.replace(whole.defaults, patience=1, min_delta=0.0))


def run(task: Task, method: str, settings: Settings = SHORT, pool: FakePool | None = None, **options: Callback) -> Run:
    client = pool.client() if pool else None
    return train(
        task, METHODS[method], seed=1, settings=settings, callback=options.get("callback", Callback()), client=client
    )


@pytest.mark.parametrize("method", ["sgd", "sgd-lrs", "adam", "adam-lrs", "restart"])
def test_every_baseline_is_reproducible(task: Task, method: str) -> None:
    """The same seed gives the same weights bit for bit, whatever the global random state was."""
    torch.manual_seed(123)
    first = run(task, method)
    torch.manual_seed(456)
    assert run(task, method).weights_sha256 == first.weights_sha256
    assert first.summary is None
    assert first.gd_steps == 8 * len(list(torch.split(torch.arange(len(task.train)), task.defaults.batch_size)))


@pytest.mark.parametrize("held", [True, False])
def test_without_an_adoption_the_hybrid_is_adam(task: Task, held: bool) -> None:
    """A pool that never answers, or is gone, leaves the weights of plain Adam."""
    pool = FakePool(held=held)
    pool.down = not held
    hybrid = run(task, "hybrid", dataclasses.replace(SHORT, polish_s=0.2), pool)
    assert hybrid.weights_sha256 == run(task, "adam").weights_sha256
    assert hybrid.adopted == 0
    assert hybrid.pool_lost is not held


def test_the_hybrid_adopts_and_says_so(task: Task) -> None:
    """With a pool that helps, the run records tunnel, job, answer and adoption, and the pool hears of it."""
    few = dataclasses.replace(task, tunnel=dataclasses.replace(task.tunnel, radius=50.0))
    found = run(few, "hybrid", Settings(epochs=2, sync=True), FakePool(least_squares))
    assert found.adopted >= 1
    assert {"polish", "submitted", "answered", "adopted"} <= {event.kind for event in found.events}
    assert found.weights_sha256 != run(task, "adam", Settings(epochs=2)).weights_sha256


def test_selection_has_a_say_in_the_last_tunnel(task: Task) -> None:
    """An answer that is best on validation data is not adopted after the last epoch if selection data lose more."""

    def always_zero(snapshot: Snapshot, spec: JobSpec) -> Tensors:
        return {"weight": np.zeros_like(snapshot.weight), "bias": np.eye(1, 10, dtype=np.float32)[0]}

    targets = (task.validation.targets + 1) % 10  # mostly wrong for a model that is right
    targets[: int(0.6 * len(targets))] = 0
    odd = dataclasses.replace(
        task,
        validation=Split(task.validation.inputs, targets),
        defaults=dataclasses.replace(task.defaults, patience=50),
        tunnel=dataclasses.replace(task.tunnel, radius=50.0),
    )
    found = run(odd, "hybrid", pool=FakePool(always_zero))
    assert found.selection > 0.5
    assert found.validation < 0.6


def test_lbfgs_begins_anew_and_the_best_start_is_kept(task: Task) -> None:
    """A stall ends a start and draws new weights; in the end the model holds the best start."""
    model = task.model()
    optimizer = torch.optim.LBFGS(model.parameters())
    renew = Renew(task, model, optimizer, lambda: StallDetector(patience=1, min_delta=0.0))
    starts = []
    for score in (0.9, 0.1):
        renew.step(score)
        starts.append((task.score_on_both(model), fingerprint(model)))
        renew.step(score)
    assert fingerprint(model) not in [print_ for _, print_ in starts]
    renew.close(polish=True)
    assert fingerprint(model) == max(starts)[1]


def test_lbfgs_without_any_finite_start_keeps_its_model(task: Task) -> None:
    """If every score was NaN there is nothing to choose from, and nothing fails."""
    model = task.model()
    renew = Renew(task, model, torch.optim.LBFGS(model.parameters()), lambda: StallDetector(patience=1))
    renew.step(float("nan"))
    before = fingerprint(model)
    renew.close(polish=True)
    assert fingerprint(model) == before


def test_lbfgs_learns_and_is_reproducible(task: Task) -> None:
    """An epoch is one call on all samples; the same seed gives the same weights."""
    found = run(task, "lbfgs", Settings(epochs=3))
    assert found.weights_sha256 == run(task, "lbfgs", Settings(epochs=3)).weights_sha256
    assert found.selection > 0.6


def test_the_target_metric_ends_a_run(task: Task) -> None:
    """Training stops at the first epoch that is good enough, and says that it was."""
    found = run(task, "adam", Settings(epochs=50, target_metric=0.5))
    assert found.target_reached
    assert len(found.epochs) < 50
    assert not run(task, "adam", Settings(epochs=1, target_metric=2.0)).target_reached


def test_the_best_epoch_by_selection_is_reported(task: Task) -> None:
    """The reported weights are those with the best selection metric, for every method alike."""
    found = run(task, "sgd")
    assert found.selection == max(epoch.score for epoch in found.epochs)


def test_ctrl_c_ends_a_run_with_what_was_reached(task: Task) -> None:
    """An interruption keeps the best epoch, cancels the jobs, and is marked."""

    class Interrupting(Callback):
        def on_epoch(self, epoch: Epoch) -> None:
            if epoch.number == 4:
                raise KeyboardInterrupt

    pool = FakePool(held=True)
    found = run(task, "hybrid", pool=pool, callback=Interrupting())
    assert found.interrupted
    assert len(found.epochs) == 4
    assert sorted(pool.cancelled) == sorted(event.job for event in found.events if event.kind == "submitted")


def test_the_hybrid_needs_a_client(task: Task) -> None:
    """Without a pool the mistake is reported at once."""
    with pytest.raises(ValueError, match="needs a solver pool"):
        run(task, "hybrid")


def test_a_run_can_end_when_it_has_stalled_for_good(task: Task) -> None:
    """`until_stalled` ends it after so many epochs in a row without a gain, long before the limit."""
    frozen = dataclasses.replace(task, defaults=dataclasses.replace(task.defaults, adam_lr=0.0))
    found = run(frozen, "adam", Settings(epochs=50, until_stalled=3))
    assert len(found.epochs) == 4


def test_a_run_can_be_given_so_many_seconds(task: Task) -> None:
    """`most_s` ends it after the epoch in which its time is up."""
    assert len(run(task, "adam", Settings(epochs=50, most_s=0.0)).epochs) == 1


def test_another_layer_can_be_asked_for(task: Task) -> None:
    """`layer` names it, or leaves it to the policy; the task's own is the default."""
    pool = FakePool()
    run(task, "hybrid", Settings(epochs=3, sync=True, layer="0"), pool)
    assert all(snapshot.tail for snapshot in pool.snapshots)
    assert with_layer(task, None) is task
