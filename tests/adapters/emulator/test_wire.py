"""Whatever is sent over SMTP is answered: mails of no size and of any size, in any pieces."""

from __future__ import annotations

import asyncio
import base64
import json
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


# ---------------------------------------------------------------- chunks, RFC 3030


async def chunked(client: Client, *chunks: tuple[str, bytes]) -> list[str]:
    """What a mail in chunks is answered, with the options of each."""
    await client.say(f"MAIL FROM:<{SENDER}> BODY=BINARYMIME")
    await client.say("RCPT TO:<jana@fabrikam.example>")
    said = []
    for options, chunk in chunks:
        client.put(f"BDAT {len(chunk)}{options}\r\n".encode() + chunk)
        said.append(await client.hear())
    return said


async def test_mail_comes_in_chunks_with_whatever_octets_it_has(emulator: Emulator) -> None:
    content = f"{HEAD}a\r\n.\r\nQUIT\r\n".encode() + bytes(range(256))
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        said = await chunked(client, ("", content[:30]), (" last", content[30:]))
        assert [reply[:9] for reply in said] == ["250 2.6.0", "250 2.0.0"]
        assert (await client.say("BDAT 5 LAST\r\nabc")).startswith("503 5.5.2")
        assert (await client.submit("jana@fabrikam.example")).startswith("250")
    (kept, _) = map(json.loads, emulator.accepted.log.read_text().splitlines())
    assert Path(kept["path"]).read_bytes() == content


async def test_chunk_without_octets_ends_a_mail(emulator: Emulator) -> None:
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        assert (await chunked(client, ("", f"{HEAD}a\r\n".encode()), (" LAST", b"")))[1].startswith("250 2.0.0")


async def test_data_is_no_way_to_end_what_began_in_chunks_and_none_for_binary_mail(emulator: Emulator) -> None:
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        await chunked(client)
        assert (await client.say("DATA")).startswith("503 5.5.1")
        await client.say("RSET")
        await client.say(f"MAIL FROM:<{SENDER}>")
        await client.say("RCPT TO:<jana@fabrikam.example>")
        assert (await client.say("BDAT 0")).startswith("250")
        assert (await client.say("DATA")).startswith("503 5.5.1")
        assert (await client.say("RCPT TO:<jana@fabrikam.example>")).startswith("503 5.5.1")


async def test_chunks_that_are_too_large_together_are_refused_and_none_is_a_command(tmp_path: Path) -> None:
    async with emulating(Plan(tmp_path, limits=Limits(octets=100))) as emulator, Client(emulator) as client:
        await client.secured()
        await client.login()
        said = await chunked(client, ("", b"QUIT\r\n" * 10), ("", b"QUIT\r\n" * 10), (" LAST", b"QUIT\r\n"))
        assert [reply[:9] for reply in said] == ["250 2.6.0", "552 5.3.4", "503 5.5.2"]
        assert (await client.say("BDAT")).startswith("501 5.5.4")
        assert (await client.say("NOOP")).startswith("250")
    assert emulator.accepted.log.read_text() == ""


async def test_rules_of_the_final_dot_speak_to_the_last_chunk(emulator: Emulator) -> None:
    emulator.play("data-refused:jana@*", "mailbox-full")
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        assert [reply[:3] for reply in await chunked(client, ("", b"a"), (" LAST", b"b"))] == ["451", "451"]
    emulator.play("mailbox-full")
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        assert (await chunked(client, ("", b"a"), (" LAST", b"b")))[1].startswith("554 5.2.2")


async def test_server_that_does_not_offer_chunks_does_not_take_them(emulator: Emulator) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", emulator.ordinary.port)
    writer.write(b"EHLO test.example\r\nBDAT 0 LAST\r\nQUIT\r\n")
    assert b"\r\n500 5.3.3" in await reader.read()
    writer.close()


# ---------------------------------------------------------------- replies of several lines


async def test_refusal_of_a_strange_sender_has_several_lines_that_all_begin_alike(emulator: Emulator) -> None:
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        reply = await client.submit("jana@fabrikam.example", sender="boss@contoso.example")
    assert reply.startswith("554 5.2.252 SendAsDenied; notifications@contoso.example not allowed to send as boss@")
    assert len(reply.splitlines()) == 4
