"""A mailbox with SMTP and Microsoft Graph: what goes wrong before the mail is carried by the other way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contracts.delivery import DeliveryStatus
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import publisher
from tests.neighbours import running_worker
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.emulator.files import mailboxes_file
from worker.emulator.run import Emulator


async def test_mail_goes_by_graph_while_smtp_auth_is_switched_off(
    address: BrokerAddress, topology: Topology, emulator: Emulator, tmp_path: Path
) -> None:
    mailboxes = tmp_path / "two-ways.toml"
    mailboxes.write_text(mailboxes_file(emulator, graph=True), encoding="utf-8")
    emulator.play("smtp-off")
    sent = {"to": ["jana@contoso.example"], "bcc": ["hidden@contoso.example"], "subject": "Hello", "text": "Hello."}
    async with running_worker(address, topology, mailboxes, tmp_path) as worker:
        async with publisher(address.url, prefix=topology.prefix) as post:
            results = [
                await post.send(
                    Notification.model_validate(
                        {"type": NOTIFICATION_TYPE, "id": f"n-{n}", "tenant": "contoso", **sent}
                    )
                )
                for n in range(2)
            ]
        await worker.logged("channel rests", transport="smtp", mailbox="platform")
    assert [result.status for result in results] == [DeliveryStatus.ACCEPTED] * 2
    assert [result.mailbox.transport for result in results if result.mailbox] == ["graph", "graph"]
    mails = [json.loads(line) for line in emulator.accepted.log.read_text(encoding="utf-8").splitlines()]
    assert [mail["mechanism"] for mail in mails] == ["graph", "graph"]
    assert mails[0]["rcpt_to"] == ["jana@contoso.example", "hidden@contoso.example"]
    journal = [json.loads(line) for line in emulator.backstage.journal.path.read_text(encoding="utf-8").splitlines()]
    assert sum(event["event"] == "login refused" for event in journal) == 1  # not again with the second mail


@pytest.mark.parametrize("rule", ["graph-access-denied", "graph-token-expired", "graph-throttled"])
async def test_mail_goes_by_smtp_while_graph_lets_the_app_not_in(
    address: BrokerAddress, topology: Topology, emulator: Emulator, tmp_path: Path, rule: str
) -> None:
    mailboxes = tmp_path / "two-ways.toml"
    first = '[mailboxes.platform]\nchannels = ["graph", "smtp"]\n'
    text = mailboxes_file(emulator, graph=True).replace("[mailboxes.platform]\n", first, 1)
    mailboxes.write_text(text, encoding="utf-8")
    emulator.play(rule)
    content = {"tenant": "contoso", "to": ["jana@contoso.example"], "subject": "Hello", "text": "Hello."}
    async with running_worker(address, topology, mailboxes, tmp_path) as worker:
        async with publisher(address.url, prefix=topology.prefix) as post:
            results = [
                await post.send(Notification.model_validate({"type": NOTIFICATION_TYPE, "id": f"n-{n}", **content}))
                for n in range(2)
            ]
        await worker.logged("channel rests", transport="graph", mailbox="platform")
    assert [result.status for result in results] == [DeliveryStatus.ACCEPTED] * 2
    assert [result.mailbox.transport for result in results if result.mailbox] == ["smtp", "smtp"]
    assert len(emulator.accepted.log.read_text(encoding="utf-8").splitlines()) == 2
