"""The pool page as people use it: in Chromium, against a pool of the test's own, with and without a key.

Needs Playwright (`pip install playwright`) and a Chromium of the system's (Debian: `apt-get install chromium`). With
GDSOLVER_SCREENSHOTS=FOLDER, pictures are left there to be looked at.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import RunningPool, small_snapshot, start_pool

try:
    from playwright import sync_api as playwright
except ModuleNotFoundError:
    playwright = None  # each test is skipped: of a file that is skipped whole pytest says "no tests ran", and fails
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(playwright is None, reason="Playwright is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-component-update"])
        yield opened
        opened.close()


class Tab:
    """A browser tab that notes what goes wrong in it, and whom it asks for what."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.url = url
        self.page.goto(url)

    def _hear(self, message: Any) -> None:
        # Chromium itself notes every refused request; what the page makes of one is what counts.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.wrong.append(message.text)

    def see(self, text: str) -> None:
        """Wait until the text is shown."""
        playwright.expect(self.page.get_by_text(text).first).to_be_visible(timeout=20_000)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name).click()

    def picture(self, name: str) -> None:
        if folder := os.environ.get("GDSOLVER_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    def close(self) -> None:
        """End it, and fail if anything went wrong or was asked of somebody else."""
        self.context.close()
        assert self.wrong == []
        assert [url for url in self.asked if not url.startswith(self.url)] == []


def send(pool: RunningPool, *, key: str = "", **more: object) -> str:
    """Send a job that takes its whole time, unless somebody stops it."""
    spec = {"objective": "zero_one", "radius": 0.3, "limits": {"time_s": 60}, "run": "a <b>run</b>", "step": 3, **more}
    plain = small_snapshot(n=600, d=10, classes=4)
    labels = np.random.default_rng(0).permutation(plain.targets)  # labels that mean nothing: there is no quick proof
    snapshot = dataclasses.replace(plain, targets=labels).to_bytes()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    form = {"spec": json.dumps(spec)}
    answer = httpx.post(f"{pool.url}/v1/solve", data=form, files={"snapshot": snapshot}, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_a_job_is_found_followed_stopped_and_sent_again(browser: Any, tmp_path: Path) -> None:
    """From an idle pool by keyboard to a job's plot; cancelled, its incumbent is kept; sent again, it is a new job."""
    pool = start_pool(tmp_path)
    try:
        tab = Tab(browser, pool.url, color_scheme="light")
        tab.see("No jobs yet.")
        tab.picture("idle")
        job = send(pool)
        tab.see("1 of 1 busy")
        tab.picture("busy")
        tab.page.locator(f"a.whole-row[href='#/job/{job}']").focus()
        tab.page.keyboard.press("Enter")
        tab.see("Best so far:")
        tab.page.locator("svg path.line.incumbent").wait_for(state="attached")  # a level line has no height
        tab.picture("running")
        tab.page.get_by_text("The solver's log").click()
        tab.see("attempt 1 on")
        tab.see("searches, in all so far")
        tab.picture("running-log")
        tab.press("Cancel")
        tab.see("Cancelled; the best so far is kept.")
        tab.see("ended as interrupted")
        tab.picture("cancelled")
        tab.page.get_by_text("The solver's log").click()
        playwright.expect(tab.page.get_by_text("ended as interrupted")).to_be_hidden()
        tab.press("Submit again")
        tab.page.wait_for_url(lambda url: "#/job/" in url and job not in url)
        tab.see("Has been at it for")
        tab.press("Cancel")
        tab.see("Cancelled")
        tab.page.get_by_role("link", name="a <b>run</b>").click()
        tab.see("1 stall: 2 jobs sent")
        tab.picture("run")
        tab.close()
    finally:
        pool.stop()


def test_a_trainers_verdict_shows_without_a_reload(browser: Any, pool: RunningPool) -> None:
    """What became of the weights appears on the job's page while somebody looks at it."""
    job = send(pool, limits={"time_s": 1})
    tab = Tab(browser, f"{pool.url}/#/job/{job}", color_scheme="dark")
    tab.url = pool.url
    tab.see("No trainer has judged it yet.")
    verdict = {"accepted": True, "metric": "val_loss", "before": 0.5, "after": 0.25}
    httpx.post(f"{pool.url}/v1/jobs/{job}/feedback", json=verdict).raise_for_status()
    tab.see("The trainer adopted it (val_loss: 0.5 → 0.25).")
    tab.picture("judged-dark")
    tab.close()


def test_a_phone_needs_no_sideways_scrolling(browser: Any, pool: RunningPool) -> None:
    """At 375 pixels every view fits the width."""
    job = send(pool, limits={"time_s": 1}, tags={"a" * 60: "b" * 60})
    tab = Tab(browser, pool.url, viewport={"width": 375, "height": 720})
    for where, text in (
        ("#/", "Workers"),
        (f"#/job/{job}", "What was asked"),
        ("#/run/a%20%3Cb%3Erun%3C%2Fb%3E", "Stalls"),
    ):
        tab.page.evaluate("where => { location.hash = where }", where)
        tab.see(text)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 375
        tab.picture(f"phone-{text.split()[0].lower()}")
    tab.close()


def test_a_long_list_is_turned_page_by_page(browser: Any, tmp_path: Path) -> None:
    """Fifty of however many jobs are listed at a time; a state that only the oldest have is found among older ones."""
    pool = start_pool(tmp_path)
    try:
        sent_fifty(pool, cancelled=True)
        for _ in range(20):
            sent_fifty(pool)
        tab = Tab(browser, pool.url)
        rows, older = tab.page.locator("a.whole-row"), tab.page.get_by_role("link", name="Older jobs")
        seen: set[str] = set()
        for _ in range(21):
            playwright.expect(rows).to_have_count(50)
            seen |= set(rows.evaluate_all("found => found.map(one => one.title)"))
            first = rows.first.get_attribute("title")
            older.click()
            playwright.expect(tab.page.locator(f"a.whole-row[title='{first}']")).to_have_count(0)
        assert len(seen) == 21 * 50
        tab.see("No older ones.")
        tab.page.evaluate("location.hash = '#/?state=cancelled'")
        tab.see("None among the newest of these jobs")
        older.click()
        playwright.expect(rows).to_have_count(50)
        tab.close()
    finally:
        pool.stop()


def sent_fifty(pool: RunningPool, *, cancelled: bool = False) -> None:
    """Send fifty small jobs at once."""
    spec = {"objective": "zero_one", "radius": 0.3, "limits": {"time_s": 60}}
    form, files = {"batch": json.dumps({"specs": [spec] * 50})}, {"snapshot": small_snapshot().to_bytes()}
    batch = httpx.post(f"{pool.url}/v1/batches", data=form, files=files).raise_for_status().json()["id"]
    if cancelled:
        httpx.delete(f"{pool.url}/v1/batches/{batch}").raise_for_status()


def test_the_key_is_asked_for_once_and_kept_in_the_tab(browser: Any, tmp_path: Path) -> None:
    """A wrong key is refused in words; the right one outlives a reload, but neither `Forget` nor the tab."""
    key = "k" * 40
    pool = start_pool(tmp_path, environment={"GDSOLVER_API_KEY": key})
    try:
        tab = Tab(browser, pool.url)
        for text, answer in (("wrong", "This API key is not valid."), (key, "No jobs yet.")):
            tab.page.get_by_label("API key").fill(text)
            tab.picture("key")
            tab.press("Show the pool")
            tab.see(answer)
        job = send(pool, key=key, limits={"time_s": 1})
        tab.page.reload()
        tab.page.locator(f"a.whole-row[href='#/job/{job}']").click()
        tab.see("Log")
        assert tab.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        assert not [url for url in tab.asked if key in url]
        other = tab.context.new_page()
        other.goto(pool.url)
        playwright.expect(other.get_by_label("API key")).to_be_visible()
        tab.press("Forget the key")
        tab.see("This pool needs an API key.")
        tab.close()
    finally:
        pool.stop()


def test_a_gateway_that_is_away_is_named(browser: Any, tmp_path: Path) -> None:
    """Without a gateway the page says so, and keeps showing what it knew."""
    pool = start_pool(tmp_path)
    try:
        tab = Tab(browser, pool.url)
        tab.see("No jobs yet.")
    finally:
        pool.stop()
    tab.see("The gateway cannot be asked: no connection.")
    tab.see("No jobs yet.")
    tab.picture("away")
    tab.close()
