"""What a client may say in EHLO, AUTH, MAIL, RCPT and in the header, and what it is told about the rest."""

from __future__ import annotations

import base64
import json
import re
import ssl
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import aiosmtplib
import pytest

from tests.adapters.emulator.client import Client
from tests.adapters.emulator.cloud import SMTP as FOR_SMTP
from tests.adapters.emulator.cloud import cloud_of
from worker.emulator.run import CLIENT_ID, Emulator, Plan, emulating
from worker.emulator.scenario import Limits
from worker.emulator.world import MailboxAccount

SENDER = "notifications@contoso.example"
JANA = "jana@fabrikam.example"
FROM = f"From: {SENDER}\r\n"


async def said(emulator: Emulator, *lines: str) -> str:
    """The reply to the last of these lines, by somebody who has logged in."""
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        return [await client.say(line) for line in lines][-1]


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        (f"FROM:<{SENDER}> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=a+2B AUTH=<> SMTPUTF8", "250 2.1.0"),
        (f"from: <{SENDER}>", "250 2.1.0"),
        ("FROM:<>", "250 2.1.0"),
        (f"TO:<{SENDER}>", "501 5.5.4 Invalid arguments"),
        (f"FROM:<{SENDER}> FOO=BAR", "501 5.5.4 Unrecognized parameter"),
        (f"FROM:<{SENDER}> NOTIFY=NEVER", "501 5.5.4 Unrecognized parameter"),
        (f"FROM:<{SENDER}> SIZE=abc", "501 5.5.4 Invalid arguments"),
        (f"FROM:<{SENDER}> SIZE=1 SIZE=2", "501 5.5.4 Invalid arguments"),
        (f"FROM:<{SENDER}>SIZE=1", "501 5.5.4 Invalid arguments"),
        (f"FROM:<{SENDER}> BODY=9BIT", "501 5.5.4 Invalid arguments"),
        (SENDER, "501 5.5.4 Invalid arguments"),
        ("FROM:<nonsense>", "501 5.1.7"),
        ("FROM:<žofie@contoso.example>", "501 5.1.6"),
    ],
)
async def test_sender_is_taken_or_said_what_is_wrong_with(emulator: Emulator, argument: str, reply: str) -> None:
    assert (await said(emulator, f"MAIL {argument}")).startswith(reply)


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        (f"TO:<{JANA}> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;jana+40fabrikam.example", "250 2.1.5"),
        ('TO:<"a b@c>"@fabrikam.example>', "250 2.1.5"),
        ("TO:<jana@[192.0.2.1]>", "250 2.1.5"),
        ("TO:<>", "501 5.1.3 Invalid address"),
        ("TO:<nonsense>", "501 5.1.3 Invalid address"),
        ("TO:<a b@c.example>", "501 5.1.3 Invalid address"),
        ("TO:<a@b@c.example>", "501 5.1.3 Invalid address"),
        ("TO:<a@>", "501 5.1.3 Invalid address"),
        ("TO:<@b.example>", "501 5.1.3 Invalid address"),
        ("TO:<a..b@c.example>", "501 5.1.3 Invalid address"),
        ("TO:<a@b..example>", "501 5.1.3 Invalid address"),
        ("TO:<a@-b.example>", "501 5.1.3 Invalid address"),
        ("TO:a@b.example", "501 5.1.3 Invalid address"),
        (f"TO:<a@{'b' * 64}.example>", "501 5.1.3 Invalid address"),
        (f"TO:<a@{'b.' * 150}example>", "501 5.1.3 Long addresses not supported"),
        (f"TO:<{'a' * 65}@b.example>", "501 5.1.3 Long addresses not supported"),
        ("TO:<žofie@fabrikam.example>", "501 5.1.6 SMTPUTF8 argument required"),
        (f"TO:<{JANA}> NOTIFY=BOGUS", "501 5.5.4 Invalid arguments"),
        (f"TO:<{JANA}> NOTIFY=NEVER,SUCCESS", "501 5.5.4 Invalid arguments"),
        (f"FROM:<{JANA}>", "501 5.5.4 Invalid arguments"),
    ],
)
async def test_recipient_is_taken_or_said_what_is_wrong_with(emulator: Emulator, argument: str, reply: str) -> None:
    assert (await said(emulator, f"MAIL FROM:<{SENDER}>", f"RCPT {argument}")).startswith(reply)


async def test_address_beyond_ascii_is_taken_where_it_was_announced(emulator: Emulator) -> None:
    reply = await said(emulator, f"MAIL FROM:<{SENDER}> SMTPUTF8", "RCPT TO:<žofie@příklad.example>")
    assert reply.startswith("250 2.1.5")


async def test_octets_that_are_no_text_are_answered_and_journalled(emulator: Emulator) -> None:
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        await client.say(f"MAIL FROM:<{SENDER}>")
        client.put(b"RCPT TO:<\xe9@b.example>\r\n")
        assert (await client.hear()).startswith("501 5.5.4")
    assert '"command": "RCPT", "reply": "501 5.5.4' in emulator.backstage.journal.path.read_text()


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("EHLO", "501 5.0.0"),
        ("HELO ", "501 5.0.0"),
        ("EHLO a b", "501 5.5.4 Invalid domain name"),
        ("EHLO [127.0.0.1]", "250 "),
        ("STARTTLS", "503 5.5.2 Send hello first"),
        ("AUTH LOGIN", "503 5.5.2 Send hello first"),
        (f"MAIL FROM:<{SENDER}>", "503 5.5.2 Send hello first"),
    ],
)
async def test_client_says_who_it_is_first(emulator: Emulator, line: str, reply: str) -> None:
    async with Client(emulator) as client:
        await client.hear()
        assert (await client.say(line)).startswith(reply)


async def test_client_says_who_it_is_again_within_tls(emulator: Emulator) -> None:
    async with Client(emulator) as client:
        await client.hear()
        await client.say("EHLO test.example")
        await client.say("STARTTLS")
        await client.upgraded()
        assert (await client.say("AUTH LOGIN")).startswith("503 5.5.2")


@pytest.mark.parametrize("lines", [("AUTH LOGIN", "*"), ("AUTH LOGIN", "YQ==", "*"), ("AUTH XOAUTH2", "*")])
async def test_login_that_is_broken_off_is_cancelled(emulator: Emulator, lines: tuple[str, ...]) -> None:
    async with Client(emulator) as client:
        await client.secured()
        assert [await client.say(line) for line in lines][-1] == "501 5.5.4 Authentication cancelled"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_token_is_taken_however_its_scheme_is_written(emulator: Emulator, scheme: str) -> None:
    async with cloud_of(emulator) as cloud:
        token = (await cloud.app(FOR_SMTP)).json()["access_token"]
    async with Client(emulator) as client:
        await client.secured()
        assert (await client.say(f"AUTH XOAUTH2 {bearer(SENDER, f'{scheme} {token}')}")).startswith("235")


async def test_journal_knows_whose_token_was_refused(emulator: Emulator) -> None:
    async with Client(emulator) as client:
        await client.secured()
        assert (await client.say(f"AUTH XOAUTH2 {bearer(SENDER, 'Bearer no')}")).startswith("535 5.7.3")
    refused = [line for line in events(emulator) if line["event"] == "login refused"]
    assert [(line["user"], line["mechanism"]) for line in refused] == [(SENDER, "XOAUTH2")]


def events(emulator: Emulator) -> list[dict[str, object]]:
    return [json.loads(line) for line in emulator.backstage.journal.path.read_text().splitlines()]


def bearer(user: str, token: str) -> str:
    return base64.b64encode(f"user={user}\x01auth={token}\x01\x01".encode()).decode()


# ---------------------------------------------------------------- as whom


@pytest.mark.parametrize(
    ("head", "reply"),
    [
        (FROM, "250 2.0.0"),
        (f'From: "a@b" <{SENDER}>\r\n', "250 2.0.0"),
        (f"From: =?utf-8?q?Oddelen=C3=AD?=\r\n =?utf-8?q?_fakturace?=\r\n\t<{SENDER.upper()}>\r\n", "250 2.0.0"),
        (f"From: Novák, Žofie <{SENDER}>\r\n", "250 2.0.0"),
        ("From: boss@contoso.example\r\n", "554 5.2.252 SendAsDenied; notifications@contoso.example not allowed"),
        (f"From: boss@contoso.example\r\nSender: {SENDER}\r\n", "554 5.2.252"),
        (f"{FROM}Sender: boss@contoso.example\r\n", "554 5.2.252"),
        (f"{FROM}{FROM}", "550 5.1.20"),
        (f"From: {SENDER}, {SENDER}\r\n", "550 5.1.20"),
        (f"{FROM}{FROM}Sender: {SENDER}\r\n", "250 2.0.0"),
        ("Subject: nobody's\r\n", "550 5.7.512"),
        ("From: nobody\r\n", "550 5.7.512"),
    ],
)
async def test_author_must_be_the_login(emulator: Emulator, head: str, reply: str) -> None:
    found = await said(emulator, f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{JANA}>", "DATA", f"{head}\r\nHello\r\n.")
    assert found.startswith(reply)


async def test_sender_of_the_envelope_must_be_the_login_too(emulator: Emulator) -> None:
    found = await said(
        emulator, "MAIL FROM:<boss@contoso.example>", f"RCPT TO:<{JANA}>", "DATA", f"{FROM}\r\nHello\r\n."
    )
    assert "not allowed to send as boss@contoso.example" in found


async def test_mailbox_sends_as_whom_it_has_been_allowed_to(tmp_path: Path) -> None:
    mailbox = MailboxAccount(SENDER, "emulated-password", frozenset({CLIENT_ID}), frozenset({"Boss@contoso.example"}))
    async with emulating(Plan(tmp_path, office365_mailboxes=(mailbox,))) as emulator, Client(emulator) as client:
        await client.secured()
        await client.login()
        assert (await client.submit(JANA, sender="boss@contoso.example")).startswith("250")


async def test_library_that_folds_its_header_is_told_the_message_id(emulator: Emulator) -> None:
    mail = EmailMessage(policy=SMTP)
    mail["From"] = Address("Oddělení fakturace a zákaznické podpory, pobočka Žďár nad Sázavou", addr_spec=SENDER)
    mail["To"] = JANA
    mail["Message-ID"] = f"<{'1' * 80}@contoso.example>"
    mail.set_content("Hello")
    context = ssl.create_default_context(cafile=str(emulator.certificates.ca_file))
    async with aiosmtplib.SMTP(
        hostname="localhost", port=emulator.office365.port, start_tls=True, tls_context=context
    ) as smtp:
        await smtp.login(SENDER, "emulated-password")
        _, reply = await smtp.send_message(mail)
    assert f"<{'1' * 80}@contoso.example>" in reply
    assert json.loads(emulator.accepted.log.read_text())["message_id"] == f"<{'1' * 80}@contoso.example>"


async def test_limits_are_of_a_mailbox_however_its_name_is_written(tmp_path: Path) -> None:
    plan = Plan(tmp_path, limits=Limits(connections=1))
    async with emulating(plan) as emulator, Client(emulator) as one, Client(emulator) as other:
        for client, login in ((one, SENDER.upper()), (other, SENDER.title())):
            await client.secured()
            assert (await client.login(login)).startswith("235")
        assert (await one.say(f"MAIL FROM:<{SENDER}>")).startswith("250")
        assert (await other.say(f"MAIL FROM:<{SENDER}>")).startswith("432 4.3.2")


async def test_mail_without_message_id_is_given_one_in_the_reply(emulator: Emulator) -> None:
    reply = await said(emulator, f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{JANA}>", "DATA", f"{FROM}\r\nHello\r\n.")
    assert re.match(r"250 2\.0\.0 OK <\S+@emulator\.outlook\.office365\.example> \[Hostname=", reply)
