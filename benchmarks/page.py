"""What the pool page weighs, how soon it is painted, and whether ten thousand jobs make it stall: in Chromium.

    python benchmarks/page.py [--jobs 10000] [--loads 10] [--json benchmarks/results/page.json]

A gateway of its own on loopback, with its Redis and no workers, is looked at by a Chromium (Playwright and a `chromium`
on the PATH are needed). Each load is one of a browser that has never seen the page. Then so many ended jobs are stored,
the first of them failed; the newest are listed, left to refresh, paged through to the oldest, and narrowed down.
A stall is a task that holds the browser's main thread up for 50 ms or longer, as browsers count them (Long Tasks API).
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from own_pool import OwnPool, workless_pool
from stand_in import at_once

from benchmarks.service import tiny
from shared.contracts import JobError, JobSpec, Progress
from shared.errors import ErrorCode
from solver_service.rules import jobs
from solver_service.rules.owners import KEYLESS_OWNER
from solver_service.settings import Settings
from solver_service.store import Store
from trainer.pool.client import SolverClient

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
WATCH = """
window.held = [];
new PerformanceObserver(list => list.getEntries().forEach(one => held.push(one.duration)))
    .observe({ type: "longtask", buffered: true });
"""
WEIGHT = """
() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .filter(one => !new URL(one.name).pathname.startsWith("/v1/"))
    .reduce((sum, one) => sum + one.transferSize, 0)
"""
PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
ROWS = "table.wide a.whole-row"
REFRESHED_S = 10.0
NEEDED = "Playwright and a Chromium on the PATH are needed: pip install playwright, apt-get install chromium"
RUNS = 20
"""Training runs that the jobs come from."""
Row = dict[str, Any]


def fill(pool: OwnPool, snapshot: str, count: int) -> None:
    """Store so many ended jobs as the service does: the oldest failed, of the others all but a tenth succeeded."""
    store = Store.open(Settings(redis_url=pool.redis_url))
    spec = JobSpec(snapshot=snapshot, objective="zero_one", radius=0.1, run="run-0", limits={"time_s": 60})
    store.redis.config_set("appendfsync", "no")  # it is not the disk that is measured
    for number in range(count):
        named = spec.model_copy(update={"run": f"run-{number % RUNS}", "step": number})
        made = jobs.create(named, snapshot=snapshot, owner=KEYLESS_OWNER, now=store.jobs.now())
        job, _ = store.jobs.add(made)
        if number % 10 == 1:
            store.jobs.update(job.id, partial(jobs.cancel, now=store.jobs.now()))
            continue
        store.jobs.update(job.id, partial(jobs.claim, worker="stand-in", now=store.jobs.now()))
        step = Progress(objective=12.0, bound=3.0, gap=0.75, t_s=0.5, nodes=1)
        store.jobs.update(job.id, partial(jobs.report, progress=step, attempt=1))
        if number == 0:
            error = JobError(code=ErrorCode.SOLVER_ERROR, detail="it was the first")
            store.jobs.update(job.id, partial(jobs.fail, error=error, attempt=1, now=store.jobs.now()))
        else:
            done = partial(jobs.finish, result=at_once(spec), attempt=1, now=store.jobs.now())
            store.jobs.update(job.id, done)


def opened(browser: "Browser", url: str) -> "tuple[Page, float]":
    """Open the page in a browser that has never seen it: (its tab, milliseconds until something was painted)."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.add_init_script(WATCH)
    page.goto(url)
    page.get_by_role("heading", name="Jobs").wait_for()
    while (painted := page.evaluate(PAINTED)) is None:
        page.wait_for_timeout(20)
    return page, float(painted)


def held(page: "Page") -> float:
    """The longest task that was noted, milliseconds; 0 if none was as long as 50."""
    return float(max(page.evaluate("window.held"), default=0.0))


def empty(browser: "Browser", url: str, loads: int) -> Row:
    """Weight and first paint of the page of an empty pool."""
    painted, longest = [], 0.0
    for _ in range(loads):
        page, at = opened(browser, url)
        page.get_by_text("No jobs yet.").wait_for()
        painted.append(at)
        longest = max(longest, held(page))
        weight = page.evaluate(WEIGHT)
        page.context.close()
    row: Row = {"weight_bytes": weight, "paint_median_ms": statistics.median(painted), "paint_worst_ms": max(painted)}
    return row | {"longest_task_ms": longest}


def full(browser: "Browser", url: str, count: int) -> Row:
    """The list of so many jobs: shown, refreshed, paged through to its end, narrowed down to what is rare."""
    from playwright.sync_api import expect  # noqa: PLC0415 (main has looked whether it is there)

    page, painted = opened(browser, url)
    page.locator(ROWS).first.wait_for()
    row: Row = {"jobs": count, "paint_ms": painted, "listed_ms": page.evaluate("performance.now()")}
    row["rows"] = page.locator(ROWS).count()
    page.wait_for_timeout(1000 * REFRESHED_S)
    row["longest_task_listing_ms"] = held(page)
    page.evaluate("window.held = []")
    turned, seen = [], row["rows"]
    while page.get_by_role("link", name="Older jobs").count():
        first = page.locator(f"{ROWS}[href='{page.locator(ROWS).first.get_attribute('href')}']")
        began = time.perf_counter()
        page.get_by_role("link", name="Older jobs").click()
        expect(first).to_have_count(0)
        page.locator(f"{ROWS}, p.empty").first.wait_for()
        turned.append(1000 * (time.perf_counter() - began))
        seen += page.locator(ROWS).count()
    row |= {"pages": 1 + len(turned), "seen": seen}
    row |= {"turn_median_ms": statistics.median(turned), "turn_worst_ms": max(turned)}
    began, looks = time.perf_counter(), 1
    page.goto(f"{url}/#/?state=failed")
    while not page.locator(f"{ROWS}, p.empty").first.is_visible() or not page.locator(ROWS).count():
        if page.get_by_text("older ones").count():
            page.get_by_role("link", name="Older jobs").click()
            looks += 1
        page.wait_for_timeout(20)
    row |= {"rare_state_ms": 1000 * (time.perf_counter() - began), "rare_state_looks": looks}
    row["longest_task_turning_ms"] = held(page)
    page.context.close()
    return row


def main() -> None:
    """Measure the page empty and full, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--loads", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 (`--help` does without)
    except ModuleNotFoundError:
        sys.exit(NEEDED)
    if chromium is None:
        sys.exit(NEEDED)
    with workless_pool() as pool, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=QUIET)
        found = {"cores": os.cpu_count(), "chromium": browser.version, "empty": empty(browser, pool.url, options.loads)}
        print(found)
        with SolverClient(pool.url) as client:
            snapshot = client.upload(tiny(None))
        fill(pool, snapshot, options.jobs)
        found["full"] = full(browser, pool.url, options.jobs)
        print(found["full"])
        browser.close()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
