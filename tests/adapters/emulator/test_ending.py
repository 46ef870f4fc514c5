"""The emulator ends when it is told to, whoever still waits for an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx2
import pytest

from tests.adapters.emulator.cloud import BOX, Cloud, cloud_of
from worker.emulator.run import Plan, emulating

MAIL = {"message": {"toRecipients": [{"emailAddress": {"address": "graph-silent@fabrikam.example"}}]}}


async def for_graph(cloud: Cloud) -> None:
    """A mail is sent, and nobody says what became of it."""
    token = (await cloud.app()).json()["access_token"]
    with suppress(httpx2.TransportError):
        await cloud.post(f"/users/{BOX}/sendMail", MAIL, token)


async def for_a_token(cloud: Cloud) -> None:
    with suppress(httpx2.TransportError):
        await cloud.app(client_id="token-silent")


async def until(met: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not met():  # noqa: ASYNC110 - the emulator tells nobody
            await asyncio.sleep(0)


@pytest.mark.parametrize("waiting", [for_graph, for_a_token])
async def test_client_that_waits_for_ever_does_not_keep_it(
    tmp_path: Path, waiting: Callable[[Cloud], Awaitable[None]]
) -> None:
    async with AsyncExitStack() as clients:
        async with emulating(Plan(tmp_path / "emulator")) as emulator:
            cloud = await clients.enter_async_context(cloud_of(emulator))
            client = asyncio.ensure_future(waiting(cloud))
            held = emulator.backstage.governor.requests
            await until(lambda: held[BOX] if waiting is for_graph else emulator.authority.requests)
            began = time.monotonic()
        assert time.monotonic() - began < 10
        await client
