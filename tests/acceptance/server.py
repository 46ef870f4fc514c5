"""A mail server whose sessions are looked at from outside: who connected, how, with which login, what it was given."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import email.policy
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage

from tests.adapters.smtp.server import Deviation, Left, Listener, Peer, listening
from tests.neighbours import PATIENCE

OK = "250 2.0.0 Ok"


@dataclass(frozen=True, slots=True)
class Taken:
    """One mail that was said 250 to.

    Attributes:
        login: user name, empty without a login.
        mechanism: of the login, empty without.
        secure: it came over TLS.
        content: octets as they came, dot-stuffing undone.
    """

    mail_from: str
    rcpt_to: tuple[str, ...]
    login: str
    mechanism: str
    secure: bool
    content: bytes

    @property
    def message(self) -> EmailMessage:
        """As the standard library reads it."""
        return email.message_from_bytes(self.content, policy=email.policy.default)


@dataclass(slots=True)
class MailServer:
    """What it offers and how it answers; everything may be changed while it runs.

    Attributes:
        logins: user name → password, or for XOAUTH2 the token. Without any, no AUTH is offered.
        needs_login: MAIL without a login is refused with 530 5.7.0.
        starttls: context for STARTTLS, which is offered if given.
        replies: verb (`GREETING`, `EHLO`, `AUTH`, `MAIL`, `RCPT`, `DATA`, `.`) → reply in place of the usual one.
        refused: recipient → reply to its RCPT.
        at_dot: awaited before a mail is taken; what a slow server does.
    """

    name: str
    logins: dict[str, str] = field(default_factory=dict)
    mechanisms: str = "LOGIN PLAIN"
    needs_login: bool = False
    starttls: ssl.SSLContext | None = None
    replies: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    at_dot: Callable[[], Awaitable[None]] | None = None
    keywords: tuple[str, ...] = ("8BITMIME", "SMTPUTF8", "SIZE 36700160", "ENHANCEDSTATUSCODES")
    taken: list[Taken] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    listener: Listener | None = None
    in_data: int = 0
    most_in_data: int = 0
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def port(self) -> int:
        assert self.listener is not None
        return self.listener.port

    @property
    def connections(self) -> int:
        """How many were ever made."""
        return len(self.listener.peers) if self.listener else 0

    @property
    def ids(self) -> list[str]:
        """Of the notifications whose mails it took, in their order."""
        return [str(mail.message["X-Postlane-Id"]) for mail in self.taken]

    def said(self, verb: str) -> list[str]:
        """Every command of this verb, on all connections."""
        return [command for command in self.commands if command.upper().startswith(verb.upper())]

    async def until(self, enough: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until something is so; looked at after every command and mail."""
        async with asyncio.timeout(patience), self._news:
            await self._news.wait_for(enough)

    async def until_taken(self, count: int, patience: float = PATIENCE) -> list[Taken]:
        """Wait for so many mails."""
        await self.until(lambda: len(self.taken) >= count, patience)
        return self.taken

    async def serve(self, peer: Peer) -> None:
        """Run one connection; the client may leave whenever it likes."""
        with contextlib.suppress(Left):
            await _Session(self, peer).run()

    async def noticed(self) -> None:
        async with self._news:
            self._news.notify_all()


class _Session:
    def __init__(self, server: MailServer, peer: Peer) -> None:
        self._server = server
        self._peer = peer
        self._secure = peer.transport.get_extra_info("ssl_object") is not None
        self._login, self._mechanism = "", ""
        self._mail_from, self._rcpt_to = "", [""]

    async def run(self) -> None:
        await self._peer.reply(self._server.replies.get("GREETING", f"220 {self._server.name}.example ESMTP"))
        while True:
            command = await self._command()
            self._server.commands.append(command)
            await self._server.noticed()
            verb = command.partition(" ")[0].upper()
            if verb in self._server.replies:
                await self._peer.reply(*self._server.replies[verb].splitlines())
                continue
            if verb == "QUIT":
                await self._peer.reply("221 2.0.0 Bye")
                return
            await self._answer(verb, command)

    async def _command(self) -> str:
        """The next one; sessions that are kept for later are silent in between."""
        while True:
            try:
                return (await self._peer.line()).decode()
            except Left:
                raise
            except Deviation:
                if self._peer.pending:
                    raise

    async def _answer(self, verb: str, command: str) -> None:
        server = self._server
        match verb:
            case "EHLO":
                await self._peer.reply(*(f"250-{each}" for each in (server.name, *self._offers())), "250 HELP")
            case "STARTTLS" if server.starttls:
                await self._peer.reply("220 2.0.0 Go")
                await self._peer.handshake(server.starttls)
                self._secure = True
            case "AUTH":
                await self._peer.reply(await self._authenticated(command))
            case "MAIL" if server.needs_login and not self._login:
                await self._peer.reply("530 5.7.0 Authentication required")
            case "MAIL":
                self._mail_from, self._rcpt_to = _path(command), []
                await self._peer.reply(OK)
            case "RCPT":
                reply = server.refused.get(_path(command), OK)
                self._rcpt_to += [_path(command)] * reply.startswith("2")
                await self._peer.reply(reply)
            case "DATA":
                await self._take()
            case _:
                await self._peer.reply(OK)

    def _offers(self) -> list[str]:
        server = self._server
        tls = ["STARTTLS"] if server.starttls and not self._secure else []
        return [*server.keywords, *tls, *([f"AUTH {server.mechanisms}"] if server.logins else [])]

    async def _authenticated(self, command: str) -> str:
        _, mechanism, *initial = command.split(" ")
        mechanism = mechanism.upper()
        if mechanism == "LOGIN":
            user = initial[0] if initial else await self._asked("VXNlcm5hbWU6")
            login, secret = _plain(user), _plain(await self._asked("UGFzc3dvcmQ6"))
        else:
            text = _plain(initial[0] if initial else await self._asked(""))
            if mechanism == "XOAUTH2":
                fields = dict(part.split("=", 1) for part in text.split("\x01") if part)
                login, secret = fields["user"], fields["auth"].removeprefix("Bearer ")
            else:
                _, login, secret = text.split("\0")
        if self._server.logins.get(login) != secret:
            return "535 5.7.8 Authentication credentials invalid"
        self._login, self._mechanism = login, mechanism
        return "235 2.7.0 Ok"

    async def _asked(self, challenge: str) -> str:
        await self._peer.reply(f"334 {challenge}")
        return (await self._peer.line()).decode()

    async def _take(self) -> None:
        server = self._server
        server.in_data += 1
        server.most_in_data = max(server.most_in_data, server.in_data)
        try:
            await self._peer.reply("354 Go")
            lines = []
            while (line := await self._peer.line()) != b".":
                lines.append(line.removeprefix(b"."))
            server.commands.append(".")
            await server.noticed()
            if server.at_dot:
                await server.at_dot()
        finally:
            server.in_data -= 1
        reply = server.replies.get(".", OK)
        if reply.startswith("2"):
            content = b"".join(line + b"\r\n" for line in lines)
            envelope = self._mail_from, tuple(self._rcpt_to)
            server.taken.append(Taken(*envelope, self._login, self._mechanism, self._secure, content))
        await self._peer.reply(reply)
        await server.noticed()


def _path(command: str) -> str:
    return command.partition("<")[2].partition(">")[0]


def _plain(text: str) -> str:
    return base64.b64decode("" if text == "=" else text).decode()


@asynccontextmanager
async def serving(
    server: MailServer, *, implicit_tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[MailServer]:
    """Listen on a free port of this machine."""
    async with listening(server.serve, tls=implicit_tls, host=host) as listener:
        server.listener = listener
        yield server
