"""`/metrics`: what Redis has counted, and how the pool stands just now, as Prometheus text."""

import math
import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from shared.contracts import State
from solver_service.rules.metrics import HISTOGRAMS
from solver_service.rules.owners import KEYLESS_OWNER
from solver_service.store import Store
from solver_service.store.operation import Mode

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_COUNTERS = {
    "submitted": ("jobs_submitted", "Jobs accepted.", "priority"),
    "attempts": ("attempts", "Attempts that workers have begun.", None),
    "lost": ("workers_lost", "Attempts that ended because their worker was lost.", None),
    "finished": ("jobs_finished", "Jobs that ended, by terminal state.", "state"),
    "quarantined": ("records_quarantined", "Records that could not be read, and were set aside.", None),
    "feedback": ("feedback", "Verdicts of trainers on delivered weights.", "verdict"),
    "gained": ("objective_gained", "Sum of start minus final objective.", "objective"),
    "solver_seconds": ("solver_seconds", "Seconds that a core spent on jobs with a result.", "objective"),
}
_HISTOGRAMS = {
    "queued_seconds": ("Seconds from submission to the first attempt.", None),
    "build_seconds": ("Seconds spent building the model.", "backend"),
    "solve_seconds": ("Seconds spent in the solver.", "backend"),
    "improvement": ("Share of the start's objective that a job gained.", "objective"),
    "staleness_steps": ("Training steps between a snapshot and its verdict.", None),
}
_ALWAYS = {
    "attempts": ("",),
    "lost": ("",),
    "quarantined": ("",),
    "finished": tuple(state.value for state in State if state.terminal),
    "feedback": ("accepted", "declined"),
}


def render(store: Store, own: Iterable[Metric] = ()) -> bytes:
    """Build the whole page from one look at the store, and from what this gateway has counted by itself."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page([*_gauges(store), *_operation(store), *_counted(store.jobs.counters()), *own]))
    return generate_latest(registry)


class _Page(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _gauges(store: Store) -> Iterator[Metric]:
    waiting, alive, counts = store.jobs.waiting(), store.workers.alive(), store.jobs.counts()
    queued = GaugeMetricFamily("gdsolver_queued", "Jobs that wait for a worker.", labels=["priority"])
    oldest = GaugeMetricFamily("gdsolver_oldest_queued_seconds", "How long the oldest waits.", labels=["priority"])
    for priority, (depth, age_s) in waiting.items():
        queued.add_metric([priority], depth)
        oldest.add_metric([priority], age_s)
    yield queued
    yield oldest
    yield GaugeMetricFamily("gdsolver_running", "Jobs that a worker is at.", value=counts[State.RUNNING.value])
    yield GaugeMetricFamily("gdsolver_workers", "Workers with a fresh heartbeat.", value=len(alive))
    slots = sum(worker.slots for worker in alive)
    yield GaugeMetricFamily("gdsolver_slots", "Jobs that these can be at together.", value=slots)
    _, kept = store.quota.used(KEYLESS_OWNER)
    yield GaugeMetricFamily("gdsolver_stored_bytes", "Bytes of snapshots and results.", value=kept)


def _operation(store: Store) -> Iterator[Metric]:
    """Redis, and what an operator has to look after."""
    began = time.perf_counter()
    store.ping()
    took_s = time.perf_counter() - began
    yield GaugeMetricFamily("gdsolver_redis_ping_seconds", "How long Redis took to answer.", value=took_s)
    used, most = store.memory()
    yield GaugeMetricFamily("gdsolver_redis_memory_bytes", "What Redis uses.", value=used)
    yield GaugeMetricFamily("gdsolver_redis_memory_limit_bytes", "Its `maxmemory`; 0 for none.", value=most)
    yield GaugeMetricFamily("gdsolver_reaper_alive", "Whether a gateway looks for lost jobs.", value=store.is_reaped())
    yield GaugeMetricFamily("gdsolver_quarantined", "Records that nobody could read.", value=store.quarantined())
    modes = GaugeMetricFamily("gdsolver_mode", "1 for the mode that the pool is run in.", labels=["mode"])
    for mode in Mode:
        modes.add_metric([mode.value], float(store.operation.mode() is mode))
    yield modes


def _counted(found: dict[str, float]) -> Iterator[Metric]:
    for name, (title, help_text, label) in _COUNTERS.items():
        family = CounterMetricFamily(f"gdsolver_{title}", help_text, labels=[label] if label else None)
        values = dict.fromkeys(_ALWAYS.get(name, ()), 0.0) | _labelled(found, name)
        for value, total in sorted(values.items()):
            family.add_metric([value] if label else [], total)
        yield family
    yield _gained_per_second(found)
    for name, (help_text, label) in _HISTOGRAMS.items():
        histogram = HistogramMetricFamily(f"gdsolver_{name}", help_text, labels=[label] if label else None)
        sums = _labelled(found, f"{name}:sum")
        for value in sorted({key.partition("|")[2] for key in found if key.startswith(f"{name}:le:")}):
            histogram.add_metric([value] if label else [], _buckets(found, name, value), sums.get(value, 0.0))
        yield histogram


def _gained_per_second(found: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(
        "gdsolver_objective_gained_per_cpu_second", "Gained, by seconds spent, since the pool began.",
        labels=["objective"],
    )  # fmt: skip
    gained = _labelled(found, "gained")
    for objective, seconds in sorted(_labelled(found, "solver_seconds").items()):
        family.add_metric([objective], gained.get(objective, 0.0) / seconds)
    return family


def _buckets(found: dict[str, float], name: str, label: str) -> list[tuple[str, float]]:
    """Cumulative counts, as Prometheus wants them."""
    total, buckets = 0.0, []
    for bound in (*HISTOGRAMS[name], math.inf):
        total += found.get(f"{name}:le:{bound:g}|{label}", 0.0)
        buckets.append(("+Inf" if math.isinf(bound) else f"{bound:g}", total))
    return buckets


def _labelled(found: dict[str, float], name: str) -> dict[str, float]:
    """One counter's values by label."""
    return {key.partition("|")[2]: value for key, value in found.items() if key.partition("|")[0] == name}
