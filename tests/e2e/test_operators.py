"""What an operator does about mails that failed or are in doubt, with the commands that the README names."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contracts.delivery import DeliveryStatus, RecipientStatus
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import publisher
from tests.neighbours import Inbox, environment_of, running_worker
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.emulator.run import Emulator


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.out)
        return rows


Postlane = Callable[..., Awaitable[Said]]


@pytest.fixture
async def postlane(
    address: BrokerAddress, topology: Topology, mailboxes: Path, tmp_path: Path
) -> AsyncIterator[Postlane]:
    """The command, beside a running worker with the same ledger."""
    environment = environment_of(address, topology, mailboxes, tmp_path, {})

    async def call(*arguments: str) -> Said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "worker", *arguments),
            env=environment,
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return Said(process.returncode or 0, out.decode(), err.decode())

    async with running_worker(address, topology, mailboxes, tmp_path):
        yield call


def to(*people: str, notification_id: str = "n-1", **fields: object) -> Notification:
    given = {"to": list(people), "subject": "Hello", "text": "Hello.", **fields}
    return Notification.model_validate(
        {"type": NOTIFICATION_TYPE, "id": notification_id, "tenant": "fabrikam", **given}
    )


def accepted(emulator: Emulator) -> list[list[str]]:
    log = emulator.accepted.log
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [json.loads(line)["rcpt_to"] for line in lines]


async def test_misspelt_recipient_is_corrected_and_only_that_one_gets_the_mail(
    postlane: Postlane, inbox: Inbox, emulator: Emulator, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        first = await post.send(to("jana@fabrikam.example", "unknown@fabrikam.example"))
    assert first.status is DeliveryStatus.PARTIALLY_ACCEPTED

    listed = (await postlane("dead", "list", "--json")).rows
    assert [(row["id"], row["tenant"], row["mailbox"]) for row in listed] == [("n-1", "fabrikam", "fabrikam")]
    shown = await postlane("dead", "show", listed[0]["letter"])
    assert '"unknown@fabrikam.example"' in shown.out

    mend = ("--recipient", "unknown@fabrikam.example=omar@fabrikam.example")
    replayed = await postlane("dead", "replay", "--id", "n-1", *mend)
    assert replayed.status == 0, replayed.err
    await inbox.until(lambda results: len(results) == 2)
    second = inbox.results[1]
    assert second.status is DeliveryStatus.ACCEPTED
    assert {each.address: each.status for each in second.recipients} == {
        "jana@fabrikam.example": RecipientStatus.ACCEPTED,
        "omar@fabrikam.example": RecipientStatus.ACCEPTED,
    }
    assert second.event_id != first.event_id
    assert accepted(emulator) == [["jana@fabrikam.example"], ["omar@fabrikam.example"]]
    assert (await postlane("dead", "list", "--json")).rows == []


async def test_replay_of_what_failed_again_is_told_again_as_another_event(
    postlane: Postlane, inbox: Inbox, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.send(to("unknown@fabrikam.example"))
    assert (await postlane("dead", "replay", "--all")).status == 0
    await inbox.until(lambda results: len(results) == 2)
    assert [result.status for result in inbox.results] == [DeliveryStatus.FAILED, DeliveryStatus.FAILED]
    assert len({result.event_id for result in inbox.results}) == 2


async def test_filters_choose_and_a_forgotten_filter_chooses_nothing(
    postlane: Postlane, inbox: Inbox, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.send(to("unknown@fabrikam.example"))
        await post.send(to("unknown@fabrikam.example", notification_id="n-2", mailbox="nowhere"))
    causes = {row["id"]: row["reason"] for row in (await postlane("dead", "list", "--json")).rows}
    assert causes["n-2"] == "unknown-mailbox"
    assert (await postlane("dead", "list", "--json", "--tenant", "contoso")).rows == []
    assert (await postlane("dead", "discard")).status == 2
    assert (await postlane("dead", "discard", "--cause", "unknown-mailbox")).status == 0
    assert [row["id"] for row in (await postlane("dead", "list", "--json")).rows] == ["n-1"]
    assert (await postlane("dead", "discard", "--older", "1d")).status == 1
    assert [row["id"] for row in (await postlane("dead", "list", "--json")).rows] == ["n-1"]


async def test_doubt_that_was_looked_into_is_ended_and_told(
    postlane: Postlane, inbox: Inbox, emulator: Emulator, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        doubt = await post.send(to("lost-250@fabrikam.example"))
    assert doubt.status is DeliveryStatus.IN_DOUBT
    (row,) = (await postlane("doubt", "list", "--json")).rows
    assert (row["id"], row["mailbox"], row["message_id"]) == ("n-1", "fabrikam", doubt.message_id)

    left_alone = await postlane("dead", "replay", "--id", "n-1")
    assert left_alone.status == 1
    assert "end the doubt first" in left_alone.out

    assert (await postlane("doubt", "resolve", "n-1")).status == 2
    assert (await postlane("doubt", "resolve", "n-1", "--accepted")).status == 0
    await inbox.until(lambda results: len(results) == 2)
    resolved = inbox.results[1]
    assert (resolved.status, resolved.final) == (DeliveryStatus.RESOLVED, True)
    assert [each.status for each in resolved.recipients] == [RecipientStatus.ACCEPTED]

    everybody_has_it = await postlane("dead", "replay", "--id", "n-1")
    assert "everybody has it already" in everybody_has_it.out
    assert (await postlane("doubt", "list", "--json")).rows == []
    assert accepted(emulator) == [["lost-250@fabrikam.example"]]


async def test_mail_that_was_found_not_sent_can_be_sent(
    postlane: Postlane, inbox: Inbox, emulator: Emulator, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.send(to("drop-at-dot@fabrikam.example"))
    assert (await postlane("doubt", "resolve", "n-1", "--not-sent")).status == 0
    await inbox.until(lambda results: len(results) == 2)
    assert [each.status for each in inbox.results[1].recipients] == [RecipientStatus.FAILED]
    mend = ("--recipient", "drop-at-dot@fabrikam.example=jana@fabrikam.example")
    assert (await postlane("dead", "replay", "--id", "n-1", *mend)).status == 0
    await inbox.until(lambda results: len(results) == 3)
    assert inbox.results[2].status is DeliveryStatus.ACCEPTED
    assert accepted(emulator) == [["jana@fabrikam.example"]]
