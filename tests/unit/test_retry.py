"""Waits: they grow, they end, and the dice change them by no more than promised."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.retry import RetryPolicy, wait_after

policies = st.builds(
    RetryPolicy,
    first=st.timedeltas(timedelta(seconds=1), timedelta(minutes=10)),
    factor=st.floats(1, 10),
    longest=st.timedeltas(timedelta(minutes=10), timedelta(days=1)),
    jitter=st.floats(0, 0.5),
)
attempts = st.integers(1, 10_000)
dice = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("attempt", "seconds"),
    [
        pytest.param(1, 30, id="first"),
        pytest.param(2, 60, id="second"),
        pytest.param(3, 120, id="third"),
        pytest.param(7, 1920, id="last-that-grows"),
        pytest.param(8, 3600, id="first-at-the-limit"),
        pytest.param(40, 3600, id="after-a-day-and-a-half"),
        pytest.param(100, 3600, id="after-four-days"),
    ],
)
def test_wait_doubles_up_to_the_longest(attempt: int, seconds: int) -> None:
    assert wait_after(RetryPolicy(), attempt, 0.5) == timedelta(seconds=seconds)


@given(policies, attempts)
def test_wait_never_gets_shorter_from_attempt_to_attempt(policy: RetryPolicy, attempt: int) -> None:
    assert wait_after(policy, attempt, 0.5) <= wait_after(policy, attempt + 1, 0.5)


@given(policies, attempts, dice)
def test_dice_move_a_wait_by_no_more_than_its_jitter(policy: RetryPolicy, attempt: int, dice: float) -> None:
    middle = wait_after(policy, attempt, 0.5)
    wait = wait_after(policy, attempt, dice)
    tick = timedelta(microseconds=2)
    assert middle * (1 - policy.jitter) - tick <= wait <= middle * (1 + policy.jitter) + tick
    assert wait > timedelta()


@given(policies, attempts)
def test_wait_grows_beyond_the_longest_only_by_the_dice(policy: RetryPolicy, attempt: int) -> None:
    assert wait_after(policy, attempt, 0.5) <= policy.longest


def test_jitter_spreads_a_backlog_over_its_whole_share() -> None:
    policy = RetryPolicy(first=timedelta(seconds=100), jitter=0.2)
    assert wait_after(policy, 1, 0) == timedelta(seconds=80)
    assert wait_after(policy, 1, 1) == timedelta(seconds=120)
