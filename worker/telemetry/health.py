"""`/livez`, `/readyz` and `/metrics`."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

Checks = Callable[[], dict[str, str]]
"""Name of a dependency → `ok` or what is wrong with it."""


def application(checks: Checks, metrics: Callable[[], bytes]) -> Starlette:
    """The pages, made anew at every request from what is true then."""

    async def live(_request: Request) -> Response:
        # Answering at all proves that the loop turns; dependencies must not make an orchestrator kill the worker.
        return PlainTextResponse("ok\n")

    async def ready(request: Request) -> Response:
        found = checks()
        well = all(state == "ok" for state in found.values())
        body = {"ready": well, **(found if "verbose" in request.query_params else {})}
        return JSONResponse(body, status_code=200 if well else 503)

    async def scrape(_request: Request) -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(
        routes=[
            Route("/livez", live),
            Route("/healthz", live),
            Route("/readyz", ready),
            Route("/metrics", scrape),
        ]
    )
