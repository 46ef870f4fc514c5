"""Every conversation in `dialogs/`: what the server says, what we must say, and what we make of it."""

import asyncio
import ssl

import pytest

from tests.adapters.smtp.dialog import DIALOGS, Dialog, Stage, Tokens, Tripped, agrees, described, read
from tests.adapters.smtp.server import PATIENCE, listening
from tests.fakes import Events
from worker.smtp.transport import SmtpTransport

ALL = [read(path) for path in sorted(DIALOGS.glob("*.txt"))]
CHOPPED = [dialog for dialog in ALL if dialog.fields.get("packets") != "whole"]


async def play(dialog: Dialog, tls: ssl.SSLContext, ca_file: str, *, by_octets: bool) -> None:
    stage = Stage(dialog, tls)
    transport = SmtpTransport(Tokens(dialog.fields.get("token", "").split()), dialog.timeouts, Events())
    results = []
    implicit = tls if dialog.tls == "implicit" else None
    async with listening(stage.serve, tls=implicit, by_octets=by_octets) as listener, asyncio.timeout(2 * PATIENCE):
        mailbox = dialog.mailbox(listener.port, ca_file)
        try:
            for _ in dialog.results:
                await stage.next_mail()
                try:
                    submission = await transport.submit(mailbox, dialog.envelope, dialog.message, stage.handing_over)
                except Tripped:
                    results.append(["tripped"])
                else:
                    results.append(described(submission))
                stage.returned()
            await stage.over()
        finally:
            await transport.close()
        await listener.until(lambda: listener.open == 0)
    assert len(results) == len(dialog.results)
    for result, expected in zip(results, dialog.results, strict=True):
        assert result == expected or agrees(result, expected)
    assert stage.calls == dialog.expected_calls


@pytest.mark.parametrize("dialog", ALL, ids=lambda dialog: dialog.path.stem)
async def test_conversation_comes_to_its_submission(dialog: Dialog, server_tls: ssl.SSLContext, ca_file: str) -> None:
    await play(dialog, server_tls, ca_file, by_octets=False)


@pytest.mark.parametrize("dialog", CHOPPED, ids=lambda dialog: dialog.path.stem)
async def test_conversation_in_single_octets_comes_to_the_same(
    dialog: Dialog, server_tls: ssl.SSLContext, ca_file: str
) -> None:
    await play(dialog, server_tls, ca_file, by_octets=True)
