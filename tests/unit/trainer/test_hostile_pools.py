"""Whatever a pool answers, whatever the model is: the loop goes on, and what the live model denies is not kept."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from tests.unit.trainer.architectures import ARCHITECTURES, TASKS
from tests.unit.trainer.fakes import FakePool, Tensors
from trainer import Tunneller
from trainer.errors import CaptureError

EPOCHS = 5
STALLED = 1.0
KINDS = ("random", "not a number", "infinite", "wrong shape", "worse", "another block", "not safetensors")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def radii(snapshot: Snapshot, spec: JobSpec) -> Any:
    return spec.radius if snapshot.radius is None else snapshot.radius


@dataclass
class Liar:
    """Answers of one kind, by a generator of its own."""

    kind: str
    seed: int = 0
    answered: list[Tensors] = field(default_factory=list)

    def __call__(self, snapshot: Snapshot, spec: JobSpec) -> Tensors:
        generator = np.random.default_rng([self.seed, len(self.answered)])
        weight = snapshot.weight + radii(snapshot, spec) * generator.uniform(-1, 1, snapshot.weight.shape)
        answer = {"weight": weight.astype(np.float32)}
        if snapshot.bias is not None:
            answer["bias"] = snapshot.bias
        match self.kind:
            case "not a number":
                answer["weight"][0, 0] = np.nan
            case "infinite":
                answer["weight"][-1] = np.inf
            case "wrong shape":
                answer["weight"] = answer["weight"][:-1]
            case "worse":
                answer["weight"] = -1e6 * snapshot.weight
            case "another block":
                answer["tail.7.weight"] = answer["weight"]
        self.answered.append(answer)
        return answer


class Garbled(FakePool):
    """Sends results that are no files."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        return httpx.Response(200, content=b"\x00" * 40) if request.url.path.endswith("/result") else response


def train(
    name: str, pool: FakePool | None, *, layer: str | None, device: str = "cpu"
) -> tuple[list[bytes], Tunneller | None]:
    """A short run; in it every adoption is checked against the model itself."""
    torch.manual_seed(0)
    model, inputs, targets, loss = ARCHITECTURES[name]()
    model, inputs, targets = model.to(device), inputs.to(device), targets.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=20, shuffle=True)

    def validate() -> float:
        model.eval()
        with torch.no_grad():
            return float(loss(model(inputs), targets))

    tunneller = None
    if pool is not None:
        options: dict[str, Any] = {"task": TASKS.get(name), "layer": layer, "patience": 1, "cooldown": 0, "sync": True}
        tunneller = Tunneller(
            model, optimizer=optimizer, validate=validate, mode="min", client=pool.client(), min_delta=0.0, **options
        )
    states = []
    for _ in range(EPOCHS):
        model.train()
        for batch, wanted in tunneller.watch(loader) if tunneller else loader:
            optimizer.zero_grad()
            loss(model(batch), wanted).backward()
            optimizer.step()
        score = validate()
        if tunneller is None or not tunneller.step(STALLED):
            states.append(bits(model))
            continue
        event = [event for event in tunneller.history if event.kind == "adopted"][-1]
        assert event.before is not None
        assert event.after is not None
        assert event.after < event.before <= score + 1e-6
        assert validate() == pytest.approx(event.after)
        break
    return [b"".join(state) for state in states], tunneller


def bits(model: nn.Module) -> list[bytes]:
    return [value.detach().float().cpu().numpy().tobytes() for value in model.state_dict().values()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_answer_breaks_a_loop_or_makes_a_model_worse(name: str, kind: str) -> None:
    """No exception, no adoption that the live model does not confirm, and until then no bit is different."""
    pool = Garbled(Liar("random")) if kind == "not safetensors" else FakePool(Liar(kind))
    layer = "auto" if KINDS.index(kind) % 2 else None
    if name == "tied" and layer is None:
        with pytest.raises(CaptureError, match="tied"):
            train(name, pool, layer=layer)
        return
    states, tunneller = train(name, pool, layer=layer)
    assert tunneller is not None
    tunneller.close()
    plain, _ = train(name, None, layer=None)
    assert states == plain[: len(states)]
    if kind not in ("random", "another block", "worse"):
        assert tunneller.summary().adopted == 0
