"""A mailbox's limits: never more in any window, urgent mail prompt, tenants side by side, nothing left unused."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.pacing import (
    BUCKET,
    DAY,
    Go,
    Line,
    Pace,
    Place,
    Request,
    Used,
    day_has_room_at,
    decide,
    eased,
    external_recipients_per_day,
    of_limit,
    throttled,
)

SECOND = 1_000_000
OFFICE365 = Pace(30)


@dataclass
class Mailbox:
    """A mailbox under load, in a time of its own: mails come, are given places, come back a little late, are sent."""

    pace: Pace
    late: float = 1.0  # seconds at most
    lasts: float = 0.3  # seconds
    seed: int = 1
    sent: list[tuple[int, int]] = field(default_factory=list)
    left: dict[int, int] = field(default_factory=dict)
    waited: dict[int, int] = field(default_factory=dict)
    looks: int = 0
    lines: dict[tuple[str, bool], Line] = field(default_factory=dict)

    def run(self, mails: list[tuple[float, str, bool]], until: float) -> None:
        dice, numbers = random.Random(self.seed), itertools.count()
        agenda = [(int(at * SECOND), next(numbers), tenant, urgent, None) for at, tenant, urgent in mails]
        came = {number: at for at, number, *_ in agenda}
        heapq.heapify(agenda)
        while agenda and agenda[0][0] <= until * SECOND:
            now, number, tenant, urgent, slot = heapq.heappop(agenda)
            match self.ask(tenant, urgent=urgent, slot=slot, now=now):
                case Go():
                    self.sent.append((now, now + int(dice.uniform(0, self.lasts) * SECOND)))
                    self.left[number] = now
                    self.waited[number] = now - came[number]
                case Place(at):
                    back = at if at - now < 2 * SECOND else at + int(dice.uniform(0, self.late) * SECOND)
                    heapq.heappush(agenda, (back, number, tenant, urgent, at))

    def ask(self, tenant: str, *, urgent: bool, slot: int | None, now: int) -> Go | Place:
        self.looks += 1
        used = Used([end for _, end in self.sent if end <= now], sum(end > now for _, end in self.sent))
        waiting = {whose for (whose, kind), line in self.lines.items() if kind == urgent and line.waiting(now)}
        expected = any(
            kind and max(line.last, line.again) > now - self.pace.interval for (_, kind), line in self.lines.items()
        )
        request = Request(urgent, slot, len(waiting | {tenant}), expected)
        line = self.lines.get((tenant, urgent), Line())
        answer = decide(self.pace, used, line, request, now)
        if isinstance(answer, Place):
            self.lines[tenant, urgent] = answer.line
        return answer

    def fullest_window(self) -> int:
        """Most mails whose server may have stamped them within one window, wherever between begin and end it did."""
        moments = sorted(end for _, end in self.sent)
        return max(sum(begin <= each < begin + self.pace.window for each in moments) for begin in moments)


def backlog(count: int, tenant: str = "contoso", at: float = 0.0) -> list[tuple[float, str, bool]]:
    return [(at, tenant, False)] * count


@given(
    mails=st.lists(
        st.tuples(st.floats(0, 200), st.sampled_from(["contoso", "fabrikam", "zlin"]), st.booleans()),
        min_size=1,
        max_size=150,
    ),
    most=st.integers(1, 40),
    late=st.floats(0, 3),
    seed=st.integers(0, 1000),
)
def test_no_window_ever_holds_more_than_the_limit(
    mails: list[tuple[float, str, bool]], most: int, late: float, seed: int
) -> None:
    mailbox = Mailbox(Pace(most), late=late, lasts=2.0, seed=seed)
    mailbox.run(mails, 600)
    assert mailbox.fullest_window() <= most


@pytest.mark.parametrize(("most", "minutes", "share"), [(10, 20, 0.97), (30, 20, 0.98), (300, 6, 0.99)])
@pytest.mark.parametrize("late", [0.0, 1.0])
def test_backlog_uses_the_limit_up(most: int, minutes: int, share: float, late: float) -> None:
    mailbox = Mailbox(Pace(most), late=late)
    mailbox.run(backlog(most * minutes + most), minutes * 60)
    assert len(mailbox.sent) >= share * most * minutes
    assert mailbox.fullest_window() <= most


@pytest.mark.parametrize("most", [30, 50])
def test_first_minute_is_used_up_too(most: int) -> None:
    mailbox = Mailbox(Pace(most))
    mailbox.run(backlog(most * 2), 59)
    assert len(mailbox.sent) == most


@pytest.mark.parametrize("arrives", [0.5, 7.0, 30.0, 50.0, 53.0, 55.0, 57.5, 59.0, 61.0, 100.0, 333.3])
def test_urgent_mail_leaves_within_two_places_of_a_backlog_of_thousands(arrives: float) -> None:
    mailbox = Mailbox(OFFICE365)
    mails = [*backlog(2000), (arrives, "contoso", True)]
    mailbox.run(mails, arrives + 30)
    assert mailbox.waited[2000] <= 2 * OFFICE365.interval


def test_few_urgent_mails_at_once_all_leave_soon() -> None:
    mailbox = Mailbox(OFFICE365)
    mailbox.run([*backlog(2000), *[(200.0, "contoso", True)] * 6], 260)
    assert max(mailbox.waited[number] for number in range(2000, 2006)) <= 12 * OFFICE365.interval


def test_flood_of_urgent_mail_leaves_a_share_to_the_rest() -> None:
    mailbox = Mailbox(OFFICE365)
    mailbox.run([*[(0.0, "contoso", True)] * 1000, *backlog(1000)], 900)
    others = sum(number >= 1000 for number in mailbox.left)
    assert others >= 0.1 * len(mailbox.left)
    assert len(mailbox.sent) >= 0.9 * 30 * 15


def test_tenant_with_ten_mails_is_not_behind_another_ones_thousands() -> None:
    mailbox = Mailbox(OFFICE365)
    mailbox.run([*backlog(3000), *backlog(10, "fabrikam", 100.0)], 400)
    assert max(mailbox.waited[number] for number in range(3000, 3010)) <= 120 * SECOND


def test_few_mails_to_an_idle_mailbox_leave_at_once() -> None:
    mailbox = Mailbox(OFFICE365)
    mailbox.run(backlog(20), 1)
    assert len(mailbox.sent) == 20


def test_waiting_costs_few_looks_however_long_the_backlog() -> None:
    mailbox = Mailbox(OFFICE365)
    mailbox.run(backlog(2000), 1200)
    assert mailbox.looks <= 2000 + 3 * len(mailbox.sent)


def test_who_comes_too_early_keeps_the_place() -> None:
    line = Line(last=50 * SECOND)
    assert decide(OFFICE365, Used(), line, Request(urgent=False, slot=20 * SECOND), 19 * SECOND) == Place(
        20 * SECOND, line
    )


def test_places_in_one_line_are_apart_and_in_order() -> None:
    line, places = Line(), []
    used = Used([0] * 30)
    for _ in range(5):
        answer = decide(OFFICE365, used, line, Request(urgent=False), SECOND)
        assert isinstance(answer, Place)
        line = answer.line
        places.append(answer.at)
    assert {later - earlier for earlier, later in itertools.pairwise(places)} == {OFFICE365.interval}
    assert places[0] == 60 * SECOND


# what a server asks for


def test_throttling_halves_and_quiet_minutes_give_back() -> None:
    half = throttled(1.0, 0, 0)
    assert half == 0.5
    assert throttled(half, 0, 0) == 0.25
    assert eased(half, 0, 60 * SECOND) == pytest.approx(0.6)
    assert eased(half, 0, 600 * SECOND) == 1.0


@given(st.lists(st.integers(0, 3600 * SECOND), max_size=60))
def test_something_is_always_left(gaps: list[int]) -> None:
    factor, then, now = 1.0, 0, 0
    for gap in gaps:
        now += gap
        factor, then = throttled(factor, then, now), now
        assert of_limit(3, factor) in {1, 2, 3}
        assert 0 < factor <= 1


# days


@pytest.mark.parametrize(("licences", "external"), [(1, 10_000), (100, 22_059), (1000, 72_446), (10_000, 324_978)])
def test_external_recipients_follow_microsofts_formula(licences: int, external: int) -> None:
    assert external_recipients_per_day(licences) == pytest.approx(external, abs=1)


def test_day_is_full_until_enough_of_it_is_a_day_ago() -> None:
    buckets = [(0, 4000), (BUCKET, 6000)]
    now = 2 * BUCKET
    assert day_has_room_at(buckets, 0, 1, 10_000, now) == BUCKET + DAY
    assert day_has_room_at(buckets, 0, 5000, 10_000, now) == 2 * BUCKET + DAY
    assert day_has_room_at(buckets[:1], 0, 6000, 10_000, now) == now
    assert day_has_room_at(buckets[:1], 1, 6000, 10_000, now) > now


def test_mail_to_more_than_a_days_recipients_goes_when_the_day_is_empty() -> None:
    assert day_has_room_at([], 0, 50_000, 10_000, 7) == 7
