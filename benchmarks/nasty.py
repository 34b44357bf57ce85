"""Tiny jobs in odd units, of odd weights and with ties, against exhaustive search: honest, finite, and not far above.

    python benchmarks/nasty.py --instances 3500 --seed 1

An instance is drawn from its own numbers (seed, number); `--first NUMBER --instances 1` repeats one. What is looked at:
no bound above the optimum, no `optimal` above it, every number finite, the same value up to scale as in plain units, no
job that ends by itself more than 0.1 % above the optimum.
"""

import argparse
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass

import numpy as np
from nasty_jobs import compressed, draw, faithful
from oracle import ROOM, box, kept, optimum

from shared.contracts import SolveStatus
from shared.errors import SpecError
from shared.objectives import sample_weights
from solver_service.milp.core.solution import GAVE_UP
from solver_service.milp.solve import solve

ABOVE = 1e-3
"""How far above the optimum a job may end by itself."""
NOTHING = 2e-5
"""What is less than this share of the job's own scale is nothing: float32 weights leave as much."""
PROVEN = 2e-5
BOUND = 2e-6
POWERS = (0.0, 0.05, 0.2)
"""To which weights of samples are raised for solutions from elsewhere."""
TRIALS = 1500
"""Points that a random search looks at."""
LIMITED = (SolveStatus.TIME_LIMIT, SolveStatus.MEMORY_LIMIT, SolveStatus.NODE_LIMIT, SolveStatus.INTERRUPTED)


@dataclass(frozen=True)
class Known:
    """What exhaustive search or other solutions know of the optimum: not above `most`, and not below `least`."""

    most: float
    roomy: float


def known(drawn):
    """The optimum in the job's own units; None when it is infeasible."""
    if drawn.mixed:
        return _of_other_solutions(drawn)
    true = optimum(*drawn.twin)
    if true is None:
        return None
    roomy = optimum(*drawn.twin, room=ROOM)
    return Known(true * drawn.factor, np.inf if roomy is None else roomy * drawn.factor)


def _of_other_solutions(drawn):
    """The best value of weights from elsewhere: a random search, and the solver on weights nearer to each other.

    It is not below the optimum; no more is known where float64 is not enough, or where the job is not the twin's.
    """
    snapshot, spec = drawn.job
    others = [] if snapshot.sample_weight is None else [compressed(snapshot, spec, power) for power in POWERS]
    ways = [(snapshot.weight, snapshot.bias), *((one.weight, one.bias) for one in (solve(*job) for job in others))]
    values = [spec.value(snapshot, *weights) for weights in ways if kept(snapshot, spec, *weights)]
    values.append(random_search(snapshot, spec))
    least = min(values, default=np.inf)
    return Known(least, least) if np.isfinite(least) else None


def random_search(snapshot, spec):
    """The least value that points of the box come to which nobody proposed; infinite where none keeps the constraints.

    Uniform points, then steps from the best, of all or of a few coordinates. It knows nothing of the solver.
    """
    rng = np.random.default_rng(snapshot.samples)
    low, high = box(snapshot, spec)
    half, best, place = (high - low) / 2, np.inf, (low + high) / 2
    for trial in range(TRIALS):
        near = trial >= TRIALS // 3 and np.isfinite(best)
        step = half * rng.uniform(-1, 1, half.shape) * 10.0 ** rng.uniform(-4, 0)
        step *= rng.random(half.shape) < rng.choice([0.2, 0.5, 1.0])
        point = np.clip(place + step, low, high) if near else rng.uniform(low, high)
        block = point.astype(np.float32)
        weights = block[:, :-1], None if snapshot.bias is None else block[:, -1]
        if kept(snapshot, spec, *weights) and (value := spec.value(snapshot, *weights)) < best:
            best, place = value, point
    return best


def fault(drawn, solution, found):
    """What is wrong with a solution, in words; None when nothing is."""
    (snapshot, spec), result = drawn.job, solution.result
    report = result.objective
    numbers = [report.start, report.final, report.bound, report.gap, *(one.objective for one in result.incumbents)]
    if not (np.isfinite(numbers).all() and np.isfinite(solution.weight).all()):
        return f"not finite: {numbers}"
    if any(note.endswith(GAVE_UP) for note in result.notes):
        return f"broke: {result.notes}"
    if result.status is SolveStatus.INFEASIBLE:
        wrong = found is not None and np.isfinite(found.roomy)
        return f"infeasible, but {found.roomy} can be had" if wrong else None
    if found is None:
        return None if drawn.mixed or not result.improved else f"infeasible, but the solver says {report.final}"
    unit, final, bound = _unit(drawn, report.start), report.final, report.bound
    above = final - found.roomy
    ended = result.status not in LIMITED
    faults = {
        "the value is not that of the weights": final != spec.value(snapshot, solution.weight, solution.bias),
        f"the bound {bound} is above {found.most}": bound > found.most * (1 + BOUND) + BOUND * unit,
        f"the bound {bound} is above the value {final}": bound > final,
        f"optimal at {final}, but {found.roomy} can be had": result.status is SolveStatus.OPTIMAL
        and above > PROVEN * (found.roomy + unit),
        f"ended by itself ({result.status}) at {final}, but {found.roomy} can be had {result.notes}": ended
        and above > ABOVE * found.roomy + NOTHING * unit,
        f"{final} is below the optimum {found.most}": not drawn.mixed
        and final < found.most - PROVEN * (found.most + unit),
    }
    return next((words for words, wrong in faults.items() if wrong), None)


def _unit(drawn, start):
    """The scale of the job's values; of mixed weights it is none, but where a heavy sample has to be met exactly.

    There float32 weights miss it by some 1e-7 of what it is off at the start.
    """
    weights = sample_weights(drawn.twin[0])
    if drawn.mixed:
        return 5e-3 * start if drawn.twin[0].task == "regression" else 0.0
    return drawn.factor * max(1.0, float(weights.max()))


def main():
    """Draw, solve, compare, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=3500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first instance")
    parser.add_argument("--time", type=float, default=5.0, help="limit of each job, in seconds")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    options = parser.parse_args()
    began, counts, done, wrong = time.monotonic(), Counter(), 0, 0
    for number in range(options.first, options.first + options.instances):
        if time.monotonic() - began > options.seconds:
            break
        drawn = draw(options.seed, number, time_s=options.time)
        kind, said = _one(drawn)
        done += 1
        counts[kind] += 1
        if said:
            wrong += 1
            spec = drawn.job[1]
            types = [one.type for one in spec.constraints]
            print(f"instance {number}: {spec.objective} {types} {spec.solver.backend}{' mixed' * drawn.mixed}: {said}")
            again = f"--seed {options.seed} --first {number} --instances 1 --time {options.time:g}"
            print(f"  python benchmarks/nasty.py {again}", flush=True)
    print(f"{done} instances, seed {options.seed}: {wrong} offenders, {time.monotonic() - began:.0f} s")
    for name, count in sorted(counts.items()):
        print(f"  {name:24} {count}")
    return 1 if wrong else 0


def _one(drawn):
    if not faithful(drawn):
        return "(below float32)", None
    try:
        drawn.job[1].check(drawn.job[0])
        drawn.twin[1].check(drawn.twin[0])
    except SpecError as error:
        return f"(refused: {error.field})", None
    try:
        solution = solve(*drawn.job)
    except Exception as error:
        return "(error)", f"{error!r} at {traceback.extract_tb(error.__traceback__)[-1]}"
    try:
        found = known(drawn)
    except AssertionError as error:
        return "(no oracle)", None if "Model" in str(error) else repr(error)
    return str(solution.result.status), fault(drawn, solution, found)


if __name__ == "__main__":
    sys.exit(main())
