"""What is left of a mailbox's limits, on a clock that is moved."""

from __future__ import annotations

from worker.emulator.governor import Governor
from worker.emulator.scenario import Limits


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_requests_to_graph_are_counted_per_mailbox_in_a_window_that_slides() -> None:
    time = Time()
    governor = Governor(Limits(graph_rate=2, graph_window=10), time)
    assert [governor.turned_away("a") for _ in range(2)] == [0, 0]
    assert governor.turned_away("b") == 0
    assert governor.turned_away("a") == 10
    time.now = 10.5
    assert governor.turned_away("a") == 0


def test_requests_that_were_turned_away_count_as_well() -> None:
    time = Time()
    governor = Governor(Limits(graph_rate=1, graph_window=10), time)
    assert governor.turned_away("a") == 0
    time.now = 6
    assert governor.turned_away("a") == 10
    time.now = 11
    assert governor.turned_away("a") == 10


def test_requests_to_graph_are_not_limited_unless_it_is_wanted() -> None:
    governor = Governor(Limits())
    assert {governor.turned_away("a") for _ in range(100)} == {0}
