"""One authenticated session: mail transactions, one after the other (RFC 5321 section 3.3)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from contracts.address import AddrSpec
from worker.domain.delivery import Accepted, Broken, Fault, Fenced, Refused, Stage
from worker.domain.envelope import Envelope
from worker.domain.mailbox import SessionLimits
from worker.domain.message import OutgoingMessage
from worker.domain.reply import Reply
from worker.ports import HandingOver
from worker.smtp.connect import Connection, Timeouts
from worker.smtp.dialogue import Lost

_GO_AHEAD = 354
_GOODBYE = 2.0  # seconds
_GROUP = 100  # recipients sent before their replies are read, so that neither side's buffers fill up

Closed = Callable[[], Awaitable[None]]

Transaction = Accepted | Refused | Broken | Fenced


class Session:
    """A connection that mails can be submitted over."""

    def __init__(self, connection: Connection, timeouts: Timeouts, closed: Closed | None = None) -> None:
        """Nothing was submitted yet.

        Args:
            connection: logged in.
            timeouts: of its dialogue.
            closed: called when it is closed.
        """
        self._closed = closed
        self._connection = connection
        self._dialogue = connection.dialogue
        self._timeouts = timeouts
        self._opened = self._used = time.monotonic()
        self._messages = 0

    @property
    def fresh(self) -> bool:
        """Whether nothing was submitted yet."""
        return self._messages == 0

    def reusable(self, limits: SessionLimits) -> bool:
        """Whether another mail may go over it."""
        now = time.monotonic()
        return (
            self._dialogue.usable
            and self._messages < limits.messages
            and now - self._used < limits.idle.total_seconds()
            and now - self._opened < limits.age.total_seconds()
        )

    async def submit(self, envelope: Envelope, message: OutgoingMessage, handing_over: HandingOver) -> Transaction:
        """Submit one mail."""
        unfit = self._unfit(envelope, message)
        if unfit is not None:
            return unfit
        self._messages += 1
        transaction = _Transaction(self._connection, self._timeouts, envelope, message, handing_over)
        try:
            outcome = await transaction.run()
        except BaseException:
            self._dialogue.abort()  # in the middle of something: nobody may go on from here
            raise
        self._used = time.monotonic()
        match outcome:
            case Accepted():
                pass
            case Refused(reply=reply) if not reply.closing:
                await self._reset()
            case _:
                self._dialogue.abort()
        return outcome

    def hang_up(self) -> None:
        """QUIT, without waiting for the answer."""
        self._dialogue.hang_up()

    async def close(self) -> None:
        """QUIT, and wait a moment for the answer."""
        try:
            await self._dialogue.quit(_GOODBYE)
        finally:
            if self._closed is not None:
                await self._closed()

    async def _reset(self) -> None:
        """Make the server forget the refused transaction; a server that cannot is left alone."""
        try:
            (reply,) = await self._dialogue.ask(b"RSET", timeout=self._timeouts.command)
        except Lost:
            return
        if not reply.positive:
            self._dialogue.hang_up()

    def _unfit(self, envelope: Envelope, message: OutgoingMessage) -> Broken | None:
        """What the server has said it cannot take is not even tried."""
        offers, limit = self._connection.offers, self._connection.size_limit
        if (message.smtputf8 or envelope.needs_smtputf8) and not offers("smtputf8"):
            return Broken(Stage.MAIL, Fault.NO_SMTPUTF8, "the server does not offer SMTPUTF8")
        if limit and len(message.content) > limit:
            detail = f"the mail has {len(message.content)} octets, the server takes {limit}"
            return Broken(Stage.MAIL, Fault.TOO_LARGE, detail)
        return None


class _Transaction:
    """MAIL, RCPT, DATA, body, dot: always knows how far it has come."""

    def __init__(
        self,
        connection: Connection,
        timeouts: Timeouts,
        envelope: Envelope,
        message: OutgoingMessage,
        handing_over: HandingOver,
    ) -> None:
        self._connection = connection
        self._dialogue = connection.dialogue
        self._timeouts = timeouts
        self._envelope = envelope
        self._message = message
        self._handing_over = handing_over
        self._stage = Stage.MAIL
        self._refused: dict[AddrSpec, Reply] = {}

    async def run(self) -> Transaction:
        try:
            return await self._envelope_taken() or await self._data_taken()
        except Lost as lost:
            return Broken(self._stage, lost.fault, str(lost), self._refused)

    async def _envelope_taken(self) -> Refused | None:
        """None: at least one recipient was accepted."""
        commands = [self._mail(), *map(_rcpt, self._envelope.rcpt_to)]
        step = _GROUP if self._connection.offers("pipelining") else 1
        replies: list[Reply] = []
        for start in range(0, len(commands), step):
            replies += await self._group(commands[start : start + step], answered=len(replies))
            if replies[0].negative:
                return Refused(Stage.MAIL, replies[0])
            if odd := next((reply for reply in replies if not (reply.positive or reply.negative)), None):
                raise self._odd(odd)
            if closing := next((reply for reply in replies if reply.closing), None):
                return self._closed(closing, replies[1:])
        return self._recipients(replies[1:])

    async def _group(self, commands: Sequence[bytes], *, answered: int) -> list[Reply]:
        """Ask; if the connection breaks, a refusal or a 421 that was said before explains it."""
        self._stage = Stage.RCPT if answered else Stage.MAIL
        try:
            return await self._dialogue.ask(*commands, timeout=self._timeouts.command)
        except Lost as lost:
            said = lost.replies
            if said and (said[-1].closing or not (answered or said[0].positive)):
                return list(said)
            if said:
                self._stage = Stage.RCPT
            raise

    def _recipients(self, replies: Sequence[Reply]) -> Refused | None:
        self._stage = Stage.RCPT
        answers = dict(zip(self._envelope.rcpt_to, replies, strict=True))
        self._refused = {rcpt: reply for rcpt, reply in answers.items() if not reply.positive}
        if len(self._refused) == len(answers):
            return Refused(Stage.RCPT, replies[0], self._refused)
        return None

    def _closed(self, closing: Reply, replies: Sequence[Reply]) -> Refused:
        """The server leaves in the middle: what it refused for good stays refused, nobody has been accepted."""
        answers: Mapping[AddrSpec, Reply] = dict(zip(self._envelope.rcpt_to, replies, strict=False))
        final = {rcpt: reply for rcpt, reply in answers.items() if not (reply.positive or reply.temporary)}
        return Refused(Stage.RCPT, closing, final)

    async def _data_taken(self) -> Transaction:
        self._stage = Stage.DATA
        (reply,) = await self._dialogue.ask(b"DATA", timeout=self._timeouts.command)
        if reply.negative:
            return Refused(Stage.DATA, reply, self._refused)
        if reply.code != _GO_AHEAD:
            raise self._odd(reply)
        if early := await self._body():
            return early
        if not await self._handing_over():
            return Fenced()
        if early := self._broken_in():
            return early
        self._dialogue.dot()
        self._stage = Stage.DOT
        reply = await self._dialogue.answer(self._timeouts.submission)
        if reply.positive:
            return Accepted(reply, self._refused)
        if reply.negative:
            return Refused(Stage.DOT, reply, self._refused)
        raise self._odd(reply)

    def _odd(self, reply: Reply) -> Lost:
        """A reply that has no meaning here; what came of the command is anybody's guess."""
        return Lost(Fault.GARBLED, f"the server answered {reply.code}, which means nothing here")

    async def _body(self) -> Refused | None:
        """Everything but the dot."""
        try:
            await self._dialogue.send(self._message.content, self._timeouts.command)
        except Lost:
            if early := self._broken_in():
                return early
            raise
        return self._broken_in()

    def _broken_in(self) -> Refused | None:
        """A server that refuses before the dot has its reasons: what it said counts, not that it left."""
        early = self._dialogue.spoken()
        if early is None:
            return None
        self._dialogue.abort()
        if not early.negative:
            raise self._odd(early)
        return Refused(Stage.DATA, early, self._refused)

    def _mail(self) -> bytes:
        offers = self._connection.offers
        parameters = []
        if offers("size"):
            parameters.append(f"SIZE={len(self._message.content)}")
        if not self._message.content.isascii() and offers("8bitmime"):
            parameters.append("BODY=8BITMIME")
        if self._message.smtputf8 or self._envelope.needs_smtputf8:
            parameters.append("SMTPUTF8")
        return " ".join([f"MAIL FROM:<{self._envelope.mail_from}>", *parameters]).encode()


def _rcpt(recipient: AddrSpec) -> bytes:
    return f"RCPT TO:<{recipient}>".encode()
