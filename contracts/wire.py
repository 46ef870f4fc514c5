"""Bytes to Notification or Cancellation, and Result to bytes, with an exact word on what is wrong with the bytes.

Nothing in here trusts anything: whatever comes in, `decode` returns a value and never raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn

from pydantic import JsonValue, TypeAdapter, ValidationError

from contracts.cancellation import CANCELLATION_TYPE, Cancellation
from contracts.delivery import Problem, Result
from contracts.model import Identifier, TenantName
from contracts.notification import NOTIFICATION_TYPE, Notification

CLOUDEVENT: Final = "application/cloudevents+json"
JSON: Final = "application/json"
MAX_PROBLEMS: Final = 20

_ID = TypeAdapter(Identifier)
_TENANT = TypeAdapter(TenantName)


@dataclass(frozen=True, slots=True)
class Properties:
    """The AMQP properties that the contract gives a meaning to.

    Attributes:
        message_id: names the notification where its body cannot be read. It need not equal the id: many client
            libraries make one up.
        user_id: the producer's login; RabbitMQ refuses a message whose user_id is not the connection's.
        timestamp: when the producer published, if it says so.
    """

    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    user_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    timestamp: datetime | None = None
    routing_key: str = ""
    headers: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that is no notification, with what could still be read of it."""

    problems: tuple[Problem, ...]
    notification_id: str | None
    tenant: str | None


class _Unreadable(Exception):  # noqa: N818 - a way out of the parser, never seen outside this module
    def __init__(self, where: str, problem: str) -> None:
        super().__init__(problem)
        self.problem = Problem(field=where, problem=problem)


def decode(body: bytes, properties: Properties, *, max_octets: int) -> Notification | Cancellation | Malformed:
    """Read what a producer has published.

    Args:
        body: the message as it came.
        properties: its AMQP properties.
        max_octets: larger bodies are refused unread.
    """
    document: object = None
    try:
        text = _text(body, properties, max_octets)
        document = _document(text)
        _check_strings(document, text)
        payload = _payload(document, text, properties)
        kind = Cancellation if _cancels(document) else Notification
        return kind.model_validate_json(payload, by_alias=True, by_name=False)
    except _Unreadable as error:
        return _malformed((error.problem,), document, properties)
    except ValidationError as error:
        return _malformed(tuple(_problems(error)), document, properties)


def encode(message: Notification | Cancellation | Result) -> bytes:
    """The JSON form of a message, UTF-8, without the fields that have no value."""
    return message.model_dump_json(exclude_none=True).encode()


def _text(body: bytes, properties: Properties, max_octets: int) -> str:
    if len(body) > max_octets:
        raise _Unreadable("body", f"has {len(body)} octets; at most {max_octets} are allowed")
    if (properties.content_encoding or "").lower() not in ("", "identity", "utf-8", "utf8"):
        raise _Unreadable("content_encoding", "must not be set: send the JSON as plain UTF-8")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unreadable("body", f"is not UTF-8 (octet {error.start})") from error


def _document(text: str) -> object:
    """Parse once with the standard library: it can see what pydantic's parser hides or cannot place."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except _Unreadable:
        raise
    except RecursionError as error:
        raise _Unreadable("body", "is nested too deeply") from error
    except ValueError as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise _Unreadable("body", f"is not JSON{where}") from error


def _check_strings(document: object, text: str) -> None:
    if not isinstance(document, dict):
        raise _Unreadable("body", "must be a JSON object")
    if "\\u" not in text:  # only an escape can bring in what UTF-8 and JSON do not let through
        return
    try:
        for where in _unsendable(document):
            raise _Unreadable(where, "must not contain NUL or a lone surrogate")
    except RecursionError as error:
        raise _Unreadable("body", "is nested too deeply") from error


def _payload(document: object, text: str, properties: Properties) -> str:
    """The notification's own JSON, unwrapped from a structured-mode CloudEvent (CloudEvents 1.0) if it is one."""
    content_type = (properties.content_type or "").partition(";")[0].strip().lower()
    if content_type != CLOUDEVENT or not isinstance(document, dict):
        return text
    if document.get("specversion") != "1.0":
        raise _Unreadable("specversion", 'must be "1.0"')
    if document.get("type") not in (NOTIFICATION_TYPE, CANCELLATION_TYPE):
        raise _Unreadable("type", f'must be "{NOTIFICATION_TYPE}"')
    if not isinstance(document.get("data"), dict):
        raise _Unreadable("data", "must be the notification as a JSON object")
    return json.dumps(document["data"])


def _cancels(document: object) -> bool:
    return isinstance(document, dict) and document.get("type") == CANCELLATION_TYPE


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _Unreadable(_printable(name), "is given twice")
            seen.add(name)
    return document


def _no_constant(name: str) -> NoReturn:
    raise _Unreadable("body", f"contains {name}, which is not JSON")


_UNSENDABLE = re.compile(r"[\x00\ud800-\udfff]")


def _unsendable(value: object, path: str = "") -> Iterator[str]:
    """Paths of strings that no mail can carry; nesting is bounded by the parser's own recursion limit."""
    match value:
        case str() if _UNSENDABLE.search(value):
            yield path or "body"
        case dict():
            for name, inner in value.items():
                if _UNSENDABLE.search(name):
                    yield path or "body"
                shown = _printable(name)
                yield from _unsendable(inner, f"{path}.{shown}" if path else shown)
        case list():
            for index, inner in enumerate(value):
                yield from _unsendable(inner, f"{path}[{index}]")
        case _:
            pass


def _problems(error: ValidationError) -> Iterator[Problem]:
    for item in error.errors(include_url=False, include_input=False, include_context=False)[:MAX_PROBLEMS]:
        yield Problem(field=_path(item["loc"]) or "notification", problem=_plain(item["type"], item["msg"]))


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{_printable(step)}" if path else _printable(step)
    return path


_WORDS = {
    "extra_forbidden": "is not a field of this message",
    "missing": "is missing",
    "json_invalid": "is not valid JSON",
}


def _plain(kind: str, message: str) -> str:
    return _WORDS.get(kind, message.removeprefix("Value error, "))


def _printable(name: str) -> str:
    """A stranger's name for a field, fit to be shown."""
    return "".join(sign if sign.isprintable() else "?" for sign in name[:80]) or '""'


def _malformed(problems: tuple[Problem, ...], document: object, properties: Properties) -> Malformed:
    fields = document if isinstance(document, dict) else {}
    if "specversion" in fields:  # a CloudEvent's own id is the event's, not the notification's
        fields = fields["data"] if isinstance(fields.get("data"), dict) else {}
    return Malformed(
        problems=problems,
        notification_id=_readable(_ID, fields.get("id")) or _readable(_ID, properties.message_id),
        tenant=_readable(_TENANT, fields.get("tenant")),
    )


def _readable(kind: TypeAdapter[str], value: JsonValue) -> str | None:
    try:
        return kind.validate_python(value)
    except ValidationError:
        return None
