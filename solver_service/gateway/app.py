"""The gateway as an ASGI application: the only place where its parts are wired together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from shared.contracts import JobSpec, Problem
from solver_service.gateway import problems
from solver_service.gateway.guard import Guard
from solver_service.gateway.routes import events, jobs, pool, problem, snapshots
from solver_service.gateway.services import Services
from solver_service.gateway.waiting import WaitingRoom
from solver_service.reaper import Reaper

_PROBLEM = {"model": Problem, "description": "problem+json"}


def create_app(services: Services) -> FastAPI:
    """Wire routes, error handlers, the guard and the reaper around the given services."""

    room = WaitingRoom(services.store)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        settings = services.settings
        reaper = Reaper(services.store, services.publish, republish_s=settings.republish_s, lease_s=settings.lease_s)
        reaper.start()
        room.open()
        yield
        room.close()
        reaper.stop()

    app = FastAPI(
        title="GDSolver",
        summary="Solves one layer of a stalled network exactly, while gradient descent goes on.",
        version="1",
        lifespan=lifespan,
        responses={422: _PROBLEM, 401: _PROBLEM, 503: _PROBLEM},
    )
    app.state.services = services
    app.state.waiting_room = room
    app.add_middleware(Guard, settings=services.settings)
    problems.install(app)
    for routes in (snapshots, jobs, events, problem, pool):
        app.include_router(routes.router)
    _document_spec(app)
    return app


def _document_spec(app: FastAPI) -> None:
    """Add the job spec to the OpenAPI document: routes read its body themselves, to bound it before parsing."""
    generate = app.openapi

    def openapi() -> dict[str, object]:
        document = generate()
        spec = JobSpec.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = document["components"]["schemas"]
        for name, schema in {**spec.pop("$defs", {}), "JobSpec": spec}.items():
            schemas.setdefault(name, schema)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
