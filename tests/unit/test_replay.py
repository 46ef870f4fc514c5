"""Another life for a dead letter: who has the mail keeps it, who may have it is left alone."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from contracts.delivery import DeliveryStatus, RecipientResult, RecipientStatus, Result
from contracts.wire import Properties
from tests.factories import JANA, NOON, OMAR, document, notification, outcome, progress, result
from worker.domain.carry import pack
from worker.domain.replay import Correction, Replay, Unfit, prepare

BOTH = {"to": [str(JANA), str(OMAR)]}
NONE = Correction()


def told(**statuses: RecipientStatus) -> Result:
    people = {"jana": JANA, "omar": OMAR}
    recipients = tuple(RecipientResult(address=str(people[name]), status=status) for name, status in statuses.items())
    return result(DeliveryStatus.FAILED, recipients=recipients)


def prepared(last: Result | None, correction: Correction = NONE, fields: Any = BOTH, **more: Any) -> Replay | Unfit:
    body = json.dumps(document(**fields)).encode()
    return prepare(body, Properties(), last, correction, NOON, **more)


def fit(found: Replay | Unfit) -> Replay:
    assert isinstance(found, Replay), found
    return found


def why(found: Replay | Unfit) -> str:
    assert isinstance(found, Unfit), found
    return found.why


def test_who_has_the_mail_keeps_it_and_the_others_are_open() -> None:
    replay = fit(prepared(told(jana=RecipientStatus.ACCEPTED, omar=RecipientStatus.FAILED)))
    assert replay.progress.settled.keys() == {JANA}
    assert (replay.progress.attempts, replay.progress.first_seen, replay.progress.replays) == (0, NOON, 1)


def test_notification_that_was_never_taken_on_is_open_for_everybody() -> None:
    assert fit(prepared(None)).progress.settled == {}


def test_who_may_have_it_keeps_everybody_from_getting_a_second_copy() -> None:
    last = told(jana=RecipientStatus.IN_DOUBT, omar=RecipientStatus.FAILED)
    assert "end the doubt first" in why(prepared(last))
    assert fit(prepared(last, even_in_doubt=True)).progress.settled == {}


def test_nobody_left_is_no_replay() -> None:
    last = told(jana=RecipientStatus.ACCEPTED, omar=RecipientStatus.HANDED_OVER)
    assert why(prepared(last)) == "everybody has it already"


def test_expired_is_not_replayed() -> None:
    past = (NOON - timedelta(minutes=1)).isoformat()
    assert "worthless after" in why(prepared(None, fields={**BOTH, "expires_at": past}))


def test_record_that_was_forgotten_is_made_up_for_by_the_progress_with_the_letter() -> None:
    carried = progress(settled={JANA: outcome(RecipientStatus.ACCEPTED)}, replays=2)
    replay = fit(prepared(None, carry=pack(carried, notification(**BOTH))))
    assert replay.progress.settled.keys() == {JANA}
    assert replay.progress.replays == 3


def test_doubt_in_the_progress_counts_until_the_record_says_otherwise() -> None:
    carry = pack(progress(settled={JANA: outcome(RecipientStatus.IN_DOUBT)}), notification(**BOTH))
    assert "end the doubt first" in why(prepared(None, carry=carry))
    last = told(jana=RecipientStatus.FAILED, omar=RecipientStatus.FAILED)
    assert fit(prepared(last, carry=carry)).progress.settled == {}


def test_progress_that_cannot_be_read_is_no_licence_to_send() -> None:
    assert "cannot be read" in why(prepared(None, carry="{"))


def test_mailbox_and_recipient_can_be_corrected() -> None:
    correction = Correction("other", {str(OMAR): "omar.new@fabrikam.com"})
    replay = fit(prepared(told(jana=RecipientStatus.ACCEPTED, omar=RecipientStatus.FAILED), correction))
    assert replay.notification.mailbox == "other"
    assert [person.address for person in replay.notification.to] == [str(JANA), "omar.new@fabrikam.com"]
    assert replay.progress.settled.keys() == {JANA}


def test_recipient_with_a_name_keeps_it_when_the_address_is_corrected() -> None:
    fields = {"to": [{"address": str(OMAR).upper(), "name": "Omar"}]}
    replay = fit(prepared(None, Correction(None, {str(OMAR): "new@fabrikam.com"}), fields))
    assert [(person.address, person.name) for person in replay.notification.to] == [("new@fabrikam.com", "Omar")]


def test_message_that_is_replaced_is_taken_as_it_is() -> None:
    document_ = json.dumps(document(subject="Corrected")).encode()
    assert fit(prepared(None, Correction(document=document_))).body == document_


@pytest.mark.parametrize("body", [b"\xff", b"[]", b"{}", b"null"])
@pytest.mark.parametrize("correction", [NONE, Correction("other", {"a@b": "c@d"})])
def test_message_that_would_be_rejected_again_stays_where_it_is(body: bytes, correction: Correction) -> None:
    assert "rejected again" in why(prepare(body, Properties(), None, correction, NOON))


def test_body_that_needs_no_correction_stays_octet_for_octet() -> None:
    body = (
        b'  {"type":"postlane.notification.v1","id":"n","tenant":"t","to":["a@b.example"],"subject":"s","text":"x"}\n'
    )
    assert fit(prepare(body, Properties(), None, NONE, NOON)).body == body


def test_event_whose_people_are_the_rules_can_be_replayed() -> None:
    fields = {"event": "approval.requested", "to": []}
    assert fit(prepared(None, fields=fields)).progress.settled == {}
    last = told(jana=RecipientStatus.ACCEPTED, omar=RecipientStatus.FAILED)
    assert fit(prepared(last, fields=fields)).progress.settled.keys() == {JANA}


def test_recipients_in_one_string_are_corrected_as_well() -> None:
    correction = Correction(recipients={"omar@fabrikam.com": "omar@contoso.com"})
    replay = fit(prepared(None, correction, {"to": f"{JANA}; Omar <{OMAR}>"}))
    assert [person.address for person in replay.notification.to] == [str(JANA), "omar@contoso.com"]
