"""The SMTP transport: a session for the mailbox, one mail over it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import cast

from worker.domain.delivery import Broken, Busy, Fault, Refused, Stage, Submission, TokenRefused
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Credentials, Limits, Mailbox, NoLogin, OAuth, Password, SessionLimits, SmtpEndpoint
from worker.domain.message import OutgoingMessage
from worker.domain.reply import Reply
from worker.domain.verdict import Action, catalogue, of_reply
from worker.events import SessionOpened
from worker.permits import PATIENCE, GivesWay, permitted
from worker.ports import HandingOver, Observe, Permits, Token, Tokens
from worker.smtp.connect import Connection, Timeouts, authenticate, connect
from worker.smtp.pool import Pool, Unopened
from worker.smtp.sasl import Login, Mechanism, Oauthbearer, Plain, Xoauth2
from worker.smtp.session import Closed, Session

_BAD_TOKEN = {535, 501}  # 501 5.5.127: High Volume Email finds that the token ends too soon
_IDLE = timedelta(seconds=5)  # that a session keeps a permit without work: others may want it
_LOOK_EVERY = 0.2  # seconds, whether they do
_ENDED = frozenset({Action.RECONNECT, Action.RETRY})  # what a server says when it ends a session, not more
_MANY = 1_000  # pools before those without a session are looked for; each costs three kilobytes


class SmtpTransport:
    """Submits over pooled sessions."""

    def __init__(self, tokens: Tokens, timeouts: Timeouts, observe: Observe, permits: Permits | None = None) -> None:
        """Nothing is connected yet.

        Args:
            tokens: for mailboxes that log in with them.
            timeouts: of SMTP.
            observe: told of every session that was opened.
            permits: asked before each connection; None: our own pools count alone.
        """
        self._permits = permits
        self._tokens = tokens
        self._timeouts = timeouts
        self._observe = observe
        self._pools: dict[str, tuple[tuple[SmtpEndpoint, Limits], Pool]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._looks: asyncio.Handle | None = None
        self._too_many = _MANY

    async def submit(
        self, mailbox: Mailbox, envelope: Envelope, message: OutgoingMessage, handing_over: HandingOver
    ) -> Submission:
        """Submit one mail. An idle session that turns out to be dead costs nothing: a new one is opened.

        What stood in line for a session when the mailbox began to rest does not go out.
        """
        pool, asked = self._pool(mailbox), time.monotonic()
        async with pool.session(urgent=message.urgent) as session:
            if not isinstance(session, Session):
                return session
            if self._permits is not None and self._permits.rested_since(mailbox.name, asked):
                return Busy()
            fresh = session.fresh
            outcome = await session.submit(envelope, message, handing_over)
        if fresh or not _was_dead(outcome):
            return outcome
        async with pool.session(fresh=True, urgent=message.urgent) as session:
            if not isinstance(session, Session):
                return session
            return await session.submit(envelope, message, handing_over)

    async def close(self) -> None:
        """Close all idle sessions; sessions in use close when they are done."""
        if self._looks is not None:
            self._looks.cancel()
        for _, pool in self._pools.values():
            await pool.close()
        await asyncio.gather(*self._leaving)

    def _pool(self, mailbox: Mailbox) -> Pool:
        """The mailbox's sessions; those of a server, a login or limits that it had before are closed."""
        endpoint = cast("SmtpEndpoint", mailbox.endpoint)
        known = self._pools.get(mailbox.name)
        if known is not None and known[0] == (endpoint, mailbox.limits):
            return known[1]
        if known is not None:
            leaving = asyncio.create_task(known[1].close())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        if len(self._pools) >= self._too_many:
            self._forget()
        pool = self._new_pool(mailbox, endpoint)
        self._pools[mailbox.name] = (endpoint, mailbox.limits), pool
        return pool

    def _forget(self) -> None:
        """Of fifty thousand mailboxes few send at a time."""
        self._pools = {name: known for name, known in self._pools.items() if not known[1].unused}
        self._too_many = max(_MANY, 2 * len(self._pools))

    def _new_pool(self, mailbox: Mailbox, endpoint: SmtpEndpoint) -> Pool:
        limits: SessionLimits = endpoint.limits
        wanted: Callable[[], bool] | None = None
        if self._permits is not None and mailbox.limits.connections is not None:
            limits = replace(limits, idle=min(limits.idle, _IDLE))
            wanted = partial(self._is_wanted, mailbox.name)
            self._looks = self._looks or asyncio.get_running_loop().call_soon(self._look, self._permits)
        return Pool(partial(self._permitted, mailbox, endpoint), limits, PATIENCE, wanted)

    def _is_wanted(self, name: str) -> bool:
        return self._permits is not None and name in self._permits.wanted()

    def _look(self, permits: Permits) -> None:
        """Close idle sessions that others want, and look again."""
        for name in permits.wanted() & self._pools.keys():
            self._pools[name][1].close_idle()
        self._looks = asyncio.get_running_loop().call_later(_LOOK_EVERY, self._look, permits)

    async def _permitted(
        self, mailbox: Mailbox, endpoint: SmtpEndpoint, *, urgent: bool, gives_way: GivesWay
    ) -> Session | Unopened:
        """Open a session; where they are counted, with a permit from before it connects until after its QUIT."""
        if self._permits is None or mailbox.limits.connections is None:
            return await self.open(mailbox.name, endpoint)
        permit = await permitted(self._permits, mailbox, urgent=urgent, gives_way=gives_way)
        if permit is None:
            return Busy()
        release = partial(self._permits.release, permit)
        try:
            session = await self.open(mailbox.name, endpoint, release)
        except BaseException:
            await release()
            raise
        if not isinstance(session, Session):
            await release()
        return session

    async def open(
        self, name: str, endpoint: SmtpEndpoint, closed: Closed | None = None
    ) -> Session | Refused | TokenRefused | Broken:
        """Connect and log in. A password is tried once; a token from the cache may be replaced by a new one once."""
        match endpoint.credentials:
            case NoLogin() | Password():
                return await self._opened(name, endpoint, closed)
            case OAuth() as client:
                return await self._with_token(name, endpoint, client, closed)

    async def _with_token(
        self, name: str, endpoint: SmtpEndpoint, client: OAuth, closed: Closed | None
    ) -> Session | Refused | TokenRefused | Broken:
        token = await self._tokens.token(name, client)
        if not isinstance(token, Token):
            return token
        opened = await self._opened(name, endpoint, closed, token)
        if token.fresh or not _refuses_token(opened):
            return opened
        token = await self._tokens.token(name, client, rejected=token)
        if not isinstance(token, Token):
            return token
        return await self._opened(name, endpoint, closed, token)

    async def _opened(
        self, name: str, endpoint: SmtpEndpoint, closed: Closed | None, token: Token | None = None
    ) -> Session | Refused | Broken:
        started = time.monotonic()
        connection = await connect(endpoint, self._timeouts)
        if not isinstance(connection, Connection):
            return connection
        mechanism = mechanism_for(endpoint.credentials, connection, token)
        if mechanism is not None:
            reply = await authenticate(connection, mechanism, self._timeouts)
            if not isinstance(reply, Reply):
                return reply
        used = mechanism.name.lower() if mechanism else "none"
        self._observe(SessionOpened(name, connection.tls, used, time.monotonic() - started))
        return Session(connection, self._timeouts, closed)


def mechanism_for(credentials: Credentials, connection: Connection, token: Token | None) -> Mechanism | None:
    """How to log in: as configured, or by what the server offers. Never one after the other.

    A token goes by XOAUTH2, and by OAUTHBEARER only where that is all there is.
    """
    match credentials:
        case NoLogin():
            return None
        case Password() as login:
            return _by_password(login, connection.mechanisms)
        case OAuth(username=username):
            value, offered = token.value if token else "", connection.mechanisms
            only_bearer = "OAUTHBEARER" in offered and "XOAUTH2" not in offered
            return Oauthbearer(username, value) if only_bearer else Xoauth2(username, value)


def _by_password(login: Password, offered: Sequence[str]) -> Mechanism:
    secret = login.password.get_secret_value()
    name = (login.mechanism or ("login" if "LOGIN" in offered or "PLAIN" not in offered else "plain")).lower()
    return Plain(login.username, secret) if name == "plain" else Login(login.username, secret)


def _refuses_token(opened: object) -> bool:
    return isinstance(opened, Refused) and opened.stage is Stage.AUTH and opened.reply.code in _BAD_TOKEN


def _was_dead(outcome: Submission) -> bool:
    """Whether a used session had ended before it was asked anything: nothing can have happened."""
    match outcome:
        case Broken(stage=Stage.MAIL, fault=Fault.DISCONNECTED):
            return True
        case Refused(stage=Stage.MAIL, reply=reply) if reply.closing:
            found = of_reply(catalogue(), Stage.MAIL, reply)
            return found.action in _ENDED and not found.throttle
        case _:
            return False
