"""From what an attempt came to, to what it means for each recipient and for the mailbox."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from contracts.address import AddrSpec
from contracts.delivery import RecipientStatus
from contracts.notification import OnDoubt
from worker.domain import verdict as verdicts
from worker.domain.delivery import Accepted, Broken, Fault, HandedOver, Outcome, Refused, Stage, TokenRefused
from worker.domain.reply import Reply, bounded
from worker.domain.verdict import Action, Row, Scope, Verdict

_MAX_DETAIL = 300  # characters
_HTTP = frozenset({Stage.DRAFT, Stage.GRAPH})
_FIRST_REST = timedelta(minutes=1)
_SERVER_RESTS = timedelta(seconds=30)
_AGAIN = frozenset({Action.RETRY, Action.RECONNECT})


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an attempt means.

    Attributes:
        outcomes: of every recipient that was tried.
        verdict: the one that explains the result to a person; None if all went well.
        pause: the verdict that rests the mailbox, if one does.
        doubted: deferred recipients who may have got this copy all the same.
        unknown: replies that no row of the catalogue knows.
        wait: shortest wait before the next attempt.
        split: what spoiled the submission for all its recipients, if something did; they go on in smaller groups.
    """

    outcomes: Mapping[AddrSpec, Outcome]
    verdict: Verdict | None = None
    pause: Verdict | None = None
    doubted: frozenset[AddrSpec] = frozenset()
    unknown: tuple[tuple[Stage, Reply], ...] = ()
    wait: timedelta = timedelta()
    split: Verdict | None = None

    @property
    def accepted(self) -> int:
        """How many recipients the mail was taken for."""
        taken = (RecipientStatus.ACCEPTED, RecipientStatus.HANDED_OVER)
        return sum(outcome.status in taken for outcome in self.outcomes.values())

    @property
    def counted(self) -> int:
        """How many recipients may count against the day: those whom nobody knows of may well have the mail."""
        unknown = sum(outcome.status is RecipientStatus.IN_DOUBT for outcome in self.outcomes.values())
        return self.accepted + unknown + len(self.doubted)

    @property
    def punished(self) -> Verdict | None:
        """The verdict on a sender that the server punishes for being tried again, with the rest that this asks for."""
        found = self.verdict
        if found is None or not found.punished or found.scope is not Scope.SENDER:
            return None
        return replace(found, pause=max(found.pause, _FIRST_REST))

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
        case Refused(stage=stage, reply=reply, refused=refused):
            found = _detailed(_resting(verdicts.of_refusal(rows, submission), stage), _hidden(reply))
            left = [rcpt for rcpt in tried if rcpt not in refused]
            rest = _spoiled(found, reply, left, stage) if found.action is Action.SPLIT else _all(left, found, reply)
            judgement = _with_refused(rest, refused, rows, found if rest else None)
            unknown = () if found.known or not rest else ((stage, reply),)
            return replace(judgement, unknown=(*unknown, *judgement.unknown))
        case TokenRefused(error, description):
            found = _detailed(_resting(verdicts.of_token(rows, submission), Stage.TOKEN), description or error)
            return _with_refused(_all(tried, found, None), {}, rows, found)
        case Broken(refused=refused, detail=detail):
            found = _doubt_at_the_dot(verdicts.of_fault(rows, submission), submission)
            at_the_login = submission.stage is Stage.AUTH and submission.fault is not Fault.INTERNAL
            found = _detailed(_resting(found, Stage.AUTH) if at_the_login else found, detail)
            rest = _all([rcpt for rcpt in tried if rcpt not in refused], found, None)
            judgement = _with_refused(rest, refused, rows, found)
            return _resent(judgement) if on_doubt is OnDoubt.RESEND else judgement


def _all(tried: Sequence[AddrSpec], found: Verdict, reply: Reply | None) -> dict[AddrSpec, Outcome]:
    return {rcpt: _outcome(found, reply) for rcpt in tried}


def _spoiled(found: Verdict, reply: Reply, tried: Sequence[AddrSpec], stage: Stage) -> dict[AddrSpec, Outcome]:
    """The reply may name whom it is about; who is refused by name, or alone, has failed.

    A 4yz of SMTP fails nobody; a 4xx of HTTP is no promise that the same request may succeed later.
    """
    open_still = dict.fromkeys(tried, Outcome(RecipientStatus.DEFERRED, reply, found.kind))
    if reply.temporary and stage not in _HTTP:
        return open_still
    guilty = tried if len(tried) == 1 else _named(reply, tried) if found.scope is Scope.RECIPIENT else ()
    return {**open_still, **dict.fromkeys(guilty, Outcome(RecipientStatus.FAILED, reply, found.kind))}


def _named(reply: Reply, tried: Sequence[AddrSpec]) -> Sequence[AddrSpec]:
    words = {word.strip("<>()[]'\".:").lower() for word in re.split(r"[\s,;]+", reply.text)}
    return [rcpt for rcpt in tried if str(rcpt).lower() in words]


def _resting(found: Verdict, stage: Stage) -> Verdict:
    """What stands before every mail is not asked by each in turn, and no mail spends an attempt on it.

    That is a server that takes nobody now, one that lets this mailbox not log in now, and a login by token that is
    refused although its token was replaced by a new one.
    """
    match stage, found.scope, found.action:
        case _, _, Action.REFRESH:
            return verdicts.without_renewal(found)
        case Stage.CONNECT, Scope.SERVER, Action.RETRY:
            return replace(found, action=Action.PAUSE, pause=max(found.wait, _SERVER_RESTS))
        case Stage.AUTH, _, action if action in _AGAIN:
            return replace(found, action=Action.PAUSE, scope=Scope.MAILBOX, pause=max(found.wait, _SERVER_RESTS))
        case _:
            return found


def _doubt_at_the_dot(found: Verdict, broken: Broken) -> Verdict:
    """Whatever broke after the final dot, and whatever a row says: nobody knows whether the mail was accepted."""
    return replace(found, action=Action.DOUBT) if broken.stage is Stage.DOT else found


def _resent(judgement: Judgement) -> Judgement:
    """The producer said that a second copy does no harm: a doubt is a reason to try again, but it stays a doubt."""
    doubted = frozenset(
        rcpt for rcpt, outcome in judgement.outcomes.items() if outcome.status is RecipientStatus.IN_DOUBT
    )
    again = {rcpt: replace(judgement.outcomes[rcpt], status=RecipientStatus.DEFERRED) for rcpt in doubted}
    return replace(judgement, outcomes={**judgement.outcomes, **again}, doubted=doubted)


def _with_refused(
    outcomes: Mapping[AddrSpec, Outcome],
    refused: Mapping[AddrSpec, Reply],
    rows: Sequence[Row],
    whole: Verdict | None,
) -> Judgement:
    """Add the recipients that the server refused one by one, each with its own verdict."""
    found = {rcpt: verdicts.of_reply(rows, Stage.RCPT, reply) for rcpt, reply in refused.items()}
    alone = len(refused) + len(outcomes) == 1
    each = {
        rcpt: _spoiled(item, refused[rcpt], [rcpt], Stage.RCPT)[rcpt]
        if alone and item.action is Action.SPLIT
        else _outcome(item, refused[rcpt])
        for rcpt, item in found.items()
    }
    said = [item for item in (whole, *found.values()) if item is not None]
    resting = (item for item in said if item.action is Action.PAUSE)
    return Judgement(
        outcomes={**outcomes, **each},
        verdict=whole or next(iter(found.values()), None),
        pause=next(resting, None),
        unknown=tuple((Stage.RCPT, refused[rcpt]) for rcpt, verdict in found.items() if not verdict.known),
        wait=max((item.wait for item in said), default=timedelta()),
        split=next((item for item in said if item.action is Action.SPLIT), None),
    )


def _hidden(reply: Reply) -> str:
    """What Exchange says to its own support, readable for the operator."""
    return bounded("; ".join(reply.diagnostics), _MAX_DETAIL)


def _detailed(found: Verdict, detail: str) -> Verdict:
    """A fault has no reply that would say more, so its explanation does."""
    return replace(found, explanation=f"{found.explanation} ({detail})") if detail else found


def _outcome(found: Verdict, reply: Reply | None) -> Outcome:
    match found.action:
        case Action.FAIL:
            return Outcome(RecipientStatus.FAILED, reply, found.kind)
        case Action.RETRY | Action.PAUSE | Action.SPLIT | Action.REFRESH | Action.RECONNECT:
            return Outcome(RecipientStatus.DEFERRED, reply, found.kind)
        case Action.DOUBT:
            return Outcome(RecipientStatus.IN_DOUBT, reply, found.kind)
        case Action.NONE:
            raise ValueError("a refusal always has consequences")
