"""Reports of non-delivery, whatever stands in the header of the mail they are about."""

from __future__ import annotations

import asyncio
import base64
import json
import smtplib
import ssl
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP, default
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.emulator.cloud import cloud_of
from worker.emulator.run import Emulator

SENDER = "notifications@contoso.example"
NOBODY = "ndr-no-such-recipient@fabrikam.example"


def sent(emulator: Emulator, content: bytes, *, sender: str = SENDER, options: list[str] | None = None) -> None:
    """By smtplib, as it stands."""
    context = ssl.create_default_context(cafile=str(emulator.certificates.ca_file))
    with smtplib.SMTP("localhost", emulator.office365.port, timeout=20) as smtp:
        smtp.starttls(context=context)
        smtp.login(SENDER, "emulated-password")
        assert smtp.sendmail(sender, [NOBODY], content, rcpt_options=options or []) == {}


def told(emulator: Emulator) -> list[dict[str, Any]]:
    """The lines of the log."""
    log = emulator.backstage.bounces.log
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def letter(subject: str, name: str = "") -> bytes:
    mail = EmailMessage()
    mail["From"] = f"{name} <{SENDER}>" if name else SENDER
    mail["Message-ID"] = "<1@contoso.example>"
    mail["Subject"] = subject
    mail.set_content("Hello")
    return mail.as_bytes(policy=SMTP)


@pytest.mark.parametrize(
    "content",
    [
        letter("Faktura č. 7"),
        letter("Faktura", "Žofie Nováková"),
        f"From: {SENDER}\r\nMessage-ID: <1@contoso.example>\r\nSubject: Faktura č. 7\r\n\r\nHello\r\n".encode(),
        f"From: {SENDER}\r\nMessage-ID: <1@contoso.example>\r\nSubject: na\xefve\r\n\r\nHello\r\n".encode("latin-1"),
        f"From: {SENDER}\r\nMessage-ID:\r\n <1@contoso.example>\r\nSubject: a\r\n\tb\r\n\r\nHello\r\n".encode(),
        f"From: {SENDER}\r\nMessage-ID: <1@contoso.example>\r\nSubject: =?x?q?=ff?= \x01\r\n\r\nHello\r\n".encode(),
    ],
    ids=["encoded-subject", "encoded-name", "raw-utf-8", "latin-1", "folded", "nonsense"],
)
async def test_mail_is_accepted_and_reported_with_its_header_as_it_came(emulator: Emulator, content: bytes) -> None:
    await asyncio.to_thread(sent, emulator, content)
    (line,) = told(emulator)
    assert (line["recipient"], line["message_id"]) == (NOBODY, "<1@contoso.example>")
    written = Path(line["path"]).read_bytes()
    assert content.partition(b"\r\n\r\n")[0] in written
    report = BytesParser(policy=default).parsebytes(written)
    assert [part.get_content_type() for part in report.iter_parts()] == [  # type: ignore[attr-defined]
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]


async def test_report_that_cannot_be_written_does_not_reach_the_session(emulator: Emulator) -> None:
    emulator.backstage.bounces.log.mkdir()
    await asyncio.to_thread(sent, emulator, letter("Hello"))
    assert "no report" in emulator.backstage.journal.path.read_text()


@pytest.mark.parametrize(
    ("sender", "options"),
    [("", []), (SENDER, ["NOTIFY=NEVER"]), (SENDER, ["NOTIFY=SUCCESS,DELAY"])],
    ids=["null-sender", "never", "not-of-failure"],
)
async def test_nobody_is_told_who_does_not_want_to_be(emulator: Emulator, sender: str, options: list[str]) -> None:
    await asyncio.to_thread(lambda: sent(emulator, letter("Hello"), sender=sender, options=options))
    assert len(emulator.accepted.log.read_text().splitlines()) == 1
    assert told(emulator) == []


async def test_report_is_written_where_failure_is_asked_for(emulator: Emulator) -> None:
    await asyncio.to_thread(lambda: sent(emulator, letter("Hello"), options=["NOTIFY=SUCCESS,FAILURE"]))
    assert len(told(emulator)) == 1


@pytest.mark.parametrize(
    "content",
    [
        letter("Faktura č. 7", "Žofie Nováková"),
        f"From: {SENDER}\r\nSubject: Faktura č. 7\r\n\r\nHello\r\n".encode(),
        f"From: {SENDER}\r\nSubject: na\xefve\r\n\r\nHello\r\n".encode("latin-1"),
    ],
    ids=["encoded", "raw-utf-8", "latin-1"],
)
async def test_mail_over_graph_is_reported_too(emulator: Emulator, content: bytes) -> None:
    async with cloud_of(emulator) as cloud:
        token = (await cloud.app()).json()["access_token"]
        mail = base64.b64encode(f"To: {NOBODY}\r\n".encode() + content)
        answer = await cloud.post_octets(f"/users/{SENDER}/sendMail", mail, token, "text/plain")
    assert answer.status_code == 202
    (line,) = told(emulator)
    assert line["recipient"] == NOBODY
