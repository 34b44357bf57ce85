"""Samples whose weights are many decades apart: solved by tiers, the heaviest first, each in numbers near to 1.

No solver that computes in float64 sees a weight of 1 beside one of 1e30. But where a value v can be had, a weight far
above v counts as much as any other that is too much to lose: with weights cut to `cap`, a multiple of v, nothing gets
worse, and what is lighter becomes visible. Cut weights make every value smaller, so that their bound holds for the job.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from shared.constraints import ON_SAMPLES, violations
from shared.contracts import Incumbent, JobSpec, SolveStatus, gap
from shared.magnitudes import LARGEST
from shared.objectives import TRIMMED, WORST, sample_weights
from shared.snapshot import FloatArray, Snapshot, label_targets
from solver_service.milp.core.control import Control, IncumbentFound
from solver_service.milp.core.moved import Moved, tail_with, value_of
from solver_service.milp.core.problem import MEANS, Mask, radii
from solver_service.milp.core.solution import TOLERANCE, Solution
from solver_service.milp.core.units import MOST_PRICE

APART = 2.0**18
"""Weights that are farther apart than this are solved by tiers."""
FIRST, RISE = 2.0**8, 2.0**8
"""How far above the value weights are cut, and how much farther when heavy samples were lost at that."""
ROUNDS = 16
EVENED = 1 / 16
"""The power that brings sixty decades down to four, for worst rates: there no weight can be cut."""
DUST = 1e-5
"""Less than this part of what a cut sample costs is what rounding leaves of samples that should cost nothing."""
ROOM = 1e-6
"""How much more margin is asked of heavy samples, per unit of what their scores add up, to outlive float32."""
SMALLEST = float(np.finfo(np.float32).tiny)
NOTE = "the samples' weights are far apart: solved by tiers, the heaviest first"
WHOLE = ("max_error", *WORST, *TRIMMED)
"""Objectives that cut weights would change in another way."""
CAPPED = ("zero_one", "ramp", "outliers")
"""Objectives to which a sample adds its weight at most."""
Solve = Callable[[Snapshot, JobSpec, Control, Moved | None], Solution]


def far_apart(snapshot: Snapshot) -> bool:
    """Whether weights of samples are so far apart that solvers lose the lighter ones."""
    if snapshot.sample_weight is None:
        return False
    weights = snapshot.sample_weight[snapshot.sample_weight > 0]
    return float(weights.max()) > APART * float(weights.min())


def solve_by_tiers(snapshot: Snapshot, spec: JobSpec, control: Control, start: Moved | None, solve: Solve) -> Solution:
    """Solve with weights cut lower and lower; the best weights of all, and the best of all bounds."""
    job = _Tiers(snapshot, spec, control, start)
    for cap, room in job.cuts():
        job.take(*job.cut(cap, room), cap, room, solve)
    if spec.objective in WORST and not job.over:
        job.try_out(*job.evened(), solve)
    return job.solution()


@dataclass(eq=False)
class _Tiers:
    snapshot: Snapshot
    spec: JobSpec
    control: Control
    best: Moved | None
    value: float = math.inf
    bound: float = 0.0
    last: Solution | None = None
    lost: bool = False
    incumbents: list[Incumbent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = sample_weights(self.snapshot)
        self.heaviest = float(self.weights.max())
        self.mean = self.spec.objective in MEANS
        self.rounds = 1 if self.spec.objective in WHOLE else ROUNDS
        self.shares = any(one.type in ON_SAMPLES for one in self.spec.constraints)
        self.start = self.spec.value(self.snapshot, self.snapshot.weight, self.snapshot.bias)

    def cuts(self) -> Iterator[tuple[float, float]]:
        """Where to cut, and the room for those that are cut: again with room, or higher, where that loses some."""
        cap, above = _power_of_two(self.heaviest), FIRST
        yield cap, 0.0
        for _ in range(self.rounds - 1):
            before = self.value
            if self.over or not math.isfinite(before):
                return
            lower = _power_of_two(
                max(above * before * self._total / self._loss, float(self.weights[self.weights > 0].min()))
            )
            if lower >= cap:
                return
            yield lower, 0.0
            dust = self.value < DUST * lower * self._loss / self._total
            if (self.lost or dust) and not self.over and self.snapshot.task != "regression":
                yield lower, ROOM
            if self.value < before * (1 - TOLERANCE):
                cap, above = lower * 2, FIRST
            else:
                above *= RISE

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        done = self.value <= self.bound * (1 + TOLERANCE)
        return done or self.control.stopped or self.control.elapsed > 0.9 * self.spec.limits.time_s

    @property
    def _total(self) -> float:
        """What a value is the share of: all weight for a mean, 1 for a sum."""
        return float(self.weights.sum()) if self.mean else 1.0

    @property
    def _loss(self) -> float:
        """About what a sample costs per unit of its weight."""
        return _even(self.snapshot, self.spec) if self.mean else 1.0

    def cut(self, cap: float, room: float) -> tuple[Snapshot, JobSpec, float]:
        """The job with weights cut to the cap, in units of it; what its values are multiplied by in the job's own.

        Cut weights have other shares: where a constraint asks for one, it is left out (then `take` looks at it).
        """
        single = self._single(cap)
        factor = cap * (float(single.astype(np.float64).sum()) / float(self.weights.sum()) if self.mean else 1.0)
        if self.spec.objective in WHOLE:
            factor = 1.0
        priced = [
            one.model_copy(update={"value": min(one.value / factor, MOST_PRICE)})
            if one.type == "movement_cost"
            else one
            for one in self.spec.constraints
            if cap >= self.heaviest or one.type not in ON_SAMPLES
        ]
        update = {"l2": self.spec.l2 / factor, "constraints": priced}
        snapshot = replace(self.snapshot, sample_weight=single)
        if room and snapshot.is_final_identity:
            snapshot = replace(snapshot, offset=_with_room(snapshot, self.spec, self.weights > cap, room))
        return snapshot, self._in_time().model_copy(update=update), factor

    def _single(self, cap: float) -> FloatArray:
        """The weights [N] up to the cap, in units of it: float32, rounded down, none lost to 0."""
        weights = np.minimum(self.weights, cap) / cap
        single = weights.astype(np.float32)
        single = np.where(single > weights, np.nextafter(single, np.float32(0)), single)
        return np.where(weights > 0, np.maximum(single, np.float32(SMALLEST)), single).astype(np.float32)

    def _bound(self, bound: float, factor: float, cap: float) -> float:
        """What a cut job's bound says of the job: that of cut weights as it is, less where float32 had to raise some.

        With cut weights u_i and raised ones u'_i, `sum u_i l_i >= min(u_i / u'_i) sum u'_i l_i`; and at least
        `sum u'_i l_i - sum (u'_i - u_i)` where no loss l_i is above 1.
        """
        weights, single = np.minimum(self.weights, cap) / cap, self._single(cap).astype(np.float64)
        raised = single > weights
        if not raised.any():
            return bound * factor * (1 - 1e-9)
        if self.spec.objective in WHOLE:
            return 0.0
        least = bound * float((weights[raised] / single[raised]).min())
        if self.spec.objective in CAPPED:
            least = max(least, bound * (1 - 1e-9) - float((single - weights)[raised].sum()))
        return least * factor * (1 - 1e-9)

    def take(self, snapshot: Snapshot, spec: JobSpec, factor: float, cap: float, room: float, solve: Solve) -> None:
        """Solve one, and keep what is better; values are counted with the job's own weights."""

        def hear(found: IncumbentFound) -> None:
            if self._feasible(found.moved):
                self._hear(found.moved, found.nodes)

        self.control.say(f"a tier: weights of samples are cut at {cap:g}{' with room' if room else ''}")
        within = self.control.heard_by(hear, lambda value: value * factor)
        relaxed = self.shares and cap < self.heaviest
        solution = solve(snapshot, spec, within, None if room else self.best)
        self.last = solution if self.last is None or not (room or relaxed) else self.last
        # Where nothing was found, `final` is the value of weights that break a constraint.
        found = solution.result.feasible and math.isfinite(solution.result.objective.final)
        if not room and found:
            self.bound = max(self.bound, self._bound(solution.result.objective.bound, factor, cap))
        kept = found and self._feasible(solution.moved)
        value = self._hear(solution.moved, solution.result.nodes) if kept else math.inf
        self.lost = value > (1 + 1e-4) * solution.result.objective.final * factor

    def evened(self) -> tuple[Snapshot, JobSpec]:
        """The job with weights so near to each other that no sample is too light to be seen; its bound says nothing."""
        weights = (self.weights / self.heaviest) ** EVENED
        return replace(self.snapshot, sample_weight=weights.astype(np.float32)), self._in_time()

    def try_out(self, snapshot: Snapshot, spec: JobSpec, solve: Solve) -> None:
        """Keep the weights of another job where they are better here."""
        self.control.say("a tier: weights of samples are brought near to each other")
        solution = solve(snapshot, spec, self.control.heard_by(lambda _: None), self.best)
        if self._feasible(solution.moved):
            self._hear(solution.moved, solution.result.nodes)

    def _in_time(self) -> JobSpec:
        """The spec with half of the time that is left, or all where this is the only round."""
        limits, elapsed = self.spec.limits, self.control.elapsed
        half = elapsed + 0.5 * max(0.0, limits.time_s - elapsed)
        time_s = limits.time_s if self.rounds == 1 else half
        return self.spec.model_copy(update={"limits": limits.model_copy(update={"time_s": time_s})})

    def _feasible(self, moved: Moved) -> bool:
        tail = tail_with(self.snapshot, moved)
        return not violations(self.spec.constraints, self.snapshot, moved.weight, moved.bias, tail)

    def _hear(self, moved: Moved, nodes: int) -> float:
        value = value_of(self.snapshot, self.spec, moved)
        if value < self.value:
            self.best, self.value = moved, value
            bound, elapsed = min(self.bound, value), self.control.elapsed
            self.incumbents.append(Incumbent(t_s=elapsed, objective=value, bound=bound))
            self.control.on_incumbent(IncumbentFound(elapsed, value, bound, nodes, moved))
        return value

    def solution(self) -> Solution:
        """The result of all tiers together."""
        last, best = self.last, self.best
        assert last is not None, "the first cut is always solved"
        if best is None or not math.isfinite(self.value):
            return self._nothing(last)
        final, bound = self.value, min(self.bound, self.value)
        status = last.result.status
        if final <= bound * (1 + 2 * TOLERANCE):
            status = SolveStatus.OPTIMAL
        elif status is SolveStatus.OPTIMAL:
            status = SolveStatus.GAP_REACHED
        report = last.result.objective.model_copy(
            update={"start": self.start, "final": final, "bound": bound, "gap": gap(final, bound)}
        )
        result = last.result.model_copy(
            update={
                "objective": report,
                "status": status,
                "feasible": True,
                "improved": last.result.improved or final < self.start,
                "incumbents": self.incumbents,
                "changed_weights": int(np.count_nonzero(best.weight != self.snapshot.weight)),
                "notes": [NOTE, *last.result.notes],
            }
        )
        return Solution(result, best.weight, best.bias, best.tail)

    def _nothing(self, last: Solution) -> Solution:
        """The snapshot's own weights, where none that keep all constraints were found."""
        report = last.result.objective.model_copy(
            update={"start": self.start, "final": self.start, "bound": 0.0, "gap": gap(self.start, 0.0)}
        )
        done = last.result.status in (SolveStatus.OPTIMAL, SolveStatus.GAP_REACHED)
        result = last.result.model_copy(
            update={
                "objective": report,
                "status": SolveStatus.TIME_LIMIT if done else last.result.status,
                "feasible": False,
                "improved": False,
                "incumbents": [],
                "changed_weights": 0,
            }
        )
        own = {
            f"tail.{place}.{part}": values
            for place, layer in enumerate(self.snapshot.tail)
            for part, values in (("weight", layer.weight), ("bias", layer.bias))
            if values is not None
        }
        tail = {name: own[name] for name in last.tail}
        return Solution(result, self.snapshot.weight, self.snapshot.bias, tail)


def _power_of_two(value: float) -> float:
    """The power of two that is not below a value > 0, within float64."""
    return math.ldexp(1.0, math.frexp(value)[1]) if value < 1e300 else 1e300


def _even(snapshot: Snapshot, spec: JobSpec) -> float:
    """The objective at the start if all samples had the same weight; 1 where that is 0."""
    return spec.goal.value(replace(snapshot, sample_weight=None), snapshot.weight, snapshot.bias) or 1.0


def _with_room(snapshot: Snapshot, spec: JobSpec, heavy: Mask, room: float) -> FloatArray:
    """The offsets [N, h] with the right side of heavy samples made harder to reach, more than rounding can undo."""
    largest = np.abs(snapshot.weight) + radii(snapshot, spec)[:, :-1]
    parts = np.abs(snapshot.inputs.astype(np.float64)) @ largest.T
    offset = np.zeros(parts.shape) if snapshot.offset is None else snapshot.offset.astype(np.float64)
    amount = (
        heavy[:, None] * room * (parts + np.abs(offset) + (0.0 if snapshot.bias is None else np.abs(snapshot.bias)))
    )
    if snapshot.task == "classification":
        rows = np.arange(snapshot.samples)
        offset[rows, snapshot.targets] -= 2 * amount.max(axis=1)
    else:
        offset -= (2.0 * label_targets(snapshot) - 1.0) * amount
    return np.clip(offset, -LARGEST, LARGEST).astype(np.float32)
