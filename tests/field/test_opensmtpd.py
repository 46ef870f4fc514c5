"""OpenSMTPD."""

from __future__ import annotations

import asyncio

from contracts.delivery import DeliveryStatus, RecipientStatus
from tests.field.conftest import Opening
from tests.field.office import HARD, is_whole, mailbox
from tests.field.opensmtpd import OpenSmtpd


async def test_mail_goes_through_whole(openbsd_server: OpenSmtpd, opened: Opening) -> None:
    async with opened(mailbox(openbsd_server.port, ca_file=None, tls="none")) as postlane:
        status, said = await postlane.command("check")
        assert status == 0, said
        result = await postlane.send(bcc=["audit@fabrikam.example"], **HARD)
    assert result.status is DeliveryStatus.ACCEPTED, result
    kept = await asyncio.to_thread(openbsd_server.inbox.wait, 2)
    assert len({mail.content for mail in kept}) == 1
    assert b"audit@" not in kept[0].content
    is_whole(kept[0].mail)


async def test_each_recipient_is_told_for_itself_and_sixty_mails_come_once(
    openbsd_server: OpenSmtpd, opened: Opening
) -> None:
    async with opened(mailbox(openbsd_server.port, ca_file=None, tls="none")) as postlane:
        mixed = await postlane.send("jana@contoso.example", "unknown@contoso.example")
        foreign = await postlane.send("jana@elsewhere.example")
        results = await postlane.flood(60)
    assert {item.address: item.status for item in mixed.recipients} == {
        "jana@contoso.example": RecipientStatus.ACCEPTED,
        "unknown@contoso.example": RecipientStatus.FAILED,
    }
    assert foreign.status is DeliveryStatus.FAILED
    assert {result.status for result in results} == {DeliveryStatus.ACCEPTED}
    kept = await asyncio.to_thread(openbsd_server.inbox.wait, 61)
    assert len({str(mail.mail["Message-ID"]) for mail in kept}) == len(kept) == 61


async def test_server_without_starttls_is_sent_nothing_where_it_is_required(
    openbsd_server: OpenSmtpd, opened: Opening
) -> None:
    async with opened(mailbox(openbsd_server.port, ca_file=None)) as postlane:
        await postlane.publish(id="waits")
        result = await postlane.inbox.first("waits")
    assert result.status is DeliveryStatus.DEFERRED
    assert "STARTTLS" in str(result.reason)
    assert not openbsd_server.inbox.mails()
