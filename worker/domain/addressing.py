"""Mail for a reader that takes the recipients from the headers: Exchange's pickup directory, Microsoft Graph."""

from __future__ import annotations

from contracts.notification import Notification
from worker.domain.envelope import Envelope
from worker.domain.header import fold
from worker.domain.message import OutgoingMessage


def self_addressed(envelope: Envelope, message: OutgoingMessage) -> bytes:
    """The mail with its hidden recipients in a Bcc field, which such a reader removes itself."""
    hidden = [str(rcpt) for rcpt in envelope.rcpt_to if rcpt not in message.visible]
    words = [*(f"{rcpt}," for rcpt in hidden[:-1]), *hidden[-1:]]
    return (fold("Bcc", words).encode() if words else b"") + message.content


def narrowed(notification: Notification, envelope: Envelope) -> Notification:
    """The notification as such a reader may see it, when others have the mail already or get it in another part.

    They are not named: who is would be sent it once more.
    """
    mine = frozenset(envelope.rcpt_to)
    kept = {
        name: tuple(person for person in getattr(notification, name) if person.spec in mine)
        for name in ("to", "cc", "bcc")
    }
    return notification.model_copy(update=kept)


def names_others(envelope: Envelope, message: OutgoingMessage) -> bool:
    """Whether the headers name somebody who is not to get this copy: such a reader would send it there again."""
    return not message.visible <= frozenset(envelope.rcpt_to)
