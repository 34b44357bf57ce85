"""A program that ends without `close()` says nothing of a pool that ends with it."""

import subprocess
import sys

import pytest

PROGRAM = """
import logging, time, weakref
import torch
from torch import nn
from tests.unit.trainer.fakes import FakePool
from trainer import Tunneller

X, Y = torch.randn(40, 6), torch.arange(40) % 4

logging.getLogger("gdsolver").setLevel(logging.WARNING)

class Pool:
    "Ends with the program, as the tunneller's own does."

held = Pool()
weakref.finalize(held, time.sleep, 1.0)  # the last to be called: time for the thread to see what has become of the pool
pool = FakePool(held=True)
client = pool.client()
weakref.finalize(held, client.close)
model = nn.Linear(6, 4)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
tunneller = Tunneller(
    model, optimizer=optimizer, validate=lambda: 1.0, mode="min", client=client, data=(X, Y), patience=1
)
for _ in range(3):
    tunneller.step(1.0)
assert pool.submitted.wait(10.0)
{end}
"""


@pytest.mark.parametrize(("end", "told"), [("", ""), ("raise SystemExit('over')", "over\n")])
def test_a_program_that_ends_is_silent(end: str, told: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(end=end)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stderr == told
    assert ran.returncode == bool(end)
