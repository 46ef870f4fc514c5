"""Metrics stay readable however many mailboxes there are."""

from __future__ import annotations

from tests.factories import NOON
from worker.events import BasicAuthRetiring, MailboxPaused, MailboxResumed, SessionOpened, Submitted, Submitting
from worker.telemetry.metrics import Metrics

MANY = [f"box-{number}" for number in range(1500)]


def paused(name: str) -> MailboxPaused:
    return MailboxPaused(name, "credential", "", "", NOON)


def test_first_thousand_mailboxes_have_a_name_and_the_others_one_together() -> None:
    metrics = Metrics(lambda: 0.0)
    for name in MANY:
        metrics(SessionOpened(name, "TLSv1.3", "xoauth2", 0.1))
    family = [each for each in metrics.registry.collect() if each.name == "postlane_smtp_sessions_opened"]
    counted = {each.labels["mailbox"]: each.value for each in family[0].samples if each.name.endswith("_total")}
    assert len(counted) == 1001
    assert counted["box-0"] == 1
    assert counted["(others)"] == 500


def test_what_rests_and_what_is_in_flight_is_counted_of_the_others_together() -> None:
    metrics = Metrics(lambda: 0.0)
    for name in MANY:
        metrics(Submitting(name))
    for name in ("box-7", "box-1200", "box-1200", "box-1300"):
        metrics(paused(name))
    metrics(MailboxResumed("box-1300"))
    metrics(Submitted("box-1200", sent=True))

    def value(name: str, mailbox: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"mailbox": mailbox})

    assert [value("postlane_mailbox_paused", name) for name in ("box-7", "(others)")] == [1, 1]
    assert [value("postlane_mailbox_in_flight", name) for name in ("box-7", "(others)")] == [1, 499]


def test_mailboxes_with_passwords_at_microsofts_are_counted_all() -> None:
    metrics = Metrics(lambda: 0.0)
    metrics(BasicAuthRetiring(tuple(MANY)))
    family = next(each for each in metrics.registry.collect() if each.name == "postlane_mailbox_basic_auth")
    assert sum(each.value for each in family.samples) == len(MANY)
