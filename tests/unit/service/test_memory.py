"""The memory bound of a job: an allocation past it fails in the job, and the process goes on."""

import subprocess
import sys

import pytest

from shared.contracts import JobSpec
from solver_service.worker.memory import affordable
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


def test_a_job_is_held_to_what_its_worker_may_use() -> None:
    """A ceiling lowers a job's own limit to a third of it, and leaves lower ones and everything else alone."""
    spec = JobSpec.model_validate({"objective": "ramp", "radius": 0.1, "limits": {"time_s": 5, "memory_mb": 2000}})
    assert affordable(spec, ceiling_mb=None) is spec
    assert affordable(spec, ceiling_mb=6000) is spec
    held = affordable(spec, ceiling_mb=900)
    assert (held.limits.memory_mb, held.limits.time_s) == (300, 5)
