"""On a GPU as on the host: no bit moves before an adoption, and what is adopted is what the live model confirms."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from tests.unit.trainer.architectures import ARCHITECTURES
from tests.unit.trainer.fakes import FakePool, least_squares
from tests.unit.trainer.test_hostile_pools import KINDS, Garbled, Liar, bits, train
from trainer import Tunneller

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),  # of kernels and compilers
]
EPOCHS, STALLED = 6, 1.0
Step = Callable[[Tensor, Tensor], None]


@pytest.fixture(autouse=True)
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two runs of plain GD are equal bit for bit only by such kernels."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"))
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "tied"])
def test_no_answer_breaks_a_loop_or_makes_a_model_worse(name: str, kind: str) -> None:
    pool = Garbled(Liar("random")) if kind == "not safetensors" else FakePool(Liar(kind))
    layer = "auto" if KINDS.index(kind) % 2 else None
    states, tunneller = train(name, pool, layer=layer, device="cuda")
    assert tunneller is not None
    tunneller.close()
    plain, _ = train(name, None, layer=None, device="cuda")
    assert states == plain[: len(states)]
    if kind not in ("random", "another block", "worse"):
        assert tunneller.summary().adopted == 0


def network() -> nn.Module:
    """With dropout, whose draws are the GPU's own, and with running statistics."""
    return nn.Sequential(
        *(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8), nn.ReLU()),
        nn.Linear(8, 3),
    )


def plain(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def scaled(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """Half precision with a scaler."""
    scaler = torch.amp.GradScaler("cuda")

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = F.cross_entropy(model(inputs), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def bfloat(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def compiled(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """What runs is another callable on the same parameters, and replays graphs of kernels."""
    fast = torch.compile(model, mode="reduce-overhead")
    return plain(fast, optimizer)  # type: ignore[arg-type]


def replayed(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """Forward, backward and the optimizer's step recorded once, and replayed on the same memory."""
    inputs, targets = torch.zeros(20, 5, device="cuda"), torch.zeros(20, dtype=torch.int64, device="cuda")
    step = plain(model, optimizer)
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step(inputs, targets)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad()
    with torch.cuda.graph(graph):
        step(inputs, targets)

    def replay(batch: Tensor, wanted: Tensor) -> None:
        inputs.copy_(batch)
        targets.copy_(wanted)
        graph.replay()

    return replay


LOOPS: dict[str, tuple[Callable[[nn.Module, torch.optim.Optimizer], Step], dict[str, Any]]] = {
    "plain": (plain, {}),
    "fused": (plain, {"fused": True}),
    "capturable": (plain, {"capturable": True}),
    "scaler": (scaled, {}),
    "bfloat16": (bfloat, {}),
    "compiled": (compiled, {}),
    "graph": (replayed, {"capturable": True}),
}


def run(how: str, pool: FakePool | None, *, on_host: bool) -> tuple[list[list[bytes]], Tunneller | None]:
    """Train on batches of the host, moved in the loop, or of the GPU; the model's bits after each epoch."""
    torch.manual_seed(1)
    model = network().cuda()
    make, options = LOOPS[how]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, **options)
    inputs = torch.randn(160, 5)
    targets = (inputs @ torch.randn(5, 3)).argmax(dim=1)
    there = inputs.cuda(), targets.cuda()
    data = TensorDataset(inputs, targets) if on_host else TensorDataset(*there)
    loader = DataLoader(data, batch_size=20, shuffle=True, pin_memory=on_host)

    def validate() -> float:
        model.eval()
        with torch.no_grad():
            return float(F.cross_entropy(model(there[0]), there[1]))

    tunneller = None
    if pool is not None:
        common: dict[str, Any] = {"patience": 1, "cooldown": 0, "sync": True, "min_delta": 0.0}
        tunneller = Tunneller(model, optimizer=optimizer, validate=validate, mode="min", client=pool.client(), **common)
    step, states = make(model, optimizer), []
    for _ in range(EPOCHS):
        model.train()
        for batch, wanted in tunneller.watch(loader) if tunneller else loader:
            step(batch.cuda(non_blocking=True), wanted.cuda(non_blocking=True))
        before = validate()
        if tunneller and tunneller.step(STALLED):
            assert validate() < before
            break
        states.append(bits(model))
    if tunneller:  # training goes on with what was adopted
        model.train()
        for batch, wanted in loader:
            step(batch.cuda(), wanted.cuda())
        assert validate() < 2.0
    return states, tunneller


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("how", LOOPS)
def test_loops_of_a_gpu(how: str, on_host: bool) -> None:
    states, tunneller = run(how, FakePool(least_squares), on_host=on_host)
    assert tunneller is not None
    summary = tunneller.close()
    assert summary.refused == 0, [event for event in tunneller.history if event.detail]
    assert summary.adopted, [event for event in tunneller.history if event.detail]
    undisturbed, _ = run(how, None, on_host=on_host)
    assert states == undisturbed[: len(states)]
