"""The API over real HTTP, on a database of its own, with an emulated mail server to be configured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx2
import pytest

from contracts.address import AddrSpec
from worker.administration import Administration, Base, Directories
from worker.api.application import Doors, application
from worker.api.tokens import Role, TokensFile, added
from worker.attachments.directory import AttachmentDirectory
from worker.courier import Courier
from worker.domain.mailbox import PickupDirectory, SmtpEndpoint
from worker.domain.retry import RetryPolicy
from worker.domain.verdict import catalogue
from worker.oauth.tokens import MsalTokens
from worker.pickup.transport import PickupTransport
from worker.ports import Store
from worker.probe import Health, look
from worker.resting import SharedGate
from worker.sealing import Keyring
from worker.smtp.connect import Timeouts
from worker.smtp.transport import SmtpTransport
from worker.store.database import Database
from worker.store.mailboxes import SqlMailboxes
from worker.store.opening import opened
from worker.switchboard import Switchboard
from worker.telemetry import http
from worker.templates.none import NoTemplates
from worker.tenant_settings import TenantSettings
from worker.tryout import Tried, tried_out

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
        opening = await stack.enter_async_context(opened(url))
        store = opening.books
        tokens = MsalTokens(lambda _event: None)
        stack.callback(tokens.close)
        directories = Directories(base, kept, keyring, lambda _event: None)
        servers = Health(lambda: directories.current.mailboxes, partial(look, tokens=tokens), lambda: datetime.now(UTC))
        stack.push_async_callback(servers.close)
        desk = Administration(base, kept, keyring)
        board, tenants = Switchboard(base, kept), TenantSettings(desk)
        smtp = SmtpTransport(tokens, Timeouts(), lambda _event: None)
        stack.push_async_callback(smtp.close)
        courier = Courier(
            directory=directories.current,
            rows=catalogue(),
            ledger=store,
            register=store,
            gate=SharedGate(opening.gate),
            transports={SmtpEndpoint: smtp, PickupDirectory: PickupTransport()},
            files=AttachmentDirectory(None, 0),
            templates=NoTemplates(),
            policy=RetryPolicy(),
            clock=lambda: datetime.now(UTC),
            dice=lambda: 0.5,
            observe=lambda _event: None,
        )

        async def try_out(name: str, to: AddrSpec, *, even_disabled: bool) -> Tried:
            mailboxes = await directories.loaded()
            return await tried_out(courier, mailboxes, name, to, token_hex(8), even_disabled=even_disabled)

        doors = Doors(desk, board, tenants, store, servers, directories.look, try_out)
        served = application(doors, TokensFile(tokens_file), references=False)
        listening = http.bound("127.0.0.1", 0)
        port = listening.getsockname()[1]
        await stack.enter_async_context(http.serving(served, listening))
        yield Api(f"http://127.0.0.1:{port}", tokens_file, store, path, desk, {})
