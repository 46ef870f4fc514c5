"""What the store writes down is what it reads back."""

from __future__ import annotations

from dataclasses import fields

from contracts.delivery import RecipientStatus
from tests.factories import JANA, NOON, OMAR, outcome
from worker.domain.delivery import Progress
from worker.store import record

FULL = Progress(
    first_seen=NOON,
    attempts=3,
    settled={JANA: outcome(RecipientStatus.FAILED, "550 5.1.1 unknown", "recipient-permanent")},
    doubted=frozenset({OMAR}),
    waits=2,
    told="throttled-mailbox",
    slot=NOON,
    replays=1,
    group=4,
    cap=8,
    handed=frozenset({OMAR}),
    kept_until=NOON,
)


def test_every_field_of_a_progress_survives() -> None:
    plain = Progress(first_seen=NOON)
    same = [field.name for field in fields(Progress) if getattr(FULL, field.name) == getattr(plain, field.name)]
    assert same == ["first_seen"], "give FULL a value for every field"
    assert record.progress(record.progress_text(FULL)) == FULL
    assert record.progress(record.progress_text(plain)) == plain
