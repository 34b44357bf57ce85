"""How long SCIP's model takes to fill: as GDSolver does it, against `quicksum` over the same numbers.

`quicksum` is measured over the scalars of numpy arrays, as one would write it, and over Python floats, its best case.
Every time is the shortest of three, columns included, which all three ways create alike.

usage: python benchmarks/building.py FOLDER
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pyscipopt import Model, quicksum

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.ablation import output_layers_in
from benchmarks.given import usage
from benchmarks.solver_run import LINEAR, spec_of
from shared.snapshot import Snapshot
from solver_service.milp.backends.scip import build
from solver_service.milp.core.problem import Array, problem_of
from solver_service.milp.core.requirements import requirements_of
from solver_service.milp.formulation.compact import compact_model
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.presolve.aggregation import fold
from solver_service.milp.presolve.screening import screen

RUNS = 3


def by_quicksum(model: LinearModel, values: Sequence[float] | Array) -> None:
    """Fill SCIP as its documentation shows."""
    scip = Model()
    scip.hideOutput()
    columns = zip(model.lower.tolist(), model.upper.tolist(), model.objective.tolist(), model.integer, strict=True)
    variables = [scip.addVar(lb=low, ub=up, obj=cost, vtype="B" if whole else "C") for low, up, cost, whole in columns]
    starts, places = model.matrix.indptr.tolist(), model.matrix.indices.tolist()
    for row, side in enumerate(model.row_lower.tolist()):
        entries = range(starts[row], starts[row + 1])
        scip.addCons(quicksum(values[e] * variables[places[e]] for e in entries) >= side)


def modelled(snapshot: Snapshot) -> LinearModel:
    """The compact model as a job builds it, but for its cuts."""
    problem = problem_of(snapshot, spec_of(dict(snapshot.note), 60, 0))
    screened, folding = fold(problem, screen(requirements_of(problem)))
    return compact_model(folding.space, screened.requirements)


def seconds(act: Callable[[], object]) -> float:
    """The shortest of three runs."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Print a Markdown table."""
    paths = output_layers_in(Path(usage(str(__doc__), "FOLDER").FOLDER))
    print("| snapshot | rows | columns | non-zeros | arrays s | SCIP s | quicksum, numpy scalars | quicksum, floats |")
    print("|---|---|---|---|---|---|---|---|")
    for path in paths:
        snapshot = Snapshot.from_bytes(path.read_bytes())
        if snapshot.note["objective"] not in LINEAR:
            continue
        model = modelled(snapshot)
        arrays, ours = seconds(partial(modelled, snapshot)), seconds(partial(build, model))
        slow = [seconds(partial(by_quicksum, model, data)) for data in (model.matrix.data, model.matrix.data.tolist())]
        sizes = [str(size) for size in (model.rows, model.columns, model.matrix.nnz)]
        cells = [f"{arrays:.4f}", f"{ours:.4f}", *(f"{s:.3f} ({s / ours:.1f}x)" for s in slow)]
        print("|", " | ".join([path.stem, *sizes, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
