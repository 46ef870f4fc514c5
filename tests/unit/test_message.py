"""The composed mail, read by an independent reader: the standard library's parsers and a few lines of our own.

Two parsers are asked. The modern one (`policy.default`) knows MIME structure, but that of Python 3.11 joins adjacent
encoded words of a display name with a blank (bpo-35547), which RFC 2047 section 6.2 forbids, and decodes encoded words
in quoted strings, which section 5 forbids. So names of people and of files are asked of the older parser and decoder.
"""

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from email.utils import format_datetime, getaddresses, parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from contracts.address import parse
from contracts.notification import Address, Notification, Priority
from tests.factories import NOON, document, mailbox, notification
from tests.unit.strategies import HIDDEN_DOMAIN, documents
from worker.domain.message import OutgoingMessage, compose, sender_of

MAILBOX = mailbox()
STRUCTURED = {"List-Unsubscribe", "References", "Auto-Submitted", "Precedence"}  # of those that the strategy draws


def composed(sent: Notification, date: datetime = NOON) -> OutgoingMessage:
    return compose(sent, MAILBOX, [each.inline_bytes() for each in sent.attachments], date)


def read(mail: OutgoingMessage) -> EmailMessage:
    return message_from_bytes(mail.content, policy=policy.default)  # type: ignore[return-value]


def fields_of(octets: bytes) -> list[tuple[str, str]]:
    """Name and unfolded value of each header field, by RFC 5322 section 2.2 and nothing else."""
    header = octets.partition(b"\r\n\r\n")[0].decode()
    lines = re.sub(r"\r\n(?=[ \t])", "", header).split("\r\n")
    return [(name, value.removeprefix(" ")) for name, _, value in (line.partition(":") for line in lines)]


def value_of(mail: OutgoingMessage, name: str) -> str:
    (value,) = (value for field, value in fields_of(mail.content) if field == name)
    return value


def decoded(value: str) -> str:
    return str(make_header(decode_header(value)))


def unquoted(address: str) -> str:
    """A quoted local part means the same without its quotes (RFC 5321 section 4.1.2)."""
    local, _, domain = address.rpartition("@")
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return f"{local}@{domain}"


def file_name(part: Message) -> str:
    """By the older parser, and without `get_filename`, which takes off blanks that RFC 2045 section 5.1 keeps."""
    value = part.get_param("filename", header="Content-Disposition", unquote=False)
    charset, _, quoted = value if isinstance(value, tuple) else ("ascii", "", str(value))
    return re.sub(r"\\(.)", r"\1", quoted[1:-1]).encode("latin-1").decode(charset)


def canonical(content: str) -> str:
    text = re.sub(r"\r\n|\r|\n", "\r\n", content)
    return text if text.endswith("\r\n") else f"{text}\r\n"


def expected_fields(sent: Notification) -> list[str]:
    custom = {name.lower() for name in sent.headers}
    fields = {
        "date",
        "from",
        "subject",
        "message-id",
        "x-postlane-id",
        "mime-version",
        "content-type",
        "auto-submitted",
    }
    if sent.reply_to:
        fields.add("reply-to")
    if sent.to or not sent.cc:
        fields.add("to")
    if sent.cc:
        fields.add("cc")
    if sent.expires_at:
        fields.add("expires")
    if leaf(sent):
        fields.add("content-transfer-encoding")
    return sorted(fields | custom)


def leaf(sent: Notification) -> bool:
    """Whether the mail is a single part."""
    return not sent.attachments and (sent.text is None or sent.html is None)


def shape(part: Message) -> Any:
    """The nesting of a mail, its leaves by their types."""
    if part.is_multipart():
        return (part.get_content_subtype(), [shape(inner) for inner in part.get_payload()])  # type: ignore[arg-type]
    return part.get_content_type()


def expected_shape(sent: Notification) -> Any:
    """mixed( alternative( text, related( html, images ) ), files ), each layer only where needed."""
    images = [each.content_type for each in sent.attachments if each.content_id is not None]
    files = [each.content_type for each in sent.attachments if each.content_id is None]
    versions: list[Any] = [] if sent.text is None else ["text/plain"]
    if sent.html is not None:
        versions.append(("related", ["text/html", *images]) if images else "text/html")
    elif images:
        versions = [("related", ["text/plain", *images])]
    content = versions[0] if len(versions) == 1 else ("alternative", versions)
    return ("mixed", [content, *files]) if files else content


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_mail_is_octets_that_every_relay_and_pickup_directory_takes(fields: dict[str, Any]) -> None:
    mail = composed(notification(**fields))
    assert re.search(rb"\r(?!\n)|(?<!\r)\n|\0", mail.content) is None
    assert mail.content.endswith(b"\r\n")
    for line in mail.content.split(b"\r\n"):
        assert len(line) <= 998
        assert not line.startswith(b".")
    assert mail.smtputf8 or mail.content.isascii()
    assert mail.content.partition(b"\r\n\r\n")[2].isascii()


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_header_has_exactly_the_fields_it_should_and_no_hidden_recipient(fields: dict[str, Any]) -> None:
    sent = notification(**fields)
    mail = composed(sent)
    assert sorted(name.lower() for name, _ in fields_of(mail.content)) == expected_fields(sent)
    assert not any(part["Bcc"] for part in read(mail).walk())
    assert HIDDEN_DOMAIN.encode() not in mail.content


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_header_is_read_back_as_the_producer_meant_it(fields: dict[str, Any]) -> None:
    sent = notification(**fields)
    mail = composed(sent)
    assert read(mail)["Subject"] == sent.subject
    assert decoded(value_of(mail, "Subject")) == sent.subject
    assert value_of(mail, "X-Postlane-Id") == sent.id
    for name, value in sent.headers.items():
        if name in STRUCTURED:
            assert value_of(mail, name).split() == value.split()
        else:
            assert decoded(value_of(mail, name)) == value
    assert_people(mail, "From", [sender_of(sent, MAILBOX)])
    for name, people in (("Reply-To", sent.reply_to), ("To", sent.to), ("Cc", sent.cc)):
        if people:
            assert_people(mail, name, people)


def assert_people(mail: OutgoingMessage, name: str, people: Sequence[Address]) -> None:
    found = getaddresses([value_of(mail, name)])
    assert [decoded(each) for each, _ in found] == [person.name for person in people]
    addresses = [unquoted(str(person.spec)) for person in people]
    assert [unquoted(each) for _, each in found] == addresses
    # Given as text: from bytes the modern parser of Python 3.11 does not decode the UTF-8 of RFC 6532.
    modern = policy.default.header_factory(name, value_of(mail, name))
    assert [f"{each.username}@{each.domain}" for each in modern.addresses] == addresses


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_bodies_and_files_are_read_back_octet_for_octet(fields: dict[str, Any]) -> None:
    sent = notification(**fields)
    mail = read(composed(sent))
    assert shape(mail) == expected_shape(sent)
    assert not any(part.defects for part in mail.walk())

    bodies = {part.get_content_type(): part for part in mail.walk() if part.get_content_disposition() is None}
    for content, kind in ((sent.text, "text/plain"), (sent.html, "text/html")):
        if content is not None:
            assert bodies[kind].get_content() == canonical(content)

    older = message_from_bytes(composed(sent).content)
    files = [part for part in older.walk() if part.get_content_disposition() is not None]
    expected = [each for each in sent.attachments if each.content_id is not None]
    expected += [each for each in sent.attachments if each.content_id is None]
    assert [part.get_payload(decode=True) for part in files] == [each.inline_bytes() for each in expected]
    assert [file_name(part) for part in files] == [each.filename for each in expected]
    assert [part["Content-ID"] for part in files] == [each.content_id and f"<{each.content_id}>" for each in expected]
    assert [part.get_content_disposition() for part in files] == [
        "inline" if each.content_id else "attachment" for each in expected
    ]


@given(documents())
def test_same_notification_gives_the_same_octets(fields: dict[str, Any]) -> None:
    assert composed(notification(**fields)) == composed(notification(**fields))


@pytest.mark.parametrize(
    "other", [pytest.param({"id": "reset-7f3b"}, id="id"), pytest.param({"tenant": "fabrikam"}, id="tenant")]
)
def test_another_notification_has_another_message_id_and_other_boundaries(other: dict[str, str]) -> None:
    html = {"html": "<p>x</p>"}
    one, two = composed(notification(**html)), composed(notification(**html, **other))
    assert one.message_id != two.message_id
    assert read(one).get_boundary() != read(two).get_boundary()


def test_message_id_does_not_depend_on_what_the_mail_says() -> None:
    assert composed(notification()).message_id == composed(notification(subject="Another", text="Other")).message_id


def test_message_id_is_that_of_the_header_and_lies_in_the_senders_domain() -> None:
    mail = composed(notification(sender="robot@M\u00dcNCHEN.example"))
    assert re.fullmatch(r"<[0-9a-f]{32}@xn--mnchen-3ya\.example>", mail.message_id)
    assert value_of(mail, "Message-ID") == mail.message_id


def test_message_id_tells_neither_tenant_nor_notification() -> None:
    mail = composed(notification(tenant="contoso-secret", id="reset-secret"))
    assert "secret" not in mail.message_id


def test_mailbox_stands_in_from_unless_the_producer_names_a_sender() -> None:
    assert value_of(composed(notification()), "From") == "Contoso <noreply@contoso.com>"
    named = composed(notification(sender={"address": "help@contoso.com", "name": "Help"}))
    assert value_of(named, "From") == "Help <help@contoso.com>"


def test_date_is_the_given_one_with_its_zone() -> None:
    date = datetime(2026, 6, 1, 14, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    value = value_of(composed(notification(), date), "Date")
    assert value == "Mon, 01 Jun 2026 14:00:05 +0200"
    assert parsedate_to_datetime(value) == date


def test_hidden_recipients_alone_leave_an_empty_group_in_to() -> None:
    mail = composed(notification(to=(), bcc=["a@hidden.example"]))
    assert value_of(mail, "To") == "undisclosed-recipients:;"
    assert read(mail)["To"].addresses == ()


def test_copies_alone_need_no_to() -> None:
    mail = composed(notification(to=(), cc=["a@x.de"]))
    assert [name for name, _ in fields_of(mail.content) if name in ("To", "Cc")] == ["Cc"]


def test_visible_recipients_are_those_of_to_and_cc() -> None:
    sent = notification(to=["a@x.de", "a@X.DE"], cc=["b@x.de"], bcc=["c@x.de"], reply_to=["d@x.de"])
    assert composed(sent).visible == {parse("a@x.de"), parse("b@x.de")}


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        pytest.param({}, False, id="ascii"),
        pytest.param({"to": ["jos\u00e9@x.de"]}, True, id="to"),
        pytest.param({"cc": ["jos\u00e9@x.de"]}, True, id="cc"),
        pytest.param({"reply_to": ["jos\u00e9@x.de"]}, True, id="reply-to"),
        pytest.param({"sender": "jos\u00e9@x.de"}, True, id="from"),
        pytest.param({"bcc": ["jos\u00e9@x.de"]}, False, id="hidden-recipients-are-not-in-the-header"),
        pytest.param({"to": ["jana@m\u00fcnchen.example"]}, False, id="domains-have-an-ascii-form"),
        pytest.param({"to": [{"address": "j@x.de", "name": "Jos\u00e9"}]}, False, id="names-are-encoded"),
    ],
)
def test_smtputf8_is_asked_for_only_by_local_parts_in_the_header(fields: dict[str, Any], *, needed: bool) -> None:
    assert composed(notification(**fields)).smtputf8 is needed


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        pytest.param({}, "auto-generated", id="by-default"),
        pytest.param({"auto-submitted": "no"}, None, id="producer-says-otherwise"),
    ],
)
def test_mail_says_that_it_comes_from_a_machine(headers: dict[str, str], value: str | None) -> None:
    fields = dict(fields_of(composed(notification(headers=headers)).content))
    assert fields.get("Auto-Submitted") == value


def test_expiry_is_told_to_the_readers_mail_program() -> None:
    mail = composed(notification(expires_at=NOON))
    assert value_of(mail, "Expires") == format_datetime(NOON)
    given = composed(notification(expires_at=NOON, headers={"expires": "Tue, 02 Jun 2026 12:00:00 +0000"}))
    assert value_of(given, "expires") == "Tue, 02 Jun 2026 12:00:00 +0000"
    assert "Expires" not in dict(fields_of(given.content))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("List-Unsubscribe", "<https://x.de/u?a=1>,  <mailto:u@x.de>", id="two-blanks"),
        pytest.param("List-Unsubscribe", "<https://x.de/u=?id=1>", id="looks-like-an-encoded-word"),
        pytest.param("References", "<a=?b@x.de> <c@x.de>", id="message-id-with-odd-signs"),
        pytest.param("In-Reply-To", " <a@x.de>", id="leading-blank"),
        pytest.param("Auto-Submitted", "auto-generated ", id="trailing-blank"),
        pytest.param("Precedence", "bulk", id="plain"),
    ],
)
def test_structured_header_of_the_producer_is_never_turned_into_encoded_words(name: str, value: str) -> None:
    # RFC 2047 section 5: encoded words are for unstructured text, phrases and comments. A mail program that looks for
    # a URL in List-Unsubscribe (RFC 2369) finds none in an encoded word.
    assert value_of(composed(notification(headers={name: value})), name).split() == value.split()


def test_inline_images_are_found_by_the_page_that_shows_them() -> None:
    image = {"filename": "logo.png", "content_type": "image/png", "content": "aW1n", "content_id": "logo@contoso"}
    page = '<img src="cid:logo@contoso">'
    related = read(composed(notification(text=None, html=page, attachments=[image])))
    assert shape(related) == ("related", ["text/html", "image/png"])
    (_, shown) = related.iter_parts()
    assert shown["Content-ID"] == "<logo@contoso>"
    assert shown.get_content() == base64.b64decode("aW1n")


def test_related_parts_name_the_type_of_their_root() -> None:
    # RFC 2387 section 3.1: "The type parameter must be specified".
    image = {"filename": "logo.png", "content": "aW1n", "content_id": "logo"}
    related = read(composed(notification(text=None, html="<p>", attachments=[image])))
    assert related["Content-Type"].params.get("type") == "text/html"


def test_attempt_of_injection_in_every_field_ends_up_as_text() -> None:
    evil = '" <eve@evil.example>, =?utf-8?q?=0D=0ABcc=3A_eve@evil.example?= \\'
    person = {"address": "jana@fabrikam.com", "name": evil}
    sent = notification(
        subject=evil,
        to=[person],
        cc=[person],
        reply_to=[person],
        **{"from": {"address": "noreply@contoso.com", "name": evil}},
        headers={"X-Note": evil},
        attachments=[{"filename": evil.replace("\\", ""), "content": ""}],
    )
    mail = composed(sent)
    assert sorted(name.lower() for name, _ in fields_of(mail.content)) == expected_fields(sent)
    for name in ("From", "To", "Cc", "Reply-To"):
        assert [each.domain for each in read(mail)[name].addresses] in (["contoso.com"], ["fabrikam.com"])


def test_thousand_visible_recipients_are_all_there() -> None:
    people = [{"address": f"r{n}@contoso.com", "name": f"R\u00e9cipient {n}"} for n in range(1000)]
    mail = composed(notification(to=people))
    assert max(map(len, mail.content.split(b"\r\n"))) <= 998
    assert len(getaddresses([value_of(mail, "To")])) == 1000


def test_moment_of_composing_leaves_no_trace() -> None:
    # Only the given date may differ between two mails for one notification.
    early = composed(notification(**document()), datetime(2026, 1, 1, tzinfo=UTC)).content
    late = composed(notification(**document()), datetime(2026, 1, 2, tzinfo=UTC)).content
    assert [line for line in early.split(b"\r\n") if line not in late.split(b"\r\n")] == [
        b"Date: Thu, 01 Jan 2026 00:00:00 +0000"
    ]


@pytest.mark.parametrize("priority", Priority)
def test_mail_says_whether_it_is_urgent(priority: Priority) -> None:
    assert composed(notification(priority=priority)).urgent is (priority is Priority.HIGH)
