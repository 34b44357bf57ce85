"""A pool that is broken on purpose while it works keeps its promises: `make chaos` in small."""

import chaos


def test_every_accepted_job_ends_once_whatever_breaks() -> None:
    """Every kind of fault once: no job is lost or told twice, results recompute, poison fails after three workers."""
    record = chaos.run(jobs=24, workers=2, faults=12, seed=3, poison=1, pause=(1.0, 2.0), frozen_s=12.0)
    assert record["wrong"] == []
    assert record["accepted"] == 24
    assert record["states"] == {"succeeded": 23, "failed": 1}
    assert set(record["faults"]) == set(chaos.FAULTS)
