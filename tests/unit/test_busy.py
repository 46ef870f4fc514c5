"""A mailbox whose connections are all in use: its mails step back, and step back further the longer it lasts."""

from datetime import timedelta

import pytest

from contracts.notification import Priority
from tests.factories import NOON, case, notification, progress, trial
from worker.domain.decision import WaitUntil, while_busy


def test_mail_whose_turn_it_was_keeps_it() -> None:
    first = while_busy(trial(dice=0)).disposition
    assert isinstance(first, WaitUntil)
    assert first.progress is not None
    assert first.progress.slot == NOON
    again = while_busy(trial(case=case(progress=first.progress, now=NOON + timedelta(minutes=1)), dice=0)).disposition
    assert isinstance(again, WaitUntil)
    assert again.progress is not None
    assert again.progress.slot == NOON


def waited(waits: int, priority: Priority = Priority.NORMAL) -> timedelta:
    about = case(notification(priority=priority), progress=progress(waits=waits))
    disposition = while_busy(trial(case=about, dice=0)).disposition
    assert isinstance(disposition, WaitUntil)
    assert disposition.progress is not None
    assert disposition.progress.waits == waits + 1
    return disposition.when - NOON


@pytest.mark.parametrize(("waits", "seconds"), [(0, 2), (1, 4), (4, 32), (5, 64), (50, 64)])
def test_waits_double_up_to_a_minute(waits: int, seconds: int) -> None:
    assert waited(waits) == timedelta(seconds=seconds)


def test_urgent_mail_keeps_looking_soon() -> None:
    assert waited(50, Priority.HIGH) == timedelta(seconds=1)
