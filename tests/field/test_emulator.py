"""The emulator as other people's servers see it that relay their mail to Office 365."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.field.exim import OWNER
from tests.field.ground import Missing, account, as_root, home, program
from worker.emulator.run import Emulator, Plan, emulating

SENDER = "notifications@contoso.example"
JANA = "jana@fabrikam.example"

_CONFIGURATION = """
exim_path = {program}
exim_user = {owner}
exim_group = {owner}
primary_hostname = mail.contoso.example
spool_directory = {home}/spool
log_file_path = {home}/spool/log/%slog
keep_environment =
host_lookup =

begin routers
office365:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = submission

begin transports
submission:
  driver = smtp
  port = {port}
  hosts_try_chunking = *
  hosts_require_tls = *
  hosts_require_auth = *
  tls_verify_hosts =

begin authenticators
login:
  driver = plaintext
  public_name = LOGIN
  client_send = : {sender} : emulated-password
"""


@dataclass(frozen=True, slots=True)
class Relay:
    """An Exim that hands everything on."""

    home: Path
    program: Path

    def send(self, content: bytes, port: int) -> str:
        """Hand a mail on at once. Returns what it logged."""
        configuration = self.home / "exim.conf"
        configuration.write_text(
            _CONFIGURATION.format(program=self.program, owner=OWNER, home=self.home, port=port, sender=SENDER)
        )
        command = [self.program, "-C", configuration, "-odf", "-oi", "-f", SENDER, JANA]
        subprocess.run(command, input=content, check=True, timeout=60, capture_output=True)
        return (self.home / "spool/log/mainlog").read_text(encoding="utf-8", errors="replace")


@pytest.fixture
def relay() -> Iterator[Relay]:
    """An Exim that nobody has asked for anything."""
    with home("relay") as directory:
        try:
            as_root("Exim")
            account(OWNER)
            found = program("exim4")
        except Missing as missing:
            pytest.skip(str(missing))
        (directory / "spool").mkdir()
        shutil.chown(directory / "spool", OWNER, OWNER)
        yield Relay(directory, found)


@pytest.fixture
async def office365(tmp_path: Path) -> AsyncIterator[Emulator]:
    """The emulator."""
    async with emulating(Plan(tmp_path / "emulator")) as running:
        yield running


@pytest.mark.parametrize("body", [b"hello\n.\nQUIT\n", b"x" * 70 + b"\n" + b"Dobr\xc3\xbd den\n" * 200_000])
async def test_exim_hands_its_mail_on_in_chunks(relay: Relay, office365: Emulator, body: bytes) -> None:
    content = f"From: {SENDER}\nTo: {JANA}\nSubject: Faktura\n\n".encode() + body
    logged = await asyncio.to_thread(relay.send, content, office365.office365.port)
    assert f" => {JANA} " in logged
    assert " K C=" in logged  # K is for CHUNKING
    (kept,) = map(json.loads, office365.accepted.log.read_text().splitlines())
    assert Path(kept["path"]).read_bytes().endswith(b"\r\n\r\n" + body.replace(b"\n", b"\r\n"))


async def test_exim_understands_who_may_not_send_as_whom(relay: Relay, office365: Emulator) -> None:
    content = f"From: boss@contoso.example\nTo: {JANA}\n\nHello\n".encode()
    logged = await asyncio.to_thread(relay.send, content, office365.office365.port)
    assert f" ** {JANA} " in logged
    assert "not allowed to send as boss@contoso.example" in logged
