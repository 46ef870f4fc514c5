"""Exim."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

import pytest

from contracts.delivery import DeliveryStatus, RecipientStatus
from tests.field.conftest import Opening
from tests.field.dovecot import PASSWORD, USER
from tests.field.exim import Exim
from tests.field.office import HARD, is_whole, login, mailbox


def by_password(server: Exim, ca_file: Path, **keys: object) -> str:
    return mailbox(server.submission, ca_file=ca_file, more=login(USER, PASSWORD), **keys)


@pytest.mark.parametrize("mechanism", ["login", "plain"])
async def test_mail_goes_through_whole(mechanism: str, exim_server: Exim, opened: Opening, ca_file: Path) -> None:
    box = mailbox(exim_server.submission, ca_file=ca_file, more=login(USER, PASSWORD, mechanism))
    async with opened(box) as postlane:
        status, said = await postlane.command("check")
        assert status == 0, said
        result = await postlane.send("jana@contoso.example", bcc=["audit@fabrikam.example"], **HARD)
    assert result.status is DeliveryStatus.ACCEPTED, result
    kept = await asyncio.to_thread(exim_server.inbox.wait, 2)
    assert {str(mail.mail["Envelope-to"]) for mail in kept} == {"jana@contoso.example", "audit@fabrikam.example"}
    assert len({mail.content for mail in kept}) == 1
    assert b"audit@" not in kept[0].content
    is_whole(kept[0].mail)
    (line,) = exim_server.logged(" <= ")
    assert f"A={mechanism}:{USER}" in line
    assert "X=TLS1.3" in line


async def test_each_recipient_is_told_for_itself(exim_server: Exim, opened: Opening, ca_file: Path) -> None:
    async with opened(by_password(exim_server, ca_file)) as postlane:
        await postlane.publish("jana@contoso.example", "unknown@contoso.example", "full@contoso.example", id="mixed")
        mixed = await postlane.inbox.first("mixed")
        nobody = await postlane.send("unknown@contoso.example")
        await postlane.publish("jana@contoso.example", "dropped@contoso.example", id="dropped")
        dropped = await postlane.inbox.first("dropped")
        after = await postlane.send(id="after")
    assert {item.address: (item.status, item.code) for item in mixed.recipients} == {
        "jana@contoso.example": (RecipientStatus.ACCEPTED, 250),
        "unknown@contoso.example": (RecipientStatus.FAILED, 550),
        "full@contoso.example": (RecipientStatus.DEFERRED, 451),
    }
    assert nobody.status is DeliveryStatus.FAILED
    assert dropped.status is DeliveryStatus.DEFERRED
    assert after.status is DeliveryStatus.ACCEPTED
    counted = Counter(str(mail.mail["Message-ID"]) for mail in await asyncio.to_thread(exim_server.inbox.wait, 2))
    assert set(counted.values()) == {1}


async def test_content_that_is_refused_or_put_off(exim_server: Exim, opened: Opening, ca_file: Path) -> None:
    async with opened(by_password(exim_server, ca_file)) as postlane:
        refused = await postlane.send(subject="Forbidden")
        await postlane.publish(id="later", subject="Later")
        later = await postlane.inbox.first("later")
    assert (refused.status, refused.recipients[0].code) == (DeliveryStatus.FAILED, 550)
    assert (later.status, later.recipients[0].code) == (DeliveryStatus.DEFERRED, 451), later


async def test_wrong_password_is_tried_once(exim_server: Exim, opened: Opening, ca_file: Path) -> None:
    async with opened(mailbox(exim_server.submission, ca_file=ca_file, more=login(USER, "wrong"))) as postlane:
        for number in range(10):
            await postlane.publish(id=f"n-{number}")
        await postlane.inbox.until(lambda results: len({result.notification_id for result in results}) == 10)
    assert len(exim_server.logged("authenticator failed")) == 1


async def test_recipient_beyond_ascii_and_implicit_tls(exim_server: Exim, opened: Opening, ca_file: Path) -> None:
    box = mailbox(exim_server.smtps, ca_file=ca_file, tls="implicit", more=login(USER, PASSWORD))
    async with opened(box) as postlane:
        result = await postlane.send("ji\u0159\u00ed@contoso.example")
    assert result.status is DeliveryStatus.ACCEPTED, result
    assert len(await asyncio.to_thread(exim_server.inbox.wait)) == 1


async def test_server_that_is_ended_under_load_leaves_no_more_in_doubt_than_was_under_way(
    exim_server: Exim, opened: Opening, ca_file: Path
) -> None:
    """Exim may be ended between the final dot and its reply: nobody can know, so nothing is sent again by itself."""
    async with opened(by_password(exim_server, ca_file)) as postlane:

        async def outages() -> None:
            for number in (15, 50):
                await postlane.inbox.until(lambda results, number=number: len(results) >= number, 90)
                await asyncio.to_thread(exim_server.stop)
                await asyncio.to_thread(exim_server.start)

        trouble = asyncio.create_task(outages())
        results = await postlane.flood(100)
        await trouble
    accepted = {str(result.message_id) for result in results if result.status is DeliveryStatus.ACCEPTED}
    doubtful = {str(result.message_id) for result in results if result.status is DeliveryStatus.IN_DOUBT}
    assert len(accepted) + len(doubtful) == 100
    assert len(doubtful) <= 2 * 4, "two outages, four connections"
    taken = Counter(re.sub(r".* id=(\S+).*", r"<\1>", line) for line in exim_server.logged(" <= .* id="))
    assert accepted <= taken.keys() <= accepted | doubtful
    assert set(taken.values()) == {1}
