"""Changing what is played while the emulator runs, for tests of other languages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.emulator.scenario import Catalogue
from worker.unusable import Unusable


def routes(play: Callable[..., None], reset: Callable[[], None], known: Catalogue) -> tuple[Route, ...]:
    """What can be asked of `/_emulator`.

    `GET scenarios` lists them, `POST scenarios` with a JSON list of names plays those with their limits, and `POST
    reset` begins to count anew.
    """

    async def listed(_request: Request) -> Response:
        rules = {
            name: {"moment": rule.moment, "reply": rule.reply, "says": rule.says} for name, rule in known.rules.items()
        }
        scenarios = {name: scenario.title for name, scenario in known.scenarios.items()}
        return JSONResponse({"scenarios": scenarios, "rules": rules})

    async def played(request: Request) -> Response:
        try:
            names = _names(await request.json())
            play(*names)
        except (Unusable, ValueError) as error:
            return JSONResponse({"problem": str(error)}, 400)
        return JSONResponse({"playing": names})

    async def forgotten(_request: Request) -> Response:
        reset()
        return JSONResponse({"used": "nothing"})

    return (
        Route("/_emulator/scenarios", listed, methods=["GET"]),
        Route("/_emulator/scenarios", played, methods=["POST"]),
        Route("/_emulator/reset", forgotten, methods=["POST"]),
    )


def _names(body: Any) -> list[str]:
    if not isinstance(body, list) or not all(isinstance(name, str) for name in body):
        raise ValueError('What is to be played is a JSON list of names: ["throttled"]; nothing is [].')
    return body
