"""Jobs that are out: what is known of each while it runs, and what of that a resumed run needs to find it again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from shared.contracts import JobSpec
from shared.result import Candidate
from trainer.model.whole_network import Draw
from trainer.pool.messages import JobKind, Stall
from trainer.pool.portfolio import Variation
from trainer.snapshots.capture import Parcel

AGREEMENT = 1e-4
"""A result's own figure and the one recomputed here differ by no more than this share."""
KINDS: Mapping[str, type[Draw] | type[Variation]] = {"draw": Draw, "variation": Variation}


@dataclass(frozen=True)
class Ticket:
    """By which a job is found again after a crash: its id, and how the question was put, without samples or weights.

    `number` is its place among the jobs of its stall, `radius` the stall's, `turn` the layer, or it and all behind it.
    """

    job: str
    stall: int
    number: int
    step: int
    gd_step: int
    layer: str
    turn: str
    radius: float
    kind: JobKind

    @classmethod
    def of(cls, job: str, stall: Stall, kind: JobKind, number: int) -> Self:
        """The ticket of a job that was posted for a stall."""
        view = stall.view
        return cls(job, stall.number, number, stall.step, stall.gd_step, view.name, view.turn, stall.radius, kind)

    def state_dict(self) -> dict[str, Any]:
        """It as JSON has it."""
        name = next(name for name, kind in KINDS.items() if isinstance(self.kind, kind))
        return {**asdict(self), "kind": {name: asdict(self.kind)}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """It, from its `state_dict()`."""
        ((name, fields),) = state["kind"].items()
        return cls(**{**state, "kind": KINDS[name](**fields)})


@dataclass(frozen=True, eq=False)
class Pending:
    """One job that is out; `again` says that it was posted before a crash, for samples that are gone."""

    ticket: Ticket
    stall: Stall
    parcel: Parcel
    spec: JobSpec
    since: float
    again: bool = False

    @property
    def job(self) -> str:
        """Its id."""
        return self.ticket.job

    def figures(self, candidate: Candidate) -> tuple[float, float, str]:
        """The objective before and after, and a doubt, if there is one, about what the answer says of itself.

        What the answer's weights give is computed here, not believed. Samples that are gone cannot be asked: there both
        figures are of those that are kept now.
        """
        report, snapshot = candidate.result.objective, self.parcel.snapshot
        tail = self.parcel.moved_tail(candidate)
        after = self.spec.goal.value(snapshot, candidate.weight, candidate.bias, tail)
        if self.again:
            return self.spec.goal.value(snapshot, snapshot.weight, snapshot.bias, None), after, ", found again"
        agree = abs(after - report.final) <= AGREEMENT * max(1.0, abs(report.final))
        doubt = "" if agree else f"; the job says {report.final:.6g}, its weights give {after:.6g}"
        return report.start, after, doubt
