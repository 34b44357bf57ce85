"""The baselines that need no solver: each does its one thing, and learns."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from trainer.errors import TaskError
from trainer.lab.callbacks import Callback
from trainer.lab.finishing import Finish, ramp_descent, refit
from trainer.lab.loop import Settings, train
from trainer.lab.losses import LOSSES, bi_tempered, generalised, ramp, symmetric, trimmed
from trainer.lab.methods import METHODS
from trainer.lab.pruning import doubtful, pruned
from trainer.lab.redo import Redo, hidden_layers, outputs_of
from trainer.lab.runs import Run
from trainer.lab.tasks import Request, Task, load_task
from trainer.stalls.detector import StallDetector


@pytest.fixture(scope="module")
def task() -> Task:
    torch.set_num_threads(1)
    return load_task(Request("digits", fraction=0.3), 0)


def run(task: Task, method: str, settings: Settings) -> Run:
    return train(task, METHODS[method], seed=1, settings=settings, callback=Callback())


# --- losses -----------------------------------------------------------------------------------------------------------


def test_the_generalised_loss_lies_between_cross_entropy_and_absolute_error() -> None:
    """With a small power it is cross-entropy, with power 1 it is one minus the probability."""
    scores, labels = torch.tensor([[2.0, 0.0, 1.0]]).double(), torch.tensor([2])
    likely = scores.softmax(dim=1)[0, 2].item()
    assert generalised(scores, labels, 1e-6).item() == pytest.approx(-math.log(likely), abs=1e-4)
    assert generalised(scores, labels, 1.0).item() == pytest.approx(1 - likely)


def test_robust_losses_are_bounded() -> None:
    """A sample that is as wrong as can be costs no more than a little more than one that is rather wrong."""
    labels, rather, utterly = torch.tensor([0]), torch.tensor([[-6.0, 6.0]]), torch.tensor([[-40.0, 40.0]])
    assert generalised(utterly, labels).item() == pytest.approx(generalised(rather, labels).item(), rel=1e-3)
    assert ramp(utterly, labels).item() == ramp(rather, labels).item() == 1.0
    assert symmetric(utterly, labels, 0.0).item() == pytest.approx(symmetric(rather, labels, 0.0).item(), rel=1e-3)


def test_the_tempered_loss_is_cross_entropy_where_its_temperatures_are_one() -> None:
    """And with its own ones it does not grow beyond all bounds where a label is wrong."""
    scores, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.5]]).double(), torch.tensor([2, 0])
    usual = nn.functional.cross_entropy(scores, labels, reduction="none")
    assert torch.allclose(bi_tempered(scores, labels, 0.9999, 1.0001), usual, atol=2e-3)
    assert bi_tempered(torch.tensor([[-40.0, 40.0]]), torch.tensor([0])).item() < 6


def test_confident_contradictions_are_left_out() -> None:
    """Only where another class is at least as likely as it is where it is the label."""
    likely = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.95, 0.05], [0.6, 0.4]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    assert doubtful(likely, labels).tolist() == [False, False, False, True, False]


def test_pruning_finds_most_wrong_labels(task: Task) -> None:
    """Models that have not seen a sample contradict a wrong label more often than a right one."""
    noisy = load_task(Request("digits", label_noise=0.3), 0)
    torch.manual_seed(0)
    kept = pruned(noisy, 0).train
    assert 0.5 * len(noisy.train) < len(kept) < 0.9 * len(noisy.train)
    with pytest.raises(TaskError, match="pruned is for wrong labels"):
        pruned(load_task(Request("identity"), 0), 0)


def test_trimming_leaves_the_largest_losses_out() -> None:
    """Of ten samples the three of largest loss have no slope, and the mean is that of the others."""
    scores = torch.linspace(-3, 3, 10)[:, None] * torch.tensor([[1.0, 0.0]])
    scores.requires_grad_()
    losses = trimmed(scores, torch.zeros(10, dtype=torch.int64))
    losses.mean().backward()  # type: ignore[no-untyped-call]
    assert (losses[:3] == 0).all()
    assert scores.grad is not None
    assert (scores.grad[:3] == 0).all()
    assert losses.mean().item() == pytest.approx(
        nn.functional.cross_entropy(scores[3:], torch.zeros(7, dtype=torch.int64)).item()
    )


@pytest.mark.parametrize("name", LOSSES)
def test_every_robust_loss_learns(task: Task, name: str) -> None:
    """150 steps of Adam on it leave a model that is mostly right."""
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        task.loss(model(task.train.inputs), task.train.targets, None, LOSSES[name]).backward()
        optimizer.step()
    assert task.score(model, task.selection) > 0.55


def test_a_loss_for_labels_is_refused_where_there_are_none() -> None:
    """A regression with the generalised cross-entropy is a mistake that is named."""
    with pytest.raises(TaskError, match="gce is a loss for wrong labels; identity has numbers"):
        METHODS["gce"].goal(load_task(Request("identity"), 0))


# --- after the last epoch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("candidates", [refit, ramp_descent])
def test_a_finish_is_never_worse_on_what_judges_it(task: Task, candidates: object) -> None:
    """The weights as they are count among the candidates."""
    torch.manual_seed(0)
    model = task.model()
    before = task.score_on_both(model)
    Finish(task, model, candidates).close(polish=True)  # type: ignore[arg-type]
    assert task.score_on_both(model) > before + 0.2


def test_a_refit_moves_the_last_layer_alone(task: Task) -> None:
    """The features stay."""
    torch.manual_seed(0)
    model = task.model()
    first = model[0].weight.detach().clone()  # type: ignore[index, union-attr, operator]
    list(refit(task, model))
    assert torch.equal(model[0].weight, first)  # type: ignore[index, union-attr, arg-type]


def test_a_refit_of_a_regression_is_ridge_regression() -> None:
    """Its loss comes down to that of least squares on the features."""
    found = load_task(Request("identity"), 0)
    torch.manual_seed(0)
    model = found.model()
    list(refit(found, model))
    features = torch.cat([model[:-1](found.train.inputs), torch.ones(len(found.train), 1)], dim=1)  # type: ignore[index, operator]
    best = torch.linalg.lstsq(features.double(), found.train.targets.double()).solution
    least = (features.double() @ best - found.train.targets).square().mean().item()
    with torch.no_grad():
        assert found.loss(model(found.train.inputs), found.train.targets).item() == pytest.approx(least, rel=0.02)


# --- dead units -------------------------------------------------------------------------------------------------------


def test_redo_draws_dead_units_anew_and_hardly_changes_outputs(task: Task) -> None:
    """A unit that never fires gets new incoming weights and outgoing ones of 0; the others stay."""
    torch.manual_seed(0)
    model = task.model()
    (layer, behind), inputs = next(hidden_layers(model)), task.train.inputs
    with torch.no_grad():
        layer.bias[3] = -1e3
    before, kept = model(inputs).detach(), layer.weight[4].clone()
    optimizer = torch.optim.Adam(model.parameters())
    redo = Redo(task, model, optimizer, StallDetector(1, 0.0, 0, "max", "abs"))
    assert [redo.step(0.5) for _ in range(3)].count(True) == 1
    assert torch.equal(layer.weight[4], kept)
    assert (behind.weight[:, 3] == 0).all()
    assert (outputs_of(layer, model, inputs)[:, 3] > 0).any()
    assert (model(inputs) - before).abs().mean() < 0.01


# --- schedules and limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["adamw", "adamw-cosine", "sgd-cosine", "gce", "pruned", "redo", "refit", "ramp"])
def test_every_new_baseline_is_reproducible(task: Task, method: str) -> None:
    """The same seed gives the same weights bit for bit, whatever the global random state was."""
    torch.manual_seed(123)
    first = run(task, method, Settings(epochs=4))
    torch.manual_seed(456)
    assert run(task, method, Settings(epochs=4)).weights_sha256 == first.weights_sha256
    assert first.selection > 0.3


def test_a_cosine_ends_at_nothing(task: Task) -> None:
    """In the epoch after the last the learning rate is 0, so that twice the epochs are another run from the start."""
    short, long = (run(task, "sgd-cosine", Settings(epochs=epochs)) for epochs in (2, 4))
    assert short.epochs[0].score == long.epochs[0].score
    assert short.epochs[1].score != long.epochs[1].score


def test_a_run_can_be_given_so_much_of_the_cpu(task: Task) -> None:
    """It ends after the epoch in which that is used up."""
    assert len(run(task, "adam", Settings(most_cpu_s=1e-6)).epochs) == 1


def test_weight_decay_is_a_setting_of_the_task(task: Task) -> None:
    """AdamW takes it from there."""
    other = dataclasses.replace(task, defaults=dataclasses.replace(task.defaults, weight_decay=1.0))
    assert (
        run(other, "adamw", Settings(epochs=2)).weights_sha256 != run(task, "adamw", Settings(epochs=2)).weights_sha256
    )
