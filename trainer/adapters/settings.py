"""What the callbacks have in common: how a tunneller is made from their arguments, and how it ends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from trainer.adoption.validation import Score
from trainer.errors import CaptureError
from trainer.pool.client import SolverClient
from trainer.pool.own import Local
from trainer.tunneller import Tunneller

Pool = SolverClient | Callable[[], SolverClient] | Local | None
"""A client, a function that makes one, "local" for a pool of its own, or None for the pool that GDSOLVER_GATEWAY names,
or else this machine's."""


@dataclass(frozen=True)
class Settings:
    """A callback's arguments: the pool, seconds for the last tunnel (0: none), and the Tunneller's own options."""

    client: Pool
    polish_s: float
    options: Mapping[str, Any]

    def __getstate__(self) -> dict[str, Any]:
        copyable(self.client)
        return dict(vars(self))

    def tunneller(
        self, model: nn.Module, optimizer: object, validate: Callable[[], Score], **defaults: Any
    ) -> Tunneller:
        """A tunneller of this model; options go before `defaults`."""
        made = self.client() if callable(self.client) else self.client or SolverClient()
        options = {**defaults, **self.options}
        return Tunneller(model, optimizer=optimizer, validate=validate, client=made, **options)

    def close(self, tunneller: Tunneller, *, polish: bool = True) -> float | None:
        """Tunnel once more and end; the score of what was adopted by that, None if nothing was."""
        known = len(tunneller.history)
        tunneller.close(polish=polish and self.polish_s > 0, timeout=self.polish_s or 5.0)
        return adopted_since(tunneller, known)


def copyable(client: Pool) -> None:
    """TypeError for a client that has connections and threads of its own: a copy cannot have them, nor a file."""
    if isinstance(client, SolverClient):
        raise TypeError(
            "a SolverClient cannot be copied or pickled; give the callback a function that makes one, as in "
            "client=SolverClient"
        )


def let_go(tunneller: Tunneller | None) -> None:
    """End the tunneller of a training that was broken off, and leave the model as it is."""
    if tunneller is not None:
        broken_off = CaptureError("training was broken off")
        tunneller.__exit__(CaptureError, broken_off, None)


def step(tunneller: Tunneller, score: Score) -> float | None:
    """Hand a score over; the score of what was adopted on that occasion, None if nothing was."""
    known = len(tunneller.history)
    tunneller.step(score)
    return adopted_since(tunneller, known)


def adopted_since(tunneller: Tunneller, known: int) -> float | None:
    """The validation score after the last adoption among events from number `known` on."""
    scores = [event.after for event in tunneller.history[known:] if event.kind == "adopted"]
    return scores[-1] if scores else None
