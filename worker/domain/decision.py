"""What follows from an attempt: the results to publish and where the message goes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from contracts.address import AddrSpec
from contracts.cancellation import Cancellation
from contracts.delivery import DeliveryStatus, RecipientStatus, Result
from contracts.notification import Notification, Priority
from worker.domain import mass, report, retry
from worker.domain.delivery import Key, Outcome, Progress, give_up, overall, with_doubt
from worker.domain.judgement import Judgement
from worker.domain.report import Case, Trace, due_since
from worker.domain.restraint import barred_verdict
from worker.domain.retry import RetryPolicy
from worker.domain.routing import Refusal, Route
from worker.domain.verdict import Action, Scope, Verdict

_DONE_WITH = frozenset(
    {
        DeliveryStatus.ACCEPTED,
        DeliveryStatus.HANDED_OVER,
        DeliveryStatus.EXPIRED,
        DeliveryStatus.SUPPRESSED,
        DeliveryStatus.CANCELLED,
        DeliveryStatus.RESOLVED,
        DeliveryStatus.EXPANDED,
    }
)
_LOOK_AGAIN = timedelta(seconds=2)
_DOUBLINGS = 5
_KEPT = timedelta(seconds=15), timedelta(minutes=5)  # shortest and longest wait for somebody's switch
_NOTICED = timedelta(seconds=60)
_NEXT_GROUP = timedelta(seconds=1)
_LONGEST_LOOK = timedelta(minutes=5)  # at a rest that somebody may end before its time
_LIMIT_LOOK = timedelta(minutes=15)  # at a limit that somebody may raise
_LAST_LOOK = timedelta(seconds=1)  # before it is too late
_SPREAD = timedelta(seconds=5)  # so that not all who waited for a mailbox come back in the same moment


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Done with: the broker may forget it."""


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Keep it in the broker until then; progress None: nothing has changed."""

    when: datetime
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Set it aside for a person, with the reason.

    Attributes:
        mailbox: that it was last tried with, empty if none.
    """

    kind: str
    explanation: str
    progress: Progress | None = None
    mailbox: str = ""


@dataclass(frozen=True, slots=True)
class Split:
    """Publish these in its place, and only then let the broker forget it."""

    parts: tuple[Notification | Cancellation, ...]


Disposition = Acknowledge | WaitUntil | DeadLetter | Split


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from one delivery: results to publish, then what to do with the message, then the ack.

    Attributes:
        carry: the progress in the form in which it travels with the message.
        key: whose results are on record and wait for the broker's confirmation; None: none are.
    """

    results: tuple[Result, ...]
    disposition: Disposition
    carry: str = ""
    key: Key | None = None

    @property
    def final(self) -> Result | None:
        """The final result, if this decision brings one."""
        return next((result for result in self.results if result.final), None)

    @property
    def progress(self) -> Progress | None:
        """What is settled so far, if the message lives on."""
        return None if isinstance(self.disposition, Acknowledge | Split) else self.disposition.progress


@dataclass(frozen=True, slots=True)
class Trial:
    """The facts that an attempt, or a wait in its place, is decided on.

    Attributes:
        tried: the open recipients of this submission.
        waiting: open recipients who are left for the next one.
        message_id: of the mail, if it was composed.
        now: the moment of deciding.
        dice: between 0 and 1, for jitter.
    """

    case: Case
    route: Route
    policy: RetryPolicy
    tried: tuple[AddrSpec, ...]
    message_id: str | None
    now: datetime
    dice: float
    waiting: tuple[AddrSpec, ...] = ()


_IN_TURN = Verdict(
    "transient/in-turn", Scope.MESSAGE, Action.SPLIT, "These recipients have their turn in the next submission."
)


def refuse(case: Case, refusal: Refusal, tried: Sequence[AddrSpec] = ()) -> Decision:
    """Not to be sent, or no further: tell the producer, and set the message aside.

    Args:
        case: what it is about.
        refusal: why.
        tried: open recipients, if others have the mail already.
    """
    return _ended(report.refused(case, refusal, _unsent(case, tried)), case.progress)


def reject(result: Result) -> Decision:
    """Not even a notification."""
    return _ended(result, None)


def expire(case: Case, tried: Sequence[AddrSpec]) -> Decision:
    """Too late for the recipients that are still open."""
    return _ended(report.expired(case, _unsent(case, tried)), case.progress)


def suppress(case: Case, chosen: Route, tried: Sequence[AddrSpec]) -> Decision:
    """Everything is decided and nothing leaves."""
    return _ended(report.suppressed(case, chosen, _unsent(case, tried)), case.progress)


def puzzle(case: Case, refusal: Refusal, tried: Sequence[AddrSpec], trace: Trace | None = None) -> Decision:
    """Something went wrong that leaves open who has the mail: say so instead of guessing, and where to look."""
    unknown = {rcpt: Outcome(RecipientStatus.IN_DOUBT, None, refusal.kind) for rcpt in tried}
    outcomes = {**case.progress.settled, **unknown}
    return _ended(report.refused(case, refusal, outcomes, DeliveryStatus.IN_DOUBT, trace), case.progress)


def expand(case: Case) -> Decision:
    """A mass mail: one part for each person, all of them published before the whole is forgotten."""
    if refusal := mass.too_large(case.notification):
        return refuse(case, refusal)
    parts = mass.split(case.notification)
    return Decision((report.expanded(case, len(parts), parts[-1].id),), Split(parts))


def again(
    key: Key, whole: Notification, results: tuple[Result, ...], progress: Progress, *, told: bool, own_copy: bool
) -> Decision:
    """What is on record is the answer; what the worker that recorded it did not get done is done now.

    Args:
        key: of the notification.
        whole: the notification.
        results: on record, the final one last.
        progress: what was settled.
        told: whether they were published and the message disposed of.
        own_copy: the message comes from a wait queue of ours: nobody has asked again. Of a cancellation its producer
            may not have heard yet, so that is repeated all the same.
    """
    final = results[-1]
    if not told and final.status is DeliveryStatus.EXPANDED:
        return Decision(results, Split(mass.split(whole)), key=key)
    if not told:
        return replace(_ended(final, progress), results=results, key=key)
    silent = own_copy and final.status is not DeliveryStatus.CANCELLED
    return Decision(() if silent else results, Acknowledge())


def after_attempt(trial: Trial, judgement: Judgement, paused_until: datetime | None) -> Decision:
    """Merge the attempt into what was settled before, and decide whether there is a next one."""
    before = trial.case.progress
    spent = judgement.spent and not _goes_on(trial, judgement)
    advanced = before.advanced(judgement.outcomes, spent=spent, doubted=judgement.doubted)
    progress = _regrouped(advanced, trial.tried, judgement)
    outcomes = {**before.settled, **_in_turn(trial), **judgement.outcomes}
    when = look = None
    if overall(outcomes) is DeliveryStatus.DEFERRED:
        look = when = _next(trial, progress, judgement)
        if paused_until is not None:
            when, look = _after_rest(trial, paused_until)
    case = replace(trial.case, progress=replace(before, attempts=before.attempts + 1))
    verdict = judgement.verdict or (_IN_TURN if trial.waiting else None) or _of_earlier_parts(outcomes)
    return _decide(replace(trial, case=case), outcomes, verdict, when, progress, look)


def while_held(trial: Trial, verdict: Verdict, until: datetime) -> Decision:
    """The mailbox rests: the message waits with it. The producer is told once per reason, not at every look.

    It looks at the rest every few minutes, because somebody may mend the mailbox, or end the rest, before its time.
    """
    before = trial.case.progress
    progress = replace(before, told=verdict.kind)
    when, look = _after_rest(trial, until)
    if look is not None and before.told == verdict.kind:
        return Decision((), WaitUntil(look, progress))
    return _waiting(trial, verdict, progress, when, look)


def while_kept(
    case: Case, verdict: Verdict, tried: Sequence[AddrSpec], dice: float, chosen: Route | None = None
) -> Decision:
    """Somebody's switch keeps it back: it waits for as long as it is worth anything, and looks at the switch often.

    The retry horizon does not end it, for nothing was tried. The producer is told once.
    """
    before, shortest, longest = case.progress, *_KEPT
    age = case.now - due_since(case)
    when = case.now + min(max(age / 4, shortest), longest) * (1 + dice / 2)
    if case.notification.expires_at is not None:
        when = min(when, case.notification.expires_at)
    waiting = WaitUntil(when, replace(before, told=verdict.kind))
    if before.told == verdict.kind:
        return Decision((), waiting)
    outcomes = {rcpt: Outcome(RecipientStatus.DEFERRED, None, verdict.kind) for rcpt in tried}
    result = report.attempted(
        case,
        chosen,
        DeliveryStatus.DEFERRED,
        {**before.settled, **outcomes},
        verdict=verdict,
        message_id=None,
        next_attempt_at=when,
    )
    return Decision((result,), waiting)


def while_paced(trial: Trial, verdict: Verdict, slot: datetime) -> Decision:
    """The mailbox's limits are used up: the message has a place of its own and waits for it.

    The retry horizon does not end it, for nothing was tried. The producer is told of a wait that a person would notice,
    once.
    """
    before = trial.case.progress
    progress = replace(before, slot=slot, kept_until=_kept_until(before, slot))
    when = _before(trial.case.notification.expires_at, slot, trial.now)
    if when is not None and (slot - trial.now < _NOTICED or before.told == verdict.kind):
        return Decision((), WaitUntil(when, progress))
    return _waiting(trial, verdict, progress, when)


def while_full(trial: Trial, verdict: Verdict, slot: datetime) -> Decision:
    """The same for the limits of an hour or a day: it looks every quarter of an hour, because somebody may raise them.

    The producer is told once.
    """
    before = trial.case.progress
    progress = replace(before, slot=slot, told=verdict.kind, kept_until=_kept_until(before, slot))
    when = _before(trial.case.notification.expires_at, slot, trial.now)
    look = min(when, trial.now + _LIMIT_LOOK * (1 + trial.dice / 5)) if when is not None else None
    if look is not None and (slot - trial.now < _NOTICED or before.told == verdict.kind):
        return Decision((), WaitUntil(look, progress))
    return _waiting(trial, verdict, progress, when, look)


def while_busy(trial: Trial) -> Decision:
    """All connections are in use: look again, soon at first and then less often, so that a backlog does not circle.

    Urgent mail keeps looking soon. It was the mail's turn, so it need not stand in line again.
    """
    progress = trial.case.progress
    urgent = trial.case.notification.priority is Priority.HIGH
    pause = _LOOK_AGAIN / 2 if urgent else _LOOK_AGAIN * 2 ** min(progress.waits, _DOUBLINGS)
    when = trial.now + pause * (1 + trial.dice)
    turn = progress.slot or trial.now
    return Decision((), WaitUntil(when, replace(progress, waits=progress.waits + 1, slot=turn)))


def _waiting(
    trial: Trial, verdict: Verdict, progress: Progress, when: datetime | None, look: datetime | None = None
) -> Decision:
    """All open recipients wait for the same reason, if there is time."""
    waiting = {rcpt: Outcome(RecipientStatus.DEFERRED, None, verdict.kind) for rcpt in (*trial.tried, *trial.waiting)}
    return _decide(trial, {**trial.case.progress.settled, **waiting}, verdict, when, progress, look)


def _decide(
    trial: Trial,
    outcomes: Mapping[AddrSpec, Outcome],
    verdict: Verdict | None,
    when: datetime | None,
    progress: Progress,
    look: datetime | None = None,
) -> Decision:
    """Tell what is known by now.

    Args:
        trial: its facts.
        outcomes: of all recipients.
        verdict: why.
        when: the next attempt; None: there is none.
        progress: what is settled.
        look: when the message comes back, if that is before the next attempt.
    """
    expires = when is None and _expires(trial) and _only_late(outcomes)
    if when is None:
        outcomes = give_up(outcomes)
    outcomes = with_doubt(outcomes, trial.case.progress.doubted | progress.doubted)
    result = report.attempted(
        replace(trial.case, now=trial.now),
        trial.route,
        overall(outcomes, expires=expires),
        outcomes,
        verdict=verdict,
        message_id=trial.message_id,
        next_attempt_at=when,
    )
    told = replace(progress, told=verdict.kind if verdict else "")
    if when is not None and not result.final:
        return Decision((result,), WaitUntil(look or when, told))
    return _ended(result, told)


def _ended(result: Result, progress: Progress | None) -> Decision:
    """What went well, or is worthless by now, is done with; everything else is set aside for a person."""
    if result.status in _DONE_WITH:
        return Decision((result,), Acknowledge())
    reason = result.reason
    mailbox = result.mailbox.name if result.mailbox else ""
    dead = DeadLetter(reason.kind if reason else "", reason.explanation if reason else "", progress, mailbox)
    return Decision((result,), dead)


def _unsent(case: Case, tried: Sequence[AddrSpec]) -> Mapping[AddrSpec, Outcome]:
    """What is known when there will be no attempt for the open recipients."""
    if not case.progress.settled and not case.progress.doubted:
        return {}
    late = {rcpt: Outcome(RecipientStatus.FAILED) for rcpt in tried}
    return with_doubt({**case.progress.settled, **late}, case.progress.doubted)


def _only_late(outcomes: Mapping[AddrSpec, Outcome]) -> bool:
    """Whether nothing but time is to blame."""
    return all(outcome.status is RecipientStatus.DEFERRED for outcome in outcomes.values())


def _after_rest(trial: Trial, until: datetime) -> tuple[datetime | None, datetime | None]:
    """The next attempt when a rest is over, and the next look at it; None: there is no time left.

    A rest beyond the time that is left ends nothing before: the mailbox may be mended.
    """
    end = _before(_deadline(trial), until + _SPREAD * trial.dice, trial.now)
    return end, min(end, trial.now + _LONGEST_LOOK * (1 + trial.dice / 5)) if end is not None else None


def _before(deadline: datetime | None, when: datetime, now: datetime) -> datetime | None:
    """The moment, or the last one before it is too late; None: it is."""
    if deadline is None or when < deadline:
        return when
    last = deadline - _LAST_LOOK
    return last if last > now else None


def _kept_until(before: Progress, until: datetime) -> datetime | None:
    return before.kept_until if before.attempts else until


def _next(trial: Trial, progress: Progress, judgement: Judgement) -> datetime | None:
    if _goes_on(trial, judgement):
        return _within(trial, trial.now + _NEXT_GROUP)
    usual = retry.wait_after(trial.policy, progress.attempts, trial.dice)
    return _within(trial, trial.now + max(usual, judgement.wait + _SPREAD * trial.dice if judgement.wait else usual))


def _goes_on(trial: Trial, judgement: Judgement) -> bool:
    """Whether the next group has its turn: somebody is settled, or the groups have become smaller."""
    settled = any(outcome.status is not RecipientStatus.DEFERRED for outcome in judgement.outcomes.values())
    smaller = judgement.split is not None and len(trial.tried) > 1
    return smaller or (settled and bool(trial.waiting))


def _in_turn(trial: Trial) -> Mapping[AddrSpec, Outcome]:
    return dict.fromkeys(trial.waiting, Outcome(RecipientStatus.DEFERRED, None, _IN_TURN.kind))


def _of_earlier_parts(outcomes: Mapping[AddrSpec, Outcome]) -> Verdict | None:
    """What to tell of a mail whose last part went well while another one may not have."""
    doubts = sum(outcome.status is RecipientStatus.IN_DOUBT for outcome in outcomes.values())
    if not doubts:
        return barred_verdict(outcomes)
    return Verdict(
        "in-doubt/part",
        Scope.MESSAGE,
        Action.DOUBT,
        f"It was split, and of the part for {doubts} of its recipients nobody knows whether it was accepted.",
        "Look for the Message-ID in the mailbox's Sent Items or in the message trace, then: "
        "postlane doubt resolve ID --accepted (or --not-sent).",
    )


def _regrouped(progress: Progress, tried: Sequence[AddrSpec], judgement: Judgement) -> Progress:
    """How many go together next time.

    One bad recipient among n is found by halving, and what was accepted doubles again, so it takes about 2 log2(n)
    submissions. A number that the server never takes is not tried again.
    """
    statuses = [outcome.status for outcome in judgement.outcomes.values()]
    taken, half = statuses.count(RecipientStatus.ACCEPTED), max(len(tried) // 2, 1)
    match judgement.split:
        case None:
            return replace(progress, group=progress.group * 2) if taken else progress
        case Verdict(scope=Scope.MESSAGE):
            return replace(progress, cap=taken or half)
        case _ if RecipientStatus.FAILED in statuses:
            return progress
        case _:
            return replace(progress, group=half)


def _within(trial: Trial, when: datetime) -> datetime | None:
    """The moment itself, or None if it lies beyond the retry horizon or the notification's expiry."""
    return when if when < _deadline(trial) else None


def _deadline(trial: Trial) -> datetime:
    limit, expires_at = _horizon(trial), trial.case.notification.expires_at
    return min(limit, expires_at) if expires_at else limit


def _expires(trial: Trial) -> bool:
    """Whether it is the notification's own expiry that ends its attempts, not our horizon."""
    expires_at = trial.case.notification.expires_at
    return expires_at is not None and expires_at <= _horizon(trial)


def _horizon(trial: Trial) -> datetime:
    begins = due_since(trial.case), trial.case.progress.kept_until
    return max(filter(None, begins)) + trial.policy.horizon
