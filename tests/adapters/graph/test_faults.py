"""Servers that misbehave: how far it came decides what is known of the mail."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx2
import pytest

from contracts.address import parse
from tests.factories import JANA, NOON, notification
from worker.domain.delivery import Accepted, Broken, Fault, Refused, Stage, Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import DeviceLogin, GraphEndpoint, Mailbox, OAuth
from worker.domain.message import compose
from worker.emulator.authority import Certificates
from worker.graph.answer import Answer
from worker.graph.conversation import Timeouts
from worker.graph.faults import connecting, fault_of
from worker.graph.transport import GraphTransport
from worker.ports import Token

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class OneToken:
    """A token that needs no authority."""

    async def token(self, *_: object, **__: object) -> Token:
        return Token("a-token", fresh=True)


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    """A server that does what the coroutine does, on a free port."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(closing, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Post:
    """What came of one submission, and whether the ledger had been asked by then."""

    def __init__(self) -> None:
        self.marked = False

    async def handing_over(self) -> bool:
        self.marked = True
        return True

    async def to(self, port: int, ca_file: str | None, *, answer: float = 5) -> Submission:
        credentials = OAuth("https://login.example/t", "app", DeviceLogin(), "s", "a@contoso.com")
        endpoint = GraphEndpoint(f"https://localhost:{port}/v1.0", "a@contoso.com", credentials, ca_file=ca_file)
        mailbox = Mailbox("portal", parse("a@contoso.com"), "Portal", endpoint)
        transport = GraphTransport(OneToken(), Timeouts(connect=5, answer=answer, whole=10))
        message = compose(notification(), mailbox, (), NOON)
        try:
            return await transport.submit(mailbox, Envelope.of(mailbox.address, [JANA]), message, self.handing_over)
        finally:
            await transport.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return head + await reader.readexactly(int(length.split(b":")[1]))


def says(response: bytes) -> Serve:
    """Reads the whole request and answers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        writer.write(response)
        await writer.drain()

    return serve


def throttled(code: str, *headers: str) -> Serve:
    """Answers 429 with Graph's error."""
    body = json.dumps({"error": {"code": code, "message": "Application is over its MailboxConcurrency limit."}})
    head = ["HTTP/1.1 429 Too Many Requests", f"Content-Length: {len(body)}", *headers, "", body]
    return says("\r\n".join(head).encode())


async def hangs_up_at_once(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def hangs_up_after_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _request(reader)
    writer.transport.abort()


async def never_answers(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await _request(reader)
    await reader.read()


@pytest.mark.parametrize(
    ("serve", "fault"),
    [
        pytest.param(hangs_up_after_the_body, Fault.DISCONNECTED, id="hangs-up"),
        pytest.param(never_answers, Fault.TIMEOUT, id="silent"),
        pytest.param(says(b"HTTP/1.1 5"), Fault.DISCONNECTED, id="half-a-status-line"),
        pytest.param(says(b"220 mail.example ESMTP\r\n\r\n"), Fault.DISCONNECTED, id="no-http"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), Fault.GARBLED, id="200-is-no-202"),
        pytest.param(says(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"), Fault.GARBLED, id="302"),
        pytest.param(says(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"), Fault.SERVER_ERROR, id="502"),
        pytest.param(throttled("ApplicationThrottled"), Fault.SERVER_ERROR, id="429-that-does-not-say-for-how-long"),
    ],
)
async def test_what_ends_after_the_body_is_in_doubt(certificates: Certificates, serve: Serve, fault: Fault) -> None:
    post = Post()
    async with serving(serve, certificates.server_context()) as port:
        outcome = await post.to(port, str(certificates.ca_file), answer=0.5)
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault, post.marked) == (Stage.DOT, fault, True)
    assert "a-token" not in repr(outcome)


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n{", id="body-breaks-off"),
        pytest.param(b"HTTP/1.1 202 Accepted\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n", id="with-retry-after"),
    ],
)
async def test_202_is_acceptance_whatever_comes_with_it(certificates: Certificates, response: bytes) -> None:
    async with serving(says(response), certificates.server_context()) as port:
        assert isinstance(await Post().to(port, str(certificates.ca_file)), Accepted)


async def test_refusal_without_graphs_json_is_told_by_its_status(certificates: Certificates) -> None:
    proxy = says(b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\nnope")
    async with serving(proxy, certificates.server_context()) as port:
        outcome = await Post().to(port, str(certificates.ca_file))
    assert isinstance(outcome, Refused)
    assert str(outcome.reply) == "403 Forbidden"


@pytest.mark.parametrize(
    "serve",
    [
        pytest.param(throttled("ApplicationThrottled", "Retry-After: 1"), id="says-for-how-long"),
        pytest.param(throttled("TooManyRequests"), id="another-code"),
    ],
)
async def test_request_that_was_turned_away_at_the_door_was_not_sent(certificates: Certificates, serve: Serve) -> None:
    async with serving(serve, certificates.server_context()) as port:
        outcome = await Post().to(port, str(certificates.ca_file))
    assert isinstance(outcome, Refused)
    assert (outcome.stage, outcome.reply.code) == (Stage.GRAPH, 429)


async def test_server_that_hangs_up_in_the_handshake_has_got_nothing(certificates: Certificates) -> None:
    post = Post()
    async with serving(hangs_up_at_once, None) as port:
        outcome = await post.to(port, str(certificates.ca_file))
    assert isinstance(outcome, Broken)
    assert (outcome.stage, post.marked) == (Stage.CONNECT, False)


async def test_certificate_of_somebody_else_is_told_nothing(certificates: Certificates) -> None:
    post = Post()
    async with serving(never_answers, certificates.server_context()) as port:
        outcome = await post.to(port, None)
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault, post.marked) == (Stage.CONNECT, Fault.CERTIFICATE, False)


async def test_port_where_nobody_listens_is_unreachable(certificates: Certificates) -> None:
    async with serving(never_answers, None) as port:
        pass
    outcome = await Post().to(port, str(certificates.ca_file))
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.CONNECT, Fault.UNREACHABLE)


def _request_errors() -> list[type[httpx2.RequestError]]:
    everything = (getattr(httpx2, name) for name in dir(httpx2))
    return [each for each in everything if isinstance(each, type) and issubclass(each, httpx2.RequestError)]


GENERIC = {httpx2.RequestError, httpx2.TransportError}


@pytest.mark.parametrize(
    "kind", [each for each in _request_errors() if each not in GENERIC], ids=lambda kind: kind.__name__
)
def test_every_exception_of_the_library_has_a_fault(kind: type[httpx2.RequestError]) -> None:
    assert isinstance(fault_of(kind("it broke")), Fault)


def test_only_what_breaks_before_there_is_a_connection_counts_as_connecting() -> None:
    early = {kind.__name__ for kind in _request_errors() if connecting(kind("it broke"))}
    assert early == {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "120"}, 120),
        ({"retry-after": "0"}, 1),
        ({"retry-after": "99999999999"}, 86400),
        ({"retry-after": "Mon, 01 Jun 2026 12:01:30 GMT", "date": "Mon, 01 Jun 2026 12:00:00 GMT"}, 90),
        ({"retry-after": "Mon, 01 Jun 2026 12:01:30 GMT", "date": "just now"}, 30),
        ({"retry-after": "Mon, 01 Jun 2026 12:01:30 GMT"}, 30),
        ({"retry-after": "Mon, 01 Jun 2026 12:01:30 -0000"}, 30),
        ({"retry-after": "Mon, 01 Jun 2026 12:00:30 GMT"}, 1),
        ({"retry-after": "9" * 5000}, 86400),
        ({"retry-after": "Mon, 01 Jun 2026 12:01:30 +99999999999999999999"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(headers: dict[str, str], seconds: int | None) -> None:
    wait = Answer(429, headers, at=datetime(2026, 6, 1, 12, 1, tzinfo=UTC)).retry_after
    assert (wait.total_seconds() if wait else None) == seconds
