"""Mail for a reader that takes the recipients from the headers: Exchange's pickup directory, Microsoft Graph."""

from __future__ import annotations

from worker.domain.envelope import Envelope
from worker.domain.header import fold
from worker.domain.message import OutgoingMessage


def self_addressed(envelope: Envelope, message: OutgoingMessage) -> bytes:
    """The mail with its hidden recipients in a Bcc field, which such a reader removes itself."""
    hidden = [str(rcpt) for rcpt in envelope.rcpt_to if rcpt not in message.visible]
    words = [*(f"{rcpt}," for rcpt in hidden[:-1]), *hidden[-1:]]
    return (fold("Bcc", words).encode() if words else b"") + message.content


def names_others(envelope: Envelope, message: OutgoingMessage) -> bool:
    """Whether the headers name somebody who is not to get this copy: such a reader would send it there again."""
    return not message.visible <= frozenset(envelope.rcpt_to)
