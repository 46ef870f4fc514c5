"""Elixeum: a default mailbox for tenants that have set nothing, a tenant's own server for all of its mail."""

from __future__ import annotations

import json
import ssl
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from contracts.delivery import Because, DeliveryStatus, Result
from tests.acceptance.installation import (
    JANA,
    OMAR,
    Installation,
    files,
    mailbox,
    notification,
)
from tests.acceptance.server import MailServer
from tests.neighbours import PATIENCE, free_port

NO_REPLY = "no-reply@platform.example"
PURPOSES = ("user-created", "registration", "password-reset", "invite", "notification", "approval", "form", "report")
PASSWORD = "the-password-of-the-tenant"
LOGIN = f'login = {{ username = "portal@tenant.example", password = "{PASSWORD}" }}'


def platform(server: MailServer) -> str:
    """The platform's default mailbox; goes first into the file."""
    return 'default = "no-reply"\n' + mailbox("no-reply", server, address=NO_REPLY)


def settings(**keys: str | int) -> dict[str, str]:
    """A tenant's settings as the product has them; Server=… stands for SMTP.Server."""
    return {"settings.json": json.dumps({f"SMTP.{key}": value for key, value in keys.items()})}


def chosen(result: Result) -> tuple[str, Because] | None:
    return (result.mailbox.name, result.mailbox.because) if result.mailbox else None


def refused(result: Result) -> str:
    """Why it was refused."""
    assert (result.status, result.attempt) == (DeliveryStatus.REJECTED, 0)
    assert result.reason is not None
    return result.reason.kind


# ---------------------------------------------------------------- the default mailbox, and one's own


@pytest.mark.row("ELX-S1", "ELX-S2")
async def test_every_kind_of_mail_of_a_tenant_with_nothing_set_leaves_by_the_default_mailbox(
    lane: Installation, c: MailServer
) -> None:
    lane.configure(platform(c))
    await lane.worker()
    for purpose in PURPOSES:
        result = await lane.post.send(notification(purpose, "one", category=purpose))
        assert result.status is DeliveryStatus.ACCEPTED
        assert chosen(result) == ("no-reply", Because.DEFAULT)
    assert [(mail.mail_from, mail.message["From"]) for mail in c.taken] == [(NO_REPLY, NO_REPLY)] * len(PURPOSES)


async def test_elx_s3_mass_mail_and_another_sender_are_refused_until_the_tenant_has_a_server_of_its_own(
    lane: Installation, a: MailServer, c: MailServer
) -> None:
    lane.configure(platform(c))
    worker = await lane.worker()
    sender = "portal@tenant.example"
    mass = await lane.post.send(notification("mass-1", "one", category="mass", to=[JANA, OMAR]))
    assert refused(mass) == "no-mailbox"
    assert refused(await lane.post.send(notification("from-1", "one", from_=sender))) == "sender-not-allowed"
    own = [f"address={sender}", 'tenants=["one"]', "host=127.0.0.1", f"port={a.port}", "tls=none"]
    assert (await lane.postlane("mailbox", "add", "own", *own)).status == 0
    await worker.logged("mailboxes changed")
    assert (await lane.post.send(notification("from-2", "one", from_=sender))).status is DeliveryStatus.ACCEPTED
    mass = await lane.post.send(notification("mass-2", "one", category="mass", to=[JANA, OMAR]))
    assert (mass.status, mass.expanded_into) == (DeliveryStatus.EXPANDED, 2)
    taken = await a.until_taken(3)
    assert {mail.rcpt_to for mail in taken[1:]} == {(JANA,), (OMAR,)}
    assert {mail.mail_from for mail in taken} == {sender}
    assert c.connections == 0


async def test_elx_s10_own_server_takes_all_mail_and_while_it_is_down_none_of_it_leaks_to_the_default(
    lane: Installation, a: MailServer, c: MailServer
) -> None:
    lane.configure(
        platform(c),
        mailbox("up", a, 'tenants = ["up"]'),
        mailbox("down", free_port(), 'tenants = ["down"]'),
    )
    await lane.worker()
    purposes = (*PURPOSES, "health-check", "mass")
    for purpose in purposes:
        await lane.post.publish(notification(f"up-{purpose}", "up", category=purpose))
        await lane.post.publish(notification(f"down-{purpose}", "down", category=purpose))
    for purpose in purposes:
        assert (await lane.inbox.final(f"up-{purpose}")).status is DeliveryStatus.ACCEPTED
        assert (await lane.inbox.first(f"down-{purpose}")).status is DeliveryStatus.DEFERRED
    assert sorted(a.ids) == sorted(f"up-{purpose}" for purpose in purposes)
    assert c.connections == 0


# ---------------------------------------------------------------- its keys


@pytest.mark.row("ELX-S6", "ELX-S7")
async def test_server_is_an_address_or_a_name_and_port_587_means_that_starttls_is_required(
    lane: Installation, a: MailServer, b: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    a.logins = b.logins = {"portal@tenant.example": PASSWORD}
    b.starttls = server_tls
    keys = {"Username": "portal@tenant.example", "Password": PASSWORD}
    for name, host, server in (("address", "127.0.0.1", a), ("name", "localhost", b)):
        said = await lane.take_over(
            "elixeum", settings(Server=host, Port=587, **keys), "--name", name, "--tenant", name
        )
        assert said.status == 0
        lane.amend("port = 587", f"port = {server.port}\n{ca}")
    await lane.worker()
    await lane.post.publish(notification("in-the-open", "address"))
    waiting = await lane.inbox.first("in-the-open")
    assert waiting.status is DeliveryStatus.DEFERRED
    assert waiting.reason is not None
    assert "STARTTLS" in waiting.reason.explanation
    assert (a.said("AUTH"), a.said("MAIL"), a.connections) == ([], [], 1)
    assert (await lane.post.send(notification("n-1", "name"))).status is DeliveryStatus.ACCEPTED
    assert [(mail.login, mail.secure) for mail in b.taken] == [("portal@tenant.example", True)]


async def test_elx_s7_port_is_a_number_from_1_to_65535_that_is_for_sending(lane: Installation) -> None:
    keys = {"Server": "smtp.tenant.example", "Username": "portal@tenant.example", "Password": PASSWORD}
    for port in (0, 65536, "587", 993, 995, 443):
        said = await lane.take_over("elixeum", settings(Port=port, **keys))
        assert said.status == 2, port
        assert "SMTP.Port" in said.output
        assert PASSWORD not in said.output + said.errors
    assert not lane.mailboxes.exists()


async def test_elx_w1_sender_is_the_configured_one_else_the_user_if_that_is_an_address(
    lane: Installation, a: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    a.starttls, a.logins = server_tls, {"portal@tenant.example": PASSWORD, "portal": PASSWORD}
    keys: dict[str, str | int] = {"Server": "localhost", "Port": 587, "Password": PASSWORD}
    named = settings(**keys, Username="portal", SenderName="Tenant Portal", SenderAddress="news@tenant.example")
    user = settings(**keys, Username="portal@tenant.example")
    for tenant, given in (("named", named), ("user", user)):
        assert (await lane.take_over("elixeum", given, "--name", tenant, "--tenant", tenant)).status == 0
    nobody = await lane.take_over("elixeum", settings(**keys, Username="portal"), "--name", "nobody")
    assert nobody.status == 2
    assert "SMTP.SenderAddress" in nobody.output
    lane.amend("port = 587", f"port = {a.port}\n{ca}")
    await lane.worker()
    for tenant in ("named", "user"):
        assert (await lane.post.send(notification("n-1", tenant))).status is DeliveryStatus.ACCEPTED
    senders = [(mail.login, mail.mail_from, mail.message["From"]) for mail in a.taken]
    assert senders == [
        ("portal", "news@tenant.example", "Tenant Portal <news@tenant.example>"),
        ("portal@tenant.example", "portal@tenant.example", "portal@tenant.example"),
    ]


async def test_elx_w4_wrong_settings_have_their_verdict_and_nothing_is_half_taken_over(lane: Installation) -> None:
    complete: dict[str, str | int] = {"Server": "smtp.tenant.example", "Port": 587, "Username": "portal@tenant.example"}
    nested = json.dumps({"SMTP": {"Server": "smtp.tenant.example", "Port": 587}})
    blank_server = settings(**{**complete, "Server": "", "Password": PASSWORD})
    for given, verdict, key in (
        (settings(**complete), "inactive", "SMTP.Password"),
        (blank_server, "inactive", "SMTP.Server"),
        ({"settings.json": nested}, "reject", "SMTP"),
        (settings(Host="smtp.tenant.example", Port=587, Username="u@tenant.example"), "reject", "SMTP.Host"),
        (settings(**{**complete, "Port": 993}, Password=PASSWORD), "reject", "SMTP.Port"),
    ):
        said = await lane.take_over("elixeum", given, "--tenant", "one", "--json")
        assert (said.json["verdict"], said.status) == (verdict, 2 if verdict == "reject" else 0)
        assert key in [finding["key"] for finding in said.json["findings"]]
        assert PASSWORD not in said.output + said.errors
        assert not lane.mailboxes.exists()
    masked = await lane.take_over("elixeum", settings(**complete, Password=""), "--tenant", "one", "--json")
    assert (masked.json["verdict"], masked.status) == ("needs_secret", 0)
    assert masked.json["mailboxes"][0]["secret"] == "missing"


# ---------------------------------------------------------------- Office 365


async def test_elx_w3_taking_over_a_login_by_password_at_office_365_warns_that_it_ends(lane: Installation) -> None:
    for host in ("smtp.office365.com", "smtp-mail.outlook.com"):
        keys = settings(Server=host, Port=587, Username="portal@tenant.example", Password=PASSWORD)
        said = await lane.take_over("elixeum", keys, "--tenant", "one", "--json", "--dry-run")
        assert (said.json["verdict"], said.status) == ("accept_warn", 0)
        (warning,) = (each for each in said.json["findings"] if each["code"] == "office365.basic_auth_ends")
        assert "December 2026" in warning["reason"]
        assert "[oauth]" in warning["proposal"]


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        ("535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.", "CASMailbox"),
        (
            "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
            "CASMailbox",
        ),
        ("535 5.7.3 Authentication unsuccessful", "password"),
        ("550 5.7.30 Basic authentication is not supported for Client Submission.", "OAuth"),
    ],
)
async def test_elx_s12_login_that_office_365_refuses_is_tried_once_told_with_the_advice_and_the_server_rests(
    lane: Installation, a: MailServer, server_tls: ssl.SSLContext, ca: str, reply: str, advice: str
) -> None:
    a.starttls, a.logins, a.replies["AUTH"] = server_tls, {"portal@tenant.example": PASSWORD}, reply
    lane.configure(mailbox("own", a, ca, 'tenants = ["one"]', LOGIN, tls="starttls"))
    worker = await lane.worker()
    for number in range(5):
        await lane.post.publish(notification(f"n-{number}", "one"))
        result = await lane.inbox.first(f"n-{number}")
        assert result.status is DeliveryStatus.DEFERRED
        assert result.reason is not None
        assert advice in result.reason.remedy
        assert result.next_attempt_at is not None
        assert result.next_attempt_at - datetime.now(UTC) > timedelta(minutes=5)
    assert (len(a.said("AUTH")), a.taken) == (1, [])
    paused = await worker.logged("mailbox paused", mailbox="own")
    assert [line for line in worker.lines if line["event"] == "mailbox paused"] == [paused]


async def test_elx_s13_health_names_what_an_administrator_has_to_look_at_in_office_365(
    lane: Installation, a: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    reply = "535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to be authenticated"
    a.starttls, a.logins, a.replies["AUTH"] = server_tls, {"portal@tenant.example": PASSWORD}, reply
    lane.configure(mailbox("own", a, ca, 'tenants = ["one"]', LOGIN, tls="starttls"))
    port = free_port()
    await lane.worker(POSTLANE_HEALTH__PORT=str(port))
    async with httpx2.AsyncClient(timeout=PATIENCE) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/healthz/mailboxes")
    found = answer.json()["mailboxes"]["own"]
    assert found["state"] == "login-refused"
    for word in ("sign in", "licence", "Authenticated SMTP", "security defaults", "whole tenant"):
        assert word in found["remedy"]
    looked = await lane.postlane("mailbox", "test", "own")
    assert "licence" in looked.output
    assert PASSWORD not in answer.text + looked.output + looked.errors


# ---------------------------------------------------------------- what the portal hears


async def test_elx_w2_every_notification_has_exactly_one_final_result_with_its_id(
    lane: Installation, a: MailServer, pickup: Path
) -> None:
    a.refused["nobody@people.example"] = "550 5.1.1 No such user"
    lane.configure(mailbox("own", a, 'tenants = ["one"]'), files("files", pickup, 'tenants = ["two"]'))
    await lane.worker()
    over = datetime.now(UTC) - timedelta(seconds=1)
    sent = {
        "staged": (notification("staged", "one", category="invite", metadata={"user": 7}), DeliveryStatus.ACCEPTED),
        "filed": (notification("filed", "two", category="invite"), DeliveryStatus.HANDED_OVER),
        "gone": (notification("gone", "one", to=["nobody@people.example"]), DeliveryStatus.FAILED),
        "late": (notification("late", "one", category="password-reset", expires_at=over), DeliveryStatus.EXPIRED),
    }
    for each, _ in sent.values():
        await lane.post.publish(each)
    for name, (_, status) in sent.items():
        assert (await lane.inbox.final(name)).status is status
    await lane.post.send(notification("last", "one"))
    finals = Counter(result.notification_id for result in lane.inbox.results if result.final)
    assert finals == dict.fromkeys([*sent, "last"], 1)
    assert (await lane.inbox.final("staged")).metadata == {"user": 7}
