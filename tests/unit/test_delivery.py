"""What is settled stays settled, and one word sums it up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.address import AddrSpec
from contracts.delivery import DeliveryStatus, RecipientStatus
from tests.factories import JANA, OMAR, outcome, progress
from worker.domain.delivery import Outcome, Progress, give_up, overall

A, D, F, H, U = (RecipientStatus(name) for name in ("accepted", "deferred", "failed", "handed_over", "in_doubt"))

outcomes = st.dictionaries(
    st.builds(AddrSpec, st.sampled_from("abcdef"), st.just("x.de")),
    st.sampled_from(RecipientStatus).map(Outcome),
    min_size=1,
)


@pytest.mark.parametrize(
    ("statuses", "word"),
    [
        pytest.param([A], "accepted", id="accepted"),
        pytest.param([A, A], "accepted", id="all-accepted"),
        pytest.param([H, H], "handed_over", id="handed-over"),
        pytest.param([F, F], "failed", id="all-failed"),
        pytest.param([A, F], "partially_accepted", id="mixed"),
        pytest.param([H, F], "partially_accepted", id="mixed-pickup"),
        pytest.param([A, H], "partially_accepted", id="both-transports"),
        pytest.param([D], "deferred", id="deferred"),
        pytest.param([A, D], "deferred", id="some-open"),
        pytest.param([F, D], "deferred", id="some-failed-some-open"),
        pytest.param([U, D], "deferred", id="doubt-waits-for-the-open-ones"),
        pytest.param([U], "in_doubt", id="doubt"),
        pytest.param([U, A], "in_doubt", id="doubt-about-some"),
        pytest.param([U, F], "in_doubt", id="doubt-beside-failure"),
    ],
)
def test_one_word_stands_for_all_recipients(statuses: list[RecipientStatus], word: str) -> None:
    found = {AddrSpec(str(n), "x.de"): Outcome(status) for n, status in enumerate(statuses)}
    assert overall(found) == word


@given(outcomes)
def test_expiry_turns_failure_and_nothing_else_into_expired(found: dict[AddrSpec, Outcome]) -> None:
    plain, late = overall(found), overall(found, expires=True)
    assert late == (DeliveryStatus.EXPIRED if plain is DeliveryStatus.FAILED else plain)


@given(outcomes)
def test_giving_up_leaves_nothing_open_and_changes_nothing_else(found: dict[AddrSpec, Outcome]) -> None:
    after = give_up(found)
    assert overall(after).final
    assert after.keys() == found.keys()
    for rcpt, before in found.items():
        assert after[rcpt].status == (F if before.status is D else before.status)


@given(found=outcomes, spent=st.booleans())
def test_advance_settles_all_but_the_deferred(found: dict[AddrSpec, Outcome], *, spent: bool) -> None:
    before = progress(attempts=3)
    after = before.advanced(found, spent=spent)
    assert after.settled.keys() == {rcpt for rcpt, each in found.items() if each.status is not D}
    assert after.attempts == before.attempts + (1 if spent else 0)
    assert after.first_seen == before.first_seen


@given(st.lists(st.tuples(outcomes, st.booleans()), max_size=6))
def test_no_row_of_attempts_ever_unsettles_a_recipient(rounds: list[tuple[dict[AddrSpec, Outcome], bool]]) -> None:
    now: Progress = progress()
    for found, spent in rounds:
        # An attempt is made for the open recipients only.
        tried = {rcpt: each for rcpt, each in found.items() if rcpt not in now.settled}
        later = now.advanced(tried, spent=spent)
        assert later.settled.items() >= now.settled.items()
        assert later.attempts >= now.attempts
        now = later


def test_advance_keeps_what_was_told() -> None:
    before = progress(told="auth-config", settled={JANA: outcome(A)})
    after = before.advanced({OMAR: outcome(F)}, spent=True)
    assert after.told == "auth-config"
    assert after.settled == {JANA: outcome(A), OMAR: outcome(F)}


def test_refusal_of_a_second_copy_leaves_the_first_one_in_doubt_for_good() -> None:
    before = progress(doubted=frozenset({JANA, OMAR}))
    after = before.advanced({JANA: outcome(F, "550 5.1.1 unknown"), OMAR: outcome(D)}, spent=True)
    assert after.settled[JANA].status is U
    assert after.doubted == {OMAR}
