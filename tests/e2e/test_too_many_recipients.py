"""More recipients than one submission takes: several submissions, each recipient in one, one final result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from contracts.delivery import DeliveryStatus, RecipientStatus, Result
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import publisher
from tests.neighbours import running_worker
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.emulator.files import mailboxes_file
from worker.emulator.run import Emulator, Plan, emulating
from worker.emulator.scenario import Limits

TO, CC = ["jana@contoso.example"], ["omar@contoso.example", "eve@contoso.example"]
BCC = [f"hidden-{number}@contoso.example" for number in range(5)]
EVERYBODY = [*TO, *CC, *BCC]


async def sent(address: BrokerAddress, topology: Topology, mailboxes: Path, directory: Path) -> Result:
    """The final result of a notification with eight recipients."""
    content: dict[str, Any] = {"to": TO, "cc": CC, "bcc": BCC, "subject": "Hello", "text": "Hello."}
    whole = {"type": NOTIFICATION_TYPE, "id": "n-1", "tenant": "contoso", **content}
    async with (
        running_worker(address, topology, mailboxes, directory),
        publisher(address.url, prefix=topology.prefix) as post,
    ):
        return await post.send(Notification.model_validate(whole), timeout=60)


def accepted(emulator: Emulator) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in emulator.accepted.log.read_text(encoding="utf-8").splitlines()]


def limited(emulator: Emulator, directory: Path, *lines: str, graph: bool = False) -> Path:
    """A mailboxes file with more lines for the platform's mailbox."""
    file = directory / "few.toml"
    text = mailboxes_file(emulator, graph=graph)
    file.write_text(text.replace("[mailboxes.platform]\n", "\n".join(["[mailboxes.platform]", *lines, ""]), 1))
    return file


@pytest.mark.parametrize("limit", ["limits = { recipients_per_message = 3 }", ""], ids=["ours", "the-servers"])
async def test_each_recipient_gets_one_copy_with_the_same_headers(
    address: BrokerAddress, topology: Topology, tmp_path: Path, limit: str
) -> None:
    async with emulating(Plan(tmp_path / "emulator", limits=Limits(recipients_per_message=3))) as emulator:
        result = await sent(address, topology, limited(emulator, tmp_path, limit), tmp_path)
        mails = accepted(emulator)
    assert (result.status, len(result.recipients)) == (DeliveryStatus.ACCEPTED, len(EVERYBODY))
    assert [len(mail["rcpt_to"]) for mail in mails] == [3, 3, 2]
    assert sorted(rcpt for mail in mails for rcpt in mail["rcpt_to"]) == sorted(EVERYBODY)
    copies = [message_from_bytes(Path(mail["path"]).read_bytes()) for mail in mails]
    assert len({(copy["To"], copy["Cc"], copy["Message-ID"], copy["Date"]) for copy in copies}) == 1
    assert copies[0]["Cc"] == ", ".join(CC)


async def test_graph_gets_each_part_with_its_own_recipients_alone(
    address: BrokerAddress, topology: Topology, emulator: Emulator, tmp_path: Path
) -> None:
    lines = ["limits = { recipients_per_message = 2 }", 'channels = ["graph", "smtp"]']
    result = await sent(address, topology, limited(emulator, tmp_path, *lines, graph=True), tmp_path)
    assert {item.status for item in result.recipients} == {RecipientStatus.ACCEPTED}
    mails = accepted(emulator)
    assert [mail["mechanism"] for mail in mails] == ["graph"] * 4
    assert sorted(rcpt for mail in mails for rcpt in mail["rcpt_to"]) == sorted(EVERYBODY)
