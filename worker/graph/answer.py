"""What Graph answers: status, error code, how long to wait."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from worker.domain.delivery import Refused, Stage
from worker.domain.reply import Reply

_LONGEST = timedelta(days=1)
_SHORTEST = timedelta(seconds=1)
_SENT_ALL_THE_SAME = "applicationthrottled"  # the one 429 that was seen although the mail went out


@dataclass(frozen=True, slots=True)
class Answer:
    """One response.

    Attributes:
        headers: names in lower case.
        content: empty if it was no JSON object.
        at: when it came, by our clock.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, object] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
        """Read a response; a body that is not what Graph sends counts as none."""
        try:
            content = json.loads(body)
        except ValueError:
            content = None
        return cls(status, headers, content if isinstance(content, dict) else {})

    @property
    def good(self) -> bool:
        """2xx."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def definite(self) -> bool:
        """Whether it is a refusal to send: who says when to come back has turned the request away at the door."""
        match self.status:
            case HTTPStatus.SERVICE_UNAVAILABLE:
                return self.retry_after is not None
            case HTTPStatus.TOO_MANY_REQUESTS if str(self._error.get("code")).lower() == _SENT_ALL_THE_SAME:
                return self.retry_after is not None
            case HTTPStatus.INSUFFICIENT_STORAGE:  # RFC 4918 section 11.5: it could not even be stored
                return True
            case status:
                return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def reply(self) -> Reply:
        """In the words of a mail server's reply: status, then `ErrorCode: message [request-id=…]`."""
        told = self._error
        said = ": ".join(str(told[name]) for name in ("code", "message") if told.get(name)) or _phrase(self.status)
        request = self.headers.get("request-id", "")
        return Reply.of(self.status, [f"{said} [request-id={request}]" if request else said])

    @property
    def retry_after(self) -> timedelta | None:
        """What Retry-After asks for, in seconds or as a date (RFC 9110 section 10.2.3); None if it does not.

        A date is the server's, so its own clock counts if it tells what that says.
        """
        value = self.headers.get("retry-after", "").strip()
        if not value:
            return None
        if value.isdecimal():
            return _bounded(timedelta(seconds=min(float(value), _LONGEST.total_seconds())))
        until = _date(value)
        return _bounded(until - (_date(self.headers.get("date", "")) or self.at)) if until else None

    @property
    def refused(self) -> Refused:
        """As a refusal of the whole mail."""
        return Refused(Stage.GRAPH, self.reply, retry_after=self.retry_after)

    @property
    def _error(self) -> Mapping[str, object]:
        error = self.content.get("error")
        return error if isinstance(error, dict) else {}

    def text(self, name: str) -> str:
        """A field of the content; empty if it is no text."""
        value = self.content.get(name)
        return value if isinstance(value, str) else ""


def _bounded(wait: timedelta) -> timedelta:
    return min(max(wait, _SHORTEST), _LONGEST)


def _date(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "HTTP"
