"""How a mailbox stands: what routing would find, and what was done with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.factories import NOON, mailbox
from worker.domain.mailbox import Held, Limits, Mailbox, PickupDirectory
from worker.domain.standing import Availability, Tally, availability
from worker.domain.verdict import Action, Scope, Verdict
from worker.events import MailboxPaused, Submitted, Submitting
from worker.ports import Hold
from worker.telemetry.standing import Standings

BOX = mailbox(limits=Limits(connections=2))


@pytest.mark.parametrize(
    ("box", "flying", "resting", "expected"),
    [
        (BOX, 0, False, Availability.AVAILABLE),
        (BOX, 1, False, Availability.AVAILABLE),
        (BOX, 2, False, Availability.BUSY),
        (BOX, 2, True, Availability.RESTING),
        (replace(BOX, held=Held("moving", "")), 0, True, Availability.PAUSED),
        (replace(BOX, held=Held("no secret", "", unusable=True)), 0, False, Availability.UNUSABLE),
        (replace(BOX, enabled=False, held=Held("moving", "")), 0, True, Availability.DISABLED),
        (mailbox(endpoint=PickupDirectory("/srv/p", "/srv/s")), 500, False, Availability.AVAILABLE),
    ],
)
def test_availability_names_what_keeps_a_mailbox_from_being_taken(
    box: Mailbox,
    flying: int,
    resting: bool,  # noqa: FBT001 - a column of the table
    expected: Availability,
) -> None:
    assert availability(box, Tally(in_flight=flying), resting=resting) is expected


def test_what_is_under_way_was_sent_and_went_wrong_is_told() -> None:
    standings = Standings(lambda: NOON)
    for _ in range(3):
        standings(Submitting(BOX.name))
    standings(Submitted(BOX.name, sent=True))
    standings(Submitted(BOX.name, sent=False))
    standings(MailboxPaused(BOX.name, "throttled", "It asks for less.", "", NOON))
    told = standings.told({BOX.name: BOX}, lambda _name, _now: None)[BOX.name]
    assert (told["in_flight"], told["sent"], told["availability"]) == (1, 1, "available")
    assert told["last_error"] == {"class": "throttled", "explanation": "It asks for less.", "at": told_at(NOON)}


def test_rest_that_another_worker_has_begun_is_told_too() -> None:
    verdict = Verdict("auth", Scope.MAILBOX, Action.PAUSE, "The login was refused.", "")
    hold = Hold(NOON + timedelta(minutes=5), verdict)
    told = Standings(lambda: NOON).told({BOX.name: BOX}, lambda _name, _now: hold)[BOX.name]
    assert (told["availability"], told["rests_until"]) == ("resting", told_at(hold.until))
    assert told["last_error"] == {"class": "auth", "explanation": "The login was refused.", "at": None}


def told_at(moment: object) -> str:
    return moment.isoformat(timespec="milliseconds")  # type: ignore[attr-defined]


def test_limits_that_are_lowered_for_a_while_are_told() -> None:
    box = replace(BOX, limits=Limits(connections=3, per_minute=30, per_hour=100))
    standings = Standings(lambda: NOON)
    lowered = standings.told({box.name: box}, lambda _box, _now: None, lambda _name: 0.5)[box.name]
    assert lowered["lowered_to"] == {"connections": 1, "per_minute": 15}
    assert standings.told({box.name: box}, lambda _box, _now: None)[box.name]["lowered_to"] is None
