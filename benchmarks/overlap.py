"""What tunnelling costs the training loop: trainer on one core, solver on another, a job always in flight.

usage: python benchmarks/overlap.py [--task mnist] [--data-dir DIR] [--seconds 20] [--rounds 3]
       [--ways 0 1 2 3] [--device cuda] [--json FILE]

In turns, `--rounds` times: plain GD; GD with a tunneller whose jobs of `--time` seconds follow one another, so that
one is always out; the paper's way, in which GD waits for each job; and plain GD while the pool solves the tunneller's
last job again and again for somebody else, as a busy neighbour slows a core down by itself. Printed are GD steps per
second (median over the rounds, and as a share of plain GD's), the longest step() with everything it does, and what that
is of an epoch. GD steps per second of the process's CPU time, the background thread's included, say the same where
other work is about. They are split in two: GD itself is slower beside a busy core and with caches that others have
used, and some CPU time is not GD's (the loop's own validations and batches, of which plain GD has as many, and all that
the tunneller does). `--ways` leaves some ways out, by their numbers.
"""

import argparse
import contextlib
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# One core for the trainer, one for the solver: numpy's threads, of which OpenBLAS makes one for every core when it is
# imported, would wait for one another on the trainer's.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.columns import columns
from benchmarks.headline.ready import loaded
from shared.contracts import JobSpec, JobStatus
from shared.snapshot import Snapshot
from trainer.lab.best import Clock
from trainer.lab.report import write_json
from trainer.lab.tasks import Request, Split, Task
from trainer.pool.client import SolverClient
from trainer.pool.embedded import embedded_pool
from trainer.tunneller import Tunneller

WAYS = ("plain GD", "tunneller", "waiting for each job", "plain GD beside the same jobs")
TUNNELLED = WAYS[1:3]
COMPARED = {
    "gd_steps_per_s": "share_of_plain_speed",
    "gd_steps_per_cpu_s": "share_of_plain_speed_by_cpu",
    "gd_steps_per_gd_cpu_s": "of_it_by_the_neighbour_and_caches",
    "share_of_cpu_for_gd": "of_it_by_work_beside_gd",
}
"""What is held against plain GD's in the same round; by CPU the first is the product of the last two."""
POST_AGAIN = """
import sys
from pathlib import Path
from shared.contracts import JobSpec
from trainer.pool.client import SolverClient
data, spec = Path(sys.argv[2]).read_bytes(), JobSpec.model_validate_json(sys.argv[3])
with SolverClient(sys.argv[1]) as client:
    while True:
        client.wait(client.solve(data, spec).id)
"""
BATCH = 16
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
"""That this process may run on, before it keeps to one of them."""
SCORED = 250
"""Samples that a validation scores at once: with thousands a convolution's output no longer fits the cache, and
validation takes three times as long."""


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, on one core (where the system can)."""
    before = os.sched_getaffinity(0) if CORES else None
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[core % len(CORES)]})
    try:
        yield
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


class RememberingClient(SolverClient):
    """Knows the job that it posted last."""

    last: tuple[bytes, JobSpec]

    def solve(self, snapshot: Snapshot | bytes, spec: JobSpec, key: str | None = None) -> JobStatus:
        """Post a job, and remember it."""
        assert isinstance(snapshot, bytes)
        self.last = snapshot, spec
        return super().solve(snapshot, spec, key)


@contextlib.contextmanager
def same_jobs(client: RememberingClient, scratch: Path) -> Iterator[None]:
    """Meanwhile a process on the other core posts the last job, waits for its answer, and posts it again."""
    data, spec = client.last
    snapshot = scratch / "last.safetensors"
    snapshot.write_bytes(data)
    command = [sys.executable, "-c", POST_AGAIN, client.url, str(snapshot), spec.model_dump_json()]
    with on_core(1):
        work = subprocess.Popen(command, cwd=Path(__file__).resolve().parent.parent)
    time.sleep(3.0)  # until it is there
    try:
        yield
    finally:
        work.kill()
        work.wait()
        for job in client.jobs():
            client.cancel(job.id)


def batches(task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch."""
    for chosen in torch.split(torch.randperm(len(task.train)).to(task.train.inputs.device), BATCH):
        yield task.train.inputs[chosen], task.train.targets[chosen]


def train(task: Task, way: str, client: SolverClient, *, seconds: float, time_s: float) -> dict[str, Any]:
    """Train for a fixed time in one of the ways, and measure."""
    torch.manual_seed(0)
    model = task.model().to(task.train.inputs.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=task.defaults.adam_lr)
    tunneller = None
    if way in TUNNELLED:
        tunneller = Tunneller(
            model,
            optimizer=optimizer,
            validate=lambda: task.score(model, task.validation, SCORED),
            mode=task.mode,
            client=client,
            patience=1,
            cooldown=0,
            min_delta=1.0,  # every check is a stall, and no answer is adopted: all ways train the same model
            first_after=1,
            time_s=time_s,
            sync=way == WAYS[2],
        )
    gc.collect()  # what earlier ways and imports have left is not this one's to walk through
    clock, steps, epochs, gd_s = Clock(), 0, 0, 0.0
    cpu_s, training_s = time.process_time(), time.thread_time()
    while clock.seconds() < seconds:
        for inputs, targets in tunneller.watch(batches(task)) if tunneller else batches(task):
            gd_s -= time.thread_time()
            optimizer.zero_grad()
            task.loss(model(inputs), targets).backward()
            optimizer.step()
            gd_s += time.thread_time()
            steps += 1
            if clock.seconds() >= seconds:
                break
        epochs += 1
        score = task.score(model, task.validation, SCORED)  # what `validate` gives, as in most people's loops
        if tunneller:
            tunneller.step(score)
    wall = clock.seconds()
    cpu_s, training_s = time.process_time() - cpu_s, time.thread_time() - training_s
    epoch_s = wall * (len(task.train) / BATCH) / steps
    found: dict[str, Any] = {"gd_steps": steps, "gd_steps_per_s": steps / wall, "epoch_s": epoch_s}
    found |= {"gd_steps_per_cpu_s": steps / cpu_s, "cpu_s": cpu_s, "background_cpu_s": cpu_s - training_s}
    found |= {"gd_steps_per_gd_cpu_s": steps / gd_s, "share_of_cpu_for_gd": gd_s / cpu_s}
    if tunneller:
        summary = tunneller.close(timeout=time_s + 10)
        found |= {
            "jobs": summary.jobs,
            "answers": summary.answers,
            "share_of_steps_while_a_job_was_out": summary.gd_steps_during_jobs / steps,
            "longest_step_ms": summary.longest_step_ms,
            "longest_step_share_of_epoch": summary.longest_step_ms / 1000 / epoch_s,
            "capture_s": summary.capture_s,
            "trial_s": summary.trial_s,
            "validate_s": summary.validate_s,
            "observe_s": summary.observe_s,
        }
        own_s = sum(found[f"{name}_s"] for name in ("capture", "trial", "validate", "observe", "background_cpu"))
        found["share_of_time_for_all_that"] = own_s / wall
    return found


def on_device(task: Task, device: str) -> Task:
    """The same task with its data on a device."""

    def moved(part: Split) -> Split:
        return replace(part, inputs=part.inputs.to(device), targets=part.targets.to(device))

    return replace(task, train=moved(task.train), validation=moved(task.validation))


def medians(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Each figure's median over the rounds, and the speed as a share of plain GD's in the same round."""
    ways = rounds[0]
    found = {way: {name: statistics.median(r[way][name] for r in rounds) for name in ways[way]} for way in ways}
    for way in ways:
        for name, told in COMPARED.items():
            found[way][told] = statistics.median(r[way][name] / r[WAYS[0]][name] for r in rounds)
    return found


def main() -> None:
    """Measure, print a table, and write JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--task", default="mnist")
    options.add_argument("--data-dir", type=Path, default=os.environ.get("GDSOLVER_DATA"))
    options.add_argument("--seconds", type=float, default=20.0, help="of each way in each round")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--time", type=float, default=10.0, help="seconds of a job")
    options.add_argument("--device", default="cpu", help="of model and data, such as cuda")
    options.add_argument("--json", type=Path, default=Path("runs/bench-overlap.json"))
    options.add_argument("--ways", type=int, nargs="+", choices=range(len(WAYS)), default=list(range(len(WAYS))))
    chosen = options.parse_args()
    ways = [WAYS[number] for number in sorted({0, *chosen.ways} | ({1} if 3 in chosen.ways else set()))]
    torch.set_num_threads(1)
    data_dir = Path(chosen.data_dir) if chosen.data_dir else None
    task = on_device(loaded(Request(chosen.task, data_dir=data_dir)), chosen.device)
    rounds = []
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with on_core(1):
            url = stack.enter_context(embedded_pool(scratch / "pool.log"))
        client = stack.enter_context(RememberingClient(url))
        stack.enter_context(on_core(0))
        train(task, WAYS[0], client, seconds=2.0, time_s=chosen.time)  # what is slow once
        for _ in range(chosen.rounds):
            measured = {}
            for way in ways:
                with same_jobs(client, scratch) if way == WAYS[3] else contextlib.nullcontext():
                    measured[way] = train(task, way, client, seconds=chosen.seconds, time_s=chosen.time)
                time.sleep(0.5)
            rounds.append(measured)
            found = medians(rounds)
            about = {"task": chosen.task, "device": chosen.device, "time_s": chosen.time}
            write_json(chosen.json, {**about, "medians": found, "rounds": rounds})  # what is measured is not lost
    names = dict.fromkeys(name for way in ways for name in found[way])
    rows = [
        (name.replace("_", " "), *(f"{found[way][name]:,.4g}" if name in found[way] else "" for way in ways))
        for name in names
    ]
    print(f"{chosen.task} on {chosen.device}, jobs of {chosen.time:g} s, {os.cpu_count()} cores")
    print(columns(("figure", *ways), rows))


if __name__ == "__main__":
    main()
