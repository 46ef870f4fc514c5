"""An SMTP submission server (RFC 6409) that behaves as its profile says."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import ssl
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from worker.emulator import envelope, sending_as
from worker.emulator.accepted import AcceptedMails
from worker.emulator.backstage import Backstage
from worker.emulator.scenario import DROP, LOST, SILENT, Moment
from worker.emulator.wire import Wire
from worker.emulator.world import MailboxAccount, Profile
from worker.telemetry.http import CannotListen

_TOO_LARGE = "552 5.3.4 Message size exceeds fixed maximum message size"
_OUT_OF_SEQUENCE = "503 5.5.1 Bad sequence of commands"
_CHUNK = re.compile(rb"(\d{1,18})( +LAST)?\s*", re.IGNORECASE)
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3} ")
_HELLO_FIRST = "503 5.5.2 Send hello first"

CheckToken = Callable[[str, str], str]
"""Mailbox and bearer token → empty if good, else the reply."""


class _Bye(Exception):  # noqa: N818 - the way out of a session
    """The session is over."""


@dataclass(slots=True)
class _State:
    """What a session has come to.

    Attributes:
        told_of: recipients whose non-delivery the sender wants to hear of (RFC 3461).
        parameters: of MAIL.
    """

    tls: str = "none"
    greeted: bool = False
    login: str = ""
    mechanism: str = ""
    mail_from: str | None = None
    rcpt_to: list[str] = field(default_factory=list)
    told_of: list[str] = field(default_factory=list)
    parameters: Mapping[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    def reset(self) -> None:
        self.mail_from = None
        self.rcpt_to = []
        self.told_of = []
        self.parameters = {}
        self.chunks = []


class _Cancelled(Exception):  # noqa: N818 - what the client did
    """The client has broken its login off."""


class SmtpServer:
    """A listening server."""

    def __init__(
        self,
        profile: Profile,
        accounts: list[MailboxAccount],
        tls: ssl.SSLContext,
        accepted: AcceptedMails,
        backstage: Backstage,
        check_token: CheckToken | None = None,
        *,
        implicit_tls: bool = False,
    ) -> None:
        """Does not listen yet."""
        self.backstage = backstage
        self.profile = profile
        self._accounts = {account.address.lower(): account for account in accounts}
        self._tls = tls
        self._accepted = accepted
        self._check_token = check_token
        self._implicit_tls = implicit_tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._sessions: set[asyncio.Task[object]] = set()

    async def listen(self, host: str, port: int) -> Self:
        """Start listening; port 0 takes a free one.

        Raises:
            CannotListen: says where and why.
        """
        context = self._tls if self._implicit_tls else None
        try:
            self._server = await asyncio.start_server(self._serve, host, port, ssl=context)
        except (OSError, OverflowError) as error:
            raise CannotListen(f"cannot listen on {host}:{port} ({error})") from error
        return self

    @property
    def port(self) -> int:
        """Where it listens.

        Raises:
            RuntimeError: it does not.
        """
        if self._server is None:
            raise RuntimeError("not listening")
        return int(self._server.sockets[0].getsockname()[1])

    def drop_sessions(self) -> None:
        """Hang up on everybody, as servers do when they are restarted."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        """Stop listening, hang up, and wait until every session has said that it ended."""
        if self._server is None:
            return
        self._server.close()
        self.drop_sessions()
        sessions = tuple(self._sessions)
        for session in sessions:  # one may be waiting for nothing but time
            session.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - what serves a connection is a task of its own
        self._sessions.add(task)
        session = _Session(self, reader, writer, self._tls, self._accepted, self._check_token)
        try:
            await session.run()
        except (_Bye, ConnectionError, ssl.SSLError, TimeoutError, asyncio.CancelledError):
            pass  # cancelled by `close` alone, and asyncio.streams complains of tasks that end so
        finally:
            session.leave()
            self._writers.discard(writer)
            self._sessions.discard(task)
            writer.close()

    def account(self, address: str) -> MailboxAccount | None:
        """The account of an address."""
        return self._accounts.get(address.lower())


class _Session:
    def __init__(
        self,
        server: SmtpServer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tls: ssl.SSLContext,
        accepted: AcceptedMails,
        check_token: CheckToken | None,
    ) -> None:
        self._server = server
        self._profile = server.profile
        self._wire = Wire(reader)
        self._writer = writer
        self._tls = tls
        self._accepted = accepted
        self._check_token = check_token
        self._state = _State(tls=self._tls_version())
        self._play = server.backstage.play
        self._governor = server.backstage.governor
        self._journal = server.backstage.journal
        self._number = self._journal.number()
        self._counted = ""
        self._begun = False
        self._verbs: dict[str, Callable[[bytes], Awaitable[str]]] = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            **({"BDAT": self._bdat} if "CHUNKING" in self._profile.keywords else {}),
            "RSET": self._rset,
            "NOOP": self._noop,
            "VRFY": self._vrfy,
            "HELP": self._help,
            "QUIT": self._quit,
        }

    async def run(self) -> None:
        self._tell("open", server=self._profile.host)
        greeting = await self._scripted(Moment.CONNECT)
        await self._reply(greeting or f"220 {self._profile.host} {self._profile.greeting}", "CONNECT")
        if greeting:
            return
        while True:
            verb, _, rest = (await self._wire.line()).partition(b" ")
            name = verb.decode("ascii", "replace").upper()
            handler = self._verbs.get(name)
            reply = await self._handled(handler, rest) if handler else "500 5.3.3 Unrecognized command"
            if reply:
                await self._reply(reply, name if handler else "?")  # what is no command may be a password

    async def _handled(self, handler: Callable[[bytes], Awaitable[str]], rest: bytes) -> str:
        try:
            return await handler(rest)
        except envelope.Malformed as wrong:
            return str(wrong)

    def leave(self) -> None:
        """Give the places of this connection back."""
        self._end(accepted=False)
        if self._counted:
            self._governor.submitting[self._counted] -= 1
            self._counted = ""
        self._tell("close")

    def _tell(self, event: str, **facts: object) -> None:
        self._journal.write(event, connection=self._number, login=self._state.login, **facts)

    async def _reply(self, reply: str, command: str) -> None:
        if reply[0] in "45":
            self._tell("refused", command=command, reply=reply)
        self._say(reply)
        await self._writer.drain()
        if reply.startswith("421"):
            raise _Bye

    async def _scripted(self, moment: Moment, login: str = "", mechanism: str = "", recipient: str = "") -> str:
        """What the scenarios say now; empty: nothing."""
        recipients = [recipient] if recipient else self._state.rcpt_to
        rule = self._play.answer(moment, login or self._state.login, recipients, mechanism)
        if rule is None:
            return ""
        if rule.delay:
            await asyncio.sleep(rule.delay)
        if rule.reply in (DROP, SILENT):
            await self._vanish(rule.reply, moment)
        return rule.reply

    async def _vanish(self, how: str, moment: str) -> None:
        self._tell(how, moment=moment)
        if how == SILENT:
            await self._wire.hung_up()
        raise _Bye

    def _end(self, *, accepted: bool) -> None:
        """The message that had begun is over."""
        if self._begun:
            self._governor.end(self._state.login, accepted=accepted)
            self._begun = False

    def _reset_state(self) -> None:
        self._end(accepted=False)
        self._state.reset()

    def _say(self, reply: str) -> None:
        self._writer.write("".join(f"{line}\r\n" for line in _lines(reply)).encode())

    async def _ehlo(self, name: bytes) -> str:
        envelope.check_host(name)
        if reply := await self._scripted(Moment.EHLO):
            return reply
        self._state.greeted = True
        self._reset_state()
        return "\n".join([f"250 {self._profile.host} Hello", *self._keywords()])

    def _keywords(self) -> list[str]:
        """Of EHLO, as things stand."""
        if self._state.tls == "none":
            return [*self._profile.keywords, "STARTTLS"]
        mechanisms = " ".join(self._profile.mechanisms)
        return [*self._profile.keywords, *([f"AUTH {mechanisms}"] if mechanisms else [])]

    async def _helo(self, name: bytes) -> str:
        envelope.check_host(name)
        self._state.greeted = True
        self._reset_state()
        return f"250 {self._profile.host}"

    async def _starttls(self, _rest: bytes) -> str:
        if self._state.tls != "none":
            return "503 5.5.2 TLS is already on"
        if not self._state.greeted:
            return _HELLO_FIRST
        if reply := await self._scripted(Moment.STARTTLS):
            return reply
        await self._wire.forget()
        self._say("220 2.0.0 SMTP server ready")
        await self._writer.drain()
        await self._writer.start_tls(self._tls)
        self._state = _State(tls=self._tls_version())
        return ""

    async def _auth(self, rest: bytes) -> str:
        if not self._state.greeted:
            return _HELLO_FIRST
        name, _, initial = rest.partition(b" ")
        mechanism = name.decode("ascii", "replace").upper()
        if self._state.tls == "none":
            return "530 5.7.0 Must issue a STARTTLS command first"
        if self._state.login:
            return "503 5.5.2 Auth command already specified"
        if mechanism not in self._profile.mechanisms:
            return "504 5.7.4 Unrecognized authentication type"
        try:
            login, refusal = await self._authenticated(mechanism, initial)
        except _Cancelled:
            return "501 5.5.4 Authentication cancelled"
        refusal = refusal or await self._scripted(Moment.AUTH, login, mechanism)
        if refusal:
            self._tell("login refused", user=login, mechanism=mechanism)
            return await self._challenged(refusal) if refusal.startswith("334") else refusal
        self._state.login, self._state.mechanism = login.lower(), mechanism
        self._tell("login", mechanism=mechanism)
        return "235 2.7.0 Authentication successful"

    async def _authenticated(self, mechanism: str, initial: bytes) -> tuple[str, str]:
        """Login, and refusal or nothing."""
        match mechanism:
            case "LOGIN":
                login = _text(initial) if initial else await self._ask(b"Username:")
                password = await self._ask(b"Password:")
                return login, self._check_password(login, password)
            case "PLAIN":
                parts = (_text(initial) if initial else await self._ask(b"")).split("\0")
                login, password = (parts[1], parts[2]) if len(parts) == 3 else ("", "")  # noqa: PLR2004 - RFC 4616
                return login, self._check_password(login, password)
            case _:
                return self._check_xoauth2(_text(initial) if initial else await self._ask(b""))

    async def _challenged(self, challenge: str) -> str:
        """A refusal that the client must answer before it is told the code (RFC 7628)."""
        self._say(challenge)
        await self._writer.drain()
        await self._wire.line()
        return f"535 5.7.3 Authentication unsuccessful [{self._profile.host}]"

    def _check_password(self, login: str, password: str) -> str:
        account = self._server.account(login)
        if account is not None and not account.smtp_auth:
            return (
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox. "
                f"Visit https://aka.ms/smtp_auth_disabled for more information. [{self._profile.host}]"
            )
        if account is None or account.password is None or account.password != password:
            return f"535 5.7.3 Authentication unsuccessful [{self._profile.host}]"
        return ""

    def _check_xoauth2(self, response: str) -> tuple[str, str]:
        fields = dict(part.split("=", 1) for part in response.split("\x01") if "=" in part)
        login, (scheme, _, token) = fields.get("user", ""), fields.get("auth", "").partition(" ")
        account = self._server.account(login)
        if account is not None and not account.smtp_auth:
            return login, (
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. "
                f"Visit https://aka.ms/smtp_auth_disabled for more information. [{self._profile.host}]"
            )
        refusal = "no such mailbox" if account is None or scheme.lower() != "bearer" else self._problem(login, token)
        return login, f"535 5.7.3 Authentication unsuccessful [{self._profile.host}]" if refusal else ""

    def _problem(self, login: str, token: str) -> str:
        return self._check_token(login, token) if self._check_token else "tokens are not taken"

    async def _ask(self, prompt: bytes) -> str:
        self._say(f"334 {base64.b64encode(prompt).decode()}")
        await self._writer.drain()
        said = await self._wire.line()
        if said.strip() == b"*":
            raise _Cancelled
        return _text(said)

    async def _mail(self, rest: bytes) -> str:
        path = envelope.sender(rest, self._keywords())
        if not self._state.greeted:
            return _HELLO_FIRST
        if self._profile.tls_first and self._state.tls == "none":
            return "530 5.7.0 Must issue a STARTTLS command first"
        if self._profile.mechanisms and not self._state.login:
            return "530 5.7.57 Client not authenticated to send mail"
        if self._state.mail_from is not None:
            return "503 5.5.2 Sender already specified"
        if not self._counted_in():
            return (
                "432 4.3.2 Concurrent connections limit exceeded. "
                f"Visit https://aka.ms/concurrent_sending for more information. [Hostname={self._profile.host}]"
            )
        if refusal := self._too_large(path.parameters) or await self._scripted(Moment.MAIL):
            return refusal
        if not self._governor.begin(self._state.login):
            return "421 4.4.2 Message submission rate for this client has exceeded the configured limit"
        self._begun = True
        self._state.mail_from, self._state.parameters = path.address, path.parameters
        self._tell("mail", mail_from=self._state.mail_from)
        return "250 2.1.0 Sender OK"

    def _too_large(self, parameters: Mapping[str, str]) -> str:
        return _TOO_LARGE if int(parameters.get("SIZE", 0)) > self._governor.limits.octets else ""

    def _counted_in(self) -> bool:
        """Whether this connection has a place among those that may submit for its login."""
        login = self._state.login
        if not login or self._counted:
            return True
        submitting = self._governor.submitting
        if submitting[login] >= self._governor.limits.connections:
            return False
        submitting[login] += 1
        self._counted = login
        self._tell("submitting")
        return True

    async def _rcpt(self, rest: bytes) -> str:
        if self._state.mail_from is None:
            return "503 5.5.2 Need mail command"
        if self._state.chunks:
            return _OUT_OF_SEQUENCE
        path = envelope.recipient(rest, self._keywords(), utf8="SMTPUTF8" in self._state.parameters)
        recipient = path.address
        refusal = self._profile.recipients.get(recipient.rpartition("@")[0].lower())
        if refusal:
            return refusal
        most = self._governor.limits.recipients_per_message
        if most and len(self._state.rcpt_to) >= most:
            return "452 4.5.3 Too many recipients"
        if refusal := await self._scripted(Moment.RCPT, recipient=recipient):
            return refusal
        self._state.rcpt_to.append(recipient)
        if "FAILURE" in path.parameters.get("NOTIFY", "FAILURE"):
            self._state.told_of.append(recipient)
        return "250 2.1.5 Recipient OK"

    async def _data(self, _rest: bytes) -> str:
        if not self._state.rcpt_to:
            return "503 5.5.2 Need rcpt command"
        if self._state.chunks or self._state.parameters.get("BODY") == "BINARYMIME":
            return _OUT_OF_SEQUENCE
        if refusal := await self._scripted(Moment.DATA):
            return refusal
        self._say("354 Start mail input; end with <CRLF>.<CRLF>")
        await self._writer.drain()
        content = await self._wire.mail(self._governor.limits.octets)
        reply = _TOO_LARGE if content is None else await self._answer(content)
        self._reset_state()
        return reply

    async def _bdat(self, rest: bytes) -> str:
        """A chunk (RFC 3030), which has come whatever the answer is."""
        found = _CHUNK.fullmatch(rest)
        if found is None:
            return "501 5.5.4 Invalid arguments"
        size, last = int(found[1]), bool(found[2])
        room = self._governor.limits.octets - sum(map(len, self._state.chunks))
        chunk = await self._wire.chunk(size, room)
        if not self._state.rcpt_to:
            return "503 5.5.2 Need rcpt command"
        if not self._state.chunks and (refusal := await self._scripted(Moment.DATA)):
            return refusal
        if chunk is None:
            self._reset_state()
            return _TOO_LARGE
        self._state.chunks.append(chunk)
        if not last:
            return f"250 2.6.0 CHUNK received OK, {size} octets"
        reply = await self._answer(b"".join(self._state.chunks))
        self._reset_state()
        return reply

    async def _answer(self, content: bytes) -> str:
        scripted = next(
            (
                self._profile.contents[local]
                for rcpt in self._state.rcpt_to
                if (local := rcpt.rpartition("@")[0].lower()) in self._profile.contents
            ),
            "",
        )
        scripted = scripted or await self._scripted(Moment.DOT)
        if scripted == DROP:
            raise _Bye
        if scripted and scripted != LOST:
            return scripted
        if refusal := self._wrong_sender(content) or self._beyond_limits(content):
            return refusal
        while (wait := self._governor.delay(self._state.login)) > 0:  # noqa: ASYNC110 - only time opens a window
            await asyncio.sleep(wait)
        mail = self._accepted.keep(
            content,
            server=self._profile.host,
            login=self._state.login,
            mechanism=self._state.mechanism,
            tls=self._state.tls,
            mail_from=self._state.mail_from or "",
            rcpt_to=self._state.rcpt_to,
        )
        self._end(accepted=True)
        self._tell(
            "accepted",
            mechanism=self._state.mechanism,
            message_id=mail.message_id,
            notification_id=mail.notification_id,
            recipients=len(mail.rcpt_to),
            octets=mail.octets,
        )
        self._server.backstage.bounce(
            content,
            sender=self._state.mail_from or "",
            login=self._state.login,
            recipients=self._state.told_of if self._state.mail_from else [],
            host=self._profile.host,
        )
        if scripted == LOST:
            raise _Bye
        name = mail.message_id or f"<{uuid.uuid4()}@{self._profile.host}>"  # Exchange gives one to a mail without
        told = {"message_id": name, "host": self._profile.host}
        return f"250 {self._profile.accepted.format(queue_id=uuid.uuid4().hex[:10].upper(), **told)}"

    def _wrong_sender(self, content: bytes) -> str:
        account = self._server.account(self._state.login)
        if not self._profile.checks_sender or account is None:
            return ""
        return sending_as.refusal(content, account, mail_from=self._state.mail_from or "", host=self._profile.host)

    def _beyond_limits(self, content: bytes) -> str:
        if not self._state.login:
            return ""
        return self._governor.quota(self._state.login, len(self._state.rcpt_to), len(content))

    async def _rset(self, _rest: bytes) -> str:
        self._reset_state()
        return "250 2.0.0 Resetting"

    async def _noop(self, _rest: bytes) -> str:
        return "250 2.0.0 OK"

    async def _vrfy(self, _rest: bytes) -> str:
        return "252 2.1.5 Cannot VRFY user"

    async def _help(self, _rest: bytes) -> str:
        return f"214 This server supports the following commands:\n{' '.join(self._verbs)}"

    async def _quit(self, _rest: bytes) -> str:
        self._say("221 2.0.0 Service closing transmission channel")
        await self._writer.drain()
        raise _Bye

    def _tls_version(self) -> str:
        tls = self._writer.get_extra_info("ssl_object")
        return str(tls.version()) if tls else "none"


def _lines(reply: str) -> Iterator[str]:
    """The lines of a reply whose text has several: Exchange repeats the enhanced code on each."""
    code, _, text = reply.partition(" ")
    first, *others = text.split("\n")
    enhanced = found[0] if (found := _ENHANCED.match(first)) else ""
    texts = [first, *(f"{enhanced}{other}" for other in others)]
    return (f"{code}{'-' if number < len(texts) else ' '}{line}" for number, line in enumerate(texts, 1))


def _text(encoded: bytes) -> str:
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return ""
