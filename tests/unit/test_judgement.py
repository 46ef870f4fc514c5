"""From what an attempt came to, to what it means for each recipient and for the mailbox."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.address import AddrSpec, parse
from contracts.delivery import RecipientStatus
from contracts.notification import OnDoubt
from tests.factories import JANA, OMAR
from worker.domain.delivery import Accepted, Broken, Fault, HandedOver, Outcome, Refused, Stage, TokenRefused
from worker.domain.judgement import Judgement, judge
from worker.domain.reply import Reply
from worker.domain.verdict import Action, Scope, catalogue

ROWS = catalogue()
EVE = parse("eve@fabrikam.com")
ALL = (JANA, OMAR, EVE)

OK = Reply.parse("250 2.0.0 OK [Hostname=AM0PR01MB1234]")
UNKNOWN_USER = Reply.parse("550 5.1.1 User unknown")
NOT_NOW = Reply.parse("450 4.2.0 Greylisted")
DAILY_LIMIT = Reply.parse("550 5.7.232 Your tenant exceeded its daily limit")
TOO_BUSY = Reply.parse("432 4.3.2 Concurrent connections limit exceeded.")

A, D, F, H, U = (RecipientStatus(name) for name in ("accepted", "deferred", "failed", "handed_over", "in_doubt"))

Attempt = Accepted | HandedOver | Refused | TokenRefused | Broken


def judged(submission: Attempt, tried: tuple[AddrSpec, ...] = ALL, on_doubt: OnDoubt = OnDoubt.HOLD) -> Judgement:
    return judge(submission, tried, ROWS, on_doubt)


def statuses(found: Judgement) -> list[RecipientStatus]:
    return [found.outcomes[rcpt].status for rcpt in ALL]


@pytest.mark.parametrize(
    ("submission", "expected", "kind", "pauses"),
    [
        pytest.param(Accepted(OK), [A, A, A], None, False, id="all-accepted"),
        pytest.param(HandedOver("/pickup/1.eml"), [H, H, H], None, False, id="pickup"),
        pytest.param(Accepted(OK, {OMAR: UNKNOWN_USER}), [A, F, A], "recipient-permanent", False, id="one-unknown"),
        pytest.param(Accepted(OK, {OMAR: NOT_NOW}), [A, D, A], "transient/greylisted", False, id="one-greylisted"),
        pytest.param(
            Accepted(OK, {OMAR: UNKNOWN_USER, EVE: NOT_NOW}), [A, F, D], "recipient-permanent", False, id="each-its-own"
        ),
        pytest.param(
            Accepted(OK, {EVE: DAILY_LIMIT}),
            [A, A, D],
            "throttled-tenant/external-recipients",
            True,
            id="limit-hit-on-the-way",
        ),
        pytest.param(
            Refused(Stage.RCPT, UNKNOWN_USER, dict.fromkeys(ALL, UNKNOWN_USER)),
            [F, F, F],
            "recipient-permanent",
            False,
            id="all-unknown",
        ),
        pytest.param(
            Refused(Stage.MAIL, TOO_BUSY), [D, D, D], "throttled-mailbox/connections", True, id="mailbox-busy"
        ),
        pytest.param(
            Refused(Stage.RCPT, Reply.parse("421 4.4.2 Connection dropped"), {JANA: UNKNOWN_USER}),
            [F, D, D],
            "transient/dropped",
            False,
            id="server-left-in-the-middle",
        ),
        pytest.param(
            Refused(Stage.DOT, Reply.parse("552 5.3.4 Message size exceeds"), {OMAR: NOT_NOW}),
            [F, D, F],
            "message-permanent/size",
            False,
            id="too-large-at-the-end",
        ),
        pytest.param(Refused(Stage.DATA, Reply.parse("451 later")), [D, D, D], "transient", False, id="not-now"),
        pytest.param(
            Refused(Stage.AUTH, Reply.parse("535 5.7.8 failed"), {}, "plain"),
            [D, D, D],
            "credential",
            True,
            id="password-refused",
        ),
        pytest.param(
            TokenRefused("invalid_client", "", (7000222,)),
            [D, D, D],
            "credential/secret-expired",
            True,
            id="secret-expired",
        ),
        pytest.param(
            TokenRefused("server_error", ""), [D, D, D], "transient/token-authority", False, id="authority-busy"
        ),
        pytest.param(
            Broken(Stage.DATA, Fault.DISCONNECTED, "x", {OMAR: UNKNOWN_USER}),
            [D, F, D],
            "transient",
            False,
            id="lost-after-a-refusal",
        ),
        pytest.param(Broken(Stage.CONNECT, Fault.DNS, "x"), [D, D, D], "transient", True, id="no-such-host"),
        pytest.param(Broken(Stage.MAIL, Fault.TOO_LARGE, "x"), [F, F, F], "message-permanent", False, id="size"),
        pytest.param(Broken(Stage.CONNECT, Fault.INTERNAL, "x"), [F, F, F], "internal-error", False, id="our-bug"),
        pytest.param(
            Broken(Stage.DOT, Fault.TIMEOUT, "x", {OMAR: UNKNOWN_USER}), [U, F, U], "in-doubt", False, id="doubt"
        ),
        pytest.param(Broken(Stage.DOT, Fault.INTERNAL, "x"), [U, U, U], "in-doubt", False, id="our-bug-at-the-dot"),
    ],
)
def test_attempt_means_this_for_each_recipient_and_for_the_mailbox(
    submission: Attempt, expected: list[RecipientStatus], kind: str | None, *, pauses: bool
) -> None:
    found = judged(submission)
    assert statuses(found) == expected
    assert (found.verdict.kind if found.verdict else None) == kind
    assert (found.pause is not None) == pauses
    assert found.spent == (not pauses)


def test_producer_that_fears_no_copies_has_its_doubt_tried_again() -> None:
    found = judged(Broken(Stage.DOT, Fault.TIMEOUT, "x", {OMAR: UNKNOWN_USER}), on_doubt=OnDoubt.RESEND)
    assert statuses(found) == [D, F, D]
    assert found.outcomes[JANA].verdict == "in-doubt"
    assert found.spent


def test_recipient_keeps_the_words_that_were_said_about_it() -> None:
    found = judged(Accepted(OK, {OMAR: UNKNOWN_USER}))
    assert found.outcomes == {
        JANA: Outcome(A, OK),
        EVE: Outcome(A, OK),
        OMAR: Outcome(F, UNKNOWN_USER, "recipient-permanent"),
    }


def test_second_of_two_refusals_still_rests_the_mailbox() -> None:
    found = judged(Accepted(OK, {JANA: UNKNOWN_USER, OMAR: DAILY_LIMIT}))
    assert found.pause is not None
    assert found.pause.kind == "throttled-tenant/external-recipients"


def test_mechanism_that_was_tried_decides_about_a_refused_login() -> None:
    reply = Reply.parse("535 5.7.3 Authentication unsuccessful")
    token = judged(Refused(Stage.AUTH, reply, {}, "xoauth2"))
    password = judged(Refused(Stage.AUTH, reply, {}, "login"))
    assert token.verdict is not None
    assert password.verdict is not None
    assert (token.verdict.kind, password.verdict.kind) == ("auth-config/token-refused", "credential")


SAYINGS = """\
550 5.1.1 unknown
450 4.2.0 later
452 4.5.3 Too many recipients
550 5.7.232 limit
421 bye
554 5.9.9 odd
432 4.3.2 Concurrent connections limit exceeded
530 log in"""
replies = st.builds(Reply.parse, st.sampled_from(SAYINGS.splitlines()))
tried_by = st.lists(st.sampled_from([JANA, OMAR, EVE]), min_size=1, unique=True).map(tuple)


@st.composite
def attempts(draw: st.DrawFn) -> tuple[Attempt, tuple[AddrSpec, ...]]:
    """An attempt for some recipients, some of them refused one by one; not all, if the mail was taken."""
    tried = draw(tried_by)
    refused = draw(st.dictionaries(st.sampled_from(tried), replies, max_size=len(tried)))
    some = {rcpt: reply for rcpt, reply in refused.items() if rcpt != tried[0]}
    stage = draw(st.sampled_from(Stage))
    attempt: Attempt = draw(
        st.one_of(
            st.just(Accepted(OK, some)),
            st.just(HandedOver("/pickup/1.eml")),
            st.builds(Refused, st.just(stage), replies, st.just(refused), st.sampled_from(["", "login", "xoauth2"])),
            st.builds(TokenRefused, st.sampled_from(["invalid_client", "server_error", "odd"]), st.just("")),
            st.builds(Broken, st.just(stage), st.sampled_from(Fault), st.just("x"), st.just(some)),
        )
    )
    return attempt, tried


@given(attempts(), st.sampled_from(OnDoubt))
def test_everybody_who_was_tried_and_nobody_else_gets_an_outcome(
    attempt: tuple[Attempt, tuple[AddrSpec, ...]], on_doubt: OnDoubt
) -> None:
    submission, tried = attempt
    assert judged(submission, tried, on_doubt).outcomes.keys() == set(tried)


@given(attempts(), st.sampled_from(OnDoubt))
def test_pause_always_has_a_length_and_spends_no_attempt(
    attempt: tuple[Attempt, tuple[AddrSpec, ...]], on_doubt: OnDoubt
) -> None:
    found = judged(*attempt, on_doubt)
    if found.pause is None:
        assert found.spent
    else:
        assert found.pause.action is Action.PAUSE
        assert found.pause.pause > timedelta()
        assert not found.spent


@given(st.sampled_from(Fault), tried_by)
def test_doubt_is_never_turned_into_a_second_copy_unless_the_producer_allows_it(
    fault: Fault, tried: tuple[AddrSpec, ...]
) -> None:
    broken = Broken(Stage.DOT, fault, "x")
    held = judged(broken, tried, OnDoubt.HOLD)
    resent = judged(broken, tried, OnDoubt.RESEND)
    assert {each.status for each in held.outcomes.values()} == {U}
    assert {each.status for each in resent.outcomes.values()} == {D}


@given(attempts(), st.sampled_from(OnDoubt))
def test_only_an_unanswered_dot_leaves_doubt(attempt: tuple[Attempt, tuple[AddrSpec, ...]], on_doubt: OnDoubt) -> None:
    submission, tried = attempt
    doubtful = {each.status for each in judged(submission, tried, on_doubt).outcomes.values()} & {U}
    stage = submission.stage if isinstance(submission, Broken | Refused) else None
    assert not doubtful or stage is Stage.GRAPH or (isinstance(submission, Broken) and stage is Stage.DOT)


@given(attempts(), st.sampled_from(OnDoubt))
def test_trouble_always_comes_with_an_explanation(
    attempt: tuple[Attempt, tuple[AddrSpec, ...]], on_doubt: OnDoubt
) -> None:
    found = judged(*attempt, on_doubt)
    well = all(each.status in (A, H) for each in found.outcomes.values())
    assert (found.verdict is None) == well
    assert all(bool(each.verdict) == (each.status not in (A, H)) for each in found.outcomes.values())


def test_token_that_was_replaced_and_is_refused_again_rests_the_mailbox() -> None:
    refused = Refused(Stage.AUTH, Reply.parse("535 5.7.3 The token has expired"), mechanism="xoauth2")
    for said in (
        refused,
        Refused(Stage.GRAPH, Reply.parse("401 InvalidAuthenticationToken: Access token has expired.")),
    ):
        found = judge(said, (JANA,), catalogue(), OnDoubt.HOLD)
        assert found.pause is not None
        assert found.pause.pause == timedelta(minutes=15)
        assert not found.spent


@pytest.mark.parametrize("text", ["454 4.7.0 Temporary authentication failure", "421 4.3.0 closing", "451 4.3.5 what"])
def test_login_that_is_not_possible_now_is_not_tried_by_every_mail_in_turn(text: str) -> None:
    found = judge(Refused(Stage.AUTH, Reply.parse(text), mechanism="login"), (JANA,), catalogue(), OnDoubt.HOLD)
    assert found.pause is not None
    assert (found.pause.scope, found.pause.pause) == (Scope.MAILBOX, timedelta(seconds=30))
    assert not found.spent


def test_line_that_breaks_at_the_login_rests_the_mailbox_but_a_bug_of_ours_does_not() -> None:
    broken = judge(Broken(Stage.AUTH, Fault.DISCONNECTED, "x"), (JANA,), catalogue(), OnDoubt.HOLD)
    assert broken.pause is not None
    assert judge(Broken(Stage.AUTH, Fault.INTERNAL, "x"), (JANA,), catalogue(), OnDoubt.HOLD).pause is None


def test_whom_nobody_knows_of_counts_against_the_day() -> None:
    broken = Broken(Stage.DOT, Fault.TIMEOUT, "x", {OMAR: UNKNOWN_USER})
    for on_doubt in OnDoubt:
        found = judge(broken, (JANA, OMAR), catalogue(), on_doubt)
        assert (found.accepted, found.counted) == (0, 1)


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        pytest.param("ErrorInvalidRecipients", "At least one recipient isn't valid.", [D, D, D], id="nobody-named"),
        pytest.param("ErrorInvalidRecipients", f"Not valid: {OMAR}.", [D, F, D], id="named"),
        pytest.param("ErrorTooManyRecipients", "Too many recipients.", [D, D, D], id="too-many"),
    ],
)
def test_who_spoils_a_mail_for_graph_is_looked_for_and_fails_alone(
    code: str, message: str, expected: list[RecipientStatus]
) -> None:
    refused = Refused(Stage.GRAPH, Reply.of(400, [f"{code}: {message}"]))
    assert statuses(judged(refused)) == expected
    assert judged(refused).split is not None
    assert judged(refused, (OMAR,)).outcomes[OMAR].status is F
