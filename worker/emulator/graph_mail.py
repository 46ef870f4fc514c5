"""A message as Graph's JSON describes it, made into a mail."""

from __future__ import annotations

from collections.abc import Iterator
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP

from worker.emulator.graph_errors import Refused, unreadable
from worker.emulator.graph_fields import Fields

_PEOPLE = (
    ("To", "toRecipients"),
    ("Cc", "ccRecipients"),
    ("Bcc", "bccRecipients"),
    ("Reply-To", "replyTo"),
)
_IMPORTANCE = ("low", "normal", "high")
_BODIES = {"": "plain", "text": "plain", "html": "html"}
_OF_A_FILE = ("", "#microsoft.graph.fileAttachment")
_MOST_HEADERS = 5
_KNOWN = frozenset(
    {
        "attachments",
        "bccRecipients",
        "body",
        "bodyPreview",
        "categories",
        "ccRecipients",
        "changeKey",
        "conversationId",
        "conversationIndex",
        "createdDateTime",
        "extensions",
        "flag",
        "from",
        "hasAttachments",
        "id",
        "importance",
        "inferenceClassification",
        "internetMessageHeaders",
        "internetMessageId",
        "isDeliveryReceiptRequested",
        "isDraft",
        "isRead",
        "isReadReceiptRequested",
        "lastModifiedDateTime",
        "multiValueExtendedProperties",
        "parentFolderId",
        "receivedDateTime",
        "replyTo",
        "sender",
        "sentDateTime",
        "singleValueExtendedProperties",
        "subject",
        "toRecipients",
        "uniqueBody",
        "webLink",
    }
)


def mail_of(message: Fields) -> EmailMessage:
    """The mail that a message resource describes.

    Raises:
        Refused: it describes none.
    """
    known = {name.lower() for name in _KNOWN} if message.loose else _KNOWN
    if unknown := sorted(message.names() - known):
        raise unreadable(f"The property '{unknown[0]}' does not exist on type 'microsoft.graph.message'.")
    mail = EmailMessage(policy=SMTP)
    try:
        for name, value in _headers(message):
            mail[name] = value
        body = message.inner("body")
        mail.set_content(body.text("content"), subtype=_subtype(body))
    except (ValueError, IndexError, MessageError):
        raise Refused(400, "BadRequest", "A property has a value that no header of a mail can carry.") from None
    for described in message.several("attachments"):
        attach(mail, described, described.octets("contentBytes"))
    return mail


def attach(mail: EmailMessage, described: Fields, content: bytes) -> None:
    """Add a file.

    Raises:
        Refused: it is no file, or its name or type cannot stand in a mail.
    """
    if described.text("@odata.type") not in _OF_A_FILE:
        raise unreadable("Only attachments of type '#microsoft.graph.fileAttachment' are emulated.")
    main, _, sub = (described.text("contentType") or "application/octet-stream").partition("/")
    inline, content_id = described.flag("isInline"), described.text("contentId")
    try:
        mail.add_attachment(
            content,
            maintype=main,
            subtype=sub or "octet-stream",
            filename=described.text("name"),
            disposition="inline" if inline else "attachment",
            cid=f"<{content_id}>" if inline and content_id else None,
        )
    except (ValueError, IndexError, MessageError):
        raise Refused(400, "BadRequest", "An attachment has a name or a type that no mail can carry.") from None


def _headers(message: Fields) -> Iterator[tuple[str, str | tuple[Address, ...]]]:
    for name in ("from", "sender"):
        if given := message.inner(name):
            yield name.title(), (_address(given),)
    for name, key in _PEOPLE:
        if people := message.several(key):
            yield name, tuple(map(_address, people))
    yield "Subject", message.text("subject")
    if message_id := message.text("internetMessageId"):
        yield "Message-ID", message_id
    importance = message.text("importance").lower() or "normal"
    if importance not in _IMPORTANCE:
        raise unreadable("The property 'importance' has a value that is not of type 'microsoft.graph.importance'.")
    if importance != "normal":
        yield "Importance", importance
    if message.flag("isReadReceiptRequested") and (given := message.inner("from")):
        yield "Disposition-Notification-To", str(_address(given))
    yield from _own_headers(message.several("internetMessageHeaders"))


def _own_headers(headers: list[Fields]) -> Iterator[tuple[str, str]]:
    if len(headers) > _MOST_HEADERS:
        what = "Maximum number of headers in one message should be less than or equal to 5."
        raise Refused(400, "InvalidInternetMessageHeaderCollection", what)
    for header in headers:
        name = header.text("name")
        if not name.lower().startswith("x-"):
            what = f"The internet message header name '{name}' should start with 'x-' or 'X-'."
            raise Refused(400, "InvalidInternetMessageHeader", what)
        yield name, header.text("value")


def _address(person: Fields) -> Address:
    """One of the people, with the name that is shown for it."""
    told = person.inner("emailAddress")
    address = told.text("address")
    try:
        found = Address(told.text("name"), addr_spec=address)
    except (ValueError, IndexError, MessageError):
        found = Address()
    if not (found.username and found.domain):
        what = f"At least one recipient is not valid., Recipient '{address}' is not resolved."
        raise Refused(400, "ErrorInvalidRecipients", what)
    return found


def _subtype(body: Fields) -> str:
    kind = body.text("contentType").lower()
    if kind not in _BODIES:
        raise unreadable("The property 'contentType' has a value that is not of type 'microsoft.graph.bodyType'.")
    return _BODIES[kind]
