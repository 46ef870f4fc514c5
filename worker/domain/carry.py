"""What travels with a message through the wait queues: its progress, in one AMQP header.

A message's properties must fit into one frame of 128 KiB together, whatever a thousand recipients' servers said; so
recipients are named by their position, equal replies are written once, and long texts are cut before they break it.
Those whom the message itself does not name, a rule's, are named by their address: the rule may change meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime

from contracts.address import AddrSpec, parse
from contracts.delivery import RecipientStatus
from contracts.notification import Notification
from worker.domain.delivery import Outcome, Progress
from worker.domain.reply import EnhancedStatusCode, Reply, bounded

_LIMIT = 48 * 1024  # characters
_TEXTS = (2000, 300, 80, 0)  # characters kept of each reply, tried in this order


def pack(progress: Progress, notification: Notification) -> str:
    """Progress as a line of ASCII."""
    positions = {rcpt: index for index, rcpt in enumerate(_everybody(notification))}
    for longest in _TEXTS:
        packed = _packed(progress, positions, longest)
        if len(packed) <= _LIMIT:
            break
    return packed


def unpack(packed: str, notification: Notification) -> Progress:
    """Progress from the line.

    Raises:
        ValueError: it is not one of ours, or not this notification's.
    """
    try:
        fields = json.loads(packed)
        everybody = dict(enumerate(_everybody(notification)))
        replies = dict(enumerate(_reply(*item) for item in fields["replies"]))
        return Progress(
            first_seen=_moment(fields["first"]),
            attempts=int(fields["attempts"]),
            settled={
                _person(name, everybody): Outcome(
                    RecipientStatus(status), replies[said] if said is not None else None, verdict
                )
                for name, status, said, verdict in fields["settled"]
            },
            doubted=frozenset(_person(name, everybody) for name in fields["doubted"]),
            waits=int(fields["waits"]),
            told=str(fields["told"]),
            replays=int(fields.get("replays", 0)),
            slot=_moment(fields["slot"]) if fields.get("slot") else None,
            group=int(fields.get("group", 0)),
            cap=int(fields.get("cap", 0)),
            kept_until=_moment(fields["kept"]) if "kept" in fields else None,
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not a progress line of this notification") from error


def _packed(progress: Progress, positions: Mapping[AddrSpec, int], longest: int) -> str:
    replies: dict[tuple[int, str, str], int] = {}
    settled = []
    for rcpt, outcome in progress.settled.items():
        said = None
        if outcome.reply is not None:
            key = (outcome.reply.code, str(outcome.reply.enhanced or ""), bounded(outcome.reply.text, longest))
            said = replies.setdefault(key, len(replies))
        settled.append([positions.get(rcpt, str(rcpt)), outcome.status, said, outcome.verdict])
    fields = {
        "first": progress.first_seen.isoformat(),
        "attempts": progress.attempts,
        "waits": progress.waits,
        "told": progress.told,
        **({"group": progress.group} if progress.group else {}),
        **({"cap": progress.cap} if progress.cap else {}),
        **({"kept": progress.kept_until.isoformat()} if progress.kept_until else {}),
        "replies": list(replies),
        "settled": settled,
        "replays": progress.replays,
        "slot": progress.slot.isoformat() if progress.slot else None,
        "doubted": sorted((positions.get(rcpt, str(rcpt)) for rcpt in progress.doubted), key=str),
    }
    return json.dumps(fields, separators=(",", ":"))


def _person(name: int | str, everybody: Mapping[int, AddrSpec]) -> AddrSpec:
    return parse(name) if isinstance(name, str) else everybody[name]


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a moment without its zone")
    return moment


def _reply(code: int, enhanced: str, text: str) -> Reply:
    return Reply(code, EnhancedStatusCode.parse(enhanced), text)


def _everybody(notification: Notification) -> Iterable[AddrSpec]:
    return dict.fromkeys(person.spec for person in notification.recipients())
