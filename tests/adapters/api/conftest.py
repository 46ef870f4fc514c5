"""The API over real HTTP, on a database of its own, with an emulated mail server to be configured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from worker.administration import Administration, Base, Directories
from worker.api.application import Doors, application
from worker.api.tokens import Role, TokensFile, added
from worker.oauth.tokens import MsalTokens
from worker.ports import Store
from worker.probe import Health, look
from worker.sealing import Keyring
from worker.store.database import Database
from worker.store.mailboxes import SqlMailboxes
from worker.store.opening import opened
from worker.telemetry import http

FILE: dict[str, Any] = {
    "default": "platform",
    "mailboxes": {
        "platform": {
            "address": "noreply@platform.example",
            "host": "smtp.platform.example",
            "login": {"username": "u", "password": "secret-of-the-file"},
        }
    },
}


@dataclass
class Api:
    """The API, and clients of it by what they may do."""

    url: str
    tokens_file: Path
    store: Store
    database: Path
    desk: Administration
    tokens: dict[str, str]

    def client(self, *roles: Role, token: str | None = None) -> httpx2.AsyncClient:
        """A client with a token of exactly these roles."""
        name = "-".join(role.rpartition(".")[2] for role in roles) or "nobody"
        if token is None and name not in self.tokens:
            self.tokens[name] = added(self.tokens_file, name, frozenset(roles))
        given = token if token is not None else self.tokens[name]
        return httpx2.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {given}"} if given else {})


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    path, tokens_file = tmp_path / "store.sqlite3", tmp_path / "tokens.toml"
    added(tokens_file, "first", frozenset(Role))
    url, base, keyring = f"sqlite:///{path}", Base(FILE, {}), Keyring([bytes(32)])
    async with AsyncExitStack() as stack:
        kept = SqlMailboxes(Database(url))
        stack.push_async_callback(kept.close)
        store = (await stack.enter_async_context(opened(url))).books
        tokens = MsalTokens(lambda _event: None)
        stack.callback(tokens.close)
        directories = Directories(base, kept, keyring, lambda _event: None)
        servers = Health(lambda: directories.current.mailboxes, partial(look, tokens=tokens), lambda: datetime.now(UTC))
        stack.push_async_callback(servers.close)
        desk = Administration(base, kept, keyring)
        served = application(Doors(desk, store, servers, directories.look), TokensFile(tokens_file), references=False)
        listening = http.bound("127.0.0.1", 0)
        port = listening.getsockname()[1]
        await stack.enter_async_context(http.serving(served, listening))
        yield Api(f"http://127.0.0.1:{port}", tokens_file, store, path, desk, {})
