"""When the next way out of a mailbox may be tried: only while nothing of the mail has left by the one before."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from worker.domain import verdict as verdicts
from worker.domain.delivery import Broken, Fault, Refused, Stage, Submission, TokenRefused
from worker.domain.verdict import Row, Verdict

_BEFORE_THE_MAIL = {Stage.CONNECT, Stage.TOKEN, Stage.AUTH}
_NOT_ASKED = {Fault.NAMED_ALREADY, Fault.TOO_LARGE, Fault.TOO_MANY, Fault.NO_SMTPUTF8}
_THROTTLED = "throttled"
_NOT_LET_IN = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS}
_GRAPHS_OWN = ("token-expired", "auth-config/permission", "throttled-mailbox/rate")  # what SMTP would not say, too


def closed(submission: Submission, rows: Sequence[Row], *, handed: bool) -> Verdict | None:
    """What is wrong with the channel, if that and not the mail is why it was not sent; None: no other may be tried.

    A refused sender or recipient is refused everywhere, and what came after the data may have been accepted. Graph
    alone hears of its permission together with the whole mail: whom it does not let in it has taken nothing from.

    Args:
        submission: what came of the attempt.
        rows: the catalogue.
        handed: the mail was handed over by this channel.
    """
    match submission:
        case TokenRefused():  # also in place of a token that Graph has refused together with the mail
            return verdicts.of_token(rows, submission)
        case Refused(stage=Stage.DRAFT | Stage.GRAPH, reply=reply) if reply.code in _NOT_LET_IN:
            found = verdicts.of_refusal(rows, submission)
            return verdicts.without_renewal(found) if found.kind in _GRAPHS_OWN else None
        case _ if handed:
            return None
        case Broken(stage=stage, fault=fault) if stage in _BEFORE_THE_MAIL and fault is not Fault.INTERNAL:
            return verdicts.of_fault(rows, submission)
        case Refused(stage=stage) if stage in _BEFORE_THE_MAIL:
            return verdicts.without_renewal(verdicts.of_refusal(rows, submission))
        case Refused(stage=Stage.MAIL):
            found = verdicts.of_refusal(rows, submission)
            return found if found.kind.startswith(_THROTTLED) else None
        case _:
            return None


def unasked(submission: Submission) -> bool:
    """Whether this channel cannot carry the mail at all: then what an earlier one said is what counts."""
    return isinstance(submission, Broken) and submission.fault in _NOT_ASKED
