"""The frozen JSON contracts: what a client may ask for, and what a record and a result look like."""

import math
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, model_validator

from shared.constraint_checks import check_constraints
from shared.constraints import movement_cost
from shared.errors import SpecError
from shared.magnitudes import LARGEST, MOST, Reach, largest
from shared.objectives import Objective, ObjectiveName
from shared.snapshot import MAX_TAIL_LAYERS, FloatArray, Snapshot, Task

MAX_TIME_S = 600.0
MAX_WAIT_S = 60.0


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return value


Finite = Annotated[float, AfterValidator(_finite)]


def _not_infinite(value: float) -> float:
    """A solver's parameter; NaN is out of every range, and is refused with the parameter's own."""
    return value if math.isnan(value) else _finite(value)


StrictReal = Annotated[StrictFloat, AfterValidator(_not_infinite)]
Positive = Annotated[float, Field(gt=0), AfterValidator(_finite)]
HalfWidth = Annotated[float, Field(gt=0, le=LARGEST), AfterValidator(_finite)]
TailRadius = Annotated[float, Field(ge=0, le=LARGEST), AfterValidator(_finite)]
SnapshotId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, Field(min_length=1, max_length=200)]
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
"""An integer that every JSON reader, and every float64, holds exactly."""
Wholes = Annotated[list[Whole], Field(fail_fast=True)]
"""Many of them, of which the first wrong one is told: telling of all of a million takes seconds."""
Priority = Literal["high", "normal", "low"]


class Contract(BaseModel):
    """Base of all requests: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(BaseModel):
    """Base of all answers: frozen; unknown fields are ignored, so that a pool can be upgraded under its clients."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# --- what a client asks for ------------------------------------------------------------------------------------------


class Limits(Contract):
    """When a solve has to end: seconds, megabytes, branch-and-bound nodes, or a relative gap that is good enough."""

    time_s: Annotated[float, Field(gt=0, le=MAX_TIME_S)] = 10.0
    memory_mb: Annotated[int, Field(ge=50, le=1_000_000)] = 2000
    nodes: Annotated[int, Field(ge=0, lt=2**62)] | None = None
    gap: Annotated[float, Field(ge=0, le=1e6)] = 0.0


class SolverOptions(Contract):
    """Which solver, which formulation, its seed, and numeric or boolean solver parameters."""

    backend: Literal["scip", "highs"] = "scip"
    formulation: Literal["compact", "reference"] = "compact"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    params: dict[str, StrictBool | Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | StrictReal] = Field(
        default_factory=dict, max_length=200
    )


class Constraint(Contract):
    """One extra requirement on the answer; `shared.constraints` says what each type means and checks it."""

    type: Literal[
        "min_accuracy",
        "recall_floor",
        "group_rate_gap",
        "precision_floor",
        "nonnegative",
        "monotone",
        "max_nonzero",
        "grid",
        "levels",
        "movement_cost",
    ]
    value: Finite = Field(
        default=0.0, description="The share, sign, count, step or price that the type speaks of; `levels` has none."
    )
    classes: Wholes | None = Field(
        default=None, description="Classes (constraints on samples) or output units; all where it is left out."
    )
    indices: Wholes | None = Field(
        default=None, description="Input columns, for constraints on weights; all where it is left out."
    )
    groups: Wholes | None = Field(
        default=None, description="For recall_floor: numbers of the tensor `group`; the floor holds in each by itself."
    )
    levels: Annotated[list[Finite], Field(min_length=1, max_length=1024, fail_fast=True)] | None = Field(
        default=None, description="For levels: the values, rounded to float32, that the weights may take."
    )


class InlineSnapshot(Contract):
    """A small snapshot as JSON: tensors as nested lists, by their wire names."""

    task: Task
    activation: str = "identity"
    tail: Annotated[list[str], Field(fail_fast=True)] = Field(default_factory=list)
    tensors: dict[str, Any]
    note: dict[str, Any] = Field(default_factory=dict)

    def decode(self) -> Snapshot:
        """Check it and build the snapshot; SnapshotError names the tensor at fault."""
        return Snapshot.from_lists(
            task=self.task, activation=self.activation, tail=self.tail, tensors=self.tensors, note=self.note
        )


class JobSpec(Contract):
    """What to solve: a snapshot, an objective, a region, and limits."""

    snapshot: SnapshotId | InlineSnapshot | None = Field(
        default=None, description="Snapshot id, or a small snapshot inline; left out with POST /v1/solve."
    )
    objective: ObjectiveName
    margin: Positive = 1.0
    tolerance: Annotated[float, Field(ge=0), AfterValidator(_finite)] | None = None
    l2: Annotated[float, Field(ge=0), AfterValidator(_finite)] = Field(
        default=0.0, description="For log_loss: the price of the block's squared weights (biases are free)."
    )
    delta: Positive = Field(default=1.0, description="For huber: the error from which on the loss is linear.")
    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="For quantile: the share of targets that should be below the outputs, between 0 and 1."
    )
    trim: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1,
        description="For trimmed_mse and trimmed_mae: the share of sample weight, of the largest errors, left out.",
    )
    radius: HalfWidth | None = None
    bias_radius: HalfWidth | None = None
    tail_radius: TailRadius | Annotated[list[TailRadius], Field(max_length=MAX_TAIL_LAYERS)] = Field(
        default=0.0,
        description="How far the tail may move with the block: its last layer, or with a list each layer by its own.",
    )
    constraints: list[Constraint] = Field(default_factory=list, max_length=100)
    limits: Limits = Limits()
    solver: SolverOptions = SolverOptions()
    run: Label | None = None
    step: Annotated[int, Field(ge=0, lt=2**62)] | None = None
    supersede: bool = False
    ttl_s: Annotated[float, Field(gt=0, le=7 * 86400)] = 3600.0
    priority: Priority = "normal"
    tags: dict[Label, Label] = Field(default_factory=dict, max_length=50)

    @model_validator(mode="after")
    def _run_to_supersede(self) -> "JobSpec":
        if self.supersede and self.run is None:
            raise ValueError("`supersede` needs `run`: it cancels older unfinished jobs of the same run")
        return self

    @property
    def goal(self) -> Objective:
        """The objective with the numbers that go with it."""
        return Objective(
            self.objective,
            margin=self.margin,
            tolerance=self.tolerance,
            l2=self.l2,
            delta=self.delta,
            quantile=self.quantile,
            trim=self.trim,
        )

    def check(self, snapshot: Snapshot) -> None:
        """Raise SpecError unless this spec fits the snapshot: objective, region and constraints."""
        self.goal.check(snapshot)
        if snapshot.radius is not None and (self.radius is not None or self.bias_radius is not None):
            raise SpecError("the snapshot brings its own radii; leave `radius` and `bias_radius` out", field="radius")
        if snapshot.radius is None and self.radius is None:
            raise SpecError("missing: name the half-width of the box, or send radii in the snapshot", field="radius")
        if isinstance(self.tail_radius, list) and len(self.tail_radius) != len(snapshot.tail):
            detail = f"{len(self.tail_radius)} half-widths for {len(snapshot.tail)} tail layers; name one for each"
            raise SpecError(detail, field="tail_radius")
        check_constraints(self.constraints, snapshot)
        self._check_finite_in_box(snapshot)

    def _check_finite_in_box(self, snapshot: Snapshot) -> None:
        """A result is no worse than the start, whose value is finite, unless the start breaks a constraint.

        Then it may be any weights in the box, so that the value has to be finite at all of them.
        """
        if all(one.type == "movement_cost" for one in self.constraints):
            return
        reach = self._reach(snapshot)
        if not self.goal.most(snapshot, reach) < MOST:
            detail = "with constraints, values in the box are beyond float64; send smaller radii, inputs or weights"
            raise SpecError(detail, field="objective")

    def _reach(self, snapshot: Snapshot) -> Reach:
        """How far a result may be from the snapshot."""
        weight = largest(snapshot.radius) if self.radius is None else self.radius
        own = self.bias_radius if snapshot.bias_radius is None else largest(snapshot.bias_radius)
        return Reach(weight, weight if own is None else own, self.tail_radii(len(snapshot.tail)))

    def tail_radii(self, layers: int) -> tuple[float, ...]:
        """The half-width of each tail layer's box, 0 where it is fixed; a plain number speaks of the last layer."""
        if isinstance(self.tail_radius, list):
            return tuple(self.tail_radius)
        return (0.0,) * (layers - 1) + (self.tail_radius,) * min(layers, 1)

    @property
    def moves_tail(self) -> bool:
        """Whether any layer of the tail may move."""
        return self.tail_radius > 0 if isinstance(self.tail_radius, float) else any(self.tail_radius)

    def value(self, snapshot: Snapshot, weight: FloatArray, bias: FloatArray | None) -> float:
        """What the job minimises, at the given block: the objective, and the cost of movement where one is named."""
        return self.goal.value(snapshot, weight, bias) + movement_cost(self.constraints, snapshot, weight)


# --- what comes back -------------------------------------------------------------------------------------------------


class State(StrEnum):
    """A job's state; the first terminal one wins."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """True when nothing more will happen to the job."""
        return self not in (State.QUEUED, State.RUNNING)


class SolveStatus(StrEnum):
    """Why a solve ended."""

    OPTIMAL = "optimal"
    GAP_REACHED = "gap_reached"
    TIME_LIMIT = "time_limit"
    NODE_LIMIT = "node_limit"
    MEMORY_LIMIT = "memory_limit"
    INTERRUPTED = "interrupted"
    INFEASIBLE = "infeasible"


class ObjectiveReport(Answer):
    """The objective at the snapshot's weights and at the returned ones (recomputed), and what is proven of it."""

    name: ObjectiveName
    start: float
    final: float
    bound: float
    gap: float


class Timings(Answer):
    """Seconds spent in each phase of a job."""

    queued_s: float = 0.0
    build_s: float = 0.0
    presolve_s: float = 0.0
    solve_s: float = 0.0
    total_s: float = 0.0


class Sizes(Answer):
    """Size of the model that was solved, and what reductions removed from it before.

    `screened_samples` are decided everywhere in the box, and `screened_rows` say nothing about those that are left.
    `zero_columns`, `merged_columns` and `halved_columns` count columns that no sample left depends on, that were
    proportional to another one, and that two classes share.
    """

    rows: int = 0
    columns: int = 0
    binaries: int = 0
    nonzeros: int = 0
    screened_samples: int = 0
    screened_rows: int = 0
    zero_columns: int = 0
    merged_columns: int = 0
    halved_columns: int = 0


class Incumbent(Answer):
    """A best solution so far: seconds since the attempt began, recomputed objective, proven bound."""

    t_s: float
    objective: float
    bound: float


class Backend(Answer):
    """The solver that did it."""

    name: str
    version: str


class Suspect(Answer):
    """A sample that good solutions give up on: its place in the snapshot, its margin in the best of them, and the share
    of them that give it up.
    """

    index: int
    margin: float
    share: float


class JobResult(Answer):
    """What a solve found; all objective values are recomputed from the returned float32 weights."""

    objective: ObjectiveReport
    status: SolveStatus
    improved: bool
    feasible: bool = True
    changed_weights: int
    timings: Timings
    sizes: Sizes
    nodes: int
    incumbents: list[Incumbent]
    backend: Backend
    worker: str = ""
    attempt: int = 0
    notes: list[str] = Field(default_factory=list)
    suspects: list[Suspect] = Field(default_factory=list)


class Progress(Answer):
    """How far a running job has come."""

    t_s: float
    objective: float
    bound: float
    gap: float
    nodes: int


class JobError(Answer):
    """Why a job failed."""

    code: str
    detail: str


class Feedback(Contract):
    """The trainer's verdict on a job's weights."""

    accepted: bool
    metric: Label | None = None
    before: Finite | None = None
    after: Finite | None = None
    staleness_steps: Annotated[int, Field(ge=0, le=2**53)] | None = None


class JobStatus(Answer):
    """A job's record."""

    id: str
    state: State
    run: str | None = None
    step: int | None = None
    priority: Priority = "normal"
    tags: dict[str, str] = Field(default_factory=dict)
    snapshot: str
    spec: JobSpec
    created: datetime
    started: datetime | None = None
    finished: datetime | None = None
    attempt: int = 0
    worker: str | None = None
    progress: Progress | None = None
    result: JobResult | None = None
    error: JobError | None = None
    feedback: Feedback | None = None
    batch: str | None = None


EventKind = Literal["state", "incumbent", "log"]


class JobEvent(Answer):
    """Something that happened to a job; `id` is what `Last-Event-ID` resumes after."""

    id: str | None = None
    kind: EventKind
    data: dict[str, Any]


class JobList(Answer):
    """A page of job records, newest first; `cursor` asks for the next page and is null on the last."""

    jobs: list[JobStatus]
    cursor: str | None = None


class SnapshotInfo(Answer):
    """A stored snapshot."""

    id: str
    bytes: int
    shapes: dict[str, list[int]]


class WorkerInfo(Answer):
    """One solver worker with a fresh heartbeat."""

    name: str
    id: str = ""
    host: str
    pid: int
    seen: datetime
    slots: int
    jobs: list[str] = Field(default_factory=list)
    solved: int = 0


class WorkerList(Answer):
    """The pool's live workers."""

    workers: list[WorkerInfo]


class Stats(Answer):
    """The pool at a glance."""

    queued: int
    running: int
    states: dict[str, int]
    workers: int
    slots: int


class FieldError(Answer):
    """One field at fault, and what was expected of it."""

    field: str
    detail: str


class Problem(Answer):
    """RFC 9457 problem+json, with a stable `code` and the offending fields."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
    errors: list[FieldError] = Field(default_factory=list)


def gap(final: float, bound: float) -> float:
    """Relative distance of a value >= 0 from its proven bound; 0 when the bound is met."""
    return 0.0 if final <= bound else (final - bound) / final
