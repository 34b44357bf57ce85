"""Jobs of many classes, against the script that everybody has: Adam on cross-entropy, clipped to the box.

    python benchmarks/many_classes.py [--times 1 3 10] [--only NAME ...] --json benchmarks/results/many-classes.json

Clouds around random centres, a layer of new weights (0), 1.3 and 2.6 billion coefficients (samples times weights), 10 %
of the second's labels wrong. The script is PyTorch: batches of 512, a rate that falls linearly to 0 at the end of the
time; on cross-entropy, and for a hinge on the hinge, too. Each of its rates has the whole time, and the best value of
all counts. Processor's clock, one after the other; values of both are recounted.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.ablation import ProcessorTime
from benchmarks.given import chosen
from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from solver_service.milp.solve import solve

CASES = {
    "1000 classes": {"samples": 20_000, "width": 64, "classes": 1000, "spread": 1.5, "wrong": 0.0, "radius": 3.0},
    "100 classes": {"samples": 50_000, "width": 512, "classes": 100, "spread": 2.9, "wrong": 0.1, "radius": 1.0},
}
OBJECTIVES = ("zero_one", "ramp", "hinge", "log_loss")
RATES, BATCH = (0.02, 0.005), 512


def clouds(samples: int, width: int, classes: int, spread: float, wrong: float) -> Snapshot:
    """A cloud of samples for each class, and a layer that knows nothing."""
    rng = np.random.default_rng(0)
    centres, targets = rng.normal(size=(classes, width)), rng.integers(0, classes, samples)
    inputs = (centres[targets] + spread * rng.normal(size=(samples, width))).astype(np.float32)
    targets = np.where(rng.random(samples) < wrong, rng.integers(0, classes, samples), targets)
    nothing = np.zeros((classes, width), np.float32)
    return Snapshot("classification", inputs, targets, nothing, np.zeros(classes, np.float32))


def script(snapshot: Snapshot, spec: JobSpec, rate: float, loss: str, seed: int) -> float:
    """The value where it ends, or at its start."""
    assert spec.radius is not None
    began, generator = time.process_time(), torch.Generator().manual_seed(seed)
    inputs, targets = torch.from_numpy(snapshot.inputs), torch.from_numpy(snapshot.targets)
    weight = torch.zeros(snapshot.weight.shape, requires_grad=True)
    bias = torch.zeros(len(snapshot.weight), requires_grad=True)
    adam = torch.optim.Adam([weight, bias], lr=rate)
    left = 1.0
    while left > 0:
        for rows in torch.randperm(len(inputs), generator=generator).split(BATCH):
            left = 1 - (time.process_time() - began) / spec.limits.time_s
            if left <= 0:
                break
            adam.param_groups[0]["lr"] = rate * left
            adam.zero_grad()
            scores = inputs[rows] @ weight.T + bias
            if loss == "hinge":
                torch.nn.functional.multi_margin_loss(scores, targets[rows]).mul(scores.shape[1]).backward()
            else:
                torch.nn.functional.cross_entropy(scores, targets[rows]).backward()
            adam.step()
            with torch.no_grad():
                for values in (weight, bias):
                    values.clamp_(-spec.radius, spec.radius)
    ended = spec.value(snapshot, weight.detach().numpy(), bias.detach().numpy())
    return min(ended, spec.value(snapshot, snapshot.weight, snapshot.bias))


def compared(snapshot: Snapshot, spec: JobSpec, seed: int) -> dict[str, float | str]:
    """A job and the script's best run, in the same processor seconds each."""
    losses = ("log_loss", "hinge") if spec.objective == "hinge" else ("log_loss",)
    rival = min(script(snapshot, spec, rate, loss, seed) for rate in RATES for loss in losses)
    began = time.process_time()
    result = solve(snapshot, spec, ProcessorTime()).result
    took, value = time.process_time() - began, result.objective
    return {"start": value.start, "job": value.final, "script": rival, "took_s": took, "status": result.status.value}


def main() -> None:
    """Run all and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name contains one of these")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records = []
    print("| case | objective | limit s | seed | job | took s | script |\n|---|---|---|---|---|---|---|")
    for name in chosen(list(CASES), arguments.only, str, "case"):
        case = dict(CASES[name])
        radius = case.pop("radius")
        snapshot = clouds(int(case.pop("samples")), int(case.pop("width")), int(case.pop("classes")), **case)
        for objective in OBJECTIVES:
            for limit in arguments.times:
                for seed in range(arguments.seeds):
                    limits, solver = {"time_s": limit}, {"seed": seed}
                    spec = JobSpec(objective=objective, radius=radius, limits=limits, solver=solver)
                    record = {"case": name, "objective": objective, "time_s": limit, "seed": seed}
                    record |= compared(snapshot, spec, seed)
                    records.append(record)
                    cells = (f"{record[key]:.4g}" for key in ("job", "took_s", "script"))
                    print("|", " | ".join([name, objective, f"{limit:g}", str(seed), *cells]), "|", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"cores": os.cpu_count(), "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
