"""The Lightning callback against the real library: tunnels where they belong, and no trace elsewhere."""

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import SolverClient
from trainer.errors import CaptureError

pl = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.callbacks import (  # noqa: E402
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger  # noqa: E402
from lightning.pytorch.tuner import Tuner  # noqa: E402
from lightning.pytorch.utilities import CombinedLoader  # noqa: E402
from torchmetrics import Accuracy  # noqa: E402

from trainer.adapters.lightning import TunnelCallback  # noqa: E402
from trainer.adapters.recording import Recorder, metrics_kept  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        ".*does not have many workers",  # Lightning's advice on loaders
        ".*number of training batches",
        ".*LeafSpec",  # Lightning's own use of torch
        ".*tensorboardX",
        ".*exists and is not empty",
    )
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data(count: int = 120) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 5, generator=generator)
    return TensorDataset(inputs, (inputs @ torch.randn(5, 3, generator=generator)).argmax(dim=1))


class Classifier(pl.LightningModule):  # type: ignore[misc, name-defined]
    """Dropout and a shuffling loader, so that random state matters, and a metric object."""

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 3))
        self.accuracy = Accuracy("multiclass", num_classes=3)
        self.batch_size = 20

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        scores = self(batch[0])
        self.accuracy.update(scores, batch[1])
        self.log("val_loss", nn.functional.cross_entropy(scores, batch[1]))
        self.log("val_acc", self.accuracy)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> Any:
        return DataLoader(data(), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(data(), batch_size=50)

    def bits(self) -> list[bytes]:
        return [value.numpy().tobytes() for value in self.state_dict().values()]


class Bare(Classifier):
    """Without a forward(), as many modules are."""

    forward = pl.LightningModule.forward

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))


def tunnel(pool: FakePool, **options: Any) -> TunnelCallback:
    """A callback that sees a stall at every second check, and waits for the answer."""
    settings = {"monitor": "val_loss", "client": pool.client, "patience": 1, "min_delta": 0.0, "cooldown": 0}
    return TunnelCallback(**({**settings, "radius": 100.0, "capture_s": 10.0, "polish_s": 20.0} | options))


def offline() -> SolverClient:
    """A client that a copy can make, too."""
    return FakePool().client()


def trainer(folder: Path, callback: Any = None, **options: Any) -> Any:
    settings = {"max_epochs": 3, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = [*options.pop("callbacks", []), *([] if callback is None else [callback])]
    settings |= {"accelerator": "cpu", "default_root_dir": folder, "callbacks": callbacks}
    return pl.Trainer(**(settings | options))


def loss(module: Classifier) -> float:
    module.eval()
    inputs, targets = data().tensors
    with torch.no_grad():
        return float(nn.functional.cross_entropy(module(inputs), targets))


def saved(path: str, kind: type[Classifier] = Classifier) -> Classifier:
    return kind.load_from_checkpoint(path, weights_only=False)


def adopted(callback: TunnelCallback) -> int:
    assert callback.tunneller is not None
    return callback.tunneller.summary().adopted


class Jitter:
    """A collation with a generator of its own, which counts its calls."""

    def __init__(self) -> None:
        self.generator, self.calls = torch.Generator().manual_seed(0), 0

    def __call__(self, samples: Any) -> Any:
        self.calls += 1
        inputs, targets = default_collate(samples)
        return inputs + 0.1 * torch.randn(inputs.shape, generator=self.generator) + 1e-3 * self.calls, targets


def test_draws_and_counts_of_a_collation_are_put_back(tmp_path: Path) -> None:
    """Until an adoption a fit is bit-identical where both loaders have one collation, too."""
    found = []
    for callback in (None, tunnel(FakePool(least_squares), patience=1, min_delta=1e9, polish_s=0.0)):
        module, jitter = Classifier(), Jitter()
        train = DataLoader(data(), batch_size=20, shuffle=True, collate_fn=jitter)
        trainer(tmp_path, callback).fit(module, train, DataLoader(data(), batch_size=50, collate_fn=jitter))
        found.append((module.bits(), jitter.calls))
    assert found[0] == found[1]


def test_until_an_adoption_a_fit_is_bit_identical(tmp_path: Path) -> None:
    """With a pool that never answers, weights, metrics and log are those of a fit without the callback."""
    bits, logs = [], []
    for number, callback in enumerate([None, tunnel(FakePool(held=True), min_delta=10.0, polish_s=0.0)]):
        module, logger = Classifier(), CSVLogger(tmp_path, name=f"run{number}")
        fit = trainer(tmp_path, callback, logger=logger, log_every_n_steps=1)
        fit.fit(module)
        bits.append(module.bits())
        logs.append(Path(logger.experiment.metrics_file_path).read_text())
    assert bits[0] == bits[1]
    assert logs[0] == logs[1]
    assert callback is not None
    assert callback.tunneller is not None
    assert callback.tunneller.summary().stalls > 0


def test_the_last_tunnel_comes_before_the_last_checkpoint(tmp_path: Path) -> None:
    """The checkpoint that Lightning saves by itself holds the polished weights, bit by bit."""
    pool, module = FakePool(least_squares), Classifier()
    callback = tunnel(pool, patience=100)
    fit = trainer(tmp_path, callback)
    fit.fit(module)
    assert adopted(callback) == 1
    assert saved(fit.checkpoint_callback.best_model_path).bits() == module.bits()


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 8, "max_epochs": -1},  # in the middle of an epoch
        {"callbacks": [EarlyStopping("val_loss", patience=1, min_delta=10.0)], "max_epochs": 9},
        {"val_check_interval": 0.5},
        {"check_val_every_n_epoch": 2, "max_epochs": 5},
        {"check_val_every_n_epoch": 2, "max_epochs": 4, "num_sanity_val_steps": 0},
        {"check_val_every_n_epoch": None, "val_check_interval": 9, "num_sanity_val_steps": 0},
        {"accumulate_grad_batches": 4},
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"limit_val_batches": 2, "limit_train_batches": 4},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("monitor", [None, "val_loss"])
def test_the_best_checkpoint_is_polished_however_a_fit_ends(
    tmp_path: Path, options: dict[str, Any], monitor: str | None
) -> None:
    """Early stopping, a limit of steps, rare or frequent validations: the last adoption is in the checkpoints."""
    checkpoint = ModelCheckpoint(tmp_path / "saved", monitor=monitor, save_last=True)
    options = {**options, "callbacks": [checkpoint, *options.get("callbacks", [])]}
    module, callback = Classifier(), tunnel(FakePool(least_squares), patience=100)
    fit = trainer(tmp_path, callback, **options)
    fit.fit(module)
    assert adopted(callback) == 1
    for path in (checkpoint.best_model_path, checkpoint.last_model_path):
        found = saved(path)
        for name, value in module.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], value.to(found.state_dict()[name].dtype))
    if monitor is not None:
        assert checkpoint.best_model_score == fit.callback_metrics["val_loss"]
    assert len(list((tmp_path / "saved").glob("epoch*.ckpt"))) == 1


def test_an_adoption_is_what_checkpoints_rank_by(tmp_path: Path) -> None:
    """The monitored value after an adoption is the score of the weights that are there."""
    module, callback = Classifier(), tunnel(FakePool(least_squares), first_after=2, sync=True, polish_s=0.0)
    fit = trainer(tmp_path, callback, max_epochs=4)
    fit.fit(module)
    assert adopted(callback) >= 1
    adoptions = [event for event in callback.tunneller.history if event.kind == "adopted"]  # type: ignore[union-attr]
    assert all(event.after < event.before for event in adoptions)  # type: ignore[operator]


def test_a_metric_object_is_the_monitor(tmp_path: Path) -> None:
    """A torchmetrics object that validation logs is computed anew and left as it was."""
    module, callback = Classifier(), tunnel(FakePool(least_squares), monitor="val_acc", patience=100)
    trainer(tmp_path, callback).fit(module)
    (last,) = [event for event in callback.tunneller.history if event.kind == "adopted"]  # type: ignore[union-attr]
    module.eval()
    inputs, targets = data().tensors
    assert last.after == pytest.approx(float((module(inputs).argmax(1) == targets).float().mean()))
    assert last.after > last.before  # type: ignore[operator]


def test_several_loaders_and_a_score_at_the_epochs_end(tmp_path: Path) -> None:
    """A loader's own value, and one that a module makes of what it has gathered, are monitored alike."""

    class Gathering(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.gathered: list[Tensor] = []

        def val_dataloader(self) -> Any:
            return [super().val_dataloader(), super().val_dataloader()]

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            found = nn.functional.cross_entropy(self(batch[0]), batch[1], reduction="none")
            self.gathered.append(found)
            self.log("val_loss", found.mean())

        def on_validation_epoch_end(self) -> None:
            self.log("all_loss", torch.cat(self.gathered).mean())
            self.gathered.clear()

    for monitor in ("val_loss/dataloader_idx_1", "all_loss"):
        module, callback = Gathering(), tunnel(FakePool(least_squares), monitor=monitor, mode="min", patience=100)
        trainer(tmp_path, callback).fit(module)
        (last,) = [event for event in callback.tunneller.history if event.kind == "adopted"]  # type: ignore[union-attr]
        assert last.after == pytest.approx(loss(module), rel=1e-5)
        assert module.gathered == []


class Given(pl.LightningDataModule):  # type: ignore[misc, name-defined]
    """Data that are not the module's own."""

    def __init__(self, validation: Any = None) -> None:
        super().__init__()
        self.validation, self.asked = validation, 0

    def train_dataloader(self) -> Any:
        return DataLoader(data(), batch_size=20, shuffle=True)

    def val_dataloader(self) -> Any:
        assert self.trainer.validating or self.trainer.sanity_checking
        self.asked += 1
        return DataLoader(data(), batch_size=50) if self.validation is None else self.validation


@pytest.mark.parametrize("first", [False, True], ids=["fit", "validate-fit"])
def test_a_fit_that_ends_before_its_first_validation_is_polished(tmp_path: Path, first: bool) -> None:
    """Validation data are there from the beginning, even where Lightning has not asked for them before the end."""
    module, given, callback = Classifier(), Given(), tunnel(FakePool(least_squares))
    fit = trainer(tmp_path, callback, max_epochs=1, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    if first:
        fit.validate(module, DataLoader(data(30), batch_size=50), verbose=False)
    fit.fit(module, datamodule=given)
    assert adopted(callback) == 1
    assert given.asked == 1
    assert callback.tunneller is not None
    assert callback.tunneller.history[-1].after == pytest.approx(loss(module), rel=1e-5)
    assert saved(fit.checkpoint_callback.best_model_path).bits() == module.bits()


def test_loaders_are_asked_for_when_lightning_would(tmp_path: Path) -> None:
    """Loaders that draw random numbers when they are made leave a fit bit-identical, too."""

    class Drawing(Classifier):
        def val_dataloader(self) -> Any:
            return DataLoader(data(100 + int(torch.randint(20, ()))), batch_size=50)

    bits = []
    for callback in (None, tunnel(FakePool(held=True), min_delta=10.0, polish_s=0.0)):
        module = Drawing()
        trainer(tmp_path, callback, max_epochs=4, check_val_every_n_epoch=2, num_sanity_val_steps=0).fit(module)
        bits.append(module.bits())
    assert bits[0] == bits[1]


@pytest.mark.filterwarnings("ignore:Total length of `list`")
def test_validation_data_that_turn_out_to_be_empty_end_no_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A list of no loaders is known when Lightning asks for it: at the start, or so late that training is done."""
    with pytest.raises(CaptureError, match="give `fit` validation data"):
        trainer(tmp_path, tunnel(FakePool())).fit(Classifier(), datamodule=Given([]))
    pool = FakePool()
    fit = trainer(tmp_path, tunnel(pool), check_val_every_n_epoch=4, num_sanity_val_steps=0)
    fit.fit(Classifier(), datamodule=Given([]))
    assert fit.current_epoch == 3
    assert pool.specs == []
    assert "no last tunnel" in caplog.text


@pytest.mark.parametrize("mode", ["sequential", "max_size_cycle", "min_size", "max_size"])
def test_combined_loaders_are_validated_as_lightning_does(tmp_path: Path, mode: str) -> None:
    """Whether loaders come one after the other or together, the score is that of Lightning's own validation."""

    class Together(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            pairs = [pair for pair in batch.values() if pair] if isinstance(batch, dict) else [batch]
            losses = [nn.functional.cross_entropy(self(inputs), classes) for inputs, classes in pairs]
            self.log("val_loss", torch.stack(losses).mean(), batch_size=len(pairs))

    def both() -> Any:
        loaders = {"a": DataLoader(data(), batch_size=50), "b": DataLoader(Subset(data(), range(60)), batch_size=50)}
        return CombinedLoader(loaders, mode)

    monitor = "val_loss/dataloader_idx_1" if mode == "sequential" else "val_loss"
    module = Together()
    callback = tunnel(FakePool(least_squares), monitor=monitor, mode="min", patience=100)
    fit = trainer(tmp_path, callback)
    fit.fit(module, val_dataloaders=both())
    assert adopted(callback) == 1
    scored = trainer(tmp_path).validate(module, both(), verbose=False)
    found = {name: value for scores in scored for name, value in scores.items()}[monitor]
    assert callback.tunneller is not None
    assert callback.tunneller.history[-1].after == pytest.approx(found, rel=1e-5)


def test_metrics_begin_anew_and_come_back() -> None:
    """What a metric has gathered is not lost, lists included."""
    module = nn.Module()
    module.tensor, module.list = (
        Accuracy("multiclass", num_classes=3),
        Accuracy("multiclass", num_classes=3, multidim_average="samplewise"),
    )
    scores, classes = torch.eye(3), torch.tensor([0, 1, 1])
    module.tensor.update(scores, classes)
    module.list.update(scores.unsqueeze(-1), classes.unsqueeze(-1))
    before = [module.tensor.compute(), module.list.compute()]
    with metrics_kept(module, type(module.tensor)):
        assert not module.tensor.update_called
        module.tensor.update(scores, torch.tensor([2, 2, 2]))
        module.list.update(scores.unsqueeze(-1), classes.unsqueeze(-1))
    module.tensor._computed = module.list._computed = None
    assert torch.equal(module.tensor.compute(), before[0])
    assert torch.equal(module.list.compute(), before[1])


def test_values_are_reduced_as_lightning_would() -> None:
    """Means by samples, other reductions by their name, and names of several loaders."""
    recorder, largest = Recorder("a/dataloader_idx_1"), Recorder("b")
    for rows, value in ((3, 1.0), (1, 5.0)):
        recorder.begin((torch.zeros(rows, 2), torch.zeros(rows)), "/dataloader_idx_1")
        recorder.log("a", torch.tensor(value))
        largest.begin({"x": torch.zeros(rows)}, "")
        largest.log("b", value, reduce_fx="max")
    assert recorder.value() == 2.0
    assert largest.value() == 5.0


Log = Callable[[Any, Tensor, int], None]
LOGGED: dict[str, Log] = {
    "epoch": lambda module, loss, _: module.log("val_loss", loss),
    "forked": lambda module, loss, _: module.log("val_loss", loss, on_step=True, on_epoch=True),
    "step": lambda module, loss, _: module.log("val_loss", loss, on_step=True),
    "positional": lambda module, loss, _: module.log("val_loss", loss, False, None, True, True, "MAX"),
    "several": lambda module, loss, _: module.log_dict({"val_loss": loss, "other": -loss}, on_step=True),
    "apart": lambda module, loss, number: module.log(
        f"val_loss_{number}", loss, on_step=True, add_dataloader_idx=False
    ),
    "metric": lambda module, *_: module.log("val_acc", module.accuracy, on_step=True),
    "per step alone": lambda module, loss, _: module.log("val_loss", -loss, on_step=True, on_epoch=False),
}
"""Ways to log; Lightning gives some of them two names."""


@pytest.mark.parametrize("loaders", [1, 2])
@pytest.mark.parametrize("end", [False, True], ids=["steps", "end"])
@pytest.mark.parametrize("way", LOGGED)
def test_every_name_that_lightning_knows_is_recorded(tmp_path: Path, way: str, end: bool, loaders: int) -> None:
    """Whatever callbacks could monitor has for the recorder the value that it has for Lightning; the rest has none."""
    suffixes = ("", "_0", "_1", "/dataloader_idx_0", "/dataloader_idx_1")
    stems = [f"val_{kind}{number}" for kind in ("loss", "acc") for number in ("", "_0", "_1")]
    names = {f"{stem}{fork}{suffix}" for stem in stems for fork in ("", "_epoch", "_step") for suffix in suffixes}
    recorders, values = {name: Recorder(name) for name in names}, {}

    class Logging(Classifier):
        def val_dataloader(self) -> Any:
            return [DataLoader(Subset(data(), range(size)), batch_size=50) for size in (120, 70)[:loaders]]

        def log(self, *arguments: Any, **options: Any) -> None:
            super().log(*arguments, **options)
            for recorder in recorders.values():
                recorder.log(*arguments, **options)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            for recorder in recorders.values():
                recorder.begin(batch, f"/dataloader_idx_{dataloader_idx}" if loaders > 1 else "")
            scores = self(batch[0])
            self.accuracy.update(scores, batch[1])
            LOGGED[way](self, nn.functional.cross_entropy(scores, batch[1]), dataloader_idx)

        def on_validation_epoch_end(self) -> None:
            for recorder in recorders.values():
                recorder.begin(None, "")
            self.accuracy.reset()
            if end:
                self.log("val_loss", 7.0)
            for name, recorder in recorders.items():
                with suppress(CaptureError):
                    values[name] = recorder.value()

    fit = trainer(tmp_path)
    fit.validate(Logging(), verbose=False)
    known = {name: float(value) for name, value in fit.callback_metrics.items() if not name.startswith("other")}
    assert values == pytest.approx(known)
    assert known or (way == "per step alone" and not end)


def test_an_adoption_is_known_by_all_names_of_the_monitor(tmp_path: Path) -> None:
    """Checkpoints that go by the second name of a score rank by the adopted one, and the other way round."""

    class Twice(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), on_step=True, on_epoch=True)

    for ours, theirs in (("val_loss", "val_loss_epoch"), ("val_loss_epoch", "val_loss")):
        checkpoint = ModelCheckpoint(tmp_path / ours, monitor=theirs)
        module, callback = Twice(), tunnel(FakePool(least_squares), monitor=ours, patience=100)
        trainer(tmp_path, callback, callbacks=[checkpoint]).fit(module)
        assert adopted(callback) == 1
        assert callback.tunneller is not None
        assert float(checkpoint.best_model_score) == pytest.approx(callback.tunneller.history[-1].after)
        assert saved(checkpoint.best_model_path, Twice).bits() == module.bits()


def test_several_optimizers_are_refused(tmp_path: Path) -> None:
    """Two optimizers are named as the reason, before training begins."""

    class Two(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[0], self.net[4])]

    with pytest.raises(CaptureError, match="2 optimizers are at work"):
        trainer(tmp_path, tunnel(FakePool())).fit(Two())


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """A monitor that nobody logs, no validation, and no forward(): each error names the cure."""
    with pytest.raises(CaptureError, match="'val_f1', which validation does not log; it logs: val_loss, val_acc"):
        trainer(tmp_path, tunnel(FakePool(), monitor="val_f1")).fit(Classifier())

    class Both(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            found = super().training_step(batch, batch_idx)
            self.log("train_loss", found, on_step=True, on_epoch=True)
            return found

    with pytest.raises(CaptureError, match="'train_loss', which validation does not log; it logs: val_loss, val_acc"):
        trainer(tmp_path, tunnel(FakePool(), monitor="train_loss")).fit(Both())
    with pytest.raises(CaptureError, match="give `fit` validation data"):
        trainer(tmp_path, tunnel(FakePool()), limit_val_batches=0).fit(Classifier())

    with pytest.raises(CaptureError, match=r'no forward.*model="net"'):
        trainer(tmp_path, tunnel(FakePool())).fit(Bare())


def test_a_part_is_tunnelled_where_the_module_has_no_forward(tmp_path: Path) -> None:
    """`model=` names the part that maps inputs to outputs."""

    callback = tunnel(FakePool(least_squares), patience=100, model="net")
    trainer(tmp_path, callback).fit(Bare())
    assert adopted(callback) == 1


def test_it_is_silent_where_nothing_is_trained(tmp_path: Path) -> None:
    """A fast run for development, finders and a lone validation ask the pool for nothing."""
    pool = FakePool(least_squares)
    callback = tunnel(pool)
    trainer(tmp_path, callback, fast_dev_run=True).fit(Classifier())
    trainer(tmp_path, callback).validate(Classifier(), verbose=False)
    fit, module = trainer(tmp_path, callback), Classifier()
    tuner = Tuner(fit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuner.scale_batch_size(module, mode="power", steps_per_trial=1, max_trials=2)
        tuner.lr_find(module, num_training=8)
    assert pool.requests == []
    assert callback.tunneller is None


def test_a_finder_of_learning_rates_may_stand_beside_it(tmp_path: Path) -> None:
    """The finder's own fit is left alone; the one after it is tunnelled."""
    callback = tunnel(FakePool(least_squares), patience=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = trainer(tmp_path, callback, callbacks=[LearningRateFinder(num_training_steps=8)])
        fit.fit(Classifier())
    assert adopted(callback) == 1
    assert callback.tunneller is not None
    assert callback.tunneller.summary().jobs == 1


@pytest.mark.parametrize("averaging", [lambda: StochasticWeightAveraging(1e-3, 1), WeightAveraging])
def test_averages_are_left_alone_until_they_are_final(tmp_path: Path, averaging: Any) -> None:
    """Beside a callback that averages weights there is one tunnel, from the final average."""

    class Smooth(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net[2] = nn.Identity()

    pool = FakePool(least_squares)
    callback = tunnel(pool, first_after=1)
    alone = Smooth()
    trainer(tmp_path, None, max_epochs=4, callbacks=[averaging()]).fit(alone)
    with_tunnel = Smooth()
    trainer(tmp_path, max_epochs=4, callbacks=[callback, averaging()]).fit(with_tunnel)
    assert adopted(callback) == 1
    assert len(pool.specs) == 1
    assert torch.equal(alone.net[0].weight, with_tunnel.net[0].weight)
    assert loss(with_tunnel) < loss(alone)


def test_a_resumed_fit_goes_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    """Run name and counters of the tunneller are in the checkpoint, and a fit goes on from a polished one."""
    first = tunnel(FakePool(least_squares), run="mine", patience=100)
    fit = trainer(tmp_path, first, callbacks=[ModelCheckpoint(tmp_path / "saved", save_last=True)])
    fit.fit(Classifier())
    second = tunnel(FakePool(held=True), polish_s=0.0)
    again = trainer(tmp_path, second, max_epochs=5, callbacks=[ModelCheckpoint(tmp_path / "saved")])
    again.fit(Classifier(), ckpt_path=str(tmp_path / "saved" / "last.ckpt"), weights_only=False)
    assert again.current_epoch == 5
    assert second.tunneller is not None
    assert second.tunneller.run == "mine"
    assert second.tunneller.state_dict()["step"] == 5


def test_a_compiled_part_is_tunnelled(tmp_path: Path) -> None:
    """A module whose network is compiled ends polished, too."""

    class Compiled(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net.compile(backend="eager")

    module, callback = Compiled(), tunnel(FakePool(least_squares), patience=100)
    trainer(tmp_path, callback).fit(module)
    assert adopted(callback) == 1


def test_weights_that_validation_swaps_in_are_not_tunnelled(tmp_path: Path) -> None:
    """Where the module validates with an average of its own, adoption waits until its weights are back."""

    class Ema(Classifier):
        def on_validation_start(self) -> None:
            self.kept = {name: value.clone() for name, value in self.net.state_dict().items()}

        def on_validation_end(self) -> None:
            self.net.load_state_dict(self.kept)

    module, callback = Ema(), tunnel(FakePool(least_squares), first_after=2, sync=True, polish_s=0.0)
    fit = trainer(tmp_path, callback, max_epochs=2)
    fit.fit(module)
    last = [event for event in callback.tunneller.history if event.kind == "adopted"][-1]  # type: ignore[union-attr]
    assert last.after == pytest.approx(loss(module), rel=1e-5)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))], ids=["copy", "file"])
def test_a_fitted_trainer_can_be_copied_and_pickled(tmp_path: Path, way: Any) -> None:
    """The copy of a callback has its settings, and makes a tunneller of its own."""
    callback = tunnel(FakePool(), client=offline, polish_s=0.0)
    fit = trainer(tmp_path, callback)
    fit.fit(Classifier())
    (copied,) = [one for one in way(fit).callbacks if isinstance(one, TunnelCallback)]
    assert copied.tunneller is None
    trainer(tmp_path, copied).fit(Classifier())
    assert copied.tunneller is not None
    assert copied.tunneller.state_dict()["step"] == 3
    assert copied.tunneller is not callback.tunneller


def test_an_exception_lets_go_of_the_pool(tmp_path: Path) -> None:
    """A training step that fails ends the tunneller without a tunnel."""

    class Failing(Classifier):
        def on_train_epoch_end(self) -> None:
            raise RuntimeError("broken")

    callback = tunnel(FakePool(least_squares), patience=100)
    with pytest.raises(RuntimeError, match="broken"):
        trainer(tmp_path, callback, max_epochs=3).fit(Failing())
    assert callback.tunneller is not None
    assert callback.tunneller.closed
    assert callback.tunneller.summary().jobs == 0
