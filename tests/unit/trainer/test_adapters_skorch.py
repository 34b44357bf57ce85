"""The skorch callback against the real library: classifiers, regressors, pipelines of scikit-learn."""

import copy
import gc
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.unit.trainer.fakes import FakePool, least_squares
from trainer import SolverClient
from trainer.errors import CaptureError

skorch = pytest.importorskip("skorch")

from sklearn.base import clone  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor  # noqa: E402
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, EpochScoring  # noqa: E402

from trainer.adapters.skorch import OPTIONS, TunnelCallback  # noqa: E402

Table = tuple[NDArray[np.float32], NDArray[Any]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """A ReLU network whose last layer is followed by a softmax, or by nothing."""

    def __init__(self, outputs: int = 3, softmax: bool = False) -> None:
        super().__init__()
        self.hidden, self.last, self.softmax = nn.Linear(5, 12), nn.Linear(12, outputs), softmax

    def forward(self, inputs: Tensor) -> Tensor:
        scores = self.last(torch.relu(self.hidden(inputs)))
        return torch.softmax(scores, dim=-1) if self.softmax else scores


def numbers(count: int = 200) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)


def classes(kinds: int = 3) -> Table:
    inputs = numbers()
    return inputs, (inputs @ np.random.default_rng(1).normal(size=(5, kinds))).argmax(1).astype(np.int64)


def sums() -> Table:
    inputs = numbers()
    return inputs, np.abs(inputs[:, :2]).sum(1, keepdims=True).astype(np.float32)


def logarithms(snapshot: Any, spec: Any) -> Any:
    """Least squares fits whose probabilities are not too sure."""
    answer = least_squares(snapshot, spec)
    return {name: np.float32(0.3) * value for name, value in answer.items()}


def tunnel(pool: FakePool, **options: Any) -> TunnelCallback:
    settings = {"patience": 100, "min_delta": 0.0, "radius": 100.0, "capture_s": 10.0, "polish_s": 20.0}
    return TunnelCallback(**({"client": pool.client} | settings | options))


def offline() -> SolverClient:
    """A client that a copy can make, too."""
    return FakePool().client()


class Breaking(Callback):  # type: ignore[misc]
    """Breaks every other fit off."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.fits_ = epoch, 0

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.fits_ += 1

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        if self.fits_ % 2 and len(net.history) == self.epoch:
            raise RuntimeError("broken")


def net(kind: Any, callback: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    settings = {"max_epochs": 3, "batch_size": 32, "optimizer": torch.optim.Adam, "verbose": 0}
    settings |= {"iterator_train__shuffle": True, "callbacks": [callback] if callback else []}
    return kind(**(settings | options))


def bits(fitted: Any) -> list[bytes]:
    return [value.numpy().tobytes() for value in fitted.module_.state_dict().values()]


KINDS = {
    "probabilities": (NeuralNetClassifier, classes(), {"module": Net, "module__softmax": True}),
    "logits": (NeuralNetClassifier, classes(), {"module": Net, "criterion": nn.CrossEntropyLoss}),
    "regression": (NeuralNetRegressor, sums(), {"module": Net, "module__outputs": 1}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_tunnel_lowers_the_loss(kind: str) -> None:
    """Modules that put out probabilities, scores or numbers end with the polished weights."""
    made, table, options = KINDS[kind]
    pool = FakePool(least_squares if kind == "regression" else logarithms)
    callback = tunnel(pool)
    fitted = net(made, callback, **options).fit(*table)
    assert callback.tunneller_.summary().adopted == 1, callback.tunneller_.history
    plain = net(made, **options).fit(*table)
    assert fitted.score(*table) > plain.score(*table)
    assert torch.equal(fitted.module_.hidden.weight, plain.module_.hidden.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_until_an_adoption_a_fit_is_bit_identical(kind: str) -> None:
    """With a pool that never answers, the weights are those of a fit without the callback."""
    made, table, options = KINDS[kind]
    callback = tunnel(FakePool(held=True), patience=1, min_delta=10.0, polish_s=0.0)
    watched = net(made, callback, **options).fit(*table)
    plain = net(made, **options).fit(*table)
    assert callback.tunneller_.summary().stalls > 0
    assert bits(watched) == bits(plain)
    assert watched.history[:, "valid_loss"] == plain.history[:, "valid_loss"]


def test_a_binary_classifier_has_one_logit() -> None:
    """Labels 0 and 1 beside one output are classes, not numbers."""
    inputs, labels = classes(2)
    pool = FakePool()
    callback = tunnel(pool)
    net(NeuralNetBinaryClassifier, callback, module=Net, module__outputs=1).fit(inputs, labels.astype(np.float32))
    assert {snapshot.task for snapshot in pool.snapshots} == {"binary"}


def test_a_layer_is_named_as_the_module_has_it() -> None:
    """`layer` is a name in the net's own module, whatever the callback wraps around it."""
    pool = FakePool()
    net(NeuralNetClassifier, tunnel(pool, layer="last"), module=Net, module__softmax=True).fit(*classes())
    assert pool.specs


def test_a_grid_search_clones_the_callback() -> None:
    """Every net of a grid has a tunneller of its own, with the options of its place in the grid."""
    pool = FakePool(logarithms)

    def client() -> Any:
        return pool.client()

    callback = TunnelCallback(client=client, polish_s=20.0, patience=100, radius=0.1, capture_s=10.0)
    model = net(NeuralNetClassifier, module=Net, module__softmax=True, callbacks=[("tunnel", callback)])
    copied = clone(model).callbacks[0][1]
    assert copied is not callback
    assert copied.get_params() == callback.get_params()
    grid = GridSearchCV(model, {"callbacks__tunnel__radius": [0.1, 0.2]}, cv=2, refit=False, scoring="accuracy")
    grid.fit(*classes())
    assert sorted({spec.radius for spec in pool.specs}) == [0.1, 0.2]


def test_a_fit_that_stops_early_is_polished() -> None:
    """skorch stops by an exception of its own; the last tunnel comes all the same."""
    callback = tunnel(FakePool(logarithms))
    stopping = EarlyStopping(patience=1, threshold=10.0, threshold_mode="abs", sink=lambda _: None)
    model = net(NeuralNetClassifier, module=Net, module__softmax=True, max_epochs=9, callbacks=[callback, stopping])
    model.fit(*classes())
    assert len(model.history) < 9
    assert callback.tunneller_.summary().adopted == 1


def test_a_checkpoint_has_the_polished_weights(tmp_path: Path) -> None:
    """A Checkpoint after the callback saves what the last tunnel brought, as the best there is."""
    callback, checkpoint = tunnel(FakePool(logarithms)), Checkpoint(dirname=str(tmp_path))
    model = net(NeuralNetClassifier, module=Net, module__softmax=True, callbacks=[callback, checkpoint])
    model.fit(*classes())
    assert model.history[-1, "valid_loss"] == callback.tunneller_.history[-1].after
    again = net(NeuralNetClassifier, module=Net, module__softmax=True).initialize()
    again.load_params(checkpoint=checkpoint)
    assert bits(again) == bits(model)


def test_a_net_without_validation_is_refused() -> None:
    """Without a `train_split` nothing could be judged."""
    with pytest.raises(CaptureError, match="give it a `train_split`"):
        net(NeuralNetClassifier, tunnel(FakePool()), module=Net, module__softmax=True, train_split=None).fit(*classes())


def test_a_net_without_a_loss_is_refused_before_training() -> None:
    """Where no callback records the validation loss, or the split gives nothing to compute it of, the error says so."""
    options = {"module": Net, "module__softmax": True}
    model = net(NeuralNetClassifier, tunnel(FakePool()), callbacks__valid_loss=None, **options)
    with pytest.raises(CaptureError, match=r"records a `valid_loss`.*leave out `callbacks__valid_loss=None`"):
        model.fit(*classes())
    assert len(model.history) == 0
    model = net(NeuralNetClassifier, tunnel(FakePool()), train_split=lambda whole, *_, **__: (whole, None), **options)
    with pytest.raises(CaptureError, match=r"has no `valid_loss`.*see that `train_split`"):
        model.fit(*classes())


def test_a_loss_of_the_users_own_will_do() -> None:
    """`valid_loss` may come from another callback than skorch's own."""
    scoring = EpochScoring("neg_log_loss", lower_is_better=False, name="valid_loss")
    callback = tunnel(FakePool(), polish_s=0.0)
    options = {"module": Net, "module__softmax": True, "callbacks__valid_loss": None}
    net(NeuralNetClassifier, callbacks=[("mine", scoring), callback], **options).fit(*classes())
    assert callback.tunneller_.state_dict()["step"] == 3


@pytest.mark.parametrize("state", ["unfitted", "fitted", "open"])
@pytest.mark.parametrize("way", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))], ids=["copy", "file"])
def test_a_net_can_be_copied_and_pickled(way: Any, state: str) -> None:
    """A copy has the weights and settings, and can be fitted on with a tunneller of its own."""
    callback = TunnelCallback(client=offline, polish_s=0.5, radius=0.25)
    callbacks = [callback, Breaking(3)] if state == "open" else [callback]
    model = net(NeuralNetClassifier, module=Net, module__softmax=True, callbacks=callbacks)
    if state == "open":
        with pytest.raises(RuntimeError, match="broken"):
            model.fit(*classes())
    elif state == "fitted":
        model.fit(*classes())
    copied = way(model)
    assert copied.callbacks[0].get_params() == callback.get_params()
    if state == "unfitted":
        copied.initialize()
    else:
        assert bits(copied) == bits(model)
    copied.partial_fit(*classes())
    assert copied.callbacks[0].tunneller_ is not vars(callback).get("tunneller_")


def test_a_client_that_cannot_be_copied_is_named() -> None:
    """Instead of the lock within it."""
    with pytest.raises(TypeError, match="give the callback a function that makes one"):
        copy.deepcopy(TunnelCallback(client=FakePool().client()))


def test_every_option_of_the_tunneller_may_be_set_later() -> None:
    """A grid search sets options that were not given before; what nobody sets is the Tunneller's affair."""
    pool = FakePool(logarithms)

    def client() -> Any:
        return pool.client()

    callback = TunnelCallback(client=client, polish_s=20.0, patience=100, capture_s=10.0)
    model = net(NeuralNetClassifier, module=Net, module__softmax=True, callbacks=[("tunnel", callback)])
    assert set(OPTIONS) <= set(callback.get_params())
    grid = GridSearchCV(model, {"callbacks__tunnel__radius": [0.1, 0.2]}, cv=2, refit=False, scoring="accuracy")
    grid.fit(*classes())
    assert sorted({spec.radius for spec in pool.specs}) == [0.1, 0.2]
    model.set_params(callbacks__tunnel__samples=50, callbacks__tunnel__radius=0.5)
    clone(model).fit(*classes())
    assert (pool.snapshots[-1].samples, pool.specs[-1].radius) == (50, 0.5)


def test_an_option_that_is_none_is_refused_at_once() -> None:
    """A misspelled option is named before any training."""
    with pytest.raises(TypeError, match=r"radios: no such option; there are .*radius"):
        TunnelCallback(radios=0.5)


def test_a_fit_that_is_broken_off_leaves_no_thread_behind() -> None:
    """The tunneller ends when the net is fitted again, or goes."""
    before = set(threading.enumerate())
    callback = tunnel(FakePool(), polish_s=0.0)
    model = net(NeuralNetClassifier, module=Net, module__softmax=True, callbacks=[callback, Breaking(1)])
    for again in (model.fit, model.partial_fit):
        with pytest.raises(RuntimeError, match="broken"):
            model.fit(*classes())
        first = callback.tunneller_
        assert not first.closed
        again(*classes())
        assert first.closed
        assert callback.tunneller_.closed
    with pytest.raises(RuntimeError, match="broken"):
        model.fit(*classes())
    (thread,) = set(threading.enumerate()) - before
    del model, callback, first, again
    gc.collect()
    thread.join(10.0)
    assert not thread.is_alive()
