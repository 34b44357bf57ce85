"""Errors that a person reads are in words."""

import json

from solver_service.gateway.problems import validation_response


def test_a_wrong_job_id_is_answered_without_a_regular_expression() -> None:
    """What an id looks like is said; pydantic's pattern is not."""
    wrong = {
        "type": "string_pattern_mismatch",
        "loc": ("path", "job_id"),
        "msg": "String should match pattern '^[0-9a-f]{32}$'",
    }
    problem = json.loads(bytes(validation_response([wrong]).body))
    assert problem["status"] == 422
    assert problem["detail"] == "job_id: expected a job's id: 32 digits from 0-9 and a-f"
