"""Postlane as an operator runs it: a mailboxes file, a broker, a worker, and somebody who publishes."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from contracts.delivery import Result
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import Publisher, publisher
from tests.neighbours import Inbox, WorkerProcess, environment_of, inbox_on, running_worker
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology

ADDRESS = "notifications@contoso.example"
OCTETS = bytes(range(256)) * 20
HARD = {
    "text": ".\n.. dots\n" + "\u017e" * 3000 + "\nFrom here\n",
    "attachments": [{"filename": "every octet.bin", "content": base64.b64encode(OCTETS).decode()}],
}
"""What servers on the way like to change: dots, long lines, lines of mbox, octets that are no text."""


class Office:
    """Everything of Postlane that a test speaks to.

    Attributes:
        worker: `postlane run`.
        inbox: all results.
    """

    def __init__(self, post: Publisher, worker: WorkerProcess, inbox: Inbox, environment: Mapping[str, str]) -> None:
        self.worker = worker
        self.inbox = inbox
        self._post = post
        self._environment = environment

    async def send(self, *to: str, **fields: Any) -> Result:
        """Publish a notification and wait for its final result."""
        return await self._post.send(notification(*to, **fields), timeout=60)

    async def publish(self, *to: str, **fields: Any) -> str:
        """Publish a notification. Returns its id."""
        made = notification(*to, **fields)
        await self._post.publish(made)
        return made.id

    async def flood(self, count: int) -> list[Result]:
        """Publish so many with a subject each, wait for their final results."""
        for number in range(count):
            await self.publish(id=f"f-{number}", subject=f"Number {number}")

        def finals(results: list[Result]) -> list[Result]:
            return [result for result in results if result.final and str(result.notification_id).startswith("f-")]

        await self.inbox.until(lambda results: len(finals(results)) >= count, 110)
        return finals(self.inbox.results)

    async def sign_in(self, person: Callable[[str, str], object]) -> dict[str, Any]:
        """`postlane token login`, and a person who is told address and code. What it prints at the end."""
        process = await begun(self._environment, "token", "login", "box", "--json")
        assert process.stdout is not None
        invitation = json.loads(await process.stdout.readline())
        await asyncio.to_thread(person, invitation["address"], invitation["code"])
        said = (await process.stdout.read()).decode()
        assert await process.wait() == 0, said
        return dict(json.loads(said))

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of `postlane …`."""
        return await command(self._environment, *arguments)


def is_whole(mail: EmailMessage) -> None:
    """Fail unless what was hard has come through."""
    body = mail.get_body(("plain",))
    assert body is not None
    assert body.get_content().splitlines() == str(HARD["text"]).splitlines()
    (part,) = mail.iter_attachments()
    assert part.get_content() == OCTETS


def notification(*to: str, **fields: Any) -> Notification:
    """A notification, of which a test says what matters to it."""
    given = {"id": f"n-{uuid.uuid4().hex[:8]}", "tenant": "contoso", "subject": "Hello", "text": "Hello.", **fields}
    return Notification.model_validate({"type": NOTIFICATION_TYPE, "to": list(to or ["jana@contoso.example"]), **given})


def mailbox(port: int, *, ca_file: Path | None, host: str = "localhost", more: str = "", **keys: object) -> str:
    """A mailboxes file with one mailbox."""
    fields = {"address": ADDRESS, "host": host, "port": port, **keys, **({"ca_file": str(ca_file)} if ca_file else {})}
    return 'default = "box"\n[mailboxes.box]\n' + "".join(f"{key} = {_toml(it)}\n" for key, it in fields.items()) + more


def login(username: str, password: str, mechanism: str | None = None) -> str:
    """Its login by password."""
    fields = {"username": username, "password": password, **({"mechanism": mechanism} if mechanism else {})}
    return "[mailboxes.box.login]\n" + "".join(f"{key} = {_toml(it)}\n" for key, it in fields.items())


def bearer(issuer: str, ca_file: Path, **keys: object) -> str:
    """Its login by a token of an OpenID Connect issuer."""
    fields = {"oidc_issuer": issuer, "ca_file": str(ca_file), **keys}
    return "[mailboxes.box.oauth]\n" + "".join(f"{key} = {_toml(it)}\n" for key, it in fields.items())


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


@asynccontextmanager
async def office(
    address: BrokerAddress, topology: Topology, mailboxes: str, directory: Path, **settings: str
) -> AsyncIterator[Office]:
    """A worker with these mailboxes, consuming."""
    file = directory / "mailboxes.toml"
    file.write_text(mailboxes, encoding="utf-8")
    async with (
        running_worker(address, topology, file, directory, settings=settings) as worker,
        inbox_on(address, topology) as inbox,
        publisher(address.url, prefix=topology.prefix) as post,
    ):
        yield Office(post, worker, inbox, environment_of(address, topology, file, directory, settings))


async def command(environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Exit status and output of `postlane …`."""
    process = await begun(environment, *arguments)
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def begun(environment: Mapping[str, str], *arguments: str) -> asyncio.subprocess.Process:
    """`postlane …`, while it runs."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
