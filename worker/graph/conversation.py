"""Requests on behalf of one mailbox: token, time-outs, and the knowledge of what the server may have accepted."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

import httpx2

from worker.domain.delivery import Broken, Fault, Fenced, Stage, TokenRefused
from worker.domain.mailbox import GraphEndpoint
from worker.graph.answer import Answer
from worker.graph.faults import connecting, fault_of
from worker.ports import HandingOver, Token, Tokens

_IDLE = 10.0  # seconds; a connection that has been idle for longer may be dead without our knowing
_MOST = 64 * 1024  # octets of a response that are of interest
_UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds.

    Attributes:
        connect: TCP and TLS.
        answer: silence that is put up with while a request is written or its response awaited.
        whole: for one request with its response.
    """

    connect: float = 20
    answer: float = 120
    whole: float = 600


class Ended(Exception):  # noqa: N818 - the way out of a conversation
    """It came to an end before its end."""

    def __init__(self, outcome: TokenRefused | Broken | Fenced) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class Mark:
    """The ledger's mark before the point of no return: asked for once, however often the request is made."""

    def __init__(self, handing_over: HandingOver) -> None:
        self._handing_over = handing_over
        self._given: bool | None = None

    async def given(self) -> bool:
        """Whether the mail may leave."""
        if self._given is None:
            self._given = await self._handing_over()
        return self._given


def client(ca_file: str | None, timeouts: Timeouts) -> httpx2.AsyncClient:
    """An HTTP client; one is enough for all mailboxes that trust the same authorities.

    It keeps no cookies between mailboxes and follows no redirect: either could carry a mail or a token elsewhere.
    """
    return httpx2.AsyncClient(
        verify=ssl.create_default_context(cafile=ca_file) if ca_file else True,
        timeout=httpx2.Timeout(timeouts.answer, connect=timeouts.connect),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=_IDLE),
        follow_redirects=False,
    )


@dataclass(slots=True)
class Conversation:
    """One mailbox's requests, one after the other."""

    client: httpx2.AsyncClient
    mailbox: str
    endpoint: GraphEndpoint
    tokens: Tokens
    timeouts: Timeouts
    token: Token | None = None

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "application/json",
        mark: Mark | None = None,
    ) -> Answer:
        """Make a request; a token from the cache, or one that was good before, is replaced once if it is refused.

        Args:
            method: of HTTP.
            path: below `/users/<mailbox>`.
            body: may be empty.
            content_type: of the body.
            mark: set before the last octet, if this request may make the server accept the mail.

        Raises:
            Ended: there was no answer.
        """
        url = f"{self.endpoint.url}/users/{quote(self.endpoint.user, safe='@')}{path}"
        token = self.token or await self._token(None)
        answer = await self._exchange(method, url, self._headers(token, content_type), body, mark)
        if answer.status == _UNAUTHORIZED and not token.fresh:
            token = await self._token(token)
            answer = await self._exchange(method, url, self._headers(token, content_type), body, mark)
        self.token = token if answer.status == _UNAUTHORIZED else replace(token, fresh=False)
        return answer

    async def search(self, folder: str, message_id: str) -> tuple[str, ...] | None:
        """Ids of the mails in a folder that have this Message-ID; a few of them are all.

        Returns:
            None if the folder may not be read.

        Raises:
            Ended: there was no answer.
        """
        quoted = message_id.replace("'", "''")
        query = urlencode({"$filter": f"internetMessageId eq '{quoted}'", "$select": "id", "$top": "10"})
        answer = await self.ask("GET", f"/mailFolders/{folder}/messages?{query}")
        found = answer.content.get("value")
        if not (answer.good and isinstance(found, list)):
            return None
        return tuple(str(each["id"]) for each in found if isinstance(each, dict) and "id" in each)

    async def put(self, url: str, body: bytes, start: int, total: int) -> Answer:
        """Upload a piece of a file to an address that needs no token and must not see ours.

        Raises:
            Ended: there was no answer.
        """
        span = f"bytes {start}-{start + len(body) - 1}/{total}"
        headers = {"Content-Type": "application/octet-stream", "Content-Range": span}
        return await self._exchange("PUT", url, headers, body, None)

    async def look(self, url: str) -> Answer:
        """Ask the same address how far the upload has come.

        Raises:
            Ended: there was no answer.
        """
        return await self._exchange("GET", url, {}, b"", None)

    async def _token(self, rejected: Token | None) -> Token:
        token = await self.tokens.token(self.mailbox, self.endpoint.credentials, rejected=rejected)
        if not isinstance(token, Token):
            raise Ended(token)
        return token

    def _headers(self, token: Token, content_type: str) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {token.value}",
            "Content-Type": content_type,
            "client-request-id": str(uuid.uuid4()),
        }

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, mark: Mark | None
    ) -> Answer:
        leaving = _Leaving(body, mark)
        await leaving.begin()
        content = {**headers, "Content-Length": str(len(body))}
        try:
            async with (
                asyncio.timeout(self.timeouts.whole),
                self.client.stream(method, url, headers=content, content=leaving.pieces()) as response,
            ):
                told = {name.lower(): value for name, value in response.headers.items()}
                return Answer.of(response.status_code, told, await _read(response))
        except httpx2.RequestError as error:
            detail = f"{httpx2.URL(url).host}: {str(error) or type(error).__name__}"
            raise Ended(Broken(leaving.stage(connecting=connecting(error)), fault_of(error), detail)) from error
        except TimeoutError as error:
            host = httpx2.URL(url).host
            raise Ended(
                Broken(leaving.stage(connecting=False), Fault.TIMEOUT, f"{host} does not come to an end")
            ) from error
        finally:
            self.client.cookies.clear()


class _Leaving:
    """A body on its way: all but the last octet, the mark, the last octet. Without that nobody can accept it."""

    def __init__(self, body: bytes, mark: Mark | None) -> None:
        self._body = body
        self._mark = mark
        self._handed = False

    async def begin(self) -> None:
        """A request without a body is complete with its headers."""
        if not self._body:
            await self._hand_over()

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self._body[:-1]
        if self._body:
            await self._hand_over()
            yield self._body[-1:]

    def stage(self, *, connecting: bool) -> Stage:
        """How far it came."""
        if connecting:
            return Stage.CONNECT
        return Stage.DOT if self._handed else Stage.DATA

    async def _hand_over(self) -> None:
        if self._mark is None:
            return
        if not await self._mark.given():
            raise Ended(Fenced())
        self._handed = True


async def _read(response: httpx2.Response) -> bytes:
    """The body, or as much of it as an error needs; once the status is known a broken end changes nothing."""
    body = b""
    with contextlib.suppress(httpx2.RequestError):
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > _MOST:
                break
    return body
