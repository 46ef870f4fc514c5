"""A token authority that says whatever a test wants: discovery and token endpoint over real HTTPS."""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from worker.oauth.tokens import MsalTokens

DISCOVERY = "/.well-known/openid-configuration"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: str

    @property
    def form(self) -> dict[str, str]:
        """Of an `application/x-www-form-urlencoded` body."""
        return dict(parse_qsl(self.body))


@dataclass(frozen=True)
class Answer:
    """A status and a body.

    Attributes:
        pieces: the body is sent in so many, each after the event loop has gone round for a while.
    """

    status: int = 200
    body: str = "{}"
    headers: dict[str, str] = field(default_factory=dict)


Respond = Callable[[Request], Awaitable[Answer | None]]
"""None: no answer at all; the connection stays open until the client leaves."""


def token(value: str = "token-1", lifetime: int = 3600, **more: object) -> Answer:
    """RFC 6749 section 5.1."""
    return Answer(body=json.dumps({"token_type": "Bearer", "expires_in": lifetime, "access_token": value, **more}))


def error(status: int, name: str, **more: object) -> Answer:
    """RFC 6749 section 5.2."""
    return Answer(status, json.dumps({"error": name, **more}))


class Authority:
    """One that issues `token-1`, `token-2` … unless told otherwise.

    Attributes:
        requests: to any of its endpoints, in order.
        answers: path → what to say there instead.
    """

    def __init__(self, tenant: str = "/tenant") -> None:
        self.tenant = tenant
        self.requests: list[Request] = []
        self.answers: dict[str, Answer | Respond] = {}
        self.open = 0
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.tls: ssl.SSLContext | None = None

    @property
    def netloc(self) -> str:
        assert self._server is not None
        return f"localhost:{self._server.sockets[0].getsockname()[1]}"

    @property
    def url(self) -> str:
        """What is configured as `authority`."""
        return f"https://{self.netloc}{self.tenant}"

    @property
    def discovery_path(self) -> str:
        """Where an OpenID Connect issuer tells about itself."""
        return f"{self.tenant}{DISCOVERY}"

    @property
    def token_path(self) -> str:
        """Of the token endpoint."""
        return f"{self.tenant}/token"

    @property
    def token_requests(self) -> list[Request]:
        return [request for request in self.requests if request.path == self.token_path]

    def configuration(self, **changes: object) -> dict[str, object]:
        """OpenID Connect Discovery section 3."""
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            **changes,
        }

    async def until_open(self, count: int, patience: float = 5) -> None:
        """Wait until so many connections are open."""
        async with asyncio.timeout(patience):
            while self.open != count:
                self._changed.clear()
                await self._changed.wait()

    async def listen(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self.tls)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()
            await self.until_open(0)
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._count(+1)
        try:
            while request := await _read(reader):
                self.requests.append(request)
                answer = await self._answer(request)
                if answer is None:
                    await reader.read()
                    break
                await _write(writer, answer)
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._count(-1)

    async def _answer(self, request: Request) -> Answer | None:
        told = self.answers.get(request.path)
        if isinstance(told, Answer):
            return told
        if told is not None:
            return await told(request)
        if request.path.endswith(DISCOVERY):
            return Answer(body=json.dumps(self.configuration()))
        return token(f"token-{len(self.token_requests)}")

    def _count(self, change: int) -> None:
        self.open += change
        self._changed.set()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path.partition("?")[0], headers, body.decode())


async def _write(writer: asyncio.StreamWriter, answer: Answer) -> None:
    body = answer.body.encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer.headers}
    lines = [f"HTTP/1.1 {answer.status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()


@asynccontextmanager
async def issuing(tls: ssl.SSLContext | None, tenant: str = "/tenant") -> AsyncIterator[Authority]:
    """Run an authority."""
    authority = Authority(tenant)
    authority.tls = tls
    await authority.listen()
    try:
        yield authority
    finally:
        await authority.close()


def let_go(tokens: MsalTokens) -> None:
    """Close, connections included; those would keep an emulator from ending for half a minute."""
    tokens.close()
    gc.collect()  # the sessions of applications that could not be built
