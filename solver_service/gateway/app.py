"""The gateway as an ASGI application: the only place where its parts are wired together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from solver_service.gateway import documents, problems, reference
from solver_service.gateway.guard import Guard
from solver_service.gateway.observed import Observed
from solver_service.gateway.routes import batches, events, jobs, logs, page, pool, problem, snapshots
from solver_service.gateway.services import Services
from solver_service.gateway.waiting import WaitingRoom
from solver_service.reaper import Reaper


def create_app(services: Services) -> FastAPI:
    """Wire routes, error handlers, the guard and the reaper around the given services."""

    room = WaitingRoom(services.store)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        settings = services.settings
        reaper = Reaper(services.store, republish_s=settings.republish_s, lease_s=settings.lease_s)
        reaper.start()
        room.open()
        yield
        room.close()
        reaper.stop()

    app = FastAPI(
        title="GDSolver",
        summary="Solves one layer of a stalled network exactly, while gradient descent goes on.",
        version="1",
        openapi_url=None,  # see `reference`: FastAPI would write it anew for everybody who asks
        docs_url=None,  # FastAPI's own pages load their scripts from another host
        redoc_url=None,
        lifespan=lifespan,
        responses=documents.problems(401, 403, 415, 422, 429, 503),
    )
    app.state.services = services
    app.state.waiting_room = room
    app.add_middleware(Guard, settings=services.settings, door=services.door, on_their_way=services.uploads)
    app.add_middleware(Observed, traffic=services.traffic)
    problems.install(app)
    for routes in (snapshots, jobs, events, logs, batches, problem, pool, page):
        app.include_router(routes.router)
    documents.complete(app)
    reference.install(app)
    return app
