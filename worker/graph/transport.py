"""The Graph transport: sendMail with the mail as it is, for one mailbox at a time."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import cast

import httpx2

from worker.domain.addressing import names_others, self_addressed
from worker.domain.delivery import (
    Accepted,
    Broken,
    Busy,
    Fault,
    Fenced,
    Refused,
    Stage,
    Submission,
    TokenRefused,
)
from worker.domain.division import Divided, divide
from worker.domain.envelope import Envelope
from worker.domain.mailbox import GraphEndpoint, Mailbox
from worker.domain.message import OutgoingMessage
from worker.graph.answer import Answer
from worker.graph.conversation import Conversation, Ended, Mark, Timeouts, client
from worker.graph.large import send_in_parts
from worker.graph.upload import Declined
from worker.permits import Places, permitted
from worker.ports import HandingOver, Permits, Tokens

WHOLE = 3 * 1024 * 1024  # octets of a mail that fit into one request once they are base64
_NO_BASE64 = b"!"  # what no mail can be


class GraphTransport:
    """Submits over Microsoft Graph.

    202 is acceptance. A refusal with a status of 4xx or 507, or one that says when to come back, is definite; the 429
    ApplicationThrottled only if it does.
    Every other end after the last octet leaves open what became of the mail: Graph has been seen to answer 5xx and
    to send it. Of a large mail that is the end of the last request; until then it is a draft, which goes nowhere.
    """

    def __init__(self, tokens: Tokens, timeouts: Timeouts | None = None, permits: Permits | None = None) -> None:
        """Nothing is connected yet.

        Args:
            tokens: access tokens.
            timeouts: of HTTP.
            permits: asked before each mail, for all workers together; None: our own line counts alone.
        """
        self._permits = permits
        self._tokens = tokens
        self._timeouts = timeouts or Timeouts()
        self._clients: dict[str | None, httpx2.AsyncClient] = {}
        self._lines: dict[tuple[str, int], Places] = {}

    async def submit(
        self, mailbox: Mailbox, envelope: Envelope, message: OutgoingMessage, handing_over: HandingOver
    ) -> Submission:
        """Submit one mail. Graph reads its recipients from the headers, hidden ones from a Bcc that it removes.

        What stood in line when the mailbox began to rest does not go out.
        """
        asked = time.monotonic()
        if names_others(envelope, message):
            return Broken(Stage.GRAPH, Fault.NAMED_ALREADY, "")
        async with (
            self._line(mailbox).place(urgent=message.urgent) as free,
            self._permitted(mailbox, free=free, urgent=message.urgent) as has_place,
        ):
            if not has_place or (self._permits is not None and self._permits.rested_since(mailbox.name, asked)):
                return Busy()
            content = self_addressed(envelope, message)
            mark = Mark(handing_over)
            try:
                return _meaning(await self._sent(self.talk(mailbox), content, message.message_id, mark))
            except Declined as no:
                return replace(no.answer.refused, stage=Stage.DRAFT)
            except Ended as ended:
                return ended.outcome

    async def probe(self, mailbox: Mailbox) -> Refused | TokenRefused | Broken | None:
        """Ask for sendMail with what cannot be a mail: only an app with the right to send is told that it is none.

        Returns:
            What is wrong; None if this mailbox could send.
        """
        try:
            answer = await self.talk(mailbox).ask("POST", "/sendMail", _NO_BASE64, "text/plain")
        except Ended as ended:
            return None if isinstance(ended.outcome, Fenced) else ended.outcome
        return None if answer.status == HTTPStatus.BAD_REQUEST else answer.refused

    def talk(self, mailbox: Mailbox) -> Conversation:
        """A conversation for a mailbox whose endpoint is Graph's."""
        endpoint = cast("GraphEndpoint", mailbox.endpoint)
        http = self._clients.get(endpoint.ca_file)
        if http is None:
            http = self._clients[endpoint.ca_file] = client(endpoint.ca_file, self._timeouts)
        return Conversation(http, mailbox.name, endpoint, self._tokens, self._timeouts)

    async def close(self) -> None:
        """Close all connections."""
        for http in self._clients.values():
            await http.aclose()
        self._clients.clear()

    async def _sent(self, talk: Conversation, content: bytes, message_id: str, mark: Mark) -> Answer:
        if len(content) <= WHOLE:
            return await talk.ask("POST", "/sendMail", base64.b64encode(content), "text/plain", mark)
        divided = await asyncio.to_thread(divide, content, WHOLE)
        if not isinstance(divided, Divided):
            raise Ended(Broken(Stage.GRAPH, Fault.TOO_LARGE, "the mail without its files is above 3 MB, Graph's limit"))
        return await send_in_parts(talk, divided, message_id, mark)

    @asynccontextmanager
    async def _permitted(self, mailbox: Mailbox, *, free: bool, urgent: bool) -> AsyncIterator[bool]:
        """One of the fleet's places while the context lasts; False if there is none within a moment."""
        if self._permits is None or not free:
            yield free
            return
        permit = await permitted(self._permits, mailbox, urgent=urgent)
        if permit is None:
            yield False
            return
        try:
            yield True
        finally:
            await self._permits.release(permit)

    def _line(self, mailbox: Mailbox) -> Places:
        places = cast("GraphEndpoint", mailbox.endpoint).concurrent
        line = self._lines.get((mailbox.name, places))
        if line is None:
            line = self._lines[mailbox.name, places] = Places(places)
        return line


def _meaning(answer: Answer) -> Accepted | Refused | Broken:
    """What the answer to sendMail or send says about the mail."""
    match answer.status:
        case HTTPStatus.ACCEPTED:
            return Accepted(answer.reply)
        case _ if answer.definite:
            return answer.refused
        case status:
            fault = Fault.SERVER_ERROR if status >= HTTPStatus.BAD_REQUEST else Fault.GARBLED
            return Broken(Stage.DOT, fault, str(answer.reply))
