"""Changing what is played while the emulator runs, for tests of other languages."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.emulator.scenario import Catalogue
from worker.unusable import Unusable


def routes(play: Callable[..., None], known: Catalogue) -> tuple[Route, ...]:
    """`GET /_emulator/scenarios` lists them; `POST /_emulator/scenarios` with a JSON list of names plays those."""

    async def listed(_request: Request) -> Response:
        rules = {
            name: {"moment": rule.moment, "reply": rule.reply, "says": rule.says} for name, rule in known.rules.items()
        }
        scenarios = {name: scenario.title for name, scenario in known.scenarios.items()}
        return JSONResponse({"scenarios": scenarios, "rules": rules})

    async def played(request: Request) -> Response:
        try:
            names = await request.json()
            play(*[str(name) for name in names])
        except (Unusable, ValueError, TypeError) as error:
            return JSONResponse({"problem": str(error)}, 400)
        return JSONResponse({"playing": names})

    return (
        Route("/_emulator/scenarios", listed, methods=["GET"]),
        Route("/_emulator/scenarios", played, methods=["POST"]),
    )
