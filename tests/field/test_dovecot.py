"""Dovecot's own submission service, a proxy before a Postfix that knows no logins."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from contracts.delivery import DeliveryStatus, RecipientStatus
from tests.field.conftest import Opening
from tests.field.dovecot import PASSWORD, USER, Dovecot
from tests.field.office import login, mailbox
from tests.field.postfix import Postfix


@pytest.mark.parametrize("mechanism", ["login", "plain"])
async def test_mail_goes_through_the_proxy(
    mechanism: str, proxy: Dovecot, mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    box = mailbox(proxy.submission, ca_file=ca_file, more=login(USER, PASSWORD, mechanism))
    async with opened(box) as postlane:
        status, said = await postlane.command("check")
        assert status == 0, said
        mixed = await postlane.send("jana@contoso.example", "unknown@contoso.example", text="\u017e" * 1000)
        results = await postlane.flood(20)
    assert {item.address: (item.status, item.code) for item in mixed.recipients} == {
        "jana@contoso.example": (RecipientStatus.ACCEPTED, 250),
        "unknown@contoso.example": (RecipientStatus.FAILED, 550),
    }
    assert {result.status for result in results} == {DeliveryStatus.ACCEPTED}
    kept = await asyncio.to_thread(mail_server.inbox.wait, 21)
    assert len({str(mail.mail["Message-ID"]) for mail in kept}) == len(kept) == 21


async def test_wrong_password_is_tried_once(proxy: Dovecot, opened: Opening, ca_file: Path) -> None:
    async with opened(mailbox(proxy.submission, ca_file=ca_file, more=login(USER, "wrong"))) as postlane:
        for number in range(10):
            await postlane.publish(id=f"n-{number}")
        await postlane.inbox.until(lambda results: len({result.notification_id for result in results}) == 10)
    assert len(proxy.logged("Password mismatch")) == 1


async def test_relay_that_is_down_behind_the_proxy_defers_the_mail(
    proxy: Dovecot, mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    mail_server.stop()
    async with opened(mailbox(proxy.submission, ca_file=ca_file, more=login(USER, PASSWORD))) as postlane:
        await postlane.publish(id="waits")
        first = await postlane.inbox.first("waits")
        mail_server.start()
        final = await postlane.inbox.final("waits", 90)
    assert first.status is DeliveryStatus.DEFERRED, first
    assert final.status is DeliveryStatus.ACCEPTED
    assert len(await asyncio.to_thread(mail_server.inbox.wait)) == 1
