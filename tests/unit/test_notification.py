"""What the contract lets in, and what a refusal says."""

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from pydantic import ValidationError

from contracts.address import AddrSpec
from contracts.notification import MAX_DATA, MAX_METADATA, Address, Notification, OnDoubt, Priority
from contracts.wire import Properties, decode
from tests.factories import NOON, document, notification
from tests.unit.strategies import documents


def problems(fields: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the JSON of a notification: path → words."""
    with pytest.raises(ValidationError) as caught:
        Notification.model_validate_json(json.dumps(fields))
    return {".".join(map(str, item["loc"])): item["msg"] for item in caught.value.errors()}


def attachment(**fields: Any) -> dict[str, Any]:
    return {"filename": "invoice.pdf", "content": base64.b64encode(b"%PDF").decode()} | fields


REFERENCE = {"reference": "2026/06/invoice.pdf", "size": 4, "sha256": "0" * 64}


def test_least_notification_has_the_documented_defaults() -> None:
    least = Notification.model_validate_json(json.dumps(document()))
    assert least.category == "notification"
    assert least.priority is Priority.NORMAL
    assert least.on_doubt is OnDoubt.HOLD
    assert least.sender is None
    assert least.html is None
    assert (least.cc, least.bcc, least.reply_to, least.attachments) == ((), (), (), ())


def test_address_as_a_string_and_as_an_object_mean_the_same() -> None:
    short = notification(to=["jana@contoso.com"])
    long = notification(to=[{"address": "jana@contoso.com", "name": ""}])
    assert short == long
    assert short.to[0].spec == AddrSpec("jana", "contoso.com")


def test_recipients_in_one_string_are_the_same_as_in_a_list() -> None:
    text = notification(to='jana@x.de; "Novák, Omar" <omar@x.de>,', cc="eve@x.de", reply_to="help@x.de")
    listed = notification(
        to=["jana@x.de", {"address": "omar@x.de", "name": "Novák, Omar"}], cc=["eve@x.de"], reply_to=["help@x.de"]
    )
    assert text == listed


def test_template_needs_neither_subject_nor_text() -> None:
    fields = document(template="reset", locale="cs-CZ", data={"name": "Jana", "links": [{"url": "https://x.de"}]})
    del fields["subject"], fields["text"]
    sent = Notification.model_validate_json(json.dumps(fields))
    assert (sent.template, sent.locale, sent.subject) == ("reset", "cs-CZ", None)


def test_event_may_leave_everything_else_to_the_rule() -> None:
    least = {"type": "postlane.notification.v1", "id": "e-1", "tenant": "contoso", "event": "approval.requested"}
    assert Notification.model_validate_json(json.dumps(least)).data == {}


def test_recipients_come_visible_first_and_with_doubles() -> None:
    sent = notification(bcc=["c@x.de"], cc=["b@x.de"], to=["a@x.de", "a@x.de"])
    assert [person.address for person in sent.recipients()] == ["a@x.de", "a@x.de", "b@x.de", "c@x.de"]


def test_notification_is_a_value_that_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        notification().subject = "another"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "where", "complaint"),
    [
        pytest.param({"type": "postlane.notification.v2"}, "type", "postlane.notification.v1", id="type"),
        pytest.param({"id": ""}, "id", "at least 1", id="id-empty"),
        pytest.param({"id": "x" * 129}, "id", "at most 128", id="id-long"),
        pytest.param({"id": "a b"}, "id", "pattern", id="id-blank"),
        pytest.param({"id": "a\n"}, "id", "pattern", id="id-newline"),
        pytest.param({"id": 7}, "id", "string", id="id-number"),
        pytest.param({"tenant": "-x"}, "tenant", "pattern", id="tenant-form"),
        pytest.param({"tenant": "x" * 65}, "tenant", "at most 64", id="tenant-long"),
        pytest.param({"tenant": "a/b"}, "tenant", "pattern", id="tenant-slash"),
        pytest.param({"category": "Password Reset"}, "category", "pattern", id="category"),
        pytest.param({"priority": "urgent"}, "priority", "high", id="priority"),
        pytest.param({"mailbox": "../x"}, "mailbox", "pattern", id="mailbox"),
        pytest.param({"subject": ""}, "subject", "at least 1", id="subject-empty"),
        pytest.param({"subject": "x" * 999}, "subject", "at most 998", id="subject-long"),
        pytest.param({"subject": "Hi\r\nBcc: eve@evil.example"}, "subject", "CR, LF", id="subject-injection"),
        pytest.param({"subject": "Hi\x85Bcc: x"}, "subject", "CR, LF", id="subject-next-line"),
        pytest.param({"subject": "Hi\u2028x"}, "subject", "CR, LF", id="subject-line-separator"),
        pytest.param({"subject": "tab\there"}, "subject", "control", id="subject-tab"),
        pytest.param({"text": "a\0b"}, "text", "NUL", id="text-nul"),
        pytest.param({"html": "a\0b"}, "html", "NUL", id="html-nul"),
        pytest.param({"text": 5}, "text", "string", id="text-number"),
        pytest.param({"to": {"address": "jana@contoso.com"}}, "to", "tuple|array", id="to-is-no-list"),
        pytest.param({"to": "jana@contoso.com; omar"}, "to.1.address", "has no @", id="to-in-one-string"),
        pytest.param({"to": "a@x.de;" * 50_000}, "to", "longer than 320000", id="to-in-one-long-string"),
        pytest.param({"to": ";"}, "", "at least one recipient", id="to-of-separators-only"),
        pytest.param({"to": ["jana"]}, "to.0.address", "has no @", id="to-address"),
        pytest.param({"to": [{"name": "Jana"}]}, "to.0.address", "required", id="to-without-address"),
        pytest.param(
            {"to": [{"address": "j@x.de", "name": "J\nX"}]}, "to.0.name", "CR, LF", id="display-name-injection"
        ),
        pytest.param({"to": [{"address": "j@x.de", "name": "x" * 201}]}, "to.0.name", "200", id="display-name-long"),
        pytest.param({"to": [{"address": "j@x.de", "nick": "J"}]}, "to.0.nick", "not permitted", id="address-extra"),
        pytest.param({"from": "nobody"}, "from.address", "has no @", id="from"),
        pytest.param({"reply_to": ["a@x.de"] * 21}, "reply_to", "at most 20", id="reply-to-many"),
        pytest.param({"headers": {"Bcc": "eve@evil.example"}}, "headers", "may not set Bcc", id="header-refused"),
        pytest.param({"headers": {"X-A": "1", "x-a": "2"}}, "headers", "twice", id="header-twice"),
        pytest.param({"headers": {"X-A": "1\r\nBcc: x"}}, "headers.X-A", "CR, LF", id="header-injection"),
        pytest.param({"headers": {f"X-{n}": "" for n in range(51)}}, "headers", "at most 50", id="headers-many"),
        pytest.param({"not_before": "2026-06-01T12:00:00"}, "not_before", "timezone", id="naive-moment"),
        pytest.param({"expires_at": "tomorrow"}, "expires_at", "datetime", id="no-moment"),
        pytest.param({"expires_at": 1780315200}, "expires_at", "datetime", id="moment-as-number"),
        pytest.param({"on_doubt": "maybe"}, "on_doubt", "hold", id="on-doubt"),
        pytest.param({"metadata": {"a": "x" * MAX_METADATA}}, "metadata", "larger than 4096", id="metadata-large"),
        pytest.param({"metadata": []}, "metadata", "dictionary|object", id="metadata-no-object"),
        pytest.param({"expire_at": "2026-06-01T12:00:00Z"}, "expire_at", "not permitted", id="misspelt"),
        pytest.param({"to": []}, "", "at least one recipient", id="nobody"),
        pytest.param({"text": None}, "", "needs text or html", id="nothing-to-say"),
        pytest.param({"subject": None}, "", "needs a subject", id="no-subject"),
        pytest.param({"template": "approval"}, "", "not both", id="template-and-text"),
        pytest.param({"template": "../x", "text": None}, "template", "pattern", id="template-path"),
        pytest.param({"template": ".x", "text": None}, "template", "pattern", id="template-hidden"),
        pytest.param({"event": "approval requested"}, "event", "pattern", id="event-form"),
        pytest.param({"event": "e", "locale": "cs/CZ"}, "locale", "pattern", id="locale-form"),
        pytest.param({"locale": "cs"}, "", "locale or data", id="locale-without-use"),
        pytest.param({"data": {"a": 1}}, "", "locale or data", id="data-without-use"),
        pytest.param({"event": "e", "data": {"a": "x" * MAX_DATA}}, "data", "larger than 262144", id="data-large"),
        pytest.param({"template": "t", "text": None, "to": []}, "", "at least one recipient", id="template-for-nobody"),
        pytest.param(
            {"to": ["a@x.de"] * 400, "cc": ["b@x.de"] * 400, "bcc": ["c@x.de"] * 201}, "", "1001", id="1001-recipients"
        ),
        pytest.param(
            {"not_before": "2026-06-01T12:00:00Z", "expires_at": "2026-06-01T14:00:00+02:00"},
            "",
            "expires before",
            id="expires-before-it-starts",
        ),
    ],
)
def test_wrong_field_is_named_with_the_reason(fields: dict[str, Any], where: str, complaint: str) -> None:
    found = problems(document(**fields))
    assert re.search(complaint, found.get(where, f"no word on {where}: {found}"))


@pytest.mark.parametrize("field", ["type", "id", "tenant"])
def test_missing_field_is_named(field: str) -> None:
    fields = document()
    del fields[field]
    assert problems(fields).keys() == {field}


@pytest.mark.parametrize(
    ("fields", "where", "complaint"),
    [
        pytest.param({"filename": ""}, "filename", "at least 1", id="name-empty"),
        pytest.param({"filename": "../../etc/passwd"}, "filename", "pattern", id="name-with-path"),
        pytest.param({"filename": "C:\\x"}, "filename", "pattern", id="name-with-backslash"),
        pytest.param({"filename": "a\r\nX-Receiver: b"}, "filename", "CR, LF", id="name-injection"),
        pytest.param({"content_type": "pdf"}, "content_type", "pattern", id="type-form"),
        pytest.param({"content_type": 'a/b; name="x"'}, "content_type", "pattern", id="type-parameters"),
        pytest.param({"content_type": "Multipart/mixed"}, "content_type", "single file", id="type-multipart"),
        pytest.param({"content_type": "message/rfc822"}, "content_type", "single file", id="type-message"),
        pytest.param({"content": "%%%"}, "content", "base64", id="base64-signs"),
        pytest.param({"content": "YQ"}, "content", "base64", id="base64-padding"),
        pytest.param({"content": "\u00e9\u00e9\u00e9\u00e9"}, "content", "base64", id="base64-not-ascii"),
        pytest.param({"content_id": "<logo>"}, "content_id", "pattern", id="content-id-brackets"),
        pytest.param({"content_id": "lo go"}, "content_id", "pattern", id="content-id-blank"),
        pytest.param({"content": None}, "", "either content or reference", id="no-source"),
        pytest.param(REFERENCE, "", "either content or reference", id="two-sources"),
        pytest.param({"content": None, "reference": "a.pdf"}, "", "size and sha256", id="bare-reference"),
        *(
            pytest.param({"content": None, **REFERENCE, "reference": path}, "reference", "relative path", id=name)
            for path, name in [
                ("/etc/passwd", "absolute"),
                ("\\\\server\\share", "unc"),
                ("~root/x", "home"),
                ("a/../../x", "parent"),
                ("a\\..\\x", "parent-with-backslash"),
                ("..", "parent-alone"),
                ("a\nb", "line-break"),
                ("a\0b", "nul"),
            ]
        ),
        pytest.param({"content": None, **REFERENCE, "size": -1}, "size", "greater than or equal", id="size-negative"),
        pytest.param({"content": None, **REFERENCE, "sha256": "A" * 64}, "sha256", "pattern", id="sha256-upper-case"),
    ],
)
def test_wrong_attachment_is_named_with_the_reason(fields: dict[str, Any], where: str, complaint: str) -> None:
    found = problems(document(attachments=[attachment(**fields)]))
    path = f"attachments.0.{where}".removesuffix(".")
    assert re.search(complaint, found.get(path, f"no word on {path}: {found}"))


@pytest.mark.parametrize("name", ["a..b/c.pdf", "...", "2026/x.pdf", "\u017elu\u0165.pdf"])
def test_reference_below_the_root_is_accepted(name: str) -> None:
    fields = attachment(content=None, **REFERENCE | {"reference": name})
    assert notification(attachments=[fields]).attachments[0].reference == name


def test_attachment_gives_its_bytes_back() -> None:
    octets = bytes(range(256))
    sent = notification(attachments=[attachment(content=base64.b64encode(octets).decode())])
    assert sent.attachments[0].inline_bytes() == octets


@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
def test_thousand_recipients_in_one_field_are_taken(field: str) -> None:
    sent = notification(**{"to": (), field: [f"r{n}@contoso.com" for n in range(1000)]})
    assert len(list(sent.recipients())) == 1000


@pytest.mark.parametrize(
    ("now", "expired"),
    [
        pytest.param(NOON - timedelta(microseconds=1), False, id="just-before"),
        pytest.param(NOON, True, id="at-the-moment"),
        pytest.param(NOON + timedelta(days=1), True, id="later"),
    ],
)
def test_expiry_is_the_first_moment_that_is_too_late(now: datetime, *, expired: bool) -> None:
    assert notification(expires_at=NOON).expired(now) is expired


def test_notification_without_expiry_never_expires() -> None:
    assert not notification().expired(datetime.max.replace(tzinfo=UTC))


def test_metadata_of_the_full_size_is_taken() -> None:
    frame = len(json.dumps({"a": ""}))
    assert notification(metadata={"a": "x" * (MAX_METADATA - frame)}).metadata


def test_metadata_is_measured_in_octets_not_in_characters() -> None:
    assert "metadata" in problems(document(metadata={"a": "\u017e" * (MAX_METADATA // 2)}))


def test_repr_of_an_address_does_not_fail_after_its_parts_were_asked_for() -> None:
    person = Address(address="jana@contoso.com")
    assert person.spec.domain == "contoso.com"
    assert person == Address(address="jana@contoso.com")


SCHEMA = jsonschema.Draft202012Validator(Notification.model_json_schema(by_alias=True))


@given(documents())
def test_valid_notification_satisfies_the_published_schema(fields: dict[str, Any]) -> None:
    Notification.model_validate_json(json.dumps(fields))
    SCHEMA.validate(fields)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(document(), id="least"),
        pytest.param(document(to=[], cc=["a@x.de"]), id="cc-only"),
        pytest.param(document(sender="a@x.de"), id="python-name-of-from"),
        pytest.param(document(text=None, html="x"), id="null-text"),
        pytest.param(document(to=[]), id="nobody"),
        pytest.param({**document(), "from": "a@x.de"}, id="from"),
        pytest.param(document(surplus=1), id="surplus"),
        pytest.param(document(headers={"X-A": 1}), id="header-number"),
        pytest.param(document(attachments=[attachment()]), id="attachment"),
        pytest.param(document(attachments=[attachment(surplus=1)]), id="attachment-surplus"),
    ],
)
def test_schema_and_decoder_agree_about_the_fields(fields: dict[str, Any]) -> None:
    found = decode(json.dumps(fields).encode(), Properties(), max_octets=10_000)
    assert isinstance(found, Notification) == SCHEMA.is_valid(fields)
