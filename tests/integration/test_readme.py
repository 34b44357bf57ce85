"""The examples that users copy first: they run as they stand, with only the address changed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from tests.conftest import ROOT, RunningPool

README = (ROOT / "README.md").read_text()
PAGES = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*")),
]
ADDRESS = "http://127.0.0.1:8000"


def block(language: str, containing: str) -> str:
    """The README's code block of a language that holds a text."""
    (found,) = [body for body in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in body]
    return str(found)


def test_a_dead_network_is_freed(pool: RunningPool, tmp_path: Path) -> None:
    """GD leaves the network of the example as dead as it is; with tunnels it ends as well as a healthy one."""
    command = [sys.executable, "examples/dead_relu.py", "--gateway", pool.url, "--plot", str(tmp_path / "plot.png")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=150, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    errors = {name: float(value) for name, value in re.findall(r"(\w+) +test MSE ([\d.e-]+)", done.stdout)}
    assert errors["freed"] <= 1.1 * errors["healthy"]
    assert errors["dead"] > 10 * errors["healthy"]
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_the_python_example_runs(pool: RunningPool, tmp_path: Path) -> None:
    """The README's training loop runs to its end against a pool."""
    script = tmp_path / "example.py"
    script.write_text(block("python", "Tunneller").replace(ADDRESS, pool.url))
    done = subprocess.run(
        [sys.executable, str(script)],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    jobs = re.search(r"(\d+) jobs, (\d+) answers", done.stdout)
    assert jobs, done.stdout
    assert int(jobs[2]) >= 1


def test_the_curl_example_runs(pool: RunningPool) -> None:
    """The README's curl commands submit the committed example, wait for it and fetch its weights."""
    script = block("sh", "curl").replace(ADDRESS, pool.url).replace("-o weights.safetensors", "| wc -c")
    first, rest = script.split("\n", 1)
    record = json.loads(subprocess.run(first, shell=True, check=True, capture_output=True, cwd=ROOT).stdout)
    assert record["state"] == "queued", record
    shell = f"ID={record['id']}\n{rest}"
    done = subprocess.run(shell, shell=True, check=True, capture_output=True, text=True, cwd=ROOT)
    ended, size = done.stdout.rsplit("}", 1)
    objective = json.loads(ended + "}")["result"]["objective"]
    assert objective["final"] < objective["start"]
    assert int(size) > 500


def test_the_committed_example_is_valid() -> None:
    """The example's spec and snapshot fit each other."""
    snapshot = Snapshot.from_bytes((ROOT / "examples" / "digits-stall.safetensors").read_bytes())
    JobSpec.model_validate_json((ROOT / "examples" / "spec.json").read_text()).check(snapshot)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link in the documents leads to a file that is there."""
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
