"""Which jobs a stall fans out into: radii, samples, margins and seeds, those first that have paid before."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from shared.objectives import Objective

MOST_JOBS = 64
"""Of one stall, however many workers are idle."""


@dataclass(frozen=True)
class Variation:
    """One job's difference from the plain one: its box, its own draw of samples, and its margin, as factors."""

    radius: float = 1.0
    redraw: bool = False
    margin: float = 1.0

    @property
    def name(self) -> str:
        """Under which it is remembered whether it paid."""
        return f"radius x {self.radius:g}, margin x {self.margin:g}{', other samples' if self.redraw else ''}"

    def objective(self, plain: Objective) -> Objective:
        """The job's objective: margins matter to ramp and hinge alone."""
        varied = plain.name in ("ramp", "hinge") and self.margin != 1.0
        return replace(plain, margin=self.margin * plain.margin) if varied else plain


RADII = (1.0, 2.0, 0.5, 4.0, 0.25)
VARIATIONS = (
    *(Variation(radius) for radius in RADII),
    *(Variation(radius, redraw=True) for radius in RADII),
    *(Variation(radius, redraw=True, margin=margin) for margin in (0.3, 3.0) for radius in RADII[:3]),
)


@dataclass
class Portfolio:
    """The variations of one tunneller's jobs, and how often each has been tried and adopted."""

    tried: dict[str, int] = field(default_factory=dict)
    paid: dict[str, int] = field(default_factory=dict)

    def jobs(self, count: int) -> Iterator[Variation]:
        """So many jobs: the plain one, whose box adapts, then those that have paid. Round again, samples are new."""
        plain, *others = VARIATIONS
        ranked = [plain, *sorted(others, key=lambda variation: -self._worth(variation.name))]
        for number in range(min(count, MOST_JOBS)):
            chosen = ranked[number % len(ranked)]
            yield replace(chosen, redraw=True) if number >= len(ranked) else chosen

    def note(self, variation: Variation, *, paid: bool) -> None:
        """Remember what became of a job."""
        self.tried[variation.name] = self.tried.get(variation.name, 0) + 1
        self.paid[variation.name] = self.paid.get(variation.name, 0) + paid

    def state_dict(self) -> dict[str, dict[str, int]]:
        """What it has seen so far."""
        return {"tried": dict(self.tried), "paid": dict(self.paid)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Go on from there."""
        self.tried, self.paid = dict(state["tried"]), dict(state["paid"])

    def _worth(self, name: str) -> float:
        """The share of tries that paid, with one adoption in two tries to begin with: nothing is given up at once."""
        return (self.paid.get(name, 0) + 1) / (self.tried.get(name, 0) + 2)


def free_jobs(slots: int, running: int, queued: int) -> int:
    """How many jobs a pool would begin at once; one even if it is busy."""
    return max(1, min(MOST_JOBS, slots - running - queued))
