"""An SMTP client that says what a test wants, over a socket with real TLS."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from typing import Self

from worker.emulator.run import Emulator

PATIENCE = 10.0  # seconds


class Gone(Exception):  # noqa: N818 - what happened
    """The server has hung up."""


class Client:
    """One connection."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self.greeting = ""

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._emulator.office365.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    def put(self, octets: bytes) -> None:
        """Octets, whatever they are."""
        self._writer.write(octets)

    async def say(self, line: str) -> str:
        """A command, and its reply."""
        self._writer.write(line.encode() + b"\r\n")
        return await self.hear()

    async def hear(self) -> str:
        """A reply; one of several lines as a rule has it: what each line begins with is said once."""
        heard = []
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    line = (await self._reader.readuntil(b"\r\n")).decode().removesuffix("\r\n")
                except (asyncio.IncompleteReadError, ConnectionError) as error:
                    raise Gone from error
                heard.append(line)
                if line[3:4] != "-":
                    return _joined(heard)

    async def closed(self) -> bool:
        """Whether the server hangs up now."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read() == b""

    async def secured(self) -> Self:
        """Greeting, EHLO, STARTTLS, EHLO."""
        self.greeting = await self.hear()
        await self.say("EHLO test.example")
        await self.say("STARTTLS")
        await self.upgraded()
        await self.say("EHLO test.example")
        return self

    async def upgraded(self, context: ssl.SSLContext | None = None, name: str = "localhost") -> None:
        """TLS, without another word."""
        context = context or ssl.create_default_context(cafile=str(self._emulator.certificates.ca_file))
        await self._writer.start_tls(context, server_hostname=name)

    async def login(self, address: str = "notifications@contoso.example", password: str = "emulated-password") -> str:
        await self.say("AUTH LOGIN")
        await self.say(base64.b64encode(address.encode()).decode())
        return await self.say(base64.b64encode(password.encode()).decode())

    async def submit(self, *recipients: str, sender: str = "notifications@contoso.example", text: str = "Hello") -> str:
        """A whole mail; the first reply that is no yes, else the last one."""
        for command in (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{each}>" for each in recipients), "DATA"):
            reply = await self.say(command)
            if reply[0] in "45":
                return reply
        return await self.say(f"From: {sender}\r\nMessage-ID: <1@contoso.example>\r\nSubject: s\r\n\r\n{text}\r\n.")


def _joined(lines: list[str]) -> str:
    code, enhanced = lines[0][:3], re.match(r"\d\.\d+\.\d+ |", lines[0][4:])
    beginning = f"{code}-{enhanced[0] if enhanced else ''}"
    assert all(f"{line[:3]}-{line[4:]}".startswith(beginning) for line in lines[1:]), lines
    return f"{code} {lines[0][4:]}" + "".join(f"\n{line[len(beginning) :]}" for line in lines[1:])
