"""A tunneller's own pool: as large as there are free cores, and ended however it goes."""

import gc
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainer import Tunneller
from trainer.errors import EmbeddedPoolError
from trainer.pool.embedded import Command
from trainer.pool.own import OwnPool, free_cores

SCRIPT = """
import os, sys, time
open(os.path.join(sys.argv[1], "pid"), "w").write(str(os.getpid()))
print("gdsolver-pool ready: http://127.0.0.1:1234", flush=True)
time.sleep(60)
"""


def pretending(folder: Path) -> Command:
    def command(workers: int, data_dir: Path) -> Sequence[str]:
        return [sys.executable, "-c", SCRIPT, str(folder)]

    return command


def is_gone(folder: Path) -> bool:
    try:
        os.kill(int((folder / "pid").read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_it_ends_when_it_is_closed(tmp_path: Path) -> None:
    """Once; a second time there is nothing to end."""
    pool = OwnPool(1, pretending(tmp_path))
    assert pool.client.url == "http://127.0.0.1:1234"
    assert not is_gone(tmp_path)
    pool.close()
    pool.close()
    assert is_gone(tmp_path)


def test_it_ends_with_whoever_holds_it(tmp_path: Path) -> None:
    """A tunneller that nobody closed, or that could not be made, leaves nothing running."""
    pool = OwnPool(1, pretending(tmp_path))
    del pool
    gc.collect()
    assert is_gone(tmp_path)


def test_there_is_a_worker_for_each_free_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one where training takes all."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [free_cores(threads) for threads in (1, 6, 8, 16)] == [7, 2, 1, 1]


def test_missing_packages_are_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer's installation has no pool in it."""
    real = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in ("celery", "pyscipopt") else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(EmbeddedPoolError, match=r"celery, pyscipopt.*pip install 'gdsolver\[local\]'"):
        OwnPool(1)


def test_an_address_is_no_client() -> None:
    """The error says how to make one of it."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrong: Any = "http://gateway:8000"
    with pytest.raises(ValueError, match=r"use SolverClient\('http://gateway:8000'\), or 'local'"):
        Tunneller(model, optimizer=optimizer, client=wrong, validate=lambda: 0.0, mode="min")
