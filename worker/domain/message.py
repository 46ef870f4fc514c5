"""Compose a notification into a mail (RFC 5322, MIME).

The same notification always gives the same octets: Message-ID, Date and boundaries come from it and from nowhere else,
so that a second copy sent after a crash can be recognised as one, by people and by Exchange.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

from contracts.address import AddrSpec
from contracts.headers import is_structured
from contracts.notification import Address, Notification, Priority
from worker.domain import mime
from worker.domain.header import addresses, structured, unstructured
from worker.domain.mailbox import Mailbox

ID_HEADER = "X-Postlane-Id"


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A finished mail.

    Attributes:
        message_id: with its angle brackets.
        content: headers and body, CRLF line ends, no Bcc, no line that begins with a dot.
        smtputf8: whether its headers hold an address that ASCII cannot (RFC 6532).
        visible: the recipients that its headers name; the others are hidden ones.
        urgent: whether it may join a line for a connection that is too long for others.
    """

    message_id: str
    content: bytes
    smtputf8: bool = False
    visible: frozenset[AddrSpec] = frozenset()
    urgent: bool = False


def sender_of(notification: Notification, mailbox: Mailbox) -> Address:
    """From: the producer's choice, else the mailbox's own address and name."""
    return notification.sender or Address(address=str(mailbox.address), name=mailbox.display_name)


def message_id_of(notification: Notification, sender: AddrSpec) -> str:
    """Message-ID of a notification: opaque, stable, and it does not tell the tenant."""
    return f"<{_fingerprint(notification)[:32]}@{sender.domain}>"


def compose(notification: Notification, mailbox: Mailbox, files: Sequence[bytes], date: datetime) -> OutgoingMessage:
    """Write the mail.

    Args:
        notification: what to say and to whom.
        mailbox: whose address stands in From unless the notification has its own.
        files: content of the notification's attachments, in their order.
        date: goes into the Date header; must be the same for every attempt.
    """
    sender = sender_of(notification, mailbox)
    message_id = message_id_of(notification, sender.spec)
    named = (sender, *notification.reply_to, *notification.to, *notification.cc)
    return OutgoingMessage(
        message_id,
        _head(notification, sender, message_id, date).encode() + bytes(_body(notification, files)),
        smtputf8=any(person.spec.needs_smtputf8 for person in named),
        visible=frozenset(person.spec for person in (*notification.to, *notification.cc)),
        urgent=notification.priority is Priority.HIGH,
    )


def _head(notification: Notification, sender: Address, message_id: str, date: datetime) -> str:
    fields = [
        structured("Date", format_datetime(date)),
        addresses("From", [sender]),
        addresses("Reply-To", notification.reply_to) if notification.reply_to else "",
        addresses("To", notification.to) if notification.to else "",
        addresses("Cc", notification.cc) if notification.cc else "",
        "" if notification.to or notification.cc else "To: undisclosed-recipients:;\r\n",
        unstructured("Subject", notification.subject or ""),
        structured("Message-ID", message_id),
        structured(ID_HEADER, notification.id),
        *_custom(notification),
        "MIME-Version: 1.0\r\n",
    ]
    return "".join(fields)


def _custom(notification: Notification) -> list[str]:
    """The producer's own headers; a notification is no letter from a person, and says so (RFC 3834 section 5)."""
    given = notification.headers
    names = {name.lower() for name in given}
    fields = [
        structured(name, value) if is_structured(name) else unstructured(name, value) for name, value in given.items()
    ]
    if "auto-submitted" not in names:
        fields.append("Auto-Submitted: auto-generated\r\n")
    if notification.expires_at is not None and "expires" not in names:
        fields.append(structured("Expires", format_datetime(notification.expires_at)))
    return fields


def _body(notification: Notification, files: Sequence[bytes]) -> mime.Entity:
    """mixed( alternative( text, related( html, inline images ) ), attachments ), each layer only where needed."""
    stem = _fingerprint(notification)[32:56]
    parts = [
        (item, mime.file(content, item.content_type, item.filename, item.content_id))
        for item, content in zip(notification.attachments, files, strict=True)
    ]
    inline = [part for item, part in parts if item.content_id is not None]
    attached = [part for item, part in parts if item.content_id is None]
    return _mixed(_alternative(notification, inline, stem), attached, stem)


def _alternative(notification: Notification, inline: Sequence[mime.Entity], stem: str) -> mime.Entity:
    versions = []
    if notification.text is not None:
        versions.append(mime.text("plain", notification.text))
    if notification.html is not None:
        html = mime.text("html", notification.html)
        versions.append(mime.related([html, *inline], f"=_r{stem}") if inline else html)
    elif inline:  # images that no html shows are still the producer's files
        return mime.related([*versions, *inline], f"=_r{stem}")
    return versions[0] if len(versions) == 1 else mime.multipart("alternative", versions, f"=_a{stem}")


def _mixed(content: mime.Entity, attached: Sequence[mime.Entity], stem: str) -> mime.Entity:
    return mime.multipart("mixed", [content, *attached], f"=_m{stem}") if attached else content


def _fingerprint(notification: Notification) -> str:
    return hashlib.sha256(f"{notification.tenant.lower()}\0{notification.id}".encode()).hexdigest()
