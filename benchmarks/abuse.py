"""Shows what abuse of a gateway gets, and what another client feels of it meanwhile.

usage: python benchmarks/abuse.py [--connections 2000] [--seconds 5] [--only KIND ...] [--json FILE]

Starts an embedded pool of its own, and abuses it in turn with foreign hosts and origins, uploads without end, a header
that claims 2^60 elements, encoded bodies, slow connections, another key's ids, a loop of guessed keys; and as a greedy
key does: bodies that stop short, many jobs on one large snapshot, large results unread, lists of millions. For each it
prints the statuses that came back, the latency of another client's `GET /healthz` and `GET /v1/jobs/ID` meanwhile, and
the gateway's memory. It exits with 1 if anything else than the expected statuses came back, if that client's p99 over
all the abuse, or during any one kind of it, was 5 times its idle p99 or more, or if the gateway took 600 MB.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from abuse_greedy import bodies_that_stop, long_lists, one_large_snapshot, unread_results  # noqa: E402
from abuse_kinds import GIGABYTES, endless_uploads, exabyte, guesses, others_ids, repeated, slow_connections  # noqa: E402
from abuse_pool import (  # noqa: E402
    Memory,
    Phase,
    Pool,
    Statuses,
    give_the_other_client_a_job,
    percentile,
    probed,
    running_pool,
)  # fmt: skip
from columns import columns  # noqa: E402
from given import known  # noqa: E402

MAX_RATIO = 5.0
MAX_RSS_MB = 600.0
LISTED = ["413", "429", "list 200", "model 202", "model 409", "model 410", "model 413", "model 429"]


@dataclass(frozen=True)
class Kind:
    """One kind of abuse: the statuses that may come back, and what is done, by (pool, connections, seconds)."""

    name: str
    expected: list[str]
    abuse: Callable[[Pool, int, float], Statuses | tuple[Statuses, str]]


def asked(method: str, path: str, body: bytes | None = None, **headers: str) -> Callable[[Pool, int, float], Statuses]:
    """The same request again and again, with the abuser's key where there is one yet."""

    def ask(pool: Pool, _: int, seconds: float) -> Statuses:
        key = {"Authorization": f"Bearer {pool.token}"} if pool.token else {}
        return repeated(seconds, lambda: pool.ask(method, path, body, **headers, **key))

    return ask


KEYLESS = (
    Kind("a foreign Host", ["403"], asked("GET", "/v1/jobs", Host="evil.example")),
    Kind("a cross-site Origin", ["403"], asked("GET", "/v1/jobs", Origin="http://evil.example")),
)
"""Done before there is any key, as a pool on loopback begins: then a web page must not be able to drive it."""
SLOW = "slow connections"
KINDS = (
    Kind("2 GB streamed", ["413"], lambda pool, _, seconds: endless_uploads(pool, seconds)),
    Kind("2 GB declared", ["413"], asked("POST", "/v1/snapshots", b"", Content_Length=str(GIGABYTES))),
    Kind("a header of 2^60 elements", ["413"], lambda pool, _, seconds: repeated(seconds, lambda: exabyte(pool))),
    Kind("a gzip body", ["415"], asked("POST", "/v1/snapshots", bytes(99), Content_Encoding="gzip")),
    Kind(SLOW, ["408", "closed"], lambda pool, connections, _: slow_connections(pool, connections)),
    Kind("another key's ids", ["404"], lambda pool, _, seconds: others_ids(pool, seconds)),
    Kind("a loop of guessed keys", ["401", "429"], lambda pool, _, seconds: guesses(pool, seconds)),
    Kind("bodies that stop short of 256 MiB", ["408", "429", "closed"], lambda pool, *_: bodies_that_stop(pool)),
    Kind("40 jobs on one snapshot of 61 MB", ["202"], lambda pool, *_: one_large_snapshot(pool)),
    Kind("100 results of 20 MB unread", ["cut off"], lambda pool, *_: unread_results(pool)),
    Kind("lists of millions, all jobs, models", LISTED, lambda pool, *_: long_lists(pool)),
)
NAMES = tuple(kind.name for kind in (*KEYLESS, *KINDS))


def run(connections: int, seconds: float, only: Sequence[str] = NAMES) -> tuple[list[Phase], list[float]]:
    """Measure idle, then each kind of abuse by its name: (phases with `idle` first, all latencies under abuse)."""
    under_abuse: list[float] = []
    with running_pool() as pool:
        refused = [untimed(pool, kind, seconds / 2) for kind in KEYLESS if kind.name in only]
        pool.other_token, pool.token = pool.add_key("other"), pool.add_key("abuser")
        time.sleep(1.5)
        give_the_other_client_a_job(pool)
        phases = [phase(pool, Kind("idle", ["-"], nothing), connections, 3 * seconds, [])]
        for kind in (kind for kind in KINDS if kind.name in only):
            done = phase(pool, kind, connections, seconds, under_abuse)
            done.ratio = done.p99_ms / phases[0].p99_ms
            phases.append(done)
        status, answer = pool.ask("GET", f"/v1/jobs/{pool.other_job}", Authorization=f"Bearer {pool.other_token}")
        if status != 200 or json.loads(answer)["state"] != "succeeded":
            raise SystemExit(f"the other client's job was harmed: {status} {answer.decode()}")
    return [*phases, *refused], under_abuse


def nothing(pool: Pool, connections: int, seconds: float) -> Statuses:
    """No abuse, for so long: what the other client feels of a pool at rest."""
    time.sleep(seconds)
    return Counter({"-": 1})


def untimed(pool: Pool, kind: Kind, seconds: float) -> Phase:
    """One kind of abuse while there is no other client."""
    found = kind.abuse(pool, 0, seconds)
    statuses = found[0] if isinstance(found, tuple) else found
    return Phase(kind.name, kind.expected, dict(statuses), "before any key, not timed")


def phase(pool: Pool, kind: Kind, connections: int, seconds: float, under_abuse: list[float]) -> Phase:
    """One kind of abuse while another client asks; its latencies are added to those of all."""
    latencies: list[float] = []
    memory = Memory(pool)
    memory.start()
    with probed(pool, latencies):
        began = time.monotonic()
        found = kind.abuse(pool, connections, seconds)
        took = time.monotonic() - began
    rss_mb = memory.stop()
    statuses, note = found if isinstance(found, tuple) else (found, "")
    name = f"{connections:,} {SLOW}" if kind.name == SLOW else kind.name
    done = Phase(name, kind.expected, dict(sorted(statuses.items())), note, took, len(latencies), ratio=1.0)
    done.p50_ms, done.p99_ms, done.max_ms = percentile(latencies, 0.5), percentile(latencies, 0.99), max(latencies)
    done.rss_mb = rss_mb
    under_abuse.extend(latencies)
    print(f"{name}: {done.statuses} {note} p99 {done.p99_ms:.1f} ms, {rss_mb:.0f} MB", file=sys.stderr)
    return done


def show(phases: list[Phase]) -> None:
    """Print the table."""
    head, rows = ("abuse", "p50 ms", "p99 ms", "longest", "p99 / idle", "MB", "answers"), []
    for phase in phases:
        answers = ", ".join(f"{status} x {n:,}" for status, n in phase.statuses.items())
        figures = [f"{value:.1f}" for value in (phase.p50_ms, phase.p99_ms, phase.max_ms, phase.ratio, phase.rss_mb)]
        shown = figures if phase.probes else [""] * 5
        rows.append((phase.name, *shown, f"{answers} {phase.note}".strip()))
    print(columns(head, rows))


def main() -> None:
    """Abuse a pool, print a table, and write JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--connections", type=int, default=2000, help="slow connections")
    options.add_argument("--seconds", type=float, default=5.0, help="how long each repeated abuse lasts")
    options.add_argument("--only", nargs="+", default=NAMES, metavar="KIND", help=f"of: {'; '.join(NAMES)}")
    options.add_argument("--json", type=Path, default=Path("runs/bench-abuse.json"))
    chosen = options.parse_args()
    known(chosen.only, NAMES, "kind of abuse")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * chosen.connections + 100)), hard))
    busy = os.getloadavg()[0]
    phases, under_abuse = run(chosen.connections, chosen.seconds, chosen.only)
    show(phases)
    p99, idle_p99 = percentile(under_abuse, 0.99) if under_abuse else 0.0, phases[0].p99_ms
    worst = max(phases, key=lambda phase: phase.ratio)
    print(f"p99 over all the abuse {p99:.1f} ms, idle {idle_p99:.1f} ms: {p99 / idle_p99:.1f} times")
    print(f"worst kind: {worst.name}, {worst.ratio:.1f} times")
    rss_mb = max(phase.rss_mb for phase in phases)
    print(f"the gateway had at most {rss_mb:.0f} MB")
    good = all(phase.as_expected for phase in phases) and max(worst.ratio, p99 / idle_p99) < MAX_RATIO
    good = good and rss_mb < MAX_RSS_MB
    found = {
        "command": f"python benchmarks/abuse.py --connections {chosen.connections} --seconds {chosen.seconds:g}",
        **({} if chosen.only == NAMES else {"only": chosen.only}),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load_before": round(busy, 2)},
        "idle_p99_ms": idle_p99,
        "abuse_p99_ms": p99,
        "ratio": p99 / idle_p99,
        "worst_ratio": worst.ratio,
        "gateway_rss_mb": rss_mb,
        "holds": good,
        "phases": [asdict(phase) for phase in phases],
    }
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
