"""Small networks of all the kinds that people train, as factories of (model, inputs, targets, loss)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Loss = Callable[[Tensor, Tensor], Tensor]
Case = tuple[nn.Module, Tensor, Tensor, Loss]
FEATURES, UNITS, CLASSES, COUNT = 5, 8, 3, 80


class Functional(nn.Module):
    """Two layers with a function between them, which leaves no module behind."""

    def __init__(self, between: Callable[[Tensor], Tensor], outputs: int = CLASSES) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(FEATURES, UNITS), nn.Linear(UNITS, outputs), between

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.between(self.first(inputs)))


class Residual(nn.Module):
    """A path around the block: x + relu(W x)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Linear(FEATURES, UNITS), nn.Linear(UNITS, UNITS)
        self.head = nn.Linear(UNITS, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        stem = F.relu(self.stem(inputs))
        return self.head(stem + F.relu(self.inner(stem)))


class Attention(nn.Module):
    """Tokens that look at one another, then the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, UNITS)
        self.attention = nn.MultiheadAttention(UNITS, 2, batch_first=True)
        self.head = nn.Linear(UNITS, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs.unsqueeze(-1))
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head((tokens + mixed).mean(dim=1))


class Tied(nn.Module):
    """A language model in small whose last layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle = nn.Embedding(CLASSES, UNITS), nn.Linear(UNITS, UNITS)
        self.head = nn.Linear(UNITS, CLASSES, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.embedding(inputs).mean(dim=1))))


class Tokens(nn.Module):
    """Scores for each position, [N, T, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(1, UNITS), nn.Linear(UNITS, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(F.relu(self.inner(inputs.unsqueeze(-1))))


class Pixels(nn.Module):
    """Scores for each pixel by 1x1 convolutions, [N, C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Conv2d(1, UNITS, 3, padding=1), nn.Conv2d(UNITS, CLASSES, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(F.relu(self.inner(inputs)))


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.float(), targets)


def _over_positions(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def _logits(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, targets)


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(COUNT, FEATURES, generator=generator)
    return inputs, (inputs @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(dim=1)


def _classifier(make: Callable[[], nn.Module]) -> Callable[[], Case]:
    def case() -> Case:
        inputs, targets = _data()
        return make(), inputs, targets, _cross_entropy

    return case


def _between(function: Callable[..., Tensor], **options: Any) -> Callable[[], Case]:
    return _classifier(lambda: Functional(lambda values: function(values, **options)))


def _stack(*inner: Callable[[], nn.Module]) -> Callable[[], Case]:
    return _classifier(
        lambda: nn.Sequential(nn.Linear(FEATURES, UNITS), *(make() for make in inner), nn.Linear(UNITS, CLASSES))
    )


def _bfloat() -> Case:
    inputs, targets = _data()
    model = nn.Sequential(nn.Linear(FEATURES, UNITS), nn.ReLU(), nn.Linear(UNITS, CLASSES)).to(torch.bfloat16)
    return model, inputs.to(torch.bfloat16), targets, _cross_entropy


def _tied() -> Case:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randint(CLASSES, (COUNT, 4), generator=generator)
    return Tied(), inputs, inputs[:, 0], _cross_entropy


def _tokens() -> Case:
    inputs, _ = _data()
    return Tokens(), inputs, (inputs > 0).long() + (inputs > 1).long(), _over_positions


def _pixels() -> Case:
    inputs = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    return Pixels(), inputs, (inputs[:, 0] > 0).long() + (inputs[:, 0] > 1).long(), _cross_entropy


def _one_logit() -> Case:
    inputs, targets = _data()
    model = nn.Sequential(nn.Linear(FEATURES, UNITS), nn.ReLU(), nn.Linear(UNITS, 1), nn.Flatten(0))
    return model, inputs, (targets == 0).float(), _logits


def _labels() -> Case:
    inputs, targets = _data()
    model = nn.Sequential(nn.Linear(FEATURES, UNITS), nn.ReLU(), nn.Linear(UNITS, CLASSES))
    return model, inputs, F.one_hot(targets, CLASSES).float(), _logits


def _numbers() -> Case:
    inputs, _ = _data()
    return Functional(F.relu, outputs=2), inputs, inputs[:, :2].abs(), F.mse_loss


ARCHITECTURES: dict[str, Callable[[], Case]] = {
    "relu": _stack(nn.ReLU),
    "relu in place": _stack(lambda: nn.ReLU(inplace=True)),
    "leaky relu in place": _stack(lambda: nn.LeakyReLU(0.2, inplace=True)),
    "dropout": _stack(nn.ReLU, lambda: nn.Dropout(0.3)),
    "batch norm before": _stack(lambda: nn.BatchNorm1d(UNITS), nn.ReLU),
    "batch norm behind": _stack(nn.ReLU, lambda: nn.BatchNorm1d(UNITS)),
    "layer norm": _stack(lambda: nn.LayerNorm(UNITS), nn.ReLU),
    "functional relu": _between(F.relu),
    "functional leaky relu": _between(F.leaky_relu, negative_slope=0.1),
    "functional hardtanh": _between(F.hardtanh),
    "functional relu6": _between(F.relu6),
    "clamp": _between(torch.clamp, min=-0.3, max=0.3),
    "clamp in place": _between(Tensor.clamp_, min=0.0, max=0.4),
    "sigmoid in place": _between(Tensor.sigmoid_),
    "gelu": _between(F.gelu),
    "silu": _between(F.silu),
    "log probabilities": _classifier(
        lambda: nn.Sequential(nn.Linear(FEATURES, UNITS), nn.ReLU(), nn.Linear(UNITS, CLASSES), nn.LogSoftmax(dim=1))
    ),
    "residual": _classifier(Residual),
    "attention": _classifier(Attention),
    "tied": _tied,
    "compiled": _classifier(lambda: torch.compile(Functional(F.relu), backend="eager")),  # type: ignore[arg-type, return-value]
    "bfloat16": _bfloat,
    "tokens": _tokens,
    "pixels": _pixels,
    "one logit": _one_logit,
    "labels": _labels,
    "numbers": _numbers,
}
TASKS = {"one logit": "binary", "labels": "multilabel"}
"""What the targets alone do not say."""
