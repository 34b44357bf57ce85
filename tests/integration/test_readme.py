"""The examples that users copy: they run as they stand, with only the address changed.

Pages with the mark `<!-- checked, not run: why -->` are held against the code, in tests/architecture/test_blocks.py.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.contracts import JobSpec
from shared.snapshot import Snapshot
from tests.architecture.pages import DOCS, blocks, text
from tests.conftest import ROOT, RunningPool

README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
NOT_RUN = "<!-- checked, not run:"
GUIDES = [page for page in DOCS if any(it.language == "python" for it in blocks(page)) and NOT_RUN not in text(page)]
THE_READERS_OWN = """
from unittest import mock

import torch

torch.manual_seed(0)
X = torch.randn(60, 4)
y = (X[:, 0] * X[:, 1] > 0).long()
model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
validate = lambda: (model(X[30:]).argmax(1) == y[30:]).float().mean().item()
train_loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X[:30], y[:30]), batch_size=10)
epochs = 3
X_new, y_new = X[30:], y[30:]
writer = mock.Mock(spec=["add_scalar"])
"""
"""What the guides take as given: a network, its data, new data, and a writer of TensorBoard's."""


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


@pytest.mark.parametrize("page", GUIDES)
def test_the_python_of_a_guide_runs(page: str, pool: RunningPool, tmp_path: Path) -> None:
    """The blocks of a page run one after another, with what they take as given."""
    script = tmp_path / "guide.py"
    script.write_text("\n".join([THE_READERS_OWN, *(it.text for it in blocks(page) if it.language == "python")]))
    done = subprocess.run(
        [sys.executable, str(script)],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GDSOLVER_GATEWAY": pool.url},
    )
    assert done.returncode == 0, done.stderr


def test_the_curl_example_runs(pool: RunningPool) -> None:
    """The README's curl commands submit the committed example, wait for it and fetch its weights."""
    script = block("sh", "curl -s -F").replace(ADDRESS, pool.url).replace("-o weights.safetensors", "| wc -c")
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
