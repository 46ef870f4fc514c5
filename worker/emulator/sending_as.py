"""Whether a login may send a mail as whom it says it is from: Exchange looks only when the whole mail is there."""

from __future__ import annotations

from email.utils import getaddresses

from worker.emulator.accepted import fields_of
from worker.emulator.world import MailboxAccount


def refusal(content: bytes, account: MailboxAccount, *, mail_from: str, host: str) -> str:
    """Why not; empty if it may. The null sender is everybody's."""
    authors, senders = _addresses(content, b"From"), _addresses(content, b"Sender")
    if not authors:
        return "550 5.7.512 Access denied, message must be RFC 5322 section 3.6.2 compliant and include a valid From"
    if len(authors) > 1 and not senders:
        return "550 5.1.20 Multiple From addresses are not allowed without Sender address"
    own = {account.address.lower(), *map(str.lower, account.send_as)}
    used = [*authors, *senders, *([mail_from] if mail_from else [])]
    strange = next((address for address in used if address.lower() not in own), "")
    return _denied(account.address, strange, host) if strange else ""


def _addresses(content: bytes, name: bytes) -> list[str]:
    return [address for _, address in getaddresses(fields_of(content, name)) if "@" in address]


def _denied(login: str, sender: str, host: str) -> str:
    return (
        f"554 5.2.252 SendAsDenied; {login} not allowed to send as {sender}; "
        "STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; "
        "Failed to process message due to a permanent exception with message\n"
        "[BeginDiagnosticData]Cannot submit message. 0.35250:0A00CD8F, 1.36674:0A000000,\n"
        "5.56248:DC04000053656E64417320636865636B206661696C6564206265636175736520414149206973206E756C6C\n"
        f"[EndDiagnosticData] [Hostname={host}]"
    )
