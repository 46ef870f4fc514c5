"""A file on its way into a draft: piece by piece, each from where the server expects it."""

from __future__ import annotations

import re
from http import HTTPStatus

from worker.domain.delivery import Broken, Fault, Stage
from worker.graph.answer import Answer
from worker.graph.conversation import Conversation, Ended

_PIECE = 10 * 320 * 1024  # octets of one PUT, below the 4 MB that are allowed
_PROGRESS = 64 * 1024  # octets of a piece; who keeps less of it comes to no end
_RESUMED = 2  # how often it goes on after a piece that was not kept
_ADDRESS_ENDED = {  # of the upload, which needs no token and no permission: no fault of the mailbox
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.GONE,
}
_START = re.compile(r"\d+")


class Declined(Exception):  # noqa: N818 - the way out
    """Graph said no on the way to the complete draft; nothing was sent."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


async def upload(talk: Conversation, url: str, content: bytes) -> None:
    """Upload all of it; a server may keep less of a piece than it was given, or fail and go on.

    Raises:
        Declined: it was refused.
        Ended: there was no answer, or the upload comes to no end.
    """
    start = failures = 0
    while start < len(content):
        piece = content[start : start + _PIECE]
        answer = await talk.put(url, piece, start, len(content))
        reached = await _expected(talk, url, answer, start + len(piece))
        failures += reached - start < min(len(piece), _PROGRESS)
        if failures > _RESUMED:
            raise _broken(answer)
        start = reached


async def _expected(talk: Conversation, url: str, answer: Answer, end: int) -> int:
    """Where the server expects the next piece, after one that ends there."""
    match answer.status:
        case _ if answer.good:
            start = _start(answer, end)
        case HTTPStatus.INSUFFICIENT_STORAGE:
            raise Declined(answer)
        case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            start = _start(await talk.look(url))
        case status if status >= HTTPStatus.INTERNAL_SERVER_ERROR and answer.retry_after is None:
            start = _start(await talk.look(url))
        case status if status in _ADDRESS_ENDED:
            start = None
        case _:
            raise Declined(answer)
    if start is None or start > end:
        raise _broken(answer)
    return start


def _start(answer: Answer, otherwise: int | None = None) -> int | None:
    """What an answer says is expected: `1024`, `1024-` or `1024-2047`. Graph and Outlook spell the name differently."""
    ranges = answer.content.get("nextExpectedRanges", answer.content.get("NextExpectedRanges"))
    found = _START.match(str(ranges[0])) if answer.good and isinstance(ranges, list) and ranges else None
    return int(found[0]) if found else otherwise


def _broken(answer: Answer) -> Ended:
    return Ended(Broken(Stage.DATA, Fault.SERVER_ERROR, f"the upload of a file comes to no end: {answer.reply}"))
