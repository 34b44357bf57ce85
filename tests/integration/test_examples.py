"""The examples: they run against a pool, show what they say they show, and cost a loop no more than five lines."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gdsolver import SolverClient, Tunneller
from shared.objectives import Objective
from tests.conftest import ROOT, RunningPool

NEEDS = {
    "plain_loop": "torch",
    "lightning_fit": "lightning",
    "huggingface_trainer": "transformers",
    "skorch_net": "skorch",
    "label_noise": "torch",
    "constraints": "torch",
    "equal_rates": "torch",
    "long_tail": "torch",
}
MOST_LINES = 5
OURS = re.compile(r"tunnel|gdsolver|(Lightning|HuggingFace|Skorch)Callback", re.IGNORECASE)


def run(name: str, pool: RunningPool, folder: Path) -> str:
    """What an example says."""
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    environment = {**os.environ, "GDSOLVER_DATA": "", "PYTHONPATH": str(ROOT), "GDSOLVER_GATEWAY": pool.url}
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


def by_time(said: str, figures: str) -> dict[str, list[float]]:
    """What an example says of validation before and after tunnels, and at adoptions; of several figures the least."""
    return {
        when: [min(map(float, found.split())) for found in re.findall(rf"validation {when}: .*{figures}", said)]
        for when in ("before", "as adopted", "after")
    }


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_is_hardly_longer_than_without_us(name: str) -> None:
    """Without the lines that say tunnel or name what is ours, at most five, a script of its own is left."""
    source = (ROOT / "examples" / f"{name}.py").read_text()
    _, _, code = source.split('"""', 2)
    ours = [line for line in code.splitlines() if OURS.search(line) and "for " not in line]
    assert 2 <= len(ours) <= MOST_LINES
    left = [re.sub(r"tunnel\.watch\((\w+)\)", r"\1", line) for line in code.splitlines() if line not in ours]
    compile("\n".join(left), name, "exec")
    assert not any(OURS.search(line) for line in left)


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
    """An answer for the last layer comes; validation labels are met more often exactly if it is adopted.

    Whether it is or not, most samples that it gives up on have a false label, where three of ten have one.
    """
    said = run("label_noise", pool, tmp_path)
    shares = [float(value) for value in re.findall(r"([\d.]+) of the validation", said)]
    assert ": answer " in said
    assert (shares[1] > shares[0]) == (": answer adopted, " in said)
    found, suspects = map(int, re.findall(r"(\d+) of (\d+) suspects have a false label", said)[0])
    assert suspects >= 20
    assert found >= 0.7 * suspects


def test_a_floor_is_kept_after_every_adoption(pool: RunningPool, tmp_path: Path) -> None:
    """On the small set: the class that matters is below its floor at first, and on validation never after an answer."""
    said = run("constraints", pool, tmp_path)
    assert ": answer " in said
    recalls = by_time(said, r"recall_1 ([\d.]+)")
    assert recalls["before"][0] < 0.95
    assert len(recalls["as adopted"]) == said.count(": answer adopted, ")
    assert all(recall >= 0.95 for recall in recalls["as adopted"])
    assert (recalls["after"][0] >= 0.95) == bool(recalls["as adopted"])


def test_a_gap_between_groups_is_closed(pool: RunningPool, tmp_path: Path) -> None:
    """On made-up samples: the gap is too wide at first, and on validation never after an answer."""
    said = run("equal_rates", pool, tmp_path)
    assert ": answer " in said
    gaps = by_time(said, r"gap ([\d.]+)")
    assert gaps["before"][0] > 0.1
    assert len(gaps["as adopted"]) == said.count(": answer adopted, ")
    assert all(gap <= 0.05 for gap in gaps["as adopted"])
    assert (gaps["after"][0] <= 0.05) == bool(gaps["as adopted"])


def test_floors_of_a_long_tail_are_kept(pool: RunningPool, tmp_path: Path) -> None:
    """On the small set: some class is below its floor at first, and on validation none is after any adoption."""
    said = run("long_tail", pool, tmp_path)
    assert ": answer " in said
    worst = by_time(said, r" recalls (.*)")
    assert worst["before"][0] < 0.6
    assert len(worst["as adopted"]) == said.count(": answer adopted, ")
    assert all(recall >= 0.6 for recall in worst["as adopted"])
    assert (worst["after"][0] >= 0.6) == bool(worst["as adopted"])


def test_what_is_required_holds_after_every_adoption(pool: RunningPool) -> None:
    """A floor under each class of a long-tailed task is kept on validation each time."""
    torch.manual_seed(0)
    targets = torch.multinomial(torch.tensor([0.55, 0.3, 0.1, 0.05]), 1600, replacement=True)
    inputs = nn.functional.one_hot(targets, 4).float() * 1.6 + torch.randn(1600, 4)
    net = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    train, held_out, validation = torch.arange(1600).split([400, 600, 600])

    def scores() -> dict[str, float]:
        with torch.no_grad():
            right = net(inputs[validation]).argmax(dim=1) == targets[validation]
        recalls = [float(right[targets[validation] == number].float().mean()) for number in range(4)]
        return {"accuracy": float(right.float().mean()), "worst": min(recalls)}

    adopted: list[dict[str, float]] = []
    with SolverClient(pool.url) as client:
        tunneller = Tunneller(
            net,
            optimizer=optimizer,
            validate=scores,
            monitor="accuracy",
            data=(inputs[held_out], targets[held_out]),
            client=client,
            constraints=[{"type": "recall_floor", "value": 0.55}],
            require=["worst >= 0.5"],
            objective=Objective("log_loss", l2=1e-3),
            radius=2.0,
            time_s=2.0,
            patience=2,
            sync=True,
            on_event=lambda event: adopted.append(scores()) if event.kind == "adopted" else None,
        )
        start = scores()
        for _ in range(12):
            for chosen in train.split(50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()
            tunneller.step(scores())
        tunneller.close(polish=True, timeout=30.0)
    assert start["worst"] < 0.5
    assert adopted
    assert all(found["worst"] >= 0.5 for found in adopted)
