"""The doctor: goes the way of a mail up to the point where one would be sent, and says where it ends and why."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from worker import bootstrap
from worker.broker import apply as broker
from worker.broker.connection import BROKEN, explained
from worker.domain import verdict as verdicts
from worker.domain.claims import findings, permission_for, read
from worker.domain.cloud import is_high_volume, is_microsofts
from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.mailbox import (
    Directory,
    GraphEndpoint,
    Mailbox,
    OAuth,
    PickupDirectory,
    SmtpEndpoint,
)
from worker.domain.office365 import (
    HVE_RETIREMENT,
    RETIREMENT,
    SetupStep,
    remedy_of,
    step_of,
    way_of,
)
from worker.domain.reply import Reply
from worker.domain.restraint import noticed
from worker.domain.verdict import Verdict, catalogue
from worker.events import Event
from worker.graph import conversation
from worker.graph.transport import GraphTransport
from worker.oauth.expiry import WARN, End, credentials_of, end_of, retiring
from worker.oauth.registration import Registrations
from worker.oauth.tokens import MsalTokens
from worker.pickup import transport as pickup
from worker.ports import Token
from worker.settings import Settings, SettingsError
from worker.smtp.connect import Connection, Timeouts, authenticate, connect
from worker.smtp.dialogue import Lost
from worker.smtp.sasl import Mechanism
from worker.smtp.transport import mechanism_for

State = Literal["ok", "warning", "failed"]
_FOR_PASSWORDS = {SetupStep.SMTP_AUTH, SetupStep.SEND_AS}  # the other steps let an app or a person in


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at.

    Attributes:
        subject: `broker`, or `mailbox NAME`.
        seconds: how long it took; None where that says nothing.
        setup: steps of `postlane office365 setup` that a failure points to, the likeliest first.
    """

    subject: str
    what: str
    state: State
    detail: str = ""
    remedy: str = ""
    seconds: float | None = None
    setup: tuple[SetupStep, ...] = ()


async def examine(settings: Settings, only: frozenset[str] = frozenset()) -> AsyncIterator[Step]:
    """Look at everything, or at some mailboxes only. Nothing is sent.

    Raises:
        SettingsError: a named mailbox does not exist.
    """
    if not only:
        async for step in _broker(settings):
            yield step
    directory = await bootstrap.effective(settings)
    if missing := only - directory.mailboxes.keys():
        raise SettingsError(f"There is no mailbox {', '.join(sorted(missing))} in {settings.mailboxes.file}.")
    yield _producers(directory)
    for subject, words in noticed(directory):
        if only and subject.removeprefix("mailbox ") not in only:
            continue
        yield Step(subject, words, "warning")
    tokens = bootstrap.msal_tokens(settings, _ignore)
    try:
        for mailbox in directory.mailboxes.values():
            if mailbox.held is not None and mailbox.held.unusable:
                continue  # `noticed` has said what has to be mended first
            if not only or mailbox.name in only:
                for step in await _outlook(mailbox, tokens, settings.oauth.timeout_seconds):
                    yield step
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
            async for step in _submission(subject, mailbox, endpoint, tokens, timeouts):
                yield step


async def _outlook(mailbox: Mailbox, tokens: MsalTokens, timeout: float) -> list[Step]:
    """What will stop working by itself one day."""
    subject = f"mailbox {mailbox.name}"
    steps = []
    if (host := retiring(mailbox)) is not None:
        detail = HVE_RETIREMENT if is_high_volume(host) else RETIREMENT
        remedy = f"Move it to OAuth. The steps: postlane office365 setup --mailbox {mailbox.name}"
        steps.append(Step(subject, f"basic authentication at {host}", "warning", detail, remedy))
    ends = {end_of(credentials) for credentials in credentials_of(mailbox)} - {None}
    if not ends:
        ends = {*(await Registrations(tokens, timeout).ends([mailbox])).values()}
    return [*steps, *(_end(subject, end) for end in ends if end is not None)]


def _end(subject: str, end: End) -> Step:
    now = datetime.now(UTC)
    left = end.at - now
    state: State = "failed" if left <= timedelta() else "warning" if left < WARN else "ok"
    what = f"{end.what} {'ended' if state == 'failed' else 'ends'} on {end.at:%Y-%m-%d} ({end.days(now)} days)"
    remedy = "" if state == "ok" else f"Make a new {end.what}; two may be valid at once, so nothing is interrupted."
    return Step(subject, what, state, remedy=remedy, setup=() if state == "ok" else (SetupStep.PROOF,))


def _issuer(credentials: OAuth) -> str:
    return credentials.authority or "this machine's managed identity endpoint"


def _token_step(subject: str, token: Token, credentials: OAuth, permission: str) -> tuple[Step, bool | None]:
    """What the token says of itself, and whether it shows the permission."""
    claims = read(token.value)
    if credentials.oidc or claims is None:
        return Step(subject, "token is opaque to us, as it may be", "ok"), None
    found = list(findings(claims, credentials, permission, datetime.now(UTC)))
    fatal = [finding for finding in found if finding.fatal]
    what = f"token for {claims.audience}: {', '.join(claims.roles or claims.scopes) or 'no permission shown'}"
    shown = fatal or found
    step = Step(
        subject,
        what,
        "failed" if fatal else "ok",
        " ".join(finding.problem for finding in shown),
        " ".join(finding.remedy for finding in shown),
        setup=tuple(dict.fromkeys(finding.step for finding in fatal if finding.step is not None)),
    )
    return step, permission in claims.roles or bool(claims.scopes)


async def _graph(
    subject: str, mailbox: Mailbox, endpoint: GraphEndpoint, tokens: MsalTokens, timeouts: conversation.Timeouts
) -> AsyncIterator[Step]:
    started = time.monotonic()
    answer = await tokens.token(mailbox.name, endpoint.credentials)
    what = f"token from {_issuer(endpoint.credentials)} for {endpoint.credentials.scope}"
    if not isinstance(answer, Token):
        yield _failed(subject, what, answer)
        return
    yield Step(subject, what, "ok", seconds=time.monotonic() - started)
    yield _token_step(subject, answer, endpoint.credentials, "Mail.Send")[0]
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
    yield _placed(_failed(subject, what, problem, ()), mailbox, problem)


async def _submission(
    subject: str, mailbox: Mailbox, endpoint: SmtpEndpoint, tokens: MsalTokens, timeouts: Timeouts
) -> AsyncIterator[Step]:
    """Each step only if the one before went well."""
    started = time.monotonic()

    def step(what: str, failure: Refused | TokenRefused | Broken | None) -> Step:
        if failure is None:
            return Step(subject, what, "ok", seconds=time.monotonic() - started)
        return _failed(subject, what, failure, () if foreign else None)

    foreign = isinstance(endpoint.credentials, OAuth) and endpoint.credentials.oidc
    problem = await _resolve(endpoint.host)
    yield step(f"resolve {endpoint.host}", problem)
    if problem is not None:
        return
    token: Token | None = None
    may_submit: bool | None = None
    if isinstance(endpoint.credentials, OAuth):
        started = time.monotonic()
        answer = await tokens.token(mailbox.name, endpoint.credentials)
        yield step(f"token from {_issuer(endpoint.credentials)}", None if isinstance(answer, Token) else answer)
        if not isinstance(answer, Token):
            return
        token = answer
        told, may_submit = _token_step(subject, token, endpoint.credentials, permission_for(endpoint.host))
        yield told
        if SetupStep.MAILBOXES_FILE in told.setup:
            return  # a token for something else opens nothing, and a refused login is held against the mailbox
    started = time.monotonic()
    connection = await connect(endpoint, timeouts)
    if not isinstance(connection, Connection):
        yield step(f"connect to {endpoint.host}:{endpoint.port}", connection)
        return
    yield step(f"connect to {endpoint.host}:{endpoint.port}, TLS {connection.tls}", None)
    login = await _logged_in(mailbox.name, endpoint, connection, token, tokens, timeouts)
    try:
        async for inner in _session(subject, mailbox, login, timeouts, may_submit):
            yield inner
    finally:
        login.connection.dialogue.hang_up()


@dataclass(frozen=True, slots=True)
class _Login:
    """What came of a login, and over which connection it was tried last.

    Attributes:
        mechanism: None: the mailbox does not log in.
        seconds: that it took.
    """

    connection: Connection
    mechanism: Mechanism | None = None
    failure: Refused | TokenRefused | Broken | None = None
    seconds: float = 0.0


async def _logged_in(
    name: str,
    endpoint: SmtpEndpoint,
    connection: Connection,
    token: Token | None,
    tokens: MsalTokens,
    timeouts: Timeouts,
) -> _Login:
    """Log in as a worker does: a token that somebody had kept is replaced once, over a new connection."""
    started = time.monotonic()
    mechanism = mechanism_for(endpoint.credentials, connection, token)
    if mechanism is None:
        return _Login(connection)
    answer = await authenticate(connection, mechanism, timeouts)
    failure = None if isinstance(answer, Reply) else answer
    tried = _Login(connection, mechanism, failure, time.monotonic() - started)
    match endpoint.credentials, token, failure:
        case OAuth() as client, Token(fresh=False) as kept, Refused():
            connection.dialogue.hang_up()
            renewed = await tokens.token(name, client, rejected=kept)
            if not isinstance(renewed, Token):
                return replace(tried, failure=renewed)
            again = await connect(endpoint, timeouts)
            if not isinstance(again, Connection):
                return replace(tried, failure=again)
            return await _logged_in(name, endpoint, again, renewed, tokens, timeouts)
        case _:
            return tried


async def _session(
    subject: str,
    mailbox: Mailbox,
    login: _Login,
    timeouts: Timeouts,
    may_submit: bool | None,  # noqa: FBT001 - what the token shows, if it shows anything
) -> AsyncIterator[Step]:
    if login.mechanism is not None:
        what = f"log in by {login.mechanism.name} as {login.mechanism.username}"
        if login.failure is not None:
            yield _placed(_failed(subject, what, login.failure, ()), mailbox, login.failure, may_submit)
            return
        yield Step(subject, what, "ok", seconds=login.seconds)
    yield await _sender(subject, mailbox, login.connection, timeouts)


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
    refused = Refused(Stage.MAIL, reply)
    return _placed(_failed(subject, what, refused, ()), mailbox, refused)


def _placed(
    step: Step,
    mailbox: Mailbox,
    failure: Refused | TokenRefused | Broken,
    may_submit: bool | None = None,  # noqa: FBT001 - what the token shows, if it shows anything
) -> Step:
    """A failure at Microsoft's with the setup steps that it points to, and with what this mailbox tells of it."""
    found = step_of(failure, may_submit=may_submit, way=way_of(mailbox.endpoint))
    match mailbox.endpoint:
        case SmtpEndpoint(credentials=OAuth(oidc=False)) | GraphEndpoint():
            pass
        case SmtpEndpoint(host=host) if is_microsofts(host) and {*found} <= _FOR_PASSWORDS:
            pass
        case _:
            return step
    return replace(step, remedy=remedy_of(failure, mailbox, may_submit=may_submit) or step.remedy, setup=found)


def _failed(
    subject: str, what: str, failure: Refused | TokenRefused | Broken, setup: tuple[SetupStep, ...] | None = None
) -> Step:
    found = _meaning(failure)
    steps = step_of(failure, may_submit=None) if setup is None and isinstance(failure, TokenRefused) else setup or ()
    return Step(subject, what, "failed", f"{found.explanation} ({_said(failure)})", found.remedy, setup=steps)


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
