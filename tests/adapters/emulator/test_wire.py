"""Whatever is sent over SMTP is answered: mails of no size and of any size, in any pieces."""

from __future__ import annotations

import asyncio
import base64
import smtplib
import ssl
from pathlib import Path

import pytest

from tests.adapters.emulator.client import Client
from worker.emulator.run import Emulator, Plan, emulating
from worker.emulator.scenario import Limits
from worker.emulator.wire import Wire

SENDER = "notifications@contoso.example"
HEAD = f"From: {SENDER}\r\n\r\n"


def wire(*arrivals: bytes) -> Wire:
    """What has arrived, and nothing more will."""
    reader = asyncio.StreamReader()
    for each in arrivals:
        reader.feed_data(each)
    reader.feed_eof()
    return Wire(reader)


@pytest.mark.parametrize(
    ("sent", "content"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"ab\r\n.\r\n", b"ab\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"a\r\n..b\r\n...\r\n.\r\n", b"a\r\n.b\r\n..\r\n"),
        (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n"),
        (b"x" * 200_000 + b"\r\n.\r\n", b"x" * 200_000 + b"\r\n"),
    ],
    ids=["nothing", "a-line", "a", "ab", "dot", "dots", "bare-lf", "long-line"],
)
async def test_mail_ends_at_its_dot_and_what_follows_is_the_next_command(sent: bytes, content: bytes) -> None:
    coming = wire(sent + b"NOOP\r\n")
    assert (await coming.mail(1_000_000), await coming.line()) == (content, b"NOOP")


async def test_mail_that_is_too_large_is_read_to_its_end_and_forgotten() -> None:
    coming = wire(b"x" * 100 + b"\r\n.\r\n" + b"y" * 48 + b"\r\n.\r\nNOOP\r\n")
    assert [await coming.mail(50), await coming.mail(50)] == [None, b"y" * 48 + b"\r\n"]
    assert await coming.line() == b"NOOP"


async def test_line_that_is_too_long_is_cut_off_and_the_next_one_is_whole() -> None:
    coming = wire(b"x" * 300_000, b"\r\nNO", b"OP\r\n")
    assert [len(await coming.line()), await coming.line()] == [65536, b"NOOP"]


async def test_client_that_is_gone_in_the_midst_of_a_mail_is_gone() -> None:
    with pytest.raises(ConnectionError):
        await wire(b"a\r\n.").mail(100)


@pytest.mark.parametrize("text", ["", "a", "ab", "..", "\r\n"])
def test_tiny_mail_is_answered(text: str, tmp_path: Path) -> None:
    async def answered() -> None:
        async with emulating(Plan(tmp_path)) as emulator:
            await asyncio.to_thread(submitted, emulator)

    def submitted(emulator: Emulator) -> None:
        with smtplib.SMTP("localhost", emulator.ordinary.port, timeout=10) as smtp:
            smtp.starttls(context=ssl.create_default_context(cafile=str(emulator.certificates.ca_file)))
            smtp.login("notify@fabrikam.example", "emulated-password")
            assert smtp.sendmail(SENDER, ["jana@fabrikam.example"], text) == {}

    asyncio.run(answered())


async def test_mail_that_is_larger_than_the_server_takes_is_refused_at_its_end(tmp_path: Path) -> None:
    async with emulating(Plan(tmp_path, limits=Limits(octets=1000))) as emulator, Client(emulator) as client:
        await client.secured()
        await client.login()
        assert (await client.submit("jana@fabrikam.example", text="x" * 2000)).startswith("552 5.3.4")
        assert (await client.submit("jana@fabrikam.example")).startswith("250")


async def test_mail_above_sixty_four_mebioctets_is_taken(emulator: Emulator) -> None:
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        assert (await client.submit("jana@fabrikam.example", text="x" * 70_000_000)).startswith("250")


async def test_what_was_sent_before_tls_is_not_answered_within(emulator: Emulator) -> None:
    async with Client(emulator) as client:
        await client.hear()
        await client.say("EHLO test.example")
        assert (await client.say("STARTTLS\r\nNOOP")).startswith("220")
        await client.upgraded()
        assert (await client.say("RSET")).startswith("250 2.0.0 Resetting")


async def test_password_that_is_taken_for_a_command_is_not_journalled(emulator: Emulator) -> None:
    async with Client(emulator) as client:
        await client.hear()
        secret = base64.b64encode(b"emulated-password").decode()
        await client.say("EHLO test.example")
        assert (await client.say(f"AUTH LOGIN\r\n{secret}")).startswith("530")
        assert (await client.hear()).startswith("500")
    journal = emulator.backstage.journal.path.read_text()
    assert secret.upper() not in journal.upper()
    assert '"command": "?"' in journal
