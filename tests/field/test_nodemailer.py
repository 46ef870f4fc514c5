"""Nodemailer's smtp-server."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.delivery import DeliveryStatus, RecipientStatus
from tests.field.conftest import Opening
from tests.field.dovecot import PASSWORD, USER
from tests.field.nodemailer import smtp_server
from tests.field.office import HARD, bearer, is_whole, login, mailbox
from tests.field.oidc import SCOPE, SECRET, Oidc
from worker.emulator.authority import Certificates


@pytest.mark.parametrize("method", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_mail_goes_through_whole(
    method: str, tls: str, certificates: Certificates, node: None, opened: Opening, ca_file: Path
) -> None:
    with smtp_server(certificates, methods=[method], secure=tls == "implicit") as server:
        async with opened(mailbox(server.port, ca_file=ca_file, tls=tls, more=login(USER, PASSWORD))) as postlane:
            status, said = await postlane.command("check")
            assert status == 0, said
            result = await postlane.send(bcc=["audit@fabrikam.example"], **HARD)
        assert result.status is DeliveryStatus.ACCEPTED, result
        (event,) = server.events("mail")
        (kept,) = server.kept()
    assert event["to"] == ["jana@contoso.example", "audit@fabrikam.example"]
    assert event["secure"]
    assert b"audit@" not in kept.octets
    is_whole(kept.mail)


async def test_each_recipient_is_told_for_itself(
    certificates: Certificates, node: None, opened: Opening, ca_file: Path
) -> None:
    with smtp_server(certificates) as server:
        async with opened(mailbox(server.port, ca_file=ca_file, more=login(USER, PASSWORD))) as postlane:
            await postlane.publish(
                "jana@contoso.example", "unknown@contoso.example", "full@contoso.example", id="mixed"
            )
            mixed = await postlane.inbox.first("mixed")
            nobody = await postlane.send("unknown@contoso.example")
    assert {item.address: (item.status, item.code) for item in mixed.recipients} == {
        "jana@contoso.example": (RecipientStatus.ACCEPTED, 250),
        "unknown@contoso.example": (RecipientStatus.FAILED, 550),
        "full@contoso.example": (RecipientStatus.DEFERRED, 452),
    }
    assert nobody.status is DeliveryStatus.FAILED


async def test_token_that_is_refused_by_a_challenge_is_replaced_once_and_then_the_mailbox_rests(
    certificates: Certificates, node: None, provider: Oidc, opened: Opening, ca_file: Path
) -> None:
    oauth = bearer(provider.issuer, ca_file, client_id="header", client_secret=SECRET, scope=SCOPE)
    with smtp_server(certificates, token="the only good one") as server:
        async with opened(mailbox(server.port, ca_file=ca_file, more=oauth)) as postlane:
            for number in range(10):
                await postlane.publish(id=f"n-{number}")
            await postlane.inbox.until(lambda results: len({result.notification_id for result in results}) == 10)
            results = postlane.inbox.results
        logins = server.events("login")
    assert {result.status for result in results} == {DeliveryStatus.DEFERRED}
    assert {event["method"] for event in logins} == {"XOAUTH2"}
    assert len(logins) <= 2


async def test_session_that_the_server_times_out_costs_nothing(
    certificates: Certificates, node: None, opened: Opening, ca_file: Path
) -> None:
    with smtp_server(certificates, socketTimeout=500) as server:
        box = mailbox(server.port, ca_file=ca_file, idle_seconds=100, more=login(USER, PASSWORD))
        async with opened(box) as postlane:
            first = await postlane.send()
            await postlane.command("check")
            second = await postlane.send()
        assert (first.status, second.status, second.attempt) == (DeliveryStatus.ACCEPTED, DeliveryStatus.ACCEPTED, 1)
        assert len(server.kept()) == 2


async def test_server_that_lets_in_few_clients_gets_every_mail_once(
    certificates: Certificates, node: None, opened: Opening, ca_file: Path
) -> None:
    with smtp_server(certificates, maxClients=2) as server:
        box = mailbox(server.port, ca_file=ca_file, connections=6, more=login(USER, PASSWORD))
        async with opened(box) as postlane:
            results = await postlane.flood(40)
        assert {result.status for result in results} == {DeliveryStatus.ACCEPTED}
        assert len({str(kept.mail["Subject"]) for kept in server.kept()}) == len(server.kept()) == 40
