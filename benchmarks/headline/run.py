"""One run of the headline experiment: learning rate tried, trained within its budget, and its cost counted."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.headline.matrix import Case, Plan
from benchmarks.headline.pool import Solver
from trainer.lab.callbacks import Callback
from trainer.lab.loop import Settings, train
from trainer.lab.methods import METHODS, Method
from trainer.lab.runs import Run
from trainer.lab.tasks import Request, Task, load_task

RATES = (1.0, 3.0, 0.3)
"""Learning rates that are tried, as factors of the task's own; the first wins ties."""
DECAYS = (0.0, 1e-4, 1e-3, 1e-2)
"""Prices of squared weights that are tried at the best of these, in units of the loss."""
ENDLESS = 10**6
NEW_WEIGHTS = 1000
"""Seeds of restarts are this far apart."""
Record = dict[str, Any]


def run(plan: Plan, data_dir: Path | None, budget_s: float | None, solver: Solver | None) -> Record:
    """Run a plan and say what came of it; baselines begin anew until `budget_s` CPU seconds are used up.

    The probes of learning rates are on top of the budget, for every method alike, the hybrid included.
    """
    task = _task(plan.case, plan.seed, data_dir)
    method = METHODS[plan.method]
    tuning = tuned(task, method, plan)
    task, method, epoch_s = with_rate(task, tuning.rate), replace(method, decay=tuning.decay), tuning.epoch_s
    began = time.monotonic()
    if plan.is_hybrid:
        assert solver is not None, "hybrids are run with a pool"
        found, cpu_s, starts = (*_hybrid(task, method, plan, solver), 1)
    else:
        assert budget_s is not None, "the hybrid's cost is the others' budget"
        found, cpu_s, starts = restarts(task, method, plan.seed, budget_s, epoch_s)
    return {
        "case": plan.case.name,
        "method": plan.label,
        "seed": plan.seed,
        "metric": task.metric,
        "test": found.test,
        "judged": judged(found),
        "cpu_s": round(cpu_s, 3),
        "wall_s": round(time.monotonic() - began, 3),
        "starts": starts,
        "rate": tuning.rate,
        "decay": tuning.decay,
        "jobs": found.summary.jobs if found.summary else 0,
        "adopted": found.adopted,
    }


def judged(run: Run) -> float:
    """What chooses among runs: the mean metric on selection and validation data."""
    return 0.5 * (run.selection + run.validation)


@dataclass(frozen=True)
class Tuning:
    """What short runs chose: a factor of the learning rate, the price of squared weights; CPU seconds of an epoch."""

    rate: float
    decay: float
    epoch_s: float


def tuned(task: Task, method: Method, plan: Plan) -> Tuning:
    """The learning rate that does best in short runs, and then the price of weights that does best with it.

    L-BFGS has no rate, AdamW a decay of its own, and `hybrid-lbfgs` tries prices as it goes.
    """
    best, score = _probed(task, method, plan, Tuning(RATES[0], DECAYS[0], 0.0))
    rates = RATES[1:] if method.optimizer != "lbfgs" else ()
    decays = DECAYS[1:] if method.optimizer != "adamw" and method.at_stall != "consensus" else ()
    for name, values in (("rate", rates), ("decay", decays)):
        begin = best
        for value in values:
            tried, reached = _probed(task, method, plan, replace(begin, **{name: value}))
            if reached > score:
                best, score = tried, reached
    return best


def _probed(task: Task, method: Method, plan: Plan, tuning: Tuning) -> tuple[Tuning, float]:
    """A short run with these settings: the same with the time of an epoch, and its score, higher is better."""
    plain = replace(method, at_stall="nothing", schedule="none", decay=tuning.decay)
    began = time.process_time()
    found = _train(with_rate(task, tuning.rate), plain, plan.seed, Settings(most_cpu_s=plan.case.probe_s))
    sign = 1.0 if task.mode == "max" else -1.0
    return replace(tuning, epoch_s=(time.process_time() - began) / len(found.epochs)), sign * judged(found)


def with_rate(task: Task, factor: float) -> Task:
    """The task with other learning rates."""
    settings = task.defaults
    rates = {"sgd_lr": factor * settings.sgd_lr, "adam_lr": factor * settings.adam_lr}
    return replace(task, defaults=replace(settings, **rates))


def restarts(task: Task, method: Method, seed: int, budget_s: float, epoch_s: float) -> tuple[Run, float, int]:
    """A baseline from new weights again and again within a budget: the best start, its CPU seconds, how many starts.

    A cosine ends with the budget, if the task's own number of epochs does not fit into it.
    """
    sign = 1.0 if task.mode == "max" else -1.0
    began, runs = time.process_time(), list[Run]()
    while not runs or (left := budget_s - (time.process_time() - began)) > epoch_s:
        left = budget_s if not runs else left
        epochs = max(1, min(task.defaults.epochs, int(left / epoch_s))) if method.schedule == "cosine" else None
        settings = Settings(most_cpu_s=left, epochs=epochs)
        runs.append(_train(task, method, seed + NEW_WEIGHTS * len(runs), settings))
    best = max(runs, key=lambda run: sign * judged(run))
    return best, time.process_time() - began, len(runs)


def _hybrid(task: Task, method: Method, plan: Plan, solver: Solver) -> tuple[Run, float]:
    """The hybrid once, and its CPU seconds here and in the pool."""
    endless = ENDLESS if method.at_stall == "consensus" else None  # it begins anew until its time is used up
    settings = Settings(
        epochs=endless,
        until_stalled=endless,
        most_cpu_s=plan.case.train_s,
        polish_s=plan.case.polish_s,
        layer=plan.case.layer,
        run=f"{plan.solver}-{plan.method}",
    )
    began, pool_s = time.process_time(), solver.cpu_s() if solver.cpu_s else 0.0
    found = _train(task, method, plan.seed, settings, solver)
    here = time.process_time() - began
    there = solver.cpu_s() - pool_s if solver.cpu_s else _out(found)
    return found, here + there


def _out(run: Run) -> float:
    """Wall seconds that jobs were out, waiting included: the most that a distant pool can have worked."""
    return sum(
        getattr(event, "seconds", None) or 0.0 for event in run.events if event.kind in ("answered", "cancelled")
    )


def _train(task: Task, method: Method, seed: int, settings: Settings, solver: Solver | None = None) -> Run:
    client = solver.client if solver else None
    found = train(task, method, seed=seed, settings=settings, callback=Callback(), client=client)
    if found.interrupted:  # a run that was cut short is no result
        raise KeyboardInterrupt
    return found


def _task(case: Case, seed: int, data_dir: Path | None) -> Task:
    request = Request(case.task, fraction=case.fraction, label_noise=case.label_noise, data_dir=data_dir)
    task = load_task(request, seed)
    tunnel = replace(task.tunnel, time_s=case.time_s, samples=case.samples or task.tunnel.samples)
    return replace(task, tunnel=tunnel)


Runner = Callable[[Plan, float | None], Record]
