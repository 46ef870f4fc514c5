"""Whether a mail is within what its mailbox takes, looked at before anybody connects."""

from __future__ import annotations

from worker.domain.delivery import Broken, Fault, Stage
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Limits, Mailbox, PickupDirectory, TooMany
from worker.domain.message import OutgoingMessage


def most_at_once(mailbox: Mailbox) -> int | None:
    """How many recipients one submission may have, if mails with more are split; None: as many as there are.

    No more than a whole day takes: the server would refuse them all.
    """
    if mailbox.too_many is TooMany.REFUSE:
        return None
    readers = (way.flavour.recipients for way in mailbox.channels if isinstance(way, PickupDirectory))
    outside = mailbox.organisation.external_per_day if mailbox.organisation else None
    limits = mailbox.limits.recipients_per_message, mailbox.limits.recipients_per_day, outside
    return min(filter(None, (*limits, *readers)), default=None)


def beyond(limits: Limits, envelope: Envelope, message: OutgoingMessage) -> Broken | None:
    """What of the mail is too much; None if it fits.

    A server that gets such mails again and again blocks the mailbox (Exchange Online: 5.2.254), so it is not asked.
    """
    recipients, octets = len(envelope.rcpt_to), len(message.content)
    if limits.recipients_per_message is not None and recipients > limits.recipients_per_message:
        detail = (
            f"the mail has {recipients} recipients, its mailbox is limited to {limits.recipients_per_message} a mail"
        )
        return Broken(Stage.MAIL, Fault.TOO_MANY, detail)
    if limits.max_size is not None and octets > limits.max_size:
        detail = f"the mail has {octets} octets, its mailbox is limited to {limits.max_size}"
        return Broken(Stage.MAIL, Fault.TOO_LARGE, detail)
    return None
