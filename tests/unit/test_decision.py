"""What follows from an attempt: exactly one of a final result and a next attempt, and nobody is asked twice."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.address import AddrSpec, parse
from contracts.delivery import DeliveryStatus, RecipientStatus
from contracts.notification import OnDoubt
from tests.factories import JANA, NOON, OMAR, case, notification, outcome, progress, trial, verdict
from worker.domain.decision import Acknowledge, DeadLetter, Decision, Trial, WaitUntil, after_attempt, while_held
from worker.domain.delivery import Broken, Fault, Outcome, Progress, Stage
from worker.domain.judgement import Judgement, judge
from worker.domain.retry import RetryPolicy, wait_after
from worker.domain.verdict import Action, Scope, catalogue

EVE = parse("eve@fabrikam.com")
EVERYBODY = (JANA, OMAR, EVE)
HOUR = timedelta(hours=1)
LOOK = timedelta(minutes=5)

A, D, F, H, U = (RecipientStatus(name) for name in ("accepted", "deferred", "failed", "handed_over", "in_doubt"))

BAD_ADDRESS = verdict(Action.FAIL, "recipient-permanent", Scope.RECIPIENT)
LATER = verdict(Action.RETRY, "transient", Scope.SERVER)
THROTTLED = verdict(Action.PAUSE, "throttled-mailbox", pause=timedelta(minutes=1))


def to(*people: AddrSpec, **fields: Any) -> Any:
    return notification(to=[str(rcpt) for rcpt in people], **fields)


def accepted(*people: AddrSpec) -> Judgement:
    return Judgement({rcpt: outcome(A, "250 2.0.0 OK") for rcpt in people})


def refused(*people: AddrSpec) -> Judgement:
    return Judgement({rcpt: outcome(F, "550 5.1.1 unknown", BAD_ADDRESS.kind) for rcpt in people}, BAD_ADDRESS)


def deferred(*people: AddrSpec) -> Judgement:
    return Judgement({rcpt: outcome(D, "450 4.2.0 later", LATER.kind) for rcpt in people}, LATER)


def throttled(*people: AddrSpec) -> Judgement:
    said = {rcpt: outcome(D, "432 4.3.2 busy", THROTTLED.kind) for rcpt in people}
    return Judgement(said, THROTTLED, THROTTLED)


def in_doubt(*people: AddrSpec) -> Judgement:
    doubt = verdict(Action.DOUBT, "in-doubt", Scope.MESSAGE)
    return Judgement({rcpt: outcome(U, kind=doubt.kind) for rcpt in people}, doubt)


def both(one: Judgement, other: Judgement) -> Judgement:
    return Judgement({**one.outcomes, **other.outcomes}, one.verdict or other.verdict, one.pause or other.pause)


@pytest.mark.parametrize(
    ("judgement", "status", "disposition"),
    [
        pytest.param(accepted(JANA, OMAR), "accepted", Acknowledge, id="accepted"),
        pytest.param(
            Judgement({JANA: Outcome(H), OMAR: Outcome(H)}),
            "handed_over",
            Acknowledge,
            id="lies-in-the-pickup-directory",
        ),
        pytest.param(refused(JANA, OMAR), "failed", DeadLetter, id="refused"),
        pytest.param(both(accepted(JANA), refused(OMAR)), "partially_accepted", DeadLetter, id="partly-refused"),
        pytest.param(in_doubt(JANA, OMAR), "in_doubt", DeadLetter, id="doubt"),
        pytest.param(both(in_doubt(JANA), refused(OMAR)), "in_doubt", DeadLetter, id="doubt-beside-a-refusal"),
        pytest.param(deferred(JANA, OMAR), "deferred", WaitUntil, id="deferred"),
        pytest.param(both(accepted(JANA), deferred(OMAR)), "deferred", WaitUntil, id="partly-deferred"),
        pytest.param(both(in_doubt(JANA), deferred(OMAR)), "deferred", WaitUntil, id="doubt-and-deferred"),
        pytest.param(throttled(JANA, OMAR), "deferred", WaitUntil, id="throttled"),
    ],
)
def test_attempt_leads_to_one_result_and_one_disposition(judgement: Judgement, status: str, disposition: type) -> None:
    decision = after_attempt(trial(case(to(JANA, OMAR))), judgement, NOON + HOUR if judgement.pause else None)
    (result,) = decision.results
    assert result.status == status
    assert isinstance(decision.disposition, disposition)
    assert result.final == (status != "deferred")
    assert (result.next_attempt_at is None) == result.final
    assert (decision.final is None) != result.final


@pytest.mark.parametrize("expires_in", [None, HOUR], ids=["no-expiry", "expires-soon"])
def test_recipient_that_does_not_exist_makes_the_notification_failed_not_expired(expires_in: timedelta | None) -> None:
    # It ended by the server's word, not by the clock; and what failed must lie in the dead letters to be corrected.
    sent = notification(expires_at=NOON + expires_in if expires_in else None)
    decision = after_attempt(trial(case(sent)), refused(JANA), None)
    assert decision.results[0].status is DeliveryStatus.FAILED
    assert isinstance(decision.disposition, DeadLetter)


def test_deferred_recipient_is_tried_again_after_the_wait_of_the_attempt() -> None:
    before = progress(attempts=2)
    decision = after_attempt(trial(case(progress=before)), deferred(JANA), None)
    expected = NOON + wait_after(RetryPolicy(), 3, 0.5)
    assert decision.results[0].next_attempt_at == expected
    assert decision.disposition == WaitUntil(expected, progress(attempts=3, told="transient"))


def test_pause_of_the_mailbox_spends_no_attempt_and_sets_the_time() -> None:
    before = progress(attempts=2)
    decision = after_attempt(trial(case(progress=before), dice=0.0), throttled(JANA), NOON + HOUR)
    assert decision.results[0].next_attempt_at == NOON + HOUR
    assert decision.disposition == WaitUntil(NOON + LOOK, progress(attempts=2, told="throttled-mailbox"))


def test_those_who_waited_for_a_mailbox_do_not_come_back_in_one_moment() -> None:
    early = after_attempt(trial(dice=0.0), throttled(JANA), NOON + HOUR).results[0].next_attempt_at
    late = after_attempt(trial(dice=0.99), throttled(JANA), NOON + HOUR).results[0].next_attempt_at
    assert early is not None
    assert late is not None
    assert timedelta() < late - early <= timedelta(seconds=5)


def test_those_who_are_held_do_not_come_back_in_one_moment_either() -> None:
    early = while_held(trial(dice=0.0), THROTTLED, NOON + HOUR).results[0].next_attempt_at
    late = while_held(trial(dice=0.99), THROTTLED, NOON + HOUR).results[0].next_attempt_at
    assert early is not None
    assert late is not None
    assert timedelta() < late - early <= timedelta(seconds=5)


@pytest.mark.parametrize("spare", [timedelta(), timedelta(microseconds=1)], ids=["none", "a-moment"])
def test_next_attempt_at_the_very_moment_of_expiry_is_too_late(spare: timedelta) -> None:
    wait = wait_after(RetryPolicy(), 1, 0.0)
    sent = notification(expires_at=NOON + wait + spare)
    decision = after_attempt(trial(case(sent), dice=0.0), deferred(JANA), None)
    assert (decision.final is None) == bool(spare)


@pytest.mark.parametrize("left", [timedelta(seconds=1), timedelta(seconds=2)], ids=["none", "some"])
def test_rest_beyond_the_expiry_is_looked_at_until_the_last_second(left: timedelta) -> None:
    sent = notification(expires_at=NOON + left)
    decision = after_attempt(trial(case(sent), dice=0.0), throttled(JANA), NOON + HOUR)
    assert (decision.final is None) == (left > timedelta(seconds=1))
    assert decision.results[0].next_attempt_at in (None, NOON + timedelta(seconds=1))


@pytest.mark.parametrize(
    ("expires_in", "status"),
    [
        pytest.param(None, "failed", id="horizon"),
        pytest.param(timedelta(days=30), "failed", id="horizon-before-expiry"),
        pytest.param(timedelta(hours=23, minutes=50), "expired", id="expiry-before-horizon"),
    ],
)
def test_last_deferral_ends_as_failed_or_expired_by_what_came_first(expires_in: timedelta | None, status: str) -> None:
    sent = notification(expires_at=NOON + expires_in if expires_in else None)
    late = NOON + timedelta(hours=23, minutes=45)
    decision = after_attempt(trial(case(sent, progress=progress(attempts=20)), now=late), deferred(JANA), None)
    (result,) = decision.results
    assert (result.status, result.final, result.next_attempt_at) == (status, True, None)
    assert result.recipients[0].status == "failed"
    assert result.recipients[0].code == 450


def test_doubt_that_may_be_sent_again_but_has_no_time_left_is_told_as_doubt() -> None:
    # With on_doubt = resend the recipients wait for a second copy. If there is none, what is left is the doubt: to
    # call it failed or expired would say that nothing has arrived, and nobody knows that.
    broken = Broken(Stage.DOT, Fault.TIMEOUT, "no answer")
    judgement = judge(broken, (JANA,), catalogue(), OnDoubt.RESEND)
    sent = notification(expires_at=NOON + timedelta(seconds=10), on_doubt="resend")
    (result,) = after_attempt(trial(case(sent)), judgement, None).results
    assert result.status is DeliveryStatus.IN_DOUBT


def test_horizon_of_a_notification_for_later_counts_from_when_it_was_due() -> None:
    # First seen on Monday, to be sent on Thursday: on Thursday it has all its attempts before it.
    thursday = NOON + timedelta(days=3)
    sent = notification(not_before=thursday)
    decision = after_attempt(trial(case(sent, now=thursday), now=thursday), deferred(JANA), None)
    assert decision.results[0].status is DeliveryStatus.DEFERRED
    assert isinstance(decision.disposition, WaitUntil)


def test_result_tells_about_settled_recipients_too() -> None:
    before = progress(attempts=1, settled={JANA: outcome(A, "250 2.0.0 first")})
    decision = after_attempt(trial(case(to(JANA, OMAR), progress=before)), accepted(OMAR), None)
    (result,) = decision.results
    assert result.status is DeliveryStatus.ACCEPTED
    assert [(each.address, each.text) for each in result.recipients] == [(str(JANA), "first"), (str(OMAR), "OK")]
    assert result.attempt == 2


def test_dead_letter_carries_reason_and_progress_for_the_replay() -> None:
    decision = after_attempt(trial(case(to(JANA, OMAR))), both(accepted(JANA), refused(OMAR)), None)
    assert isinstance(decision.disposition, DeadLetter)
    assert decision.disposition.kind == "recipient-permanent"
    assert decision.disposition.progress is not None
    assert decision.disposition.progress.settled.keys() == {JANA, OMAR}


def test_held_message_waits_and_its_producer_is_told_why() -> None:
    decision = while_held(trial(dice=0.0), THROTTLED, NOON + HOUR)
    (result,) = decision.results
    assert result.status is DeliveryStatus.DEFERRED
    assert result.reason is not None
    assert result.reason.kind == "throttled-mailbox"
    assert result.next_attempt_at == NOON + HOUR
    assert result.attempt == 0
    assert decision.disposition == WaitUntil(NOON + LOOK, progress(told="throttled-mailbox"))


def test_held_message_waits_no_longer_than_the_rest() -> None:
    decision = while_held(trial(dice=0.0), THROTTLED, NOON + timedelta(minutes=1))
    assert decision.disposition == WaitUntil(NOON + timedelta(minutes=1), progress(told="throttled-mailbox"))


def test_those_who_look_at_a_rest_do_not_come_in_one_moment() -> None:
    early, late = (while_held(trial(dice=dice), THROTTLED, NOON + HOUR).disposition for dice in (0.0, 0.99))
    assert isinstance(early, WaitUntil)
    assert isinstance(late, WaitUntil)
    assert timedelta(seconds=30) < late.when - early.when < timedelta(minutes=1)


def test_held_message_is_not_reported_again_for_the_same_reason() -> None:
    told = case(progress=progress(told="throttled-mailbox"))
    decision = while_held(trial(told, dice=0.0), THROTTLED, NOON + HOUR)
    assert decision == Decision((), WaitUntil(NOON + LOOK, progress(told="throttled-mailbox")))


def test_held_message_is_reported_again_for_another_reason() -> None:
    told = case(progress=progress(told="auth-config"))
    assert len(while_held(trial(told), THROTTLED, NOON + HOUR).results) == 1


def test_held_beyond_its_time_a_message_is_given_up_even_if_the_reason_was_told() -> None:
    told = case(progress=progress(told="throttled-mailbox", settled={JANA: outcome(A)}), sent=to(JANA, OMAR))
    rest, last = NOON + timedelta(days=2), NOON + RetryPolicy().horizon - timedelta(seconds=1)
    assert isinstance(while_held(trial(told, tried=(OMAR,)), THROTTLED, rest).disposition, WaitUntil)
    decision = while_held(trial(told, tried=(OMAR,), now=last), THROTTLED, rest)
    (result,) = decision.results
    assert result.status is DeliveryStatus.PARTIALLY_ACCEPTED
    assert [each.status for each in result.recipients] == [A, F]


STATUSES = st.sampled_from([A, D, F, H, U])
moments = st.timedeltas(timedelta(), timedelta(hours=30)).map(lambda after: NOON + after)


@st.composite
def trials(draw: st.DrawFn) -> tuple[Trial, Judgement, datetime | None]:
    """Any attempt that the courier could come to: open recipients are tried, settled ones are not."""
    settled = draw(st.dictionaries(st.sampled_from(EVERYBODY), st.sampled_from([A, F, H, U]).map(outcome), max_size=2))
    tried = tuple(rcpt for rcpt in EVERYBODY if rcpt not in settled)
    now = draw(moments)
    sent = to(*EVERYBODY, expires_at=draw(st.none() | moments))
    before = progress(attempts=draw(st.integers(0, 12)), settled=settled, told=draw(st.sampled_from(["", "some"])))
    judgement = Judgement({rcpt: outcome(draw(STATUSES)) for rcpt in tried}, verdict(Action.RETRY, "some"))
    paused_until = None
    if D in {each.status for each in judgement.outcomes.values()} and draw(st.booleans()):
        judgement = Judgement(judgement.outcomes, THROTTLED, THROTTLED)
        paused_until = now + draw(st.timedeltas(timedelta(seconds=1), timedelta(hours=4)))
    dice = draw(st.floats(0, 1, exclude_max=True))
    return trial(case(sent, progress=before, now=now), tried=tried, now=now, dice=dice), judgement, paused_until


def last_look(tried: Trial) -> datetime:
    """Before the retry horizon or the expiry."""
    horizon, expires_at = tried.case.progress.first_seen + tried.policy.horizon, tried.case.notification.expires_at
    return (min(horizon, expires_at) if expires_at else horizon) - timedelta(seconds=1)


def kept(decision: Decision) -> Progress | None:
    return None if isinstance(decision.disposition, Acknowledge) else decision.disposition.progress


@settings(max_examples=200)
@given(trials())
def test_exactly_one_of_final_result_and_next_attempt(drawn: tuple[Trial, Judgement, datetime | None]) -> None:
    decision = after_attempt(*drawn)
    (result,) = decision.results
    waits = isinstance(decision.disposition, WaitUntil)
    assert result.final != waits
    assert (result.next_attempt_at is not None) == waits
    assert (result.status is DeliveryStatus.DEFERRED) == waits
    assert any(each.status is D for each in result.recipients) == waits


@settings(max_examples=200)
@given(trials())
def test_settled_recipients_stay_as_they_are_and_attempts_never_shrink(
    drawn: tuple[Trial, Judgement, datetime | None],
) -> None:
    before = drawn[0].case.progress
    judgement = drawn[1]
    after = kept(after_attempt(*drawn))
    if after is not None:
        assert after.settled.items() >= before.settled.items()
        assert after.attempts == before.attempts + (1 if judgement.pause is None else 0)
        assert after.first_seen == before.first_seen
        assert not any(each.status is D for each in after.settled.values())


@settings(max_examples=200)
@given(trials())
def test_next_attempt_lies_ahead_and_within_horizon_and_expiry(
    drawn: tuple[Trial, Judgement, datetime | None],
) -> None:
    tried, _, paused_until = drawn
    when = after_attempt(*drawn).results[0].next_attempt_at
    if when is not None:
        assert when > tried.now
        assert when < tried.case.progress.first_seen + tried.policy.horizon
        assert not tried.case.notification.expired(when)
        assert paused_until is None or when >= min(paused_until, last_look(tried))


@settings(max_examples=200)
@given(trials())
def test_final_status_is_never_better_or_worse_than_what_the_recipients_got(
    drawn: tuple[Trial, Judgement, datetime | None],
) -> None:
    (result,) = after_attempt(*drawn).results
    found = {each.status for each in result.recipients}
    match result.status:
        case DeliveryStatus.ACCEPTED:
            assert found == {A}
        case DeliveryStatus.HANDED_OVER:
            assert found == {H}
        case DeliveryStatus.PARTIALLY_ACCEPTED:
            assert found & {A, H}
        case DeliveryStatus.IN_DOUBT:
            assert U in found
        case DeliveryStatus.FAILED | DeliveryStatus.EXPIRED:
            assert found == {F}


@settings(max_examples=200)
@given(trials())
def test_expired_is_said_only_of_what_the_clock_has_ended(drawn: tuple[Trial, Judgement, datetime | None]) -> None:
    tried, judgement, _ = drawn
    (result,) = after_attempt(*drawn).results
    if result.status is DeliveryStatus.EXPIRED:
        assert tried.case.notification.expires_at is not None
        assert D in {each.status for each in judgement.outcomes.values()}


@settings(max_examples=200)
@given(trials(), moments)
def test_wait_for_a_paused_mailbox_changes_nothing_but_what_was_told(
    drawn: tuple[Trial, Judgement, datetime | None], until: datetime
) -> None:
    tried, _, _ = drawn
    before = tried.case.progress
    decision = while_held(tried, THROTTLED, until)
    after = kept(decision)
    if isinstance(decision.disposition, WaitUntil):
        assert after is not None
        assert (after.attempts, after.settled, after.first_seen) == (before.attempts, before.settled, before.first_seen)
        assert decision.disposition.when >= min(until, tried.now + LOOK, last_look(tried))
        assert decision.final is None
        assert len(decision.results) == (0 if before.told == THROTTLED.kind else 1)
    else:
        assert decision.final is not None
