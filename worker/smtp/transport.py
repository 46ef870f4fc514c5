"""The SMTP transport: a session for the mailbox, one mail over it."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import cast

from worker.domain.delivery import Broken, Fault, Refused, Stage, Submission, TokenRefused
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Mailbox, NoLogin, OAuth, Password, SmtpEndpoint
from worker.domain.message import OutgoingMessage
from worker.domain.reply import Reply
from worker.events import SessionOpened
from worker.ports import HandingOver, Observe, Token, Tokens
from worker.smtp.connect import Connection, Timeouts, authenticate, connect
from worker.smtp.pool import Pool
from worker.smtp.sasl import Login, Mechanism, Plain, Xoauth2
from worker.smtp.session import Session

_BAD_TOKEN = {535, 501}  # 501 5.5.127: High Volume Email finds that the token ends too soon
_PATIENCE = 2.0  # seconds


class SmtpTransport:
    """Submits over pooled sessions."""

    def __init__(self, tokens: Tokens, timeouts: Timeouts, observe: Observe) -> None:
        self._tokens = tokens
        self._timeouts = timeouts
        self._observe = observe
        self._pools: dict[str, tuple[SmtpEndpoint, Pool]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def submit(
        self, mailbox: Mailbox, envelope: Envelope, message: OutgoingMessage, handing_over: HandingOver
    ) -> Submission:
        """Submit one mail. An idle session that turns out to be dead costs nothing: a new one is opened."""
        pool = self._pool(mailbox)
        async with pool.session() as session:
            if not isinstance(session, Session):
                return session
            fresh = session.fresh
            outcome = await session.submit(envelope, message, handing_over)
        if fresh or not _was_dead(outcome):
            return outcome
        async with pool.session(fresh=True) as session:
            if not isinstance(session, Session):
                return session
            return await session.submit(envelope, message, handing_over)

    async def close(self) -> None:
        """Close all idle sessions; sessions in use close when they are done."""
        for _, pool in self._pools.values():
            await pool.close()
        await asyncio.gather(*self._leaving)

    def _pool(self, mailbox: Mailbox) -> Pool:
        """The mailbox's sessions; those of a server, a login or limits that it had before are closed."""
        endpoint = cast("SmtpEndpoint", mailbox.endpoint)
        known = self._pools.get(mailbox.name)
        if known is not None and known[0] == endpoint:
            return known[1]
        if known is not None:
            leaving = asyncio.create_task(known[1].close())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        pool = Pool(partial(self.open, mailbox.name, endpoint), endpoint.limits, _PATIENCE)
        self._pools[mailbox.name] = endpoint, pool
        return pool

    async def open(self, name: str, endpoint: SmtpEndpoint) -> Session | Refused | TokenRefused | Broken:
        """Connect and log in. A password is tried once; a token from the cache may be replaced by a new one once."""
        match endpoint.credentials:
            case NoLogin():
                return await self._opened(name, endpoint, None)
            case Password() as password:
                return await self._opened(name, endpoint, password)
            case OAuth() as client:
                return await self._with_token(name, endpoint, client)

    async def _with_token(
        self, name: str, endpoint: SmtpEndpoint, client: OAuth
    ) -> Session | Refused | TokenRefused | Broken:
        token = await self._tokens.token(name, client)
        if not isinstance(token, Token):
            return token
        opened = await self._opened(name, endpoint, Xoauth2(client.username, token.value))
        if token.fresh or not _refuses_token(opened):
            return opened
        token = await self._tokens.token(name, client, rejected=token)
        if not isinstance(token, Token):
            return token
        return await self._opened(name, endpoint, Xoauth2(client.username, token.value))

    async def _opened(
        self, name: str, endpoint: SmtpEndpoint, login: Mechanism | Password | None
    ) -> Session | Refused | Broken:
        started = time.monotonic()
        connection = await connect(endpoint, self._timeouts)
        if not isinstance(connection, Connection):
            return connection
        mechanism = password_mechanism(login, connection) if isinstance(login, Password) else login
        if mechanism is not None:
            reply = await authenticate(connection, mechanism, self._timeouts)
            if not isinstance(reply, Reply):
                return reply
        used = mechanism.name.lower() if mechanism else "none"
        self._observe(SessionOpened(name, connection.tls, used, time.monotonic() - started))
        return Session(connection, self._timeouts)


def password_mechanism(login: Password, connection: Connection) -> Mechanism:
    """The configured mechanism; without one the first that the server offers. Never one after the other."""
    secret = login.password.get_secret_value()
    offered = connection.mechanisms
    name = (login.mechanism or ("login" if "LOGIN" in offered or "PLAIN" not in offered else "plain")).lower()
    return Plain(login.username, secret) if name == "plain" else Login(login.username, secret)


def _refuses_token(opened: object) -> bool:
    return isinstance(opened, Refused) and opened.stage is Stage.AUTH and opened.reply.code in _BAD_TOKEN


def _was_dead(outcome: Submission) -> bool:
    """Whether a used session had ended before it was asked anything: nothing can have happened."""
    match outcome:
        case Broken(stage=Stage.MAIL, fault=Fault.DISCONNECTED):
            return True
        case Refused(stage=Stage.MAIL, reply=reply):
            return reply.closing
        case _:
            return False
