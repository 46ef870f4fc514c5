"""How progress and results are written into the database, and read back."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from contracts.address import AddrSpec
from contracts.delivery import RecipientStatus, Result
from worker.domain.delivery import Outcome, Progress
from worker.domain.reply import EnhancedStatusCode, Reply

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Pending:
    """A result that nobody has confirmed yet, and where its copy goes."""

    result: Result
    reply_to: str | None


_pending: TypeAdapter[tuple[Pending, ...]] = TypeAdapter(tuple[Pending, ...])


def microseconds(moment: datetime) -> int:
    """Since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(since: int) -> datetime:
    """The moment so many microseconds after 1970."""
    return _EPOCH + timedelta(microseconds=since)


def keys_text(keys: Iterable[tuple[str, str]]) -> str:
    """Keys as JSON, for a statement that takes many."""
    return json.dumps(list(keys))


def pending_text(earlier: str | None, results: Iterable[str], reply_to: str | None) -> str | None:
    """Results as JSON, behind the earlier ones; nothing if there are none.

    Args:
        earlier: JSON of the same kind.
        results: each as JSON already.
        reply_to: where their copies go.
    """
    address = json.dumps(reply_to)
    items = [f'{{"result":{text},"reply_to":{address}}}' for text in results]
    if earlier:
        items.insert(0, earlier[1:-1])
    return f"[{','.join(items)}]" if items else None


def without(text: str | None, events: Collection[str]) -> str | None:
    """What is left of pending results when those with these event ids are confirmed."""
    if not text:
        return None
    left = [item for item in json.loads(text) if item["result"]["event_id"] not in events]
    return json.dumps(left, separators=(",", ":")) if left else None


def pending(text: str | None) -> tuple[Pending, ...]:
    """Results from JSON."""
    return _pending.validate_json(text) if text else ()


def result_text(result: Result) -> str:
    """A result as JSON."""
    return result.model_dump_json()


def result(text: str) -> Result:
    """A result from JSON."""
    return Result.model_validate_json(text)


def progress_text(progress: Progress) -> str:
    """Progress as JSON; what is as it is at the beginning is left out."""
    fields: dict[str, Any] = {"first": microseconds(progress.first_seen)}
    if progress.attempts:
        fields["attempts"] = progress.attempts
    if progress.settled:
        fields["settled"] = [[*_person(rcpt), *_outcome(outcome)] for rcpt, outcome in progress.settled.items()]
    if progress.doubted:
        fields["doubted"] = sorted(_person(rcpt) for rcpt in progress.doubted)
    if progress.handed:
        fields["handed"] = sorted(_person(rcpt) for rcpt in progress.handed)
    if progress.waits:
        fields["waits"] = progress.waits
    if progress.told:
        fields["told"] = progress.told
    if progress.slot:
        fields["slot"] = microseconds(progress.slot)
    if progress.kept_until:
        fields["kept"] = microseconds(progress.kept_until)
    for name in ("replays", "group", "cap"):
        if getattr(progress, name):
            fields[name] = getattr(progress, name)
    return json.dumps(fields, separators=(",", ":"))


def progress(text: str) -> Progress:
    """Progress from JSON."""
    fields = json.loads(text)
    return Progress(
        first_seen=moment(fields["first"]),
        attempts=fields.get("attempts", 0),
        settled={
            AddrSpec(local, domain): Outcome(RecipientStatus(status), _reply(said), verdict)
            for local, domain, status, said, verdict in fields.get("settled", ())
        },
        doubted=frozenset(AddrSpec(local, domain) for local, domain in fields.get("doubted", ())),
        waits=fields.get("waits", 0),
        told=fields.get("told", ""),
        slot=moment(fields["slot"]) if "slot" in fields else None,
        kept_until=moment(fields["kept"]) if "kept" in fields else None,
        replays=fields.get("replays", 0),
        group=fields.get("group", 0),
        cap=fields.get("cap", 0),
        handed=frozenset(AddrSpec(local, domain) for local, domain in fields.get("handed", ())),
    )


def _person(rcpt: AddrSpec) -> list[str]:
    return [rcpt.local, rcpt.domain]


def _outcome(outcome: Outcome) -> list[Any]:
    reply = outcome.reply
    said = [reply.code, str(reply.enhanced or ""), reply.text] if reply else None
    return [outcome.status, said, outcome.verdict]


def _reply(said: list[Any] | None) -> Reply | None:
    if said is None:
        return None
    code, enhanced, text = said
    return Reply(code, EnhancedStatusCode.parse(enhanced), text)
