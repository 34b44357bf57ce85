"""The memory bound of a job: an allocation past it fails in the job, and the process goes on."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

CODE = """
import numpy as np
from solver_service.worker.memory import bounded

def allocates(megabytes):
    try:
        np.ones(megabytes * 131072)
    except MemoryError:
        return False
    return True

with bounded(100):
    print(allocates(300), allocates(900))
with bounded(10_000, ceiling_mb=500):
    print(allocates(100), allocates(900))
print(allocates(900))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the bound exists on Linux alone")
def test_an_allocation_past_the_bound_fails_and_the_next_job_is_free() -> None:
    """Three times `memory_mb` fit and more does not; a ceiling holds for any job; afterwards all is as before."""
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "False", "True", "False", "True"]
