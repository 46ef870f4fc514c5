"""Bad input gets a clear answer, is never lost, never half sent, and never ends a worker."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.exceptions import AMQPError

from contracts.delivery import DeliveryStatus
from contracts.publisher import DIRECT_REPLY, publisher
from contracts.wire import JSON
from tests.neighbours import Inbox, running_worker
from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.topology import Topology
from worker.emulator.run import Emulator

GOOD = {
    "type": "postlane.notification.v1",
    "id": "good",
    "tenant": "contoso",
    "to": ["jana@contoso.example"],
    "subject": "Hello",
    "text": "Hello.",
}


@dataclass(frozen=True)
class Bad:
    """A message that must be refused, and the field that must be named."""

    body: bytes
    field: str
    says: str = ""
    user_id: bool = True
    headers: tuple[tuple[str, str], ...] = ()


def but(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in {**GOOD, **changes}.items() if value is not ...}).encode()


BAD = {
    "not-json": Bad(b"Dear Sir or Madam", "body", "is not JSON"),
    "empty": Bad(b"", "body", "is not JSON"),
    "not-utf-8": Bad(b'{"id": "\xff"}', "body", "is not UTF-8"),
    "not-an-object": Bad(b'"hello"', "body", "must be a JSON object"),
    "wrong-version": Bad(but(type="postlane.notification.v2"), "type"),
    "no-version": Bad(but(type=...), "type", "is missing"),
    "unknown-field": Bad(but(expire_at="2027-01-01T00:00:00Z"), "expire_at", "is not a field"),
    "field-twice": Bad(but()[:-1] + b', "subject": "Other"}', "subject", "given twice"),
    "wrong-type": Bad(but(subject=7), "subject"),
    "recipients-as-a-number": Bad(but(to=7), "to"),
    "no-recipient": Bad(but(to=[]), "notification", "at least one recipient"),
    "1001-recipients": Bad(but(to=[f"u{n}@contoso.example" for n in range(1001)]), "to"),
    "1001-recipients-together": Bad(
        but(to=[f"u{n}@contoso.example" for n in range(1000)], cc=["a@contoso.example"]), "notification", "at most 1000"
    ),
    "bad-address": Bad(but(to=["jana@contoso.example", "jana at contoso"]), "to[1].address", "has no @"),
    "address-with-line-break": Bad(but(to=["jana@contoso.example>\r\nRCPT TO:<x@y.z"]), "to[0].address", "control"),
    "line-break-in-subject": Bad(but(subject="Hello\r\nBcc: all@contoso.example"), "subject", "CR, LF"),
    "line-break-in-name": Bad(but(to=[{"address": "a@b.cz", "name": "A\nB"}]), "to[0].name", "CR, LF"),
    "line-break-in-header": Bad(but(headers={"X-Ticket": "1\r\nBcc: a@b.cz"}), "headers.X-Ticket", "CR, LF"),
    "line-break-in-header-name": Bad(but(headers={"X-Ticket\r\nBcc": "a@b.cz"}), "headers"),
    "line-break-in-file-name": Bad(but(attachments=[{"filename": "a\r\nb", "content": ""}]), "attachments[0].filename"),
    "nul-in-text": Bad(but(text="a\0b"), "text", "NUL"),
    "lone-surrogate": Bad(but(subject="\ud800"), "subject", "surrogate"),
    "not-base64": Bad(but(attachments=[{"filename": "a", "content": "???"}]), "attachments[0].content", "base64"),
    "deep-nesting": Bad(b'{"metadata":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "body", "nested"),
    "30-megabytes": Bad(but(text="x" * 30_000_000), "body", "octets"),
    "unknown-tenant": Bad(but(tenant="northwind"), "tenant", "not known"),
    "no-mailbox": Bad(but(tenant="tailspin"), "tenant", "may not use the default"),
    "foreign-mailbox": Bad(but(id="b-1", mailbox="fabrikam"), "mailbox", "no mailbox"),
    "foreign-from": Bad(but(id="b-2", **{"from": "ceo@fabrikam.example"}), "from", "may not send as"),
    "missing-attachment": Bad(
        but(id="b-3", attachments=[{"filename": "a", "reference": "a.pdf", "size": 1, "sha256": "0" * 64}]),
        "attachments",
    ),
    "without-user-id": Bad(but(), "user_id", "does not say which producer", user_id=False),
    "forged-progress": Bad(but(), "headers", "x-postlane-carry", user_id=False, headers=(("x-postlane-carry", "{}"),)),
}


@pytest.fixture
def with_producers(mailboxes: Path, address: BrokerAddress) -> Path:
    """Producers are listed, so every message needs a user_id."""
    with mailboxes.open("a", encoding="utf-8") as file:
        file.write(f'\n[[producers]]\nuser = "{address.login}"\n')
    return mailboxes


async def test_every_kind_of_bad_input_is_answered_kept_and_survived(
    with_producers: Path, emulator: Emulator, inbox: Inbox, address: BrokerAddress, topology: Topology, tmp_path: Path
) -> None:
    async with (
        running_worker(address, topology, with_producers, tmp_path) as worker,
        await open_connection(address, "test") as connection,
        connection.channel(on_return_raises=True) as channel,
    ):
        answers: dict[str, dict[str, Any]] = {}
        replies = await channel.get_queue(DIRECT_REPLY, ensure=False)

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            answers[message.correlation_id or ""] = json.loads(message.body)

        await replies.consume(take, no_ack=True)
        exchange = await channel.get_exchange(topology.notifications, ensure=False)
        kept = {}
        for name, bad in BAD.items():
            message = aio_pika.Message(
                bad.body,
                correlation_id=name,
                reply_to=DIRECT_REPLY,
                content_type=JSON,
                user_id=address.login if bad.user_id else None,
                headers=dict(bad.headers),
            )
            try:
                await exchange.publish(message, routing_key="notification", mandatory=True)
            except AMQPError:
                assert name == "30-megabytes", name  # RabbitMQ 4 itself stops at 16 MiB
                pytest.fail("the broker refused the message and closed the channel: run this test on 3.10")
            kept[name] = bad
        await inbox.until(lambda results: len(results) >= len(kept))
        by_name = {result.correlation_id: result for result in inbox.results}
        for name, bad in kept.items():
            result = by_name[name]
            assert (result.status, result.final) == (DeliveryStatus.REJECTED, True), name
            assert result.reason is not None, name
            assert bad.field in [problem.field for problem in result.reason.problems], (name, result.reason)
            assert bad.says in result.reason.explanation, (name, result.reason.explanation)
        async with publisher(address.url, prefix=topology.prefix) as post:
            await post.publish_bytes(but(id="afterwards"), "contoso", message_id="afterwards")
        assert (await inbox.final("afterwards")).status is DeliveryStatus.ACCEPTED
        assert answers.keys() == kept.keys()
        dead = await channel.get_queue(topology.dead, ensure=False)
        letters = []
        while (letter := await dead.get(no_ack=True, fail=False)) is not None:
            letters.append(letter.body)
        assert sorted(letters) == sorted(bad.body for bad in kept.values())
        assert await worker.stop() == 0
    mails = emulator.accepted.log.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["notification_id"] for line in mails] == ["afterwards"]


async def test_producer_speaks_only_for_its_tenants(
    mailboxes: Path, inbox: Inbox, address: BrokerAddress, topology: Topology, tmp_path: Path
) -> None:
    with mailboxes.open("a", encoding="utf-8") as file:
        file.write(f'\n[[producers]]\nuser = "{address.login}"\ntenants = ["contoso"]\ncategories = ["invite"]\n')
    async with running_worker(address, topology, mailboxes, tmp_path):
        async with publisher(address.url, prefix=topology.prefix) as post:
            for notification_id, fields in {
                "own": {"tenant": "contoso", "category": "invite"},
                "foreign-tenant": {"tenant": "fabrikam", "category": "invite"},
                "foreign-category": {"tenant": "contoso", "category": "mass"},
                "foreign-key": {"tenant": "contoso", "category": "invite"},
            }.items():
                key = "fabrikam" if notification_id == "foreign-key" else fields["tenant"]
                await post.publish_bytes(but(id=notification_id, **fields), key, message_id=notification_id)
        found = {name: await inbox.final(name) for name in ("own", "foreign-tenant", "foreign-category", "foreign-key")}
    assert found["own"].status is DeliveryStatus.ACCEPTED
    refused = {name: result.reason.problems[0].field for name, result in found.items() if result.reason}
    assert refused == {"foreign-tenant": "tenant", "foreign-category": "category", "foreign-key": "tenant"}


async def test_user_id_of_somebody_else_is_refused_by_the_broker_itself(
    address: BrokerAddress, topology: Topology
) -> None:
    async with await open_connection(address, "test") as connection, connection.channel() as channel:
        exchange = await channel.get_exchange(topology.notifications, ensure=False)
        with pytest.raises(AMQPError, match="user_id"):
            await exchange.publish(aio_pika.Message(but(), user_id="somebody-else"), routing_key="t.contoso")
