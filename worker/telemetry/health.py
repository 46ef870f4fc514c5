"""`/livez`, `/readyz`, `/healthz/mailboxes` and `/metrics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from worker.domain.health import Checked

Checks = Callable[[], dict[str, str]]
"""Name of a dependency → `ok` or what is wrong with it."""

Servers = Callable[[Sequence[str]], Awaitable[Mapping[str, Checked]]]
"""Names of mailboxes, none for all → how their servers are."""


Standing = Callable[[], Mapping[str, Mapping[str, object]]]
"""Mailbox → what this worker has done with it, and what it is for."""


def application(checks: Checks, metrics: Callable[[], bytes], servers: Servers, standing: Standing = dict) -> Starlette:
    """The pages, made anew at every request from what is true then."""

    async def live(_request: Request) -> Response:
        # Answering at all proves that the loop turns; dependencies must not make an orchestrator kill the worker.
        return PlainTextResponse("ok\n")

    async def ready(request: Request) -> Response:
        found = checks()
        well = all(state == "ok" for state in found.values())
        body = {"ready": well, **(found if "verbose" in request.query_params else {})}
        return JSONResponse(body, status_code=200 if well else 503)

    async def mailboxes(request: Request) -> Response:
        found = await servers(request.query_params.getlist("mailbox"))
        well = bool(found) and all(each.finding.well for each in found.values())
        known = standing()
        told = {name: {**_told(each), **known.get(name, {})} for name, each in found.items()}
        body = {"well": well, "mailboxes": told}
        if not found:
            body["explanation"] = "No mailbox is configured: nothing can be sent."
        return JSONResponse(body, status_code=200 if well else 503)

    async def scrape(_request: Request) -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(
        routes=[
            Route("/livez", live),
            Route("/healthz", live),
            Route("/healthz/mailboxes", mailboxes),
            Route("/readyz", ready),
            Route("/metrics", scrape),
        ]
    )


def _told(checked: Checked) -> dict[str, object]:
    finding = checked.finding
    return {
        "state": finding.state,
        "explanation": finding.explanation,
        "remedy": finding.remedy,
        "warning": finding.warning,
        "checked_at": checked.checked_at.isoformat(timespec="milliseconds"),
        "seconds": round(checked.seconds, 3),
    }
