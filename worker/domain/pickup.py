"""What a pickup file looks like: the envelope is in it, because there is nobody to tell it to."""

from __future__ import annotations

from worker.domain.addressing import names_others, self_addressed
from worker.domain.envelope import Envelope
from worker.domain.mailbox import PickupFlavour
from worker.domain.message import OutgoingMessage

EXCHANGE_HEADER = 64 * 1024  # octets: the default of Exchange's PickupDirectoryMaxHeaderSize


def pickup_file(flavour: PickupFlavour, envelope: Envelope, message: OutgoingMessage) -> bytes:
    """The file's octets.

    IIS reads the envelope from X-Sender and X-Receiver lines before all other headers. Exchange reads it from the
    ordinary headers and removes Bcc itself; X-Receiver lines would there tell everybody the hidden recipients.
    """
    match flavour:
        case PickupFlavour.IIS:
            lines = [f"X-Sender: <{envelope.mail_from}>", *(f"X-Receiver: <{rcpt}>" for rcpt in envelope.rcpt_to)]
            return "".join(f"{line}\r\n" for line in lines).encode() + message.content
        case PickupFlavour.EXCHANGE:
            return self_addressed(envelope, message)


def unfit(flavour: PickupFlavour, envelope: Envelope, message: OutgoingMessage, content: bytes) -> str:
    """Why the directory's reader would not take the file; empty if it will."""
    if flavour is PickupFlavour.IIS:
        return ""
    if names_others(envelope, message):
        return "some recipients have the mail already, and Exchange would send it to everybody that its headers name"
    header = content.find(b"\r\n\r\n")
    if (most := flavour.recipients) is not None and len(envelope.rcpt_to) > most:
        return f"{len(envelope.rcpt_to)} recipients, the Exchange pickup directory takes {most}"
    if header > EXCHANGE_HEADER:
        return f"headers of {header} octets, the Exchange pickup directory takes {EXCHANGE_HEADER}"
    return ""
