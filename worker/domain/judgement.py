"""From what an attempt came to, to what it means for each recipient and for the mailbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.address import AddrSpec
from contracts.delivery import RecipientStatus
from contracts.notification import OnDoubt
from worker.domain import verdict as verdicts
from worker.domain.delivery import Accepted, Broken, HandedOver, Outcome, Refused, Stage, TokenRefused
from worker.domain.reply import Reply
from worker.domain.verdict import Action, Row, Verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an attempt means.

    Attributes:
        outcomes: of every recipient that was tried.
        verdict: the one that explains the result to a person; None if all went well.
        pause: the verdict that rests the mailbox, if one does.
    """

    outcomes: Mapping[AddrSpec, Outcome]
    verdict: Verdict | None = None
    pause: Verdict | None = None

    @property
    def spent(self) -> bool:
        """Whether it counts as an attempt of the message: a fault of the mailbox does not."""
        return self.pause is None


def judge(
    submission: Accepted | HandedOver | Refused | TokenRefused | Broken,
    tried: Sequence[AddrSpec],
    rows: Sequence[Row],
    on_doubt: OnDoubt,
) -> Judgement:
    """Decide for every recipient."""
    match submission:
        case HandedOver():
            return Judgement({rcpt: Outcome(RecipientStatus.HANDED_OVER) for rcpt in tried})
        case Accepted(reply, refused):
            taken = {rcpt: Outcome(RecipientStatus.ACCEPTED, reply) for rcpt in tried if rcpt not in refused}
            return _with_refused(taken, refused, rows, None)
        case Refused(reply=reply, refused=refused):
            found = verdicts.of_refusal(rows, submission)
            rest = {rcpt: _outcome(found, reply) for rcpt in tried if rcpt not in refused}
            return _with_refused(rest, refused, rows, found if rest else None)
        case TokenRefused():
            found = verdicts.of_token(rows, submission)
            return _for_all(tried, found)
        case Broken(stage=Stage.DOT):
            return _with_refused(*_doubtful(submission, tried, rows, on_doubt))
        case Broken(refused=refused):
            found = verdicts.of_fault(rows, submission)
            rest = {rcpt: _outcome(found, None) for rcpt in tried if rcpt not in refused}
            return _with_refused(rest, refused, rows, found)


def _doubtful(
    broken: Broken, tried: Sequence[AddrSpec], rows: Sequence[Row], on_doubt: OnDoubt
) -> tuple[Mapping[AddrSpec, Outcome], Mapping[AddrSpec, Reply], Sequence[Row], Verdict]:
    """The mail may have been accepted. Only the producer can say that a second copy does no harm."""
    found = verdicts.of_fault(rows, broken)
    status = RecipientStatus.DEFERRED if on_doubt is OnDoubt.RESEND else RecipientStatus.IN_DOUBT
    outcomes = {rcpt: Outcome(status, None, found.kind) for rcpt in tried if rcpt not in broken.refused}
    return outcomes, broken.refused, rows, found


def _for_all(tried: Sequence[AddrSpec], found: Verdict) -> Judgement:
    return _with_refused({rcpt: _outcome(found, None) for rcpt in tried}, {}, (), found)


def _with_refused(
    outcomes: Mapping[AddrSpec, Outcome],
    refused: Mapping[AddrSpec, Reply],
    rows: Sequence[Row],
    whole: Verdict | None,
) -> Judgement:
    """Add the recipients that the server refused one by one, each with its own verdict."""
    found = {rcpt: verdicts.of_reply(rows, Stage.RCPT, reply) for rcpt, reply in refused.items()}
    each = {rcpt: _outcome(found[rcpt], reply) for rcpt, reply in refused.items()}
    explaining = whole or next(iter(found.values()), None)
    resting = (item for item in (whole, *found.values()) if item is not None and item.action is Action.PAUSE)
    return Judgement({**outcomes, **each}, explaining, next(resting, None))


def _outcome(found: Verdict, reply: Reply | None) -> Outcome:
    match found.action:
        case Action.FAIL:
            return Outcome(RecipientStatus.FAILED, reply, found.kind)
        case Action.RETRY | Action.PAUSE:
            return Outcome(RecipientStatus.DEFERRED, reply, found.kind)
        case Action.DOUBT:
            return Outcome(RecipientStatus.IN_DOUBT, reply, found.kind)
