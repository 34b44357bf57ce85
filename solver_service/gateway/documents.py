"""What the OpenAPI document says beyond what routes say themselves: the job spec, every error's shape, and examples."""

from functools import cache
from typing import Any

from fastapi import FastAPI

from shared.batches import BatchSpec
from shared.contracts import Feedback, JobSpec, Problem

Responses = dict[int | str, dict[str, Any]]

_SAID = {
    400: "The request cannot be read.",
    401: "An API key is needed, or this one is not valid.",
    403: "Not from this host or page, or not with this key: `detail` names the scope that it lacks.",
    404: "There is no such thing, or it is another key's.",
    408: "The body came too slowly.",
    409: "Not in this state: unfinished, or without what was asked for.",
    410: "It was there and has expired, or its record could not be read and was set aside.",
    413: "The body, the spec or the model is too large.",
    415: "Another media type is expected, without Content-Encoding.",
    416: "There is nothing at these bytes (yet): `Content-Range` says how many there are.",
    422: "A field or tensor is not as it must be; `field` names it.",
    429: "A limit is reached, or the queue is full: `detail` says which; try again after `Retry-After` seconds.",
    503: "Redis is away, or has no memory or disk left: try again after `Retry-After` seconds.",
}
_PROBLEM = {
    "type": "urn:gdsolver:invalid_spec",
    "title": "The request is not valid",
    "status": 422,
    "code": "invalid_spec",
    "detail": "radius: Input should be greater than 0",
    "field": "radius",
    "errors": [{"field": "radius", "detail": "Input should be greater than 0"}],
}
SPEC_EXAMPLE = {
    "snapshot": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "objective": "zero_one",
    "radius": 0.1,
    "limits": {"time_s": 30},
    "run": "mnist-7",
    "step": 1200,
    "supersede": True,
}
BATCH_EXAMPLE = {
    "snapshot": SPEC_EXAMPLE["snapshot"],
    "specs": [{"objective": "ramp", "radius": 0.1}, {"objective": "ramp", "radius": 0.2, "solver": {"seed": 1}}],
}


def problems(*statuses: int) -> Responses:
    """The responses of a route that may answer with these errors."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "example": _PROBLEM}}
    return {status: {"description": _SAID[status], "content": content} for status in statuses}


def complete(app: FastAPI) -> None:
    """Add the job spec and the errors to the document: routes read specs themselves, to bound them before parsing."""
    generate = app.openapi

    @cache
    def openapi() -> dict[str, object]:
        document = generate()
        schemas = document["components"]["schemas"]
        for model in (JobSpec, BatchSpec, Feedback, Problem):
            mode = "serialization" if model is Problem else "validation"
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode=mode)  # type: ignore[arg-type]
            for name, part in {**schema.pop("$defs", {}), model.__name__: schema}.items():
                schemas.setdefault(name, part)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
