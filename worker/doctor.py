"""The doctor: goes the way of a mail up to the point where one would be sent, and says where it ends and why."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

from worker import bootstrap
from worker.broker import apply as broker
from worker.broker.connection import BROKEN, explained
from worker.domain import verdict as verdicts
from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.mailbox import (
    ClientSecret,
    Directory,
    GraphEndpoint,
    Mailbox,
    NoLogin,
    Password,
    PickupDirectory,
    SmtpEndpoint,
)
from worker.domain.reply import Reply
from worker.domain.restraint import noticed
from worker.domain.verdict import Verdict, catalogue
from worker.events import Event
from worker.graph import conversation
from worker.graph.transport import GraphTransport
from worker.oauth.tokens import MsalTokens
from worker.pickup import transport as pickup
from worker.ports import Token
from worker.settings import Settings, SettingsError
from worker.smtp.connect import Connection, Timeouts, authenticate, connect
from worker.smtp.dialogue import Lost
from worker.smtp.sasl import Xoauth2
from worker.smtp.transport import password_mechanism

State = Literal["ok", "warning", "failed"]

_MICROSOFT = (".office365.com", ".outlook.com", ".office365.us")
_RETIREMENT = (
    "Microsoft switches basic authentication for SMTP AUTH off by default at the end of December 2026; an "
    "administrator can switch it on again for a while; the final date will be announced in the second half of 2027."
)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at.

    Attributes:
        subject: `broker`, or `mailbox NAME`.
        seconds: how long it took; None where that says nothing.
    """

    subject: str
    what: str
    state: State
    detail: str = ""
    remedy: str = ""
    seconds: float | None = None


async def examine(settings: Settings, only: frozenset[str] = frozenset()) -> AsyncIterator[Step]:
    """Look at everything, or at some mailboxes only. Nothing is sent.

    Raises:
        SettingsError: a named mailbox does not exist.
    """
    if not only:
        async for step in _broker(settings):
            yield step
    directory = bootstrap.directory(settings)
    if missing := only - directory.mailboxes.keys():
        raise SettingsError(f"There is no mailbox {', '.join(sorted(missing))} in {settings.mailboxes.file}.")
    yield _producers(directory)
    for subject, words in noticed(directory):
        if only and subject.removeprefix("mailbox ") not in only:
            continue
        yield Step(subject, words, "warning")
    tokens = MsalTokens(_ignore)
    try:
        for mailbox in directory.mailboxes.values():
            if not only or mailbox.name in only:
                for way in map(mailbox.via, mailbox.channels):
                    async for step in _mailbox(
                        way, tokens, bootstrap.timeouts(settings), bootstrap.graph_timeouts(settings)
                    ):
                        yield step
    finally:
        tokens.close()


async def _broker(settings: Settings) -> AsyncIterator[Step]:
    address = bootstrap.broker_address(settings)
    started = time.monotonic()
    try:
        found = [row async for row in broker.depths(address, bootstrap.topology(settings))]
    except BROKEN as error:
        remedy = "Check POSTLANE_BROKER__URL (or AMQP_URL), and that RabbitMQ runs."
        yield Step("broker", "connect and log in", "failed", explained(error, address), remedy)
        return
    yield Step("broker", f"connect and log in at {address}", "ok", seconds=time.monotonic() - started)
    missing = [name for name, ready, _ in found if ready is None]
    lanes = [row for row in found if ".lane." in row[0] and row[1] is not None]
    if not lanes or any(".lane." not in name for name in missing):
        detail = f"missing: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}"  # noqa: PLR2004 - a few will do
        yield Step("broker", "topology", "failed", detail, "Run: postlane topology apply")
        return
    consumers = lanes[0][2] or 0
    yield Step("broker", f"topology: {len(lanes)} lanes, {consumers} workers consuming", "ok")
    dead = next((ready for name, ready, _ in found if name.endswith(".dead")), 0)
    if dead:
        detail = f"{dead} messages in {settings.broker.prefix}.dead; the header x-postlane-reason says why"
        yield Step("broker", "dead letters", "warning", detail)


def _producers(directory: Directory) -> Step:
    if directory.producers is not None:
        return Step("producers", f"{len(directory.producers)} listed; user_id is required", "ok")
    return Step(
        "producers",
        "none listed",
        "warning",
        "Whoever may publish to the broker's virtual host is trusted to speak for every tenant.",
        "List them under [[producers]] in the mailboxes file.",
    )


async def _mailbox(
    mailbox: Mailbox, tokens: MsalTokens, timeouts: Timeouts, graph: conversation.Timeouts
) -> AsyncIterator[Step]:
    subject = f"mailbox {mailbox.name}"
    match mailbox.endpoint:
        case PickupDirectory() as place:
            problem = await asyncio.to_thread(pickup.check, place)
            yield Step(subject, f"pickup directory {place.directory}", "failed" if problem else "ok", problem)
        case GraphEndpoint() as endpoint:
            async for step in _graph(subject, mailbox, endpoint, tokens, graph):
                yield step
        case SmtpEndpoint() as endpoint:
            if isinstance(endpoint.credentials, Password) and endpoint.host.endswith(_MICROSOFT):
                yield Step(
                    subject, "basic authentication", "warning", _RETIREMENT, "Move it to OAuth: README, Office 365."
                )
            async for step in _submission(subject, mailbox, endpoint, tokens, timeouts):
                yield step


async def _graph(
    subject: str, mailbox: Mailbox, endpoint: GraphEndpoint, tokens: MsalTokens, timeouts: conversation.Timeouts
) -> AsyncIterator[Step]:
    started = time.monotonic()
    answer = await tokens.token(mailbox.name, endpoint.credentials)
    what = f"token from {endpoint.credentials.authority} for {endpoint.credentials.scope}"
    if not isinstance(answer, Token):
        found = _meaning(answer)
        yield Step(subject, what, "failed", f"{found.explanation} ({_said(answer)})", found.remedy)
        return
    yield Step(subject, what, "ok", seconds=time.monotonic() - started)
    started = time.monotonic()
    transport = GraphTransport(tokens, timeouts)
    try:
        problem = await transport.probe(mailbox)
    finally:
        await transport.close()
    what = f"sendMail at {endpoint.url} for {endpoint.user}"
    if problem is None:
        yield Step(subject, what, "ok", seconds=time.monotonic() - started)
        return
    found = _meaning(problem)
    yield Step(subject, what, "failed", f"{found.explanation} ({_said(problem)})", found.remedy)


async def _submission(
    subject: str, mailbox: Mailbox, endpoint: SmtpEndpoint, tokens: MsalTokens, timeouts: Timeouts
) -> AsyncIterator[Step]:
    """Each step only if the one before went well."""
    started = time.monotonic()

    def step(what: str, failure: Refused | TokenRefused | Broken | None) -> Step:
        if failure is None:
            return Step(subject, what, "ok", seconds=time.monotonic() - started)
        found = _meaning(failure)
        return Step(subject, what, "failed", f"{found.explanation} ({_said(failure)})", found.remedy)

    problem = await _resolve(endpoint.host)
    yield step(f"resolve {endpoint.host}", problem)
    if problem is not None:
        return
    token: Token | None = None
    if isinstance(endpoint.credentials, ClientSecret):
        started = time.monotonic()
        answer = await tokens.token(mailbox.name, endpoint.credentials)
        yield step(f"token from {endpoint.credentials.authority}", None if isinstance(answer, Token) else answer)
        if not isinstance(answer, Token):
            return
        token = answer
    started = time.monotonic()
    connection = await connect(endpoint, timeouts)
    if not isinstance(connection, Connection):
        yield step(f"connect to {endpoint.host}:{endpoint.port}", connection)
        return
    yield step(f"connect to {endpoint.host}:{endpoint.port}, TLS {connection.tls}", None)
    try:
        async for inner in _session(subject, mailbox, endpoint, connection, token, timeouts):
            yield inner
    finally:
        connection.dialogue.hang_up()


async def _session(
    subject: str,
    mailbox: Mailbox,
    endpoint: SmtpEndpoint,
    connection: Connection,
    token: Token | None,
    timeouts: Timeouts,
) -> AsyncIterator[Step]:
    started = time.monotonic()
    match endpoint.credentials:
        case NoLogin():
            mechanism = None
        case Password() as login:
            mechanism = password_mechanism(login, connection)
        case ClientSecret() as client:
            mechanism = Xoauth2(client.username, token.value if token else "")
    if mechanism is not None:
        answer = await authenticate(connection, mechanism, timeouts)
        what = f"log in by {mechanism.name} as {mechanism.username}"
        if not isinstance(answer, Reply):
            found = _meaning(answer)
            yield Step(subject, what, "failed", f"{found.explanation} ({_said(answer)})", found.remedy)
            return
        yield Step(subject, what, "ok", seconds=time.monotonic() - started)
    yield await _sender(subject, mailbox, connection, timeouts)


async def _sender(subject: str, mailbox: Mailbox, connection: Connection, timeouts: Timeouts) -> Step:
    """MAIL FROM and RSET: the server's first word on the sender, and no mail."""
    started = time.monotonic()
    what = f"sender {mailbox.address}"
    try:
        (reply,) = await connection.dialogue.ask(f"MAIL FROM:<{mailbox.address}>".encode(), timeout=timeouts.command)
        await connection.dialogue.ask(b"RSET", timeout=timeouts.command)
    except Lost as lost:
        return Step(subject, what, "failed", str(lost))
    if reply.positive:
        return Step(subject, what, "ok", seconds=time.monotonic() - started)
    found = verdicts.of_refusal(catalogue(), Refused(Stage.MAIL, reply))
    return Step(subject, what, "failed", f"{found.explanation} ({reply})", found.remedy)


async def _resolve(host: str) -> Broken | None:
    try:
        await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return Broken(Stage.CONNECT, Fault.DNS, error.strerror or str(error))
    return None


def _meaning(failure: Refused | TokenRefused | Broken) -> Verdict:
    rows: Sequence[verdicts.Row] = catalogue()
    match failure:
        case Refused():
            return verdicts.of_refusal(rows, failure)
        case TokenRefused():
            return verdicts.of_token(rows, failure)
        case Broken():
            return verdicts.of_fault(rows, failure)


def _said(failure: Refused | TokenRefused | Broken) -> str:
    match failure:
        case Refused(reply=reply):
            return str(reply)
        case TokenRefused(error, description):
            return description or error
        case Broken(detail=detail):
            return detail


def _ignore(_event: Event) -> None:
    """The doctor tells by its steps."""
