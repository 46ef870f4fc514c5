"""Mailboxes that are added and changed over the management API while workers run, and secrets that nobody sees."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contracts.delivery import DeliveryStatus
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import Publisher, publisher
from tests.neighbours import PATIENCE, Inbox, WorkerProcess, free_port, running_worker
from worker.api.tokens import Role, added
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.emulator.run import Emulator, Plan, emulating
from worker.emulator.world import MailboxAccount
from worker.sealing import new_key

OLD = MailboxAccount("old@contoso.example", "the-old-password-of-contoso")
NEW = MailboxAccount("new@contoso.example", "the-new-password-of-contoso")
LOAD = 300


@pytest.fixture
async def emulator(tmp_path: Path) -> AsyncIterator[Emulator]:
    async with emulating(Plan(tmp_path / "emulator", ordinary_mailboxes=(OLD, NEW), keep_content=False)) as running:
        yield running


@pytest.fixture
def mailboxes(tmp_path: Path) -> Path:
    """A file without any mailbox: all of them are the store's."""
    path = tmp_path / "mailboxes.toml"
    path.write_text("", encoding="utf-8")
    return path


@dataclass
class Fleet:
    """Two workers, one of which serves the API."""

    workers: tuple[WorkerProcess, WorkerProcess]
    portal: httpx2.AsyncClient
    reader: httpx2.AsyncClient
    environment: Mapping[str, str]
    token: str
    answers: list[str]

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        answer = await self.portal.request(method, path, json=body)
        self.answers.append(answer.text)
        assert answer.is_success, answer.text
        return answer.json()

    async def followed(self, times: int) -> None:
        """Wait until both workers have taken up so many changes."""
        for worker in self.workers:
            await worker.logged("mailboxes changed", number=times)


@pytest.fixture
async def fleet(address: BrokerAddress, topology: Topology, mailboxes: Path, tmp_path: Path) -> AsyncIterator[Fleet]:
    port = free_port()
    tokens = tmp_path / "tokens.toml"
    token = added(tokens, "portal", frozenset({Role.READ, Role.MANAGE, Role.AUDIT}))
    read = added(tokens, "reader", frozenset({Role.READ}))
    settings = {"POSTLANE_SECRETS__KEY": new_key(), "POSTLANE_LOG__LEVEL": "debug"}
    api = {"POSTLANE_API__PORT": str(port), "POSTLANE_API__TOKENS_FILE": str(tokens)}
    url = f"http://127.0.0.1:{port}"
    async with AsyncExitStack() as stack:

        async def worker(more: Mapping[str, str]) -> WorkerProcess:
            given = running_worker(address, topology, mailboxes, tmp_path, settings={**settings, **more})
            return await stack.enter_async_context(given)

        workers = await worker(api), await worker({})
        clients = [
            await stack.enter_async_context(
                httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {each}"}, timeout=PATIENCE)
            )
            for each in (token, read)
        ]
        store = {"POSTLANE_STORE__URL": f"sqlite:///{tmp_path / 'postlane.sqlite3'}"}
        environment = {**settings, **store, "POSTLANE_MAILBOXES__FILE": str(mailboxes)}
        yield Fleet(workers, *clients, environment, token, [])


@pytest.fixture
async def post(fleet: Fleet, address: BrokerAddress, topology: Topology) -> AsyncIterator[Publisher]:
    async with publisher(address.url, prefix=topology.prefix) as publishing:
        yield publishing


def settings(emulator: Emulator, account: MailboxAccount, host: str = "localhost", **fields: Any) -> dict[str, Any]:
    return {
        "address": account.address,
        "tenants": ["contoso"],
        "host": host,
        "port": emulator.ordinary.port,
        "ca_file": str(emulator.certificates.ca_file.resolve()),
        "login": {"username": account.address, "password": account.password},
        **fields,
    }


def to_jana(notification_id: str, tenant: str = "contoso") -> Notification:
    given = {"to": ["jana@people.example"], "subject": "Hello", "text": "Hello.", "tenant": tenant}
    return Notification.model_validate({"type": NOTIFICATION_TYPE, "id": notification_id, **given}, strict=False)


def taken(emulator: Emulator) -> list[dict[str, Any]]:
    return [json.loads(line) for line in emulator.accepted.log.read_text(encoding="utf-8").splitlines()]


async def postlane(environment: Mapping[str, str], *arguments: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POSTLANE_")}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", *arguments, env={**clean, **environment}, stdout=pipe, stderr=pipe
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_mailbox_added_while_workers_run_carries_the_next_notification(
    fleet: Fleet, post: Publisher, inbox: Inbox, emulator: Emulator
) -> None:
    await post.publish(to_jana("too-early"))
    assert (await inbox.final("too-early")).status is DeliveryStatus.REJECTED
    await fleet.ask("POST", "/mailboxes", {"name": "contoso", "settings": settings(emulator, OLD)})
    await fleet.followed(1)
    await post.publish(to_jana("in-time"))
    result = await inbox.final("in-time")
    assert result.status is DeliveryStatus.ACCEPTED
    assert result.mailbox is not None
    assert result.mailbox.name == "contoso"
    assert [mail["login"] for mail in taken(emulator)] == [OLD.address]


async def test_server_and_login_changed_under_load_lose_and_double_nothing(
    fleet: Fleet, post: Publisher, inbox: Inbox, emulator: Emulator
) -> None:
    await fleet.ask("POST", "/mailboxes", {"name": "contoso", "settings": settings(emulator, OLD)})
    await fleet.followed(1)
    ids = [f"n-{number}" for number in range(LOAD)]
    publishing = asyncio.create_task(_publish(post, ids))
    await inbox.until(lambda results: len(results) >= LOAD // 10)
    await fleet.ask("PATCH", "/mailboxes/contoso", settings(emulator, NEW, "127.0.0.1", display_name="Moved"))
    await publishing
    await fleet.followed(2)
    await post.publish(to_jana("after"))
    await inbox.until(lambda results: len({each.notification_id for each in results if each.final}) == LOAD + 1)
    finals = Counter(result.notification_id for result in inbox.results if result.final)
    assert finals == dict.fromkeys([*ids, "after"], 1)
    assert {result.status for result in inbox.results if result.final} == {DeliveryStatus.ACCEPTED}
    mails = taken(emulator)
    assert Counter(mail["notification_id"] for mail in mails) == dict.fromkeys([*ids, "after"], 1)
    logins = Counter(mail["login"] for mail in mails)
    assert logins.keys() == {OLD.address, NEW.address}
    assert next(mail for mail in mails if mail["notification_id"] == "after")["login"] == NEW.address


async def _publish(post: Publisher, ids: list[str]) -> None:
    for notification_id in ids:
        await post.publish(to_jana(notification_id))


async def test_paused_mailbox_keeps_its_mail_on_every_worker_until_it_is_resumed(
    fleet: Fleet, post: Publisher, inbox: Inbox, emulator: Emulator
) -> None:
    await fleet.ask("POST", "/mailboxes", {"name": "contoso", "settings": settings(emulator, OLD)})
    await postlane(fleet.environment, "mailbox", "pause", "contoso", "--because", "moving house")
    await fleet.followed(2)
    await post.publish(to_jana("waits"))
    waiting = await inbox.first("waits")
    assert (waiting.status, waiting.reason and waiting.reason.kind) == (DeliveryStatus.DEFERRED, "mailbox-paused")
    assert waiting.reason is not None
    assert "moving house" in waiting.reason.explanation
    await postlane(fleet.environment, "mailbox", "resume", "contoso")
    await fleet.followed(3)
    await post.publish(to_jana("goes"))
    assert (await inbox.final("goes")).status is DeliveryStatus.ACCEPTED
    assert (await inbox.final("waits", patience=60)).status is DeliveryStatus.ACCEPTED


async def test_token_without_the_right_changes_nothing_and_is_written_down(fleet: Fleet, emulator: Emulator) -> None:
    refused = await fleet.reader.post("/mailboxes", json={"name": "x", "settings": settings(emulator, OLD)})
    assert refused.status_code == 403
    assert (await fleet.ask("GET", "/mailboxes"))["mailboxes"] == []
    (line,) = (await fleet.ask("GET", "/audit"))["lines"]
    assert (line["actor"], line["action"]) == ("reader", "forbidden")


@pytest.mark.row("KX-W13")
async def test_no_secret_is_in_the_database_the_logs_the_results_or_any_answer(
    fleet: Fleet, post: Publisher, inbox: Inbox, emulator: Emulator, tmp_path: Path
) -> None:
    wrong = "a-wrong-password-of-contoso"
    given = settings(emulator, OLD, login={"username": OLD.address, "password": wrong})
    await fleet.ask("POST", "/mailboxes", {"name": "contoso", "settings": given})
    await fleet.followed(1)
    await post.publish(to_jana("refused"))
    assert (await inbox.first("refused")).status is DeliveryStatus.DEFERRED
    await fleet.ask("POST", "/mailboxes/contoso/test")
    await fleet.ask("PATCH", "/mailboxes/contoso", {"login": {"password": OLD.password}})
    assert (await fleet.ask("POST", "/mailboxes/contoso/test"))["state"] == "ok"
    await fleet.followed(2)
    await post.publish(to_jana("sent"))
    assert (await inbox.final("sent", patience=60)).status is DeliveryStatus.ACCEPTED
    spoilt = await fleet.portal.patch("/mailboxes/contoso", json={"port": "x", "login": {"password": NEW.password}})
    assert spoilt.status_code == 422
    for path in ("/mailboxes", "/mailboxes/contoso", "/audit", "/openapi.json"):
        await fleet.ask("GET", path)
    told = [
        await postlane(fleet.environment, "mailbox", "show", "contoso"),
        await postlane(fleet.environment, "mailbox", "list", "--json"),
        await postlane(fleet.environment, "config", "show"),
    ]
    for worker in fleet.workers:
        await worker.stop()
    places = {
        "database": b"".join(each.read_bytes() for each in tmp_path.glob("postlane.sqlite3*")),
        "logs": "".join(line for worker in fleet.workers for line in worker.raw).encode(),
        "results": "".join(result.model_dump_json() for result in inbox.results).encode(),
        "answers": "".join([*fleet.answers, spoilt.text, *told]).encode(),
        "tokens file": (tmp_path / "tokens.toml").read_bytes(),
    }
    secrets = [wrong, str(OLD.password), str(NEW.password), fleet.environment["POSTLANE_SECRETS__KEY"], fleet.token]
    for secret in secrets:
        for coded in (secret.encode(), base64.b64encode(secret.encode()), base64.b64encode(f"\0{secret}".encode())):
            assert [place for place, content in places.items() if coded in content] == []
    assert all(places.values()), "every place was looked into"


async def test_password_at_microsofts_is_told_as_soon_as_there_is_one_and_taken_back_when_it_has_moved(
    fleet: Fleet, emulator: Emulator
) -> None:
    """Not only at the review of the next day."""
    given = settings(emulator, OLD, "smtp.office365.com")
    await fleet.ask("POST", "/mailboxes", {"name": "contoso", "settings": given})
    for worker in fleet.workers:
        await worker.logged("basic authentication is being retired", some=["contoso"])
    entra = {"authority": f"{emulator.token_url}/tenant", "client_id": "the-app", "client_secret": "the-new-secret"}
    await fleet.ask("PATCH", "/mailboxes/contoso", {"login": None, "oauth": entra})
    for worker in fleet.workers:
        await worker.logged("credentials need no attention any more")
