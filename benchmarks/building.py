"""How long SCIP's model takes to fill: row by row as GDSolver does it, against `quicksum` over the same numbers.

`quicksum` is measured over the scalars of numpy arrays, as one would write it, and over Python floats, its best case.

usage: python benchmarks/building.py FOLDER
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pyscipopt import Model, quicksum

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.solver_run import spec_of
from shared.snapshot import Snapshot
from solver_service.milp.backends.scip import build
from solver_service.milp.formulation.compact import compact_model
from solver_service.milp.formulation.model import LinearModel
from solver_service.milp.problem import Array, problem_of
from solver_service.milp.reduction import screen
from solver_service.milp.requirements import requirements_of


def by_quicksum(model: LinearModel, values: Sequence[float] | Array) -> float:
    """Fill SCIP as its documentation shows; the seconds that it took."""
    began = time.perf_counter()
    scip = Model()
    scip.hideOutput()
    columns = zip(model.lower.tolist(), model.upper.tolist(), model.objective.tolist(), model.integer, strict=True)
    variables = [scip.addVar(lb=low, ub=up, obj=cost, vtype="B" if whole else "C") for low, up, cost, whole in columns]
    starts, places = model.matrix.indptr.tolist(), model.matrix.indices.tolist()
    for row, side in enumerate(model.row_lower.tolist()):
        entries = range(starts[row], starts[row + 1])
        scip.addCons(quicksum(values[e] * variables[places[e]] for e in entries) >= side)
    return time.perf_counter() - began


def main() -> None:
    """Print a Markdown table."""
    print("| snapshot | non-zeros | arrays s | SCIP s | quicksum, numpy scalars | quicksum, floats |")
    print("|---|---|---|---|---|---|")
    for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
        snapshot = Snapshot.from_bytes(path.read_bytes())
        if not snapshot.is_final_identity or snapshot.note["objective"] == "mse":
            continue
        began = time.perf_counter()
        problem = problem_of(snapshot, spec_of(dict(snapshot.note), 60, 0))
        model = compact_model(problem, screen(requirements_of(problem)).requirements)
        modelled = time.perf_counter()
        build(model)
        filled = time.perf_counter()
        ours = filled - modelled
        slow = by_quicksum(model, model.matrix.data), by_quicksum(model, model.matrix.data.tolist())
        cells = [f"{modelled - began:.3f}", f"{ours:.3f}", *(f"{s:.3f} ({s / ours:.1f}x)" for s in slow)]
        print("|", " | ".join([path.stem, str(model.matrix.nnz), *cells]), "|")


if __name__ == "__main__":
    main()
