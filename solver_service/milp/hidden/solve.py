"""One job for a block with an activation or a tail: descend from many starts, refine, then branch and prove."""

from dataclasses import dataclass, field

import numpy as np

from shared.contracts import Backend, JobResult, JobSpec, ObjectiveReport, Sizes, SolveStatus, Timings, gap
from shared.objectives import COUNTS, sample_weights
from shared.snapshot import FloatArray, Snapshot
from solver_service.milp.backends.outcome import MilpOptions
from solver_service.milp.backends.registry import milp_solver, version
from solver_service.milp.budget import Budget
from solver_service.milp.control import Control
from solver_service.milp.formulation.relu_block import BlockModel, block_model
from solver_service.milp.hidden.incumbents import BlockIncumbents
from solver_service.milp.hidden.multistart import batch_size, descend, starts
from solver_service.milp.hidden.network import Network, network_of
from solver_service.milp.hidden.sequential import fits, refine, secure
from solver_service.milp.problem import Array
from solver_service.milp.report import Solution, safe_bound

FIRST_SHARE = 0.4
"""Of the time for the heuristics before a solver branches."""
ROUNDS, ROUNDS_WITHOUT_GAIN = 8, 12
DESCENT = 300
REFINED = 6
BYTES_PER_NONZERO = 250
TOLERANCE = 2e-6
FREE_TAIL = "the tail moves with the block, so nothing is proven of how much better it could be"
TOO_LARGE = "the model does not fit `limits.memory_mb`; heuristics only"
NO_MODEL = "mse behind a kink has no linear model; heuristics only"

Start = tuple[FloatArray, FloatArray | None]


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
    def allowance(self) -> float:
        """How far above its bound a proven optimum may stay: float32 rounding and the solver's tolerance."""
        return 0.0 if self.integral else TOLERANCE * max(1.0, self.incumbents.objective)

    @property
    def proven(self) -> bool:
        """True when the best value meets the bound."""
        return self.incumbents.objective <= self.incumbents.bound + (0.0 if self.integral else 1e-12)

    def budget(self) -> Budget:
        """All the time that is left, less what finishing takes."""
        limit = self.spec.limits.time_s
        return Budget(self.control, limit - min(0.5, 0.04 * limit), ROUNDS)


def solve_block(snapshot: Snapshot, spec: JobSpec, control: Control, start: Start | None) -> Solution:
    """Find better weights for a block with an activation or a tail, and prove what can be proven."""
    network = network_of(snapshot, spec)
    incumbents = BlockIncumbents(network, spec.goal, control)
    job = _Job(network, spec, control, incumbents, np.random.default_rng(spec.solver.seed))
    if start is not None:
        incumbents.offer(network.step_to(*start))
    progress = _Progress()
    progress.notes = _why_no_model(job)
    if progress.notes:
        _search(job, job.budget(), ROUNDS_WITHOUT_GAIN)
    else:
        everything = job.budget()
        _search(job, everything if spec.limits.nodes is not None else everything.share(FIRST_SHARE), 3)
        if not (job.proven or control.stopped):
            _branch(job, progress)
            _polish(job)
    return _solution(job, progress)


def _why_no_model(job: _Job) -> tuple[str, ...]:
    if job.network.tail_box is not None:
        return (FREE_TAIL,)
    if job.spec.objective == "mse":
        return (NO_MODEL,)
    units = job.network.radius.shape[0]
    nonzeros = len(job.network.inputs) * units * job.network.radius.shape[1] * (4 + len(job.network.tail))
    return (TOO_LARGE,) if BYTES_PER_NONZERO * nonzeros > job.spec.limits.memory_mb * 1e6 else ()


def _search(job: _Job, budget: Budget, patience: int) -> None:
    """Descend from batches of starts and refine the best of each, until nothing is gained `patience` times."""
    goal, network = job.spec.goal, job.network
    barren = 0
    while not (budget.over or job.proven) and barren < patience:
        before = job.incumbents.objective
        begin = starts(network, job.incumbents.step, batch_size(network), job.rng)
        found = descend(network, goal, begin, rounds=DESCENT, should_stop=lambda: budget.over)
        job.incumbents.offer(found.steps[0])
        for step in found.steps[:REFINED] if fits(network) else ():
            # Returns at once when the time is over.
            refined, _ = refine(network, goal, step, lambda: budget.over)
            job.incumbents.offer(refined)
        gained = job.incumbents.objective < before * (1 - 1e-4)
        barren = 0 if gained else barren + 1


def _branch(job: _Job, progress: _Progress) -> None:
    """Have a solver improve and prove over the whole box, from the best so far."""
    began, network, limits = job.control.elapsed, job.network, job.spec.limits
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


def _sizes(built: BlockModel) -> Sizes:
    model = built.model
    return Sizes(
        rows=model.rows, columns=model.columns, binaries=int(model.integer.sum()), nonzeros=int(model.matrix.nnz)
    )


def _solution(job: _Job, progress: _Progress) -> Solution:
    """Put the result together; everything in it is recomputed from the weights returned."""
    best, snapshot, name = job.incumbents, job.network.snapshot, job.spec.solver.backend
    bound = max(0.0, best.bound)
    distance = gap(best.objective, bound)
    status = progress.status
    if best.objective <= bound + job.allowance:
        status = SolveStatus.OPTIMAL
    elif job.control.stopped:
        status = SolveStatus.INTERRUPTED
    elif distance <= job.spec.limits.gap:
        status = SolveStatus.GAP_REACHED
    changed = int(np.count_nonzero(best.moved.weight != snapshot.weight))
    if best.moved.bias is not None and snapshot.bias is not None:
        changed += int(np.count_nonzero(best.moved.bias != snapshot.bias))
    result = JobResult(
        objective=ObjectiveReport(
            name=job.spec.objective, start=best.start, final=best.objective, bound=bound, gap=distance
        ),
        status=status,
        improved=best.objective < best.start,
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
        notes=list(progress.notes),
    )
    return Solution(result, best.moved.weight, best.moved.bias, _moved_tail(job))


def _moved_tail(job: _Job) -> dict[str, FloatArray]:
    """The tail's last layer by its wire names, if it was free to move."""
    if job.network.tail_box is None:
        return {}
    tail = job.incumbents.moved.tail
    last, name = tail[-1], f"tail.{len(tail) - 1}"
    return {f"{name}.weight": last.weight} | ({} if last.bias is None else {f"{name}.bias": last.bias})
