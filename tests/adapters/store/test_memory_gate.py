"""A breaker for each mailbox: pauses, probes, and what ends them."""

from datetime import datetime, timedelta

import pytest

from tests.factories import NOON, verdict
from worker.domain.verdict import Action, Verdict
from worker.ports import Admission, Hold
from worker.store.memory import MemoryGate

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def trouble(minutes: float = 1, kind: str = "auth-config") -> Verdict:
    return verdict(Action.PAUSE, kind, pause=minutes * MINUTE)


def let_in(gate: MemoryGate, at: datetime, mailbox: str = "box") -> Admission:
    admission = gate.admit(mailbox, at)
    assert isinstance(admission, Admission), "held"
    return admission


def paused(minutes: float = 1, *, at: datetime = NOON) -> tuple[MemoryGate, datetime]:
    """A gate whose mailbox rests, and until when."""
    gate = MemoryGate()
    return gate, gate.paused(let_in(gate, at), trouble(minutes), at)


def test_mailbox_without_trouble_lets_everybody_through() -> None:
    gate = MemoryGate()
    assert not any(let_in(gate, NOON).probe for _ in range(10))


def test_paused_mailbox_holds_everybody_until_the_end() -> None:
    gate, until = paused()
    assert until == NOON + MINUTE
    assert gate.admit("box", NOON) == Hold(until, trouble())
    assert gate.admit("box", until - SECOND) == Hold(until, trouble())


def test_other_mailboxes_do_not_rest() -> None:
    gate, _ = paused()
    let_in(gate, NOON, "other")


def test_after_the_pause_one_is_let_through_and_the_others_look_again_soon() -> None:
    gate, until = paused()
    assert let_in(gate, until).probe
    held = gate.admit("box", until)
    assert isinstance(held, Hold)
    assert until < held.until <= until + 10 * SECOND
    assert held.verdict == trouble()


def test_probe_that_succeeds_ends_the_pause_for_all() -> None:
    gate, until = paused()
    assert gate.cleared(let_in(gate, until), tried=True)
    assert not any(let_in(gate, until).probe for _ in range(5))


def test_end_of_a_pause_is_told_once() -> None:
    gate, until = paused()
    probe = let_in(gate, until)
    assert gate.cleared(probe, tried=True)
    assert not gate.cleared(probe, tried=True)


def test_success_without_a_pause_ends_nothing() -> None:
    gate = MemoryGate()
    assert not gate.cleared(let_in(gate, NOON), tried=True)


def test_probe_that_fails_makes_the_next_pause_twice_as_long() -> None:
    gate, until = paused()
    assert gate.paused(let_in(gate, until), trouble(), until) == until + 2 * MINUTE


def test_probe_that_comes_to_nothing_gives_its_turn_to_the_next() -> None:
    gate, until = paused()
    assert not gate.cleared(let_in(gate, until), tried=False)
    assert let_in(gate, until).probe


def test_probe_that_never_comes_back_is_followed_by_another() -> None:
    gate, until = paused()
    let_in(gate, until)
    assert isinstance(gate.admit("box", until + 30 * SECOND), Hold)
    assert let_in(gate, until + 2 * MINUTE).probe


def test_success_of_a_mail_from_before_the_pause_does_not_end_it() -> None:
    gate = MemoryGate()
    early = let_in(gate, NOON)
    until = gate.paused(let_in(gate, NOON), trouble(), NOON)
    assert not gate.cleared(early, tried=True)
    assert gate.admit("box", until - SECOND) == Hold(until, trouble())


def test_success_from_before_the_pause_does_not_end_it_after_its_time_either() -> None:
    gate = MemoryGate()
    early = let_in(gate, NOON)
    until = gate.paused(let_in(gate, NOON), trouble(), NOON)
    assert not gate.cleared(early, tried=True)
    let_in(gate, until)
    assert isinstance(gate.admit("box", until), Hold), "still one at a time"


def test_failure_of_a_mail_from_before_the_pause_does_not_lengthen_it() -> None:
    gate = MemoryGate()
    first, second, third = (let_in(gate, NOON) for _ in range(3))
    until = gate.paused(first, trouble(), NOON)
    assert gate.paused(second, trouble(), NOON + 30 * SECOND) == until
    assert gate.paused(third, trouble(), NOON + 40 * SECOND) == until
    assert gate.paused(let_in(gate, until), trouble(), until) == until + 2 * MINUTE


def test_pauses_double_up_to_an_hour() -> None:
    gate, now = MemoryGate(), NOON
    lengths = []
    for _ in range(9):
        until = gate.paused(let_in(gate, now), trouble(), now)
        lengths.append((until - now) / MINUTE)
        now = until
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_pause_longer_than_an_hour_is_neither_cut_nor_doubled() -> None:
    gate, until = paused(180)
    assert until == NOON + 180 * MINUTE
    assert gate.paused(let_in(gate, until), trouble(180), until) == until + 180 * MINUTE


def test_number_of_failures_may_be_as_large_as_it_likes() -> None:
    gate, now = MemoryGate(), NOON
    for _ in range(2000):
        now = gate.paused(let_in(gate, now), trouble(0.5), now)
    assert gate.paused(let_in(gate, now), trouble(0.5), now) == now + 60 * MINUTE


def test_success_makes_the_next_pause_short_again() -> None:
    gate, until = paused()
    until = gate.paused(let_in(gate, until), trouble(), until)
    gate.cleared(let_in(gate, until), tried=True)
    assert gate.paused(let_in(gate, until), trouble(), until) == until + MINUTE


def test_hold_tells_the_latest_trouble() -> None:
    gate, until = paused()
    later = gate.paused(let_in(gate, until), trouble(5, "throttled"), until)
    held = gate.admit("box", until)
    assert held == Hold(later, trouble(5, "throttled"))
    assert later == until + 10 * MINUTE


@pytest.mark.parametrize("tried", [True, False], ids=["success", "came-to-nothing"])
def test_straggler_from_before_the_pause_does_not_take_the_probes_turn(tried: bool) -> None:  # noqa: FBT001
    """Several mails are on their way when the pause begins; one comes back while the probe is out."""
    gate = MemoryGate()
    straggler = let_in(gate, NOON)
    until = gate.paused(let_in(gate, NOON), trouble(), NOON)
    probe = let_in(gate, until)
    assert not gate.cleared(straggler, tried=tried)
    assert isinstance(gate.admit("box", until), Hold), "nobody knows yet whether the trouble is over"
    assert gate.cleared(probe, tried=True)
    let_in(gate, until)
