"""Ends of a request that HTTP has no word for."""

from __future__ import annotations

from typing import Any, cast

from starlette.requests import ClientDisconnect, Request

from worker.emulator.scenario import DROP, LOST, SILENT


async def unspoken(reply: str, request: Request) -> None:
    """Hang up, or wait until the client does, if that is what a rule says; else return.

    Raises:
        ClientDisconnect: it has come to an end.
    """
    if reply in (DROP, LOST):
        # ASGI knows no way to hang up: the server's cycle has the transport.
        cast("Any", request.receive).__self__.transport.abort()
        raise ClientDisconnect
    if reply == SILENT:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        raise ClientDisconnect
