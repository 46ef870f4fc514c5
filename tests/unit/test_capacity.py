"""What is too much for a mailbox is known before anybody connects."""

import pytest

from tests.factories import JANA, OMAR
from worker.domain.capacity import beyond
from worker.domain.delivery import Broken, Fault
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Limits
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
