"""One job for a block with an activation or a tail: descend from many starts, refine, then branch and prove."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from shared.contracts import Backend, JobResult, JobSpec, ObjectiveReport, Sizes, SolveStatus, Timings, gap
from shared.errors import ContractError
from shared.objectives import COUNTS, sample_weights
from shared.snapshot import Snapshot, regression_targets
from solver_service.milp.backends.outcome import MilpOptions
from solver_service.milp.backends.registry import milp_solver, version
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.moved import Moved
from solver_service.milp.core.network import Network, network_of
from solver_service.milp.core.problem import Array
from solver_service.milp.core.solution import BREAKS, BYTES_PER_NONZERO, Solution, gave_up, safe_bound
from solver_service.milp.formulation.reach import size_of
from solver_service.milp.formulation.relu_block import BlockModel, block_model
from solver_service.milp.network.arms import Arms, relative_gain
from solver_service.milp.network.joint.search import JointSearch
from solver_service.milp.network.keeping import Keeper
from solver_service.milp.network.programs.descent_search import GAIN, Rounds, Search
from solver_service.milp.network.programs.sequential import fits, refine, secure
from solver_service.milp.network.step_incumbents import BlockIncumbents

FIRST_SHARE = 0.9
"""Of the time, at most, for the heuristics before a solver branches: those that still gain by then are ahead of it."""
PATIENCE, PATIENCE_ALONE = 4, 40
"""Rounds in a row without a gain after which heuristics end: before a solver branches, and where none does; there it
is a round more for every weight that moves."""
JOINT_PATIENCE = 10
LINEAR = ("mae", "max_error", "outliers", "zero_one", "ramp", "hinge")
"""Objectives that sequential linear programs improve; a round of them takes longer than a descent does."""
WORK = {"joint": 1.0, "programs": 8.0}
"""Kinds of rounds, and about how long one takes at least: what idle rounds count."""
ENTRIES, MOST_WORK = 400, 400.0
"""A round of linear programs takes as long as a joint one for so many entries of their matrix; and at most, it gains
too little to be waited for."""
TOLD = {"joint": "a round of the joint search", "programs": "a round of linear programs"}
UNITS_PER_ROUND = 10
"""A round more for as many units that may switch: the more of them, the less branching achieves."""
ROUNDS = 10**9
LEAST_ROUNDS = 60
BUILT_PER_SECOND, BUILD_SHARE = 400_000, 0.25
"""Coefficients of a model that are built in a second, measured with room to spare, and the most it may take of all."""
MOST_COUNTED = 50_000_000
"""A network that multiplies more coefficients in a run has a model beyond any memory: it is not counted."""
TOLERANCE = 2e-6
SETTLED = 1e-6
"""Of the value at the start: nobody looks for less."""
FREE_TAIL = "the tail moves with the block, so nothing is proven of how much better it could be"
TOO_LARGE = "the model takes about {needed:.0f} MB and does not fit `limits.memory_mb`; heuristics only"
NO_MODEL = "{name} behind an activation or a tail has no linear model; heuristics only"
SMOOTH = "{name} is not piecewise linear, so there is no linear model to prove anything with; heuristics only"
CONSTRAINED = "with constraints a block behind a tail is searched without a model; nothing is proven"
UNCOUNTED = "the model would be too large to build; heuristics only"
FIXED = "no weight may move (every radius is 0), and the snapshot's own break constraints"
NO_TIME = "building the model would take most of `limits.time_s`; heuristics only"
NO_GAIN = "the heuristics ended before the time limit, because they gained nothing any more"


@dataclass
class _Progress:
    """What a solve has come to besides its incumbents."""

    status: SolveStatus = SolveStatus.TIME_LIMIT
    sizes: Sizes = field(default_factory=Sizes)
    nodes: int = 0
    build_s: float = 0.0
    presolve_s: float = 0.0
    solve_s: float = 0.0
    notes: tuple[str, ...] = ()
    branched: bool = False


@dataclass(frozen=True, eq=False)
class _Job:
    network: Network
    spec: JobSpec
    control: Control
    incumbents: BlockIncumbents
    rng: np.random.Generator

    @property
    def integral(self) -> bool:
        weights = sample_weights(self.network.snapshot)
        return self.spec.objective in COUNTS and bool((weights == np.round(weights)).all())

    @property
    def slack(self) -> float:
        """A distance from the bound that is no distance any more: a start far from everything is no unit of it."""
        return 0.0 if self.integral else SETTLED * min(self.incumbents.start, self.of_constants)

    @cached_property
    def of_constants(self) -> float:
        """What the best outputs [K] that are the same for all samples are worth, or good ones."""
        snapshot, goal = self.network.snapshot, self.spec.goal
        shape = (snapshot.samples, snapshot.outputs)
        constants = [np.zeros(snapshot.outputs)]
        if snapshot.task == "regression":
            targets = regression_targets(snapshot)
            constants = [targets.mean(axis=0), np.median(targets, axis=0)]
        return min(goal.of_outputs(snapshot, np.broadcast_to(one, shape)) for one in constants)

    @property
    def proven(self) -> bool:
        """True when the best value meets the bound, or comes as close as the job asks for."""
        best, bound = self.incumbents.objective, self.incumbents.bound
        return best <= bound + self.slack or best - bound <= self.spec.limits.gap * best

    def budget(self) -> Budget:
        """All the time that is left, less what finishing takes; under a node limit, so many rounds at most."""
        limit, nodes = self.spec.limits.time_s, self.spec.limits.nodes
        finish = max(min(0.5, 0.04 * limit), 1.5 * self.incumbents.seconds)
        return Budget(self.control, limit - finish, ROUNDS if nodes is None else max(LEAST_ROUNDS, nodes))


def solve_block(snapshot: Snapshot, spec: JobSpec, control: Control, start: Moved | None) -> Solution:
    """Find better weights for a block with an activation or a tail, and prove what can be proven."""
    network = network_of(snapshot, spec)
    incumbents = BlockIncumbents(network, spec.goal, control, Keeper(snapshot, spec))
    job = _Job(network, spec, control, incumbents, np.random.default_rng(spec.solver.seed))
    if start is not None:
        incumbents.offer(network.step_to(start))
    incumbents.tell("start")
    progress = _Progress()
    try:
        _search_and_prove(job, progress)
    except ContractError:
        raise
    except BREAKS as error:  # what was found until then stands
        full = isinstance(error, MemoryError)
        progress.status = SolveStatus.MEMORY_LIMIT if full else SolveStatus.GAP_REACHED
        progress.notes = (gave_up(error),)
    return _solution(job, progress)


def _search_and_prove(job: _Job, progress: _Progress) -> None:
    network, spec, incumbents = job.network, job.spec, job.incumbents
    impossible = tuple(incumbents.keeper.impossible())
    fixed = not any(box.any() for box in network.boxes)
    if fixed and incumbents.feasible:
        incumbents.raise_bound(incumbents.objective)
    elif fixed:
        impossible = impossible or (FIXED,)
    if impossible:
        progress.status, progress.notes = SolveStatus.INFEASIBLE, impossible
    if fixed or impossible:
        return
    obstacle = _obstacle(job)
    if obstacle is not None:
        _search_alone(job, progress, *obstacle)
        return
    size, everything = size_of(network), job.budget()
    if size.nonzeros / BUILT_PER_SECOND > BUILD_SHARE * everything.until:
        _search_alone(job, progress, NO_TIME, SolveStatus.TIME_LIMIT)
        return
    patience = JOINT_PATIENCE * min(PATIENCE_ALONE, PATIENCE + size.switching // UNITS_PER_ROUND)
    _search_jointly(job, everything if spec.limits.nodes is not None else everything.share(FIRST_SHARE), patience)
    if not (job.proven or job.control.stopped):
        _branch(job, progress)
        _polish(job)


def _obstacle(job: _Job) -> tuple[str, SolveStatus] | None:
    """Why there is nothing to branch on, in words, and the status of heuristics alone; None where there is."""
    for reason, holds in _without_model(job):
        if holds:
            return reason, SolveStatus.GAP_REACHED
    if job.network.elements > MOST_COUNTED:
        return UNCOUNTED, SolveStatus.MEMORY_LIMIT
    needed = BYTES_PER_NONZERO * size_of(job.network).nonzeros / 1e6
    if needed > job.spec.limits.memory_mb:
        return TOO_LARGE.format(needed=needed), SolveStatus.MEMORY_LIMIT
    return None


def _without_model(job: _Job) -> list[tuple[str, bool]]:
    """What keeps a job from having a linear model, in words, and whether it does."""
    smooth = [activation.name for activation in job.network.activations if not activation.piecewise_linear]
    return [
        (FREE_TAIL, job.network.tail_moves),
        (NO_MODEL.format(name=job.spec.objective), not _modelled(job)),
        (SMOOTH.format(name=", ".join(smooth)), bool(smooth)),
        (CONSTRAINED, bool(job.spec.constraints)),
    ]


def _modelled(job: _Job) -> bool:
    """Whether the objective has a linear model behind an activation or a tail."""
    return job.spec.objective in LINEAR and job.network.snapshot.task in ("classification", "regression")


def _search_alone(job: _Job, progress: _Progress, note: str, status: SolveStatus) -> None:
    """Heuristics with all the time there is; they end before it when they gain nothing any more."""
    budget = job.budget()
    _search_jointly(job, budget, JOINT_PATIENCE * (PATIENCE_ALONE + job.network.size))
    idle = job.incumbents.feasible and not (budget.over or job.proven)
    progress.notes = (note, NO_GAIN) if idle else (note,)
    if status is SolveStatus.GAP_REACHED and not idle:
        # Without weights that keep the constraints the search ends by a limit alone: there is no gap to have reached.
        spent = not (budget.over or job.incumbents.feasible)
        status = SolveStatus.NODE_LIMIT if spent else SolveStatus.TIME_LIMIT if budget.over else status
    progress.status = status


def _search_jointly(job: _Job, budget: Budget, patience: int) -> None:
    """Rounds of the joint search, and of linear programs where the objective has them, until they gain nothing.

    `patience` rounds may gain nothing, or as many as a gain once took to come. What pays for its work goes on. Until
    something keeps all constraints only the budget ends it.
    """
    joint = JointSearch(job.network, job.spec.goal, job.incumbents, budget, job.rng)
    joint.open()
    job.incumbents.tell("descents from many starts")
    exact = Search(job.network, job.spec.goal, job.incumbents, budget, job.rng, settled=lambda: job.proven)
    linear = _modelled(job) and fits(job.network) and not job.spec.constraints
    programs, idle, longest = Rounds(exact), 0.0, 0.0
    works = {"joint": WORK["joint"]}
    if linear:
        works["programs"] = _programs_work(job.network)
    arms = Arms(works)
    for _ in range(budget.rounds):
        if exact.done or (job.incumbents.feasible and idle > max(patience, longest)):
            return
        before, arm = job.incumbents.objective, arms.draw(job.rng)
        if arm == "joint":
            joint.round()
        else:
            programs.next()
        gain = relative_gain(before, job.incumbents.objective)
        if gain > 0:
            job.incumbents.tell(TOLD[arm], passing=True)
        arms.learn(arm, work=works[arm], gain=gain)
        idle += WORK[arm]
        if gain > GAIN:
            idle, longest = 0.0, max(longest, idle)


def _programs_work(network: Network) -> float:
    """About how many joint rounds one of linear programs takes: by its matrix, never by the clock."""
    entries = network.snapshot.samples * network.snapshot.outputs * network.size
    return float(np.clip(entries / ENTRIES, WORK["programs"], MOST_WORK))


def _branch(job: _Job, progress: _Progress) -> None:
    """Have a solver improve and prove over the whole box, from the best so far."""
    began, network, limits = job.control.elapsed, job.network, job.spec.limits
    progress.branched = True
    built = block_model(network, job.spec.goal)
    progress.sizes = _sizes(built)
    progress.build_s = job.control.elapsed - began
    options = MilpOptions(
        time_s=max(0.0, job.budget().until - job.control.elapsed),
        memory_mb=limits.memory_mb,
        nodes=limits.nodes,
        gap=limits.gap,
        seed=job.spec.solver.seed,
        params=job.spec.solver.params,
    )

    def on_solution(change: Array, bound: float, nodes: int) -> None:
        job.incumbents.raise_bound(safe_bound(bound, integral=job.integral))
        job.incumbents.offer(change, nodes=nodes)
        if job.spec.objective in COUNTS:
            job.incumbents.offer(secure(network, job.spec.goal, change, lambda: job.control.stopped), nodes=nodes)

    start = built.complete(job.incumbents.step.reshape(network.radius.shape))
    outcome = milp_solver(job.spec.solver.backend)(built.model, options, job.control, on_solution, start)
    if outcome.status is not SolveStatus.INFEASIBLE:
        job.incumbents.raise_bound(safe_bound(outcome.bound, integral=job.integral))
    ended = outcome.status in (SolveStatus.OPTIMAL, SolveStatus.INFEASIBLE)
    progress.status = SolveStatus.GAP_REACHED if ended else outcome.status
    progress.nodes, progress.presolve_s, progress.solve_s = outcome.nodes, outcome.presolve_s, outcome.solve_s
    if not outcome.start_accepted:
        progress.notes = ("the solver's check rejected the start; it searched without one",)


def _polish(job: _Job) -> None:
    """Refine what the solver left: its solutions are exact only to its tolerances."""
    if fits(job.network) and not job.proven:
        limit = job.spec.limits.time_s
        stop = lambda: job.control.stopped or job.control.elapsed > limit  # noqa: E731
        refined, _ = refine(job.network, job.spec.goal, job.incumbents.step, stop)
        job.incumbents.offer(refined)
        job.incumbents.tell("refined what the solver left")


def _sizes(built: BlockModel) -> Sizes:
    model = built.model
    return Sizes(
        rows=model.rows, columns=model.columns, binaries=int(model.integer.sum()), nonzeros=int(model.matrix.nnz)
    )


def _solution(job: _Job, progress: _Progress) -> Solution:
    """Put the result together; everything in it is recomputed from the weights returned."""
    best, snapshot, name = job.incumbents, job.network.snapshot, job.spec.solver.backend
    # Without weights that keep the constraints the snapshot's stand in, and there is nothing to bound.
    final, bound = (best.objective, max(0.0, best.bound)) if best.feasible else (best.start, 0.0)
    distance = gap(final, bound)
    changed = int(np.count_nonzero(best.moved.weight != snapshot.weight))
    if best.moved.bias is not None and snapshot.bias is not None:
        changed += int(np.count_nonzero(best.moved.bias != snapshot.bias))
    result = JobResult(
        objective=ObjectiveReport(name=job.spec.objective, start=best.start, final=final, bound=bound, gap=distance),
        status=_status(job, progress, distance),
        feasible=best.feasible,
        improved=best.feasible and (final < best.start or not best.start_keeps),
        changed_weights=changed,
        timings=Timings(
            build_s=progress.build_s,
            presolve_s=progress.presolve_s,
            solve_s=progress.solve_s,
            total_s=job.control.elapsed,
        ),
        sizes=progress.sizes,
        nodes=progress.nodes,
        incumbents=best.history,
        backend=Backend(name=name, version=version(name)),
        notes=[*progress.notes, *_constraint_notes(job)],
    )
    return Solution(result, best.moved.weight, best.moved.bias, best.moved.tail)


def _status(job: _Job, progress: _Progress, distance: float) -> SolveStatus:
    best = job.incumbents
    if best.feasible and best.objective <= max(0.0, best.bound) + _allowance(job, progress):
        return SolveStatus.OPTIMAL
    if job.control.stopped:
        return SolveStatus.INTERRUPTED
    if best.feasible and distance <= job.spec.limits.gap:
        return SolveStatus.GAP_REACHED
    broke_off = not best.feasible and progress.status is SolveStatus.GAP_REACHED
    return SolveStatus.TIME_LIMIT if broke_off else progress.status


def _constraint_notes(job: _Job) -> list[str]:
    """What constraints make of the values: a snapshot that breaks some, and the movement that is paid for."""
    notes, best = [], job.incumbents
    if not best.start_keeps:
        kept = "the weights returned keep all" if best.feasible else "the weights returned are the snapshot's own"
        notes.append(f"the snapshot breaks constraints; {kept}")
    if any(constraint.type == "movement_cost" for constraint in job.spec.constraints):
        paid = best.keeper.price(best.moved)
        notes.append(f"the objective's values include the cost of movement, {paid:.6g} of the final one")
    return notes


def _allowance(job: _Job, progress: _Progress) -> float:
    """How far above its bound a proven optimum may stay: float32 rounding and the solver's tolerance."""
    if job.integral or not progress.branched:
        return job.slack
    return max(job.slack, TOLERANCE * max(1.0, job.incumbents.objective))
