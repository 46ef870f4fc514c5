"""Looking at mail servers for the health check: as far as the login, never as far as a mail.

One look serves everybody who asks at the same time, and is believed for a while afterwards; whoever stops waiting for
it does not stop it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.domain.delivery import Refused
from worker.domain.health import Checked, Finding, State, found, refuses_logins, together, warned
from worker.domain.mailbox import GraphEndpoint, Mailbox, OAuth, PickupDirectory, SmtpEndpoint, Tls
from worker.domain.reply import Reply
from worker.graph.transport import GraphTransport
from worker.pickup import transport as pickup
from worker.ports import Clock, Hold, Token, Tokens
from worker.smtp.connect import Connection, Timeouts, authenticate, connect
from worker.smtp.transport import mechanism_for

TOTAL = 10.0  # seconds that a look may take, whatever the server does
_PER_ADDRESS = 3.0  # seconds, so that one dead address of a name leaves time for the others
_AT_ONCE = 16  # looks

Look = Callable[[Mailbox], Awaitable[Finding]]
Mailboxes = Callable[[], Mapping[str, Mailbox]]
"""The mailboxes as they are configured now."""

Resting = Callable[[Mailbox, datetime], Hold | None]
"""A mailbox and the present moment → why it rests; None: it does not, or not as it is configured now."""


class Health:
    """What is known about the servers, looked at when somebody asks and it is too old."""

    def __init__(
        self,
        mailboxes: Mailboxes,
        look: Look,
        clock: Clock,
        *,
        patience: float = TOTAL,
        resting: Resting = lambda _mailbox, _now: None,
    ) -> None:
        """Nothing is known yet.

        Args:
            mailboxes: as configured now; a changed mailbox is looked at anew.
            look: at one of them.
            clock: the present moment.
            patience: seconds after which `all` answers with what is known by then.
            resting: why a mailbox rests; whose login was refused to any worker is not tried here as well.
        """
        self._resting = resting
        self._mailboxes = mailboxes
        self._look = look
        self._clock = clock
        self._patience = patience
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._known: dict[str, tuple[Mailbox, Checked]] = {}
        self._looking: dict[str, tuple[Mailbox, asyncio.Task[Checked]]] = {}

    async def of(self, name: str) -> Checked:
        """How a mailbox is; a look that is under way is shared, a recent one believed."""
        mailbox = self._mailboxes().get(name)
        if mailbox is None:
            return Checked(_not_configured(name), self._clock(), 0.0)
        rest = None if isinstance(mailbox.endpoint, PickupDirectory) else self._resting(mailbox, self._clock())
        if rest is not None and refuses_logins(rest.verdict):
            finding = Finding(State.LOGIN_REFUSED, rest.verdict.explanation, rest.verdict.remedy)
            return Checked(finding, self._clock(), 0.0)
        # A caller who goes away must not take the look away from the others.
        known = self._fresh(mailbox)
        return known if known is not None else await asyncio.shield(self._started(mailbox))

    async def all(self, names: Iterable[str] = ()) -> dict[str, Checked]:
        """How all mailboxes are, or these; what is not known in time is told as being looked at."""
        wanted = tuple(names) or tuple(self._mailboxes())
        asked = {name: asyncio.ensure_future(self.of(name)) for name in wanted}
        if asked:
            await asyncio.wait(asked.values(), timeout=self._patience)
        told = {name: task.result() if task.done() else self._checking() for name, task in asked.items()}
        for task in asked.values():
            task.cancel()
        return told

    async def close(self) -> None:
        """End the looks that are under way."""
        tasks = [task for _, task in self._looking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fresh(self, mailbox: Mailbox) -> Checked | None:
        entry = self._known.get(mailbox.name)
        if entry is None or entry[0] != mailbox or self._clock() >= entry[1].believed_until:
            return None
        return entry[1]

    def _started(self, mailbox: Mailbox) -> asyncio.Task[Checked]:
        looking = self._looking.get(mailbox.name)
        if looking is not None and looking[0] == mailbox:
            return looking[1]
        task = asyncio.create_task(self._looked(mailbox))
        self._looking[mailbox.name] = (mailbox, task)
        task.add_done_callback(lambda done: self._ended(mailbox, done))
        return task

    async def _looked(self, mailbox: Mailbox) -> Checked:
        async with self._places:
            started = time.monotonic()
            finding = await self._look(mailbox)
        before = self._known.get(mailbox.name)
        refused = finding.state is State.LOGIN_REFUSED
        earlier = before[1].refusals if before is not None and before[0] == mailbox else 0
        return Checked(finding, self._clock(), time.monotonic() - started, earlier + 1 if refused else 0)

    def _ended(self, mailbox: Mailbox, done: asyncio.Task[Checked]) -> None:
        looking = self._looking.get(mailbox.name)
        if looking is None or looking[1] is not done:
            return  # the mailbox has changed meanwhile: what was found is of no interest
        del self._looking[mailbox.name]
        if not done.cancelled() and done.exception() is None:
            self._known[mailbox.name] = (mailbox, done.result())

    def _checking(self) -> Checked:
        return Checked(Finding(State.CHECKING, "It is being looked at; ask again."), self._clock(), self._patience)


async def look(mailbox: Mailbox, tokens: Tokens, total: float = TOTAL) -> Finding:
    """Go the way of a mail up to the login, within `total` seconds. A mailbox that is switched off is left in peace."""
    if not mailbox.enabled:
        return Finding(State.DISABLED, f"Mailbox {mailbox.name!r} is switched off; its server is not asked.")
    if (held := mailbox.held) is not None and held.unusable:
        return Finding(State.NOT_CONFIGURED, held.why, held.remedy)
    ways = (_channel(mailbox.via(channel), tokens, total) for channel in mailbox.channels)
    return warned(together(await asyncio.gather(*ways)), mailbox)


async def _channel(mailbox: Mailbox, tokens: Tokens, total: float) -> Finding:
    match mailbox.endpoint:
        case PickupDirectory() as place:
            return await _directory(place, total)
        case GraphEndpoint() as service:
            return await _graph(mailbox, service, tokens, total)
        case SmtpEndpoint() as endpoint:
            way = _Way(mailbox.name, endpoint, tokens, total)
            try:
                async with asyncio.timeout(total):
                    return await way.gone()
            except TimeoutError:
                return way.out_of_time()


async def _graph(mailbox: Mailbox, service: GraphEndpoint, tokens: Tokens, total: float) -> Finding:
    transport = GraphTransport(tokens)
    try:
        async with asyncio.timeout(total):
            problem = await transport.probe(mailbox)
    except TimeoutError:
        return Finding(State.NO_ANSWER, f"{service.url} does not answer within {total:g} s.", _FIREWALL)
    finally:
        await transport.close()
    if problem is None:
        return Finding(State.WELL, f"{service.url} would send for {service.user}.")
    return found(problem, service)


async def _directory(place: PickupDirectory, total: float) -> Finding:
    try:
        async with asyncio.timeout(total):
            problem = await asyncio.to_thread(pickup.check, place)
    except TimeoutError:
        problem = f"{place.directory} does not answer within {total:g} s; is its mount still there?"
    if not problem:
        return Finding(State.WELL, f"Files can be handed over in {place.directory}.")
    return Finding(
        State.DIRECTORY,
        f"The pickup directory cannot be used: {problem}.",
        "Mount it, and give this worker's user the right to write there (IIS: NETWORK SERVICE or IIS_IUSRS collect).",
    )


@dataclass(slots=True)
class _Way:
    """From the host name to the login.

    Attributes:
        reached: what it means if nothing more comes.
        rejected: a token from the cache that the server would not take; it is replaced once.
    """

    name: str
    endpoint: SmtpEndpoint
    tokens: Tokens
    total: float
    reached: State = State.DNS
    rejected: Token | None = None

    async def gone(self) -> Finding:
        """Go it to its end."""
        endpoint = self.endpoint
        if not endpoint.host:
            return Finding(State.NO_HOST, "The mailbox names no host.", "Set `host` of the mailbox.")
        try:
            resolve = asyncio.get_running_loop().getaddrinfo
            addresses = await resolve(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        except OSError as error:
            return self._failed(State.DNS, error.strerror or str(error))
        except UnicodeError:
            return self._failed(State.DNS, "it is no host name")
        self.reached = State.PORT_CLOSED
        connected = await self._connected([(info[0], info[4]) for info in addresses])
        if not isinstance(connected, socket.socket):
            return connected
        if endpoint.tls is not Tls.IMPLICIT and (silence := await self._greeted(connected)):
            return silence
        self.reached = State.TLS if endpoint.tls is Tls.IMPLICIT else State.NO_ANSWER
        return await self._secured(connected)

    def out_of_time(self) -> Finding:
        """What it means that the time is over."""
        return self._failed(self.reached, f"nothing came within {self.total:g} s")

    async def _connected(self, addresses: list[tuple[int, Any]]) -> socket.socket | Finding:
        problem = "no address"
        for family, address in addresses:
            try:
                async with asyncio.timeout(_PER_ADDRESS):
                    return await _connection_to(family, address)
            except OSError as error:
                problem = error.strerror or f"no answer in {_PER_ADDRESS:g} s"
        return self._failed(State.PORT_CLOSED, problem)

    async def _greeted(self, connected: socket.socket) -> Finding | None:
        """Whether the server speaks first, as SMTP servers do. What it says is left for the dialogue to read."""
        self.reached = State.NO_GREETING
        try:
            await _readable(connected)
            begun = connected.recv(1, socket.MSG_PEEK)
        except OSError as error:
            connected.close()
            return self._failed(State.NO_GREETING, error.strerror or str(error))
        except BaseException:
            connected.close()
            raise
        if begun:
            return None
        connected.close()
        return self._failed(State.NO_GREETING, "the server closed the connection")

    async def _secured(self, connected: socket.socket) -> Finding:
        # The whole look has its time, so none of its steps needs one of its own.
        timeouts = Timeouts(self.total + 1, self.total + 1, self.total + 1)
        connection = await connect(self.endpoint, timeouts, connected)
        if not isinstance(connection, Connection):
            failure = found(connection, self.endpoint)
            if failure.state not in (State.NO_ANSWER, State.PORT_CLOSED):
                return failure
            # The port is open and, if it is not TLS from the start, has greeted: that much is known here.
            state = State.NO_GREETING if self.endpoint.tls is Tls.IMPLICIT else State.NO_ANSWER
            return self._failed(state, failure.explanation)
        try:
            finding = await self._logged_in(connection, timeouts)
        finally:
            connection.dialogue.hang_up()
        return finding if finding is not None else await self.gone()

    async def _logged_in(self, connection: Connection, timeouts: Timeouts) -> Finding | None:
        """What comes of the login; None if it is worth another try with a new token."""
        self.reached = State.NO_ANSWER
        token: Token | None = None
        if isinstance(client := self.endpoint.credentials, OAuth):
            self.reached = State.TOKEN_REFUSED
            answer = await self.tokens.token(self.name, client, rejected=self.rejected)
            if not isinstance(answer, Token):
                return found(answer, self.endpoint)
            token, self.reached = answer, State.NO_ANSWER
        mechanism = mechanism_for(client, connection, token)
        if mechanism is None:
            return Finding(State.WELL, f"The server answers, TLS {connection.tls}, no login.")
        reply = await authenticate(connection, mechanism, timeouts)
        if isinstance(reply, Refused) and token is not None and not token.fresh and self.rejected is None:
            self.rejected = token
            return None
        if not isinstance(reply, Reply):
            return found(reply, self.endpoint)
        return Finding(State.WELL, f"The server answers, TLS {connection.tls}, login by {mechanism.name}.")

    def _failed(self, state: State, detail: str) -> Finding:
        explanation, remedy = _WORDS[state]
        where = f"{self.endpoint.host}:{self.endpoint.port}"
        return Finding(state, explanation.format(where=where, host=self.endpoint.host, detail=detail), remedy)


async def _connection_to(family: int, address: Any) -> socket.socket:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)  # noqa: FBT003 - the standard library's signature
        await asyncio.get_running_loop().sock_connect(connecting, address)
    except BaseException:
        connecting.close()
        raise
    return connecting


async def _readable(connected: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connected, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connected)


def _not_configured(name: str) -> Finding:
    return Finding(
        State.NOT_CONFIGURED,
        f"There is no mailbox {name!r}.",
        "Check the name, or add the mailbox; without one nothing can be sent.",
    )


_FIREWALL = "Check host and port, and that the firewall lets this machine out to it (587 for Office 365)."
_WORDS = {
    State.DNS: (
        "The name {host!r} could not be resolved ({detail}).",
        "Check `host` for a typing error, and the resolver of this machine.",
    ),
    State.PORT_CLOSED: ("Nothing listens at {where} ({detail}).", _FIREWALL),
    State.NO_GREETING: (
        "The port {where} is open, but no SMTP server greets there ({detail}).",
        'Check the port: 587 or 25 with tls = "starttls", 465 with "implicit"; 993 and 995 are for reading mail.',
    ),
    State.TLS: (
        "The connection to {where} could not be secured ({detail}).",
        'Check `tls` and the port: 465 is "implicit", 587 is "starttls".',
    ),
    State.NO_ANSWER: ("The server at {where} greeted and then stopped answering ({detail}).", "Ask its administrator."),
    State.TOKEN_REFUSED: (
        "The token authority does not answer ({detail}).",
        "Check that the firewall lets this machine out to it.",
    ),
}
