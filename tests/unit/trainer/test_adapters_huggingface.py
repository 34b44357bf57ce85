"""The Transformers callback against the real library, with tiny models that are made from a configuration."""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from tests.unit.trainer.fakes import FakePool, Tensors
from trainer import SolverClient
from trainer.errors import CaptureError

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from trainer.adapters.huggingface import TunnelCallback  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore:.*pin_memory")]
WORDS, LENGTH = 20, 6


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logistic(snapshot: Snapshot, spec: JobSpec) -> Tensors:
    """The final layer as ridge logistic regression would have it: well inside the box."""
    inputs, classes = torch.from_numpy(snapshot.inputs.copy()), torch.from_numpy(snapshot.targets.copy())
    layer = torch.nn.Linear(snapshot.inputs.shape[1], snapshot.outputs)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = torch.nn.functional.cross_entropy(layer(inputs), classes) + 1e-4 * layer.weight.square().sum()
        found.backward()
        return found

    optimizer.step(closure)
    return {"weight": layer.weight.detach().numpy(), "bias": layer.bias.detach().numpy()}


def config(**options: Any) -> Any:
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertConfig(vocab_size=WORDS, max_position_embeddings=LENGTH, num_labels=3, **(sizes | options))


def sentences(count: int = 96, *, tokens: bool = False) -> list[dict[str, Tensor]]:
    """Whole sentences are labelled by their first word, tokens by themselves; a third of the tokens is left out."""
    generator = torch.Generator().manual_seed(5)
    words = torch.randint(0, WORDS, (count, LENGTH), generator=generator)
    labels = words % 3 if tokens else words[:, 0] % 3
    if tokens:
        labels = torch.where(words < WORDS // 3, -100, labels)
    mask = torch.ones_like(words)
    return [
        {"input_ids": word, "attention_mask": part, "labels": label}
        for word, part, label in zip(words, mask, labels, strict=True)
    ]


def made(folder: Path, *, tokens: bool = False, callbacks: Any = None, **options: Any) -> Any:
    """A Trainer of a tiny BERT, with dropout and shuffling."""
    torch.manual_seed(0)
    kind = BertForTokenClassification if tokens else BertForSequenceClassification
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 1e-3, "seed": 1}
    settings |= {"eval_strategy": "epoch", "save_strategy": "epoch", "report_to": "none", "use_cpu": True}
    settings |= {"disable_tqdm": True, "logging_strategy": "no"}
    metrics, sets = options.pop("compute_metrics", None), options.pop("eval_dataset", sentences(tokens=tokens))
    return Trainer(
        model=kind(config()),
        args=TrainingArguments(output_dir=str(folder), **(settings | options)),
        train_dataset=sentences(tokens=tokens),
        eval_dataset=sets,
        callbacks=callbacks,
        compute_metrics=metrics,
    )


def tunnel(trainer: Any, pool: FakePool, **options: Any) -> TunnelCallback:
    """A callback with wide boxes, which is added to its trainer."""
    settings = {"client": pool.client, "patience": 100, "min_delta": 0.0, "radius": 100.0, "capture_s": 10.0}
    callback = TunnelCallback(trainer, **(settings | {"polish_s": 20.0} | options))
    trainer.add_callback(callback)
    return callback


def bits(model: Any) -> list[bytes]:
    return [value.numpy().tobytes() for value in model.state_dict().values()]


def saved(trainer: Any, folder: str | Path) -> list[bytes]:
    return bits(type(trainer.model).from_pretrained(folder))


class Masking:
    """A collator that masks words by a generator of its own, and counts its calls, as one Trainer has for all data."""

    def __init__(self) -> None:
        self.generator, self.calls = np.random.default_rng(0), 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        self.calls += 1
        found: dict[str, Tensor] = transformers.default_data_collator(rows)
        masked = torch.tensor(self.generator.random(found["input_ids"].shape) < 0.1 + 1e-3 * self.calls)
        return found | {"input_ids": found["input_ids"].masked_fill(masked, 1)}


def test_a_collators_draws_and_counts_are_put_back(tmp_path: Path) -> None:
    """Until an adoption training is bit-identical with it, too."""
    found = []
    for number in range(2):
        trainer = made(tmp_path / str(number))
        trainer.data_collator = Masking()
        if number:
            tunnel(trainer, FakePool(logistic), patience=1, cooldown=0, sync=True, min_delta=1e9, polish_s=0)
        trainer.train()
        found.append((bits(trainer.model), trainer.data_collator.calls))
    assert found[0] == found[1]


def adopted(callback: TunnelCallback) -> int:
    assert callback.tunneller is not None
    return callback.tunneller.summary().adopted


def test_until_an_adoption_training_is_bit_identical(tmp_path: Path) -> None:
    """With a pool that never answers, weights and log are those of a Trainer without the callback."""
    plain, watched = made(tmp_path / "a"), made(tmp_path / "b")
    plain.train()
    watched = made(tmp_path / "b")
    callback = tunnel(watched, FakePool(held=True), patience=1, min_delta=10.0, polish_s=0.0)
    watched.train()
    assert bits(plain.model) == bits(watched.model)
    losses = [[row["eval_loss"] for row in run.state.log_history if "eval_loss" in row] for run in (plain, watched)]
    assert losses[0] == losses[1]
    assert callback.tunneller is not None
    assert callback.tunneller.summary().stalls > 0
    assert "training_step" not in vars(watched)


@pytest.mark.parametrize("tokens", [False, True], ids=["sequences", "tokens"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"load_best_model_at_end": True},
        {"label_smoothing_factor": 0.1},
        {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4},
        {"max_steps": 7, "eval_strategy": "no"},
        {"bf16": True},
        {"torch_compile": True, "torch_compile_backend": "eager"},
    ],
    ids=str,
)
def test_the_last_checkpoint_is_polished(tmp_path: Path, options: dict[str, Any], tokens: bool) -> None:
    """What the Trainer saves last, and what it holds in the end, are the polished weights."""
    trainer = made(tmp_path, tokens=tokens, **options)
    callback = tunnel(trainer, FakePool(logistic))
    trainer.train()
    assert adopted(callback) == 1
    folder = trainer.state.best_model_checkpoint or tmp_path / f"checkpoint-{trainer.state.global_step}"
    assert saved(trainer, folder) == bits(trainer.model)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(callback.tunneller.history[-1].after, rel=1e-5)  # type: ignore[union-attr]


def test_tokens_that_the_loss_leaves_out_are_no_samples(tmp_path: Path) -> None:
    """Each labelled token is a sample, label -100 is none."""
    trainer = made(tmp_path, tokens=True)
    pool = FakePool(logistic)
    tunnel(trainer, pool)
    trainer.train()
    labels = torch.stack([row["labels"] for row in sentences(tokens=True)])
    assert pool.snapshots[0].samples == int((labels != -100).sum())


def test_early_stopping_is_known_in_time(tmp_path: Path) -> None:
    """A Trainer that stops early ends polished, best model included, whichever callback was added first."""
    for stopping_first in (True, False):
        folder = tmp_path / str(stopping_first)
        trainer = made(folder, num_train_epochs=9, load_best_model_at_end=True)
        stopping = EarlyStoppingCallback(1, early_stopping_threshold=10.0)
        if stopping_first:
            trainer.add_callback(stopping)
        callback = tunnel(trainer, FakePool(logistic))
        if not stopping_first:
            trainer.add_callback(stopping)
        trainer.train()
        assert trainer.state.global_step < 9 * 6
        assert adopted(callback) == 1
        assert saved(trainer, trainer.state.best_model_checkpoint) == bits(trainer.model)


def test_a_metric_of_the_users_own_is_the_monitor(tmp_path: Path) -> None:
    """`metric_for_best_model` and its direction are taken over from the Trainer's arguments."""

    def share(prediction: Any) -> dict[str, float]:
        return {"hits": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}

    trainer = made(
        tmp_path,
        compute_metrics=share,
        metric_for_best_model="hits",
        greater_is_better=True,
        load_best_model_at_end=True,
    )
    callback = tunnel(trainer, FakePool(logistic))
    trainer.train()
    assert adopted(callback) == 1
    assert trainer.state.best_metric == callback.tunneller.history[-1].after  # type: ignore[union-attr]


def test_one_of_several_sets_is_the_judge(tmp_path: Path) -> None:
    """With a dict of sets the monitor names one."""
    sets = {"near": sentences(), "far": sentences(40)}
    trainer = made(tmp_path, eval_dataset=sets)
    callback = tunnel(trainer, FakePool(logistic), monitor="eval_near_loss")
    trainer.train()
    assert adopted(callback) == 1
    trainer = made(tmp_path, eval_dataset=sets)
    tunnel(trainer, FakePool())
    with pytest.raises(CaptureError, match="name a set: eval_near_"):
        trainer.train()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """No data to judge by, or a metric that nobody computes: the error says so."""
    trainer = made(tmp_path, eval_dataset=None, eval_strategy="no")
    tunnel(trainer, FakePool())
    with pytest.raises(CaptureError, match="no eval_dataset"):
        trainer.train()
    trainer = made(tmp_path)
    tunnel(trainer, FakePool(), monitor="f1")
    with pytest.raises(CaptureError, match="'eval_f1', but evaluation gives: eval_loss"):
        trainer.train()


def test_a_resumed_training_goes_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    """Run name and counters of the tunneller are in the checkpoint."""
    trainer = made(tmp_path)
    tunnel(trainer, FakePool(logistic), run="mine")
    trainer.train()
    again = made(tmp_path, num_train_epochs=3)
    callback = tunnel(again, FakePool(held=True), polish_s=0.0)
    again.train(resume_from_checkpoint=True)
    assert callback.tunneller is not None
    assert callback.tunneller.run == "mine"
    assert callback.tunneller.state_dict()["step"] == 3


def offline() -> SolverClient:
    """A client that a copy can make, too."""
    return FakePool().client()


class Broken(TrainerCallback):  # type: ignore[misc]
    """Breaks training off once, at an event."""

    def __init__(self, event: str, error: type[BaseException] | None) -> None:
        self.error = error
        setattr(self, event, self.breaks)

    def breaks(self, *_: Any, **__: Any) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error("broken")


def stepping(trainer: Any, error: type[BaseException] | None = None) -> list[int]:
    """Give the Trainer a training step of the user's own, that notes its calls, and may fail once, at the second."""
    own, calls, broken = trainer.training_step, [], Broken("once", error)

    def mine(*arguments: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 2:
            broken.breaks()
        return own(*arguments, **options)

    trainer.training_step = mine
    return calls


def counting(seen: list[int]) -> Any:
    """A `split` that notes each batch that is seen."""

    def split(batch: Any) -> Any:
        seen.append(len(seen))
        return (), {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]

    return split


@pytest.mark.parametrize("users_own", [False, True], ids=["class", "instance"])
def test_a_training_step_is_put_back(tmp_path: Path, users_own: bool) -> None:
    """A Trainer has after `train` the step that it had before, and the next `train` uses it again."""
    trainer = made(tmp_path)
    calls = stepping(trainer) if users_own else []
    before = vars(trainer).get("training_step")
    tunnel(trainer, FakePool(), polish_s=0.0)
    for run in (1, 2):
        trainer.train()
        assert vars(trainer).get("training_step") is before
        assert len(calls) == (run * trainer.state.global_step if users_own else 0)


def test_two_callbacks_put_back_what_was_there_before_both(tmp_path: Path) -> None:
    """Each ends its own part, in whatever order they end."""
    trainer = made(tmp_path)
    stepping(trainer)
    before = trainer.training_step
    for _ in range(2):
        tunnel(trainer, FakePool(), polish_s=0.0)
    trainer.train()
    assert trainer.training_step is before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["training_step", "on_step_end", "on_epoch_end", "compute_metrics"])
def test_training_that_is_broken_off_can_begin_anew(tmp_path: Path, where: str, error: type[BaseException]) -> None:
    """After an exception the next `train` sees each batch once, and nothing is left of the first."""
    metrics = Broken("compute", error)
    trainer = made(tmp_path, compute_metrics=lambda _: metrics.breaks() or {} if where == "compute_metrics" else {})
    calls = stepping(trainer, error if where == "training_step" else None)
    if where.startswith("on_"):
        trainer.add_callback(Broken(where, error))
    seen: list[int] = []
    before, callback = trainer.training_step, tunnel(trainer, FakePool(), polish_s=0.0, split=counting(seen))
    with pytest.raises(error, match="broken"):
        trainer.train()
    first = callback.tunneller
    assert first is not None
    if where == "training_step":  # what fails elsewhere is known when training begins again
        assert trainer.training_step is before
        assert first.closed
    calls.clear()
    seen.clear()
    trainer.train()
    assert first.closed
    assert callback.tunneller is not first
    assert trainer.training_step is before
    assert len(seen) == len(calls) == trainer.state.global_step


def test_an_error_of_the_callbacks_own_is_the_end_of_it(tmp_path: Path) -> None:
    """Where the callback itself breaks training off, it leaves nothing on the Trainer."""
    trainer = made(tmp_path)
    callback = tunnel(trainer, FakePool(), monitor="f1")
    with pytest.raises(CaptureError, match="eval_f1"):
        trainer.train()
    assert "training_step" not in vars(trainer)
    assert callback.tunneller is not None
    assert callback.tunneller.closed


def test_a_callback_that_was_taken_away_after_an_exception_sees_nothing_more(tmp_path: Path) -> None:
    """What it put on the Trainer goes with the next training."""
    trainer = made(tmp_path)
    trainer.add_callback(Broken("on_step_end", KeyboardInterrupt))
    left = tunnel(trainer, FakePool())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(left)
    tunnel(trainer, FakePool(), polish_s=0.0)
    trainer.train()
    assert "training_step" not in vars(trainer)


@pytest.mark.parametrize("broken", [False, True], ids=["ended", "broken-off"])
def test_a_trainer_can_be_copied_after_training(tmp_path: Path, broken: bool) -> None:
    """The copy's callback belongs to the copy, and tunnels it with a tunneller of its own."""
    trainer = made(tmp_path)
    if broken:
        trainer.add_callback(Broken("on_step_end", KeyboardInterrupt))
    callback = tunnel(trainer, FakePool(), client=offline, polish_s=0.0)
    with pytest.raises(KeyboardInterrupt) if broken else nullcontext():
        trainer.train()
    first = callback.tunneller
    copied = copy.deepcopy(trainer)
    (ours,) = [one for one in copied.callback_handler.callbacks if isinstance(one, TunnelCallback)]
    assert ours.tunneller is None
    before = bits(trainer.model)
    copied.train()
    assert "training_step" not in vars(copied)
    assert ours.tunneller is not None
    assert ours.tunneller.state_dict()["step"] == 2
    assert callback.tunneller is first
    assert bits(trainer.model) == before


def test_evaluation_alone_asks_for_nothing(tmp_path: Path) -> None:
    """`trainer.evaluate()` without training leaves the pool in peace."""
    pool, trainer = FakePool(), made(tmp_path)
    callback = tunnel(trainer, pool)
    trainer.evaluate()
    assert callback.tunneller is None
    assert pool.requests == []
