"""What a tunneller asks the pool for: the job that goes with a captured block."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from shared.constraints import ON_WEIGHTS
from shared.contracts import Constraint, JobSpec, Limits, SolverOptions
from shared.objectives import OF_TASK, Objective, ObjectiveName
from shared.snapshot import Snapshot
from trainer.snapshots.capture import Parcel, Plan

FREE = "free"
"""As fanout: as many jobs as the pool has idle workers."""
MAX_TIME_S = 600.0
"""Of a job, by the pool's contract."""
SHORTEST_S = 0.3
"""Of a job's time, however young the run is."""
JOBS_PER_STALL = 1000
"""Seeds of different stalls are this far apart: what a search has missed, it would miss again with the same seed."""


@dataclass(frozen=True)
class JobTemplate:
    """What every job of a tunneller asks for; `whole` says that small networks may be tunnelled whole."""

    plan: Plan = field(default_factory=Plan)
    objective: Objective | None = None
    constraints: tuple[Constraint, ...] = ()
    tail_radius: float | None = None
    whole: bool = True
    time_s: float = 10.0
    fanout: int | Literal["free"] = 1
    run: str = "run"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for an objective that no job can have."""
        if self.objective is not None:
            self._check_objective(self.objective)

    def _check_objective(self, objective: Objective) -> None:
        known = get_args(ObjectiveName)
        if objective.name not in known:
            raise ValueError(f"objective is {objective.name!r}; use one of {', '.join(known)}")
        if objective.name == "outliers" and objective.tolerance is None:
            raise ValueError("objective is 'outliers'; give Objective('outliers', tolerance=...) in the targets' units")
        task = self.plan.task
        if task is not None and objective.name not in OF_TASK[task]:
            raise ValueError(f"objective is {objective.name!r}, task {task!r}; use one of {', '.join(OF_TASK[task])}")

    @property
    def on_weights(self) -> bool:
        """Whether something is required of single weights: then a part of an answer does not do."""
        return any(constraint.type in ON_WEIGHTS for constraint in self.constraints)

    def renamed(self, run: str) -> "JobTemplate":
        """The same for a run of another name."""
        return replace(self, run=run)

    @property
    def patience_s(self) -> float:
        """How long to wait for an answer, queueing included, before it is given up."""
        return 60.0 + 6.0 * self.time_s

    def goal(self, snapshot: Snapshot) -> Objective:
        """What a job on this snapshot minimises."""
        return self.objective or Objective("mae" if snapshot.task == "regression" else "ramp")

    def remark(self, snapshot: Snapshot, *, hidden: bool) -> str:
        """What a plan says of the objective where users would expect another one than they get; else nothing."""
        if self.objective is None and snapshot.task == "regression":
            others = ", ".join(name for name in OF_TASK["regression"] if name not in ("mae", "mse"))
            return (
                "; mae (absolute errors) because no objective was given: if the loss is of squared errors, say "
                f"objective='mse' (others: {others})"
            )
        if self.objective is not None and self.objective.name == "mse" and hidden and self.tail_radius == 0:
            return (
                "; its jobs minimise mae in the place of mse, which has no linear model behind a kink (tail_radius=0)"
            )
        return ""

    def spec(
        self, parcel: Parcel, goal: Objective, *, stall: int, draw: int, step: int, age_s: float, share: float = 1.0
    ) -> JobSpec:
        """The job for one parcel; only a stall's first job supersedes older ones, or a fan-out would cancel itself.

        It gets no more time than training has had so far (`age_s`): early answers are of most use when they come early.
        `share` is the part of that which it gets.
        """
        tail_radius = _tail_radius(parcel)
        if goal.name == "mse" and parcel.snapshot.tail and tail_radius == 0:
            goal = Objective("mae")  # squared errors behind a kink have no linear model, absolute ones do
        return JobSpec(
            objective=goal.name,
            margin=goal.margin,
            tolerance=goal.tolerance,
            l2=goal.l2,
            delta=goal.delta,
            quantile=goal.quantile,
            trim=goal.trim,
            radius=parcel.spec_radius,
            bias_radius=None if parcel.spec_radius is None else parcel.bias_radius,
            tail_radius=tail_radius,
            constraints=list(self.constraints),
            limits=Limits(time_s=share * min(self.time_s, max(SHORTEST_S, age_s))),
            solver=SolverOptions(seed=(self.seed + JOBS_PER_STALL * stall + draw) % 2**31),
            run=self.run,
            step=step,
            supersede=draw == 0,
            ttl_s=self.patience_s,
        )


def _tail_radius(parcel: Parcel) -> float | list[float]:
    """How far each layer behind the block may move; a plain number where that is the last one alone."""
    *before, last = parcel.tail_radii or (0.0,)
    return [*before, last] if any(before) else last
