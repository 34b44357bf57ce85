"""The examples: they run against a pool, show what they say they show, and cost a loop no more than five lines."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, RunningPool

NEEDS = {
    "plain_loop": "torch",
    "lightning_fit": "lightning",
    "huggingface_trainer": "transformers",
    "skorch_net": "skorch",
    "label_noise": "torch",
    "constraints": "torch",
}
MOST_LINES = 5


def run(name: str, pool: RunningPool, folder: Path) -> str:
    """What an example says."""
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GDSOLVER_GATEWAY": pool.url}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_is_hardly_longer_than_without_us(name: str) -> None:
    """Without the lines that say tunnel, at most five, a script of its own is left."""
    source = (ROOT / "examples" / f"{name}.py").read_text()
    _, _, code = source.split('"""', 2)
    ours = [line for line in code.splitlines() if "tunnel" in line.lower() and "for " not in line]
    assert 2 <= len(ours) <= MOST_LINES
    left = [re.sub(r"tunnel\.watch\((\w+)\)", r"\1", line) for line in code.splitlines() if line not in ours]
    compile("\n".join(left), name, "exec")
    assert not any("tunnel" in line.lower() for line in left)


@pytest.mark.parametrize("name", ["lightning_fit", "huggingface_trainer", "skorch_net"])
def test_a_library_tunnels(name: str, pool: RunningPool, tmp_path: Path) -> None:
    """In a loop of a library's own an answer is adopted."""
    assert ": answer adopted, " in run(name, pool, tmp_path)


def test_a_plain_loop_ends_lower(pool: RunningPool, tmp_path: Path) -> None:
    """The last tunnel lowers the test error of a loop of one's own."""
    errors = [
        float(value) for value in re.findall(r"test MSE after .*: ([\d.e+-]+)", run("plain_loop", pool, tmp_path))
    ]
    assert errors[1] < errors[0]


def test_false_labels_are_given_up(pool: RunningPool, tmp_path: Path) -> None:
    """An answer for the last layer comes; validation labels are met more often exactly if it is adopted."""
    said = run("label_noise", pool, tmp_path)
    shares = [float(value) for value in re.findall(r"([\d.]+) of the validation", said)]
    assert ": answer " in said
    assert (shares[1] > shares[0]) == (": answer adopted, " in said)


def test_a_floor_is_kept(pool: RunningPool, tmp_path: Path) -> None:
    """An answer comes; more malignant cases of the test part are found exactly if it keeps the floor and is adopted."""
    said = run("constraints", pool, tmp_path)
    assert ": answer " in said
    recalls = [float(value) for value in re.findall(r"after .*'recall': ([\d.]+)", said)]
    assert (recalls[1] > recalls[0]) == (": answer adopted, " in said)
