"""The application: every path of the server behind its gate."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

import ditmesh
from ditmesh.replicas.supervisor import Supervisor
from ditmesh.serve import about, batches, events, files, images, jobs, page, videos
from ditmesh.serve.errors import answer_errors
from ditmesh.serve.gate import Gate
from ditmesh.serve.server import Server

HOUR = 3600
ROWS_A_REPLICA = 2  # of batches in work: one that is drawn, one that is next


def build(server: Server, supervisor: Supervisor, replicas: int) -> ASGIApp:
    """The application of a server."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        server.desk.begin(supervisor)
        await server.begin_again()
        rows.begin_again()
        tidy = asyncio.ensure_future(keep_tidy(server))
        yield
        tidy.cancel()
        rows.stop()

    rows = batches.Batches(server, ROWS_A_REPLICA * replicas)
    title, told = f"ditmesh serves {server.settings.name}", "Pictures over replicas, in the shapes of OpenAI's API."
    app = FastAPI(
        title=title, description=told, version=ditmesh.__version__, docs_url=None, redoc_url=None, lifespan=life
    )
    answer_errors(app)
    for made in (images, videos, files, events, jobs, about, page):
        app.include_router(made.routes(server))
    app.include_router(batches.routes(server, rows))
    return Gate(app, server.settings, server.secret)


async def keep_tidy(server: Server) -> None:
    """Forget what is older than it is kept."""
    while True:
        moment = time.time() - HOUR * server.settings.keep_hours
        await server.desk.write(server.store.drop_older, moment)
        await asyncio.sleep(HOUR)
