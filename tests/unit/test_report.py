"""What the producer is told."""

from datetime import timedelta
from typing import Any

import pytest

from contracts.delivery import Because, DeliveryStatus, RecipientStatus, Result
from contracts.wire import Malformed, Properties, decode
from tests.factories import JANA, NOON, OMAR, case, notification, outcome, progress, route, verdict
from worker.domain import report
from worker.domain.routing import Refusal
from worker.domain.verdict import Action

A, D, F = RecipientStatus.ACCEPTED, RecipientStatus.DEFERRED, RecipientStatus.FAILED
SUFFIX = "[Hostname=AM0PR01MB1234.eurprd01.prod.exchangelabs.com]"


def unreadable(body: bytes, properties: Properties) -> Malformed:
    found = decode(body, properties, max_octets=1000)
    assert isinstance(found, Malformed)
    return found


def test_unreadable_message_is_answered_with_all_that_is_wrong() -> None:
    properties = Properties(message_id="reset-1", correlation_id="c-1")
    found = unreadable(b'{"id":"a b"}', properties)
    result = report.malformed(found, b'{"id":"a b"}', properties, NOON)
    assert (result.status, result.final, result.attempt) == (DeliveryStatus.REJECTED, True, 0)
    assert (result.notification_id, result.correlation_id, result.tenant) == ("reset-1", "c-1", None)
    assert result.reason is not None
    assert result.reason.kind == "malformed"
    assert result.reason.problems == found.problems
    assert all(f"{item.field} {item.problem}" in result.reason.explanation for item in found.problems)


def test_same_unreadable_message_is_the_same_event_and_another_is_another() -> None:
    properties = Properties()
    found = unreadable(b"{", properties)
    first = report.malformed(found, b"{", properties, NOON)
    again = report.malformed(found, b"{", properties, NOON + timedelta(hours=1))
    other = report.malformed(found, b"{ ", properties, NOON)
    assert first.event_id == again.event_id != other.event_id


def test_refusal_names_the_field_and_the_remedy() -> None:
    result = report.refused(case(), Refusal("no-mailbox", "tenant", "It has none.", "Add one."))
    assert (result.status, result.final) == (DeliveryStatus.REJECTED, True)
    assert result.reason is not None
    assert (result.reason.kind, result.reason.explanation, result.reason.remedy) == (
        "no-mailbox",
        "It has none.",
        "Add one.",
    )
    assert [item.field for item in result.reason.problems] == ["tenant"]


def test_expiry_is_told_with_its_moment() -> None:
    result = report.expired(case(notification(expires_at=NOON)))
    assert (result.status, result.final) == (DeliveryStatus.EXPIRED, True)
    assert result.reason is not None
    assert "2026-06-01 12:00:00 UTC" in result.reason.explanation


def test_result_repeats_what_the_producer_needs_to_recognise_it() -> None:
    sent = notification(metadata={"order": 7, "none": None}, category="invite")
    about = case(sent, properties=Properties(correlation_id="c-1"), now=NOON + timedelta(hours=2))
    result = report.refused(about, Refusal("no-mailbox", "tenant", "It has none.", "Add one."))
    assert (result.notification_id, result.tenant, result.category) == ("reset-7f3a", "contoso", "invite")
    assert result.correlation_id == "c-1"
    assert result.metadata == {"order": 7, "none": None}
    assert (result.received_at, result.occurred_at) == (NOON, NOON + timedelta(hours=2))


def attempted(*people: str, said: str = "250 2.0.0 OK", **fields: Any) -> Result:
    sent = notification(to=list(people) or [str(JANA)])
    outcomes = {person.spec: outcome(A, said) for person in sent.recipients()}
    return report.attempted(
        case(sent),
        route(because=Because.OWN),
        DeliveryStatus.ACCEPTED,
        outcomes,
        **{"verdict": None, "message_id": "<1@contoso.com>", "next_attempt_at": None, **fields},
    )


def test_mailbox_and_its_reason_are_told() -> None:
    used = attempted().mailbox
    assert (used.name, used.address, used.transport, used.because) == (
        "contoso-mail",
        "noreply@contoso.com",
        "smtp",
        "own",
    )


def test_each_address_is_told_once_and_as_the_producer_wrote_it() -> None:
    result = attempted("Jana@M\u00dcNCHEN.example", "Jana@m\u00fcnchen.example", "omar@x.de")
    assert [each.address for each in result.recipients] == ["Jana@M\u00dcNCHEN.example", "omar@x.de"]


def test_reply_is_told_in_its_parts() -> None:
    (told,) = attempted(said=f"250 2.6.0 <id> Queued {SUFFIX}").recipients
    assert (told.code, told.enhanced) == (250, "2.6.0")
    assert told.text == f"<id> Queued {SUFFIX}"


def test_long_reply_is_shortened_in_the_middle_and_keeps_its_suffix() -> None:
    result = attempted(said=f"250 2.0.0 {'x' * 1500} {SUFFIX}")
    (told,) = result.recipients
    assert len(told.text) < 700
    assert told.text.endswith(SUFFIX)
    assert result.server_reply.endswith(SUFFIX)


def test_server_reply_is_the_last_one_and_not_one_of_an_earlier_attempt() -> None:
    # "Last reply of the server: quote it to its support", who will look for the newest.
    sent = notification(to=[str(JANA), str(OMAR)])
    before = progress(attempts=1, settled={JANA: outcome(A, f"250 2.0.0 first {SUFFIX}")})
    outcomes = {**before.settled, OMAR: outcome(A, f"250 2.0.0 second {SUFFIX}")}
    result = report.attempted(
        case(sent, progress=before), route(), DeliveryStatus.ACCEPTED, outcomes,
        verdict=None, message_id=None, next_attempt_at=None,
    )  # fmt: skip
    assert result.server_reply == f"250 2.0.0 second {SUFFIX}"


def test_verdict_becomes_the_reason() -> None:
    found = verdict(Action.PAUSE, "auth-config", remedy="Do this.", link="https://contoso.com/help")
    reason = attempted(verdict=found).reason
    assert (reason.kind, reason.explanation, reason.remedy, reason.link) == (
        "auth-config",
        "It is so.",
        "Do this.",
        "https://contoso.com/help",
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param({}, {}, True, id="repeated"),
        pytest.param({}, {"attempts": 2}, False, id="another-attempt"),
        pytest.param({}, {"status": DeliveryStatus.FAILED}, False, id="another-status"),
        pytest.param({}, {"id": "reset-8"}, False, id="another-notification"),
        pytest.param({}, {"tenant": "fabrikam"}, False, id="another-tenants"),
        pytest.param({}, {"later": 1}, True, id="final-result-told-again-later"),
        pytest.param(
            {"status": DeliveryStatus.DEFERRED},
            {"status": DeliveryStatus.DEFERRED, "later": 1},
            False,
            id="next-deferral",
        ),
    ],
)
def test_event_id_is_equal_exactly_for_a_repeated_event(
    one: dict[str, object], other: dict[str, object], *, same: bool
) -> None:
    def event_id(
        attempts: int = 1, status: DeliveryStatus = DeliveryStatus.ACCEPTED, later: int = 0, **fields: object
    ) -> str:
        about = case(notification(**fields), progress=progress(attempts=attempts), now=NOON + timedelta(hours=later))
        return report.attempted(
            about, route(), status, {JANA: outcome(A)}, verdict=None, message_id=None, next_attempt_at=None
        ).event_id

    assert (event_id(**one) == event_id(**other)) == same
