"""What is too much for a mailbox is known before anybody connects."""

import pytest

from tests.factories import JANA, OMAR, mailbox
from worker.domain.capacity import beyond, most_at_once
from worker.domain.delivery import Broken, Fault
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Limits, Organisation, TooMany
from worker.domain.message import OutgoingMessage

MAIL = OutgoingMessage("<1@contoso.com>", b"x" * 100)
TWO = Envelope.of(JANA, (JANA, OMAR))


@pytest.mark.parametrize(
    ("limits", "fault"),
    [
        (Limits(), None),
        (Limits(recipients_per_message=2, max_size=100), None),
        (Limits(recipients_per_message=1), Fault.TOO_MANY),
        (Limits(max_size=99), Fault.TOO_LARGE),
    ],
    ids=["no-limits", "just-fits", "a-recipient-too-many", "an-octet-too-large"],
)
def test_mail_is_measured_against_the_mailboxs_limits(limits: Limits, fault: Fault | None) -> None:
    found = beyond(limits, TWO, MAIL)
    assert (found.fault if isinstance(found, Broken) else None) is fault


@pytest.mark.parametrize(
    ("limits", "organisation", "most"),
    [
        (Limits(), None, None),
        (Limits(recipients_per_message=500, recipients_per_day=10_000), None, 500),
        (Limits(recipients_per_message=500, recipients_per_day=50), None, 50),
        (Limits(recipients_per_message=500), Organisation("contoso", frozenset({"contoso.com"}), 100), 100),
    ],
    ids=["no-limits", "a-message's", "a-day's", "an-organisation's"],
)
def test_submission_has_no_more_recipients_than_a_message_or_a_whole_day_takes(
    limits: Limits, organisation: Organisation | None, most: int | None
) -> None:
    assert most_at_once(mailbox(limits=limits, organisation=organisation)) == most
    assert most_at_once(mailbox(limits=limits, organisation=organisation, too_many=TooMany.REFUSE)) is None
