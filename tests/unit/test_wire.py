"""Bytes from strangers: whatever comes in, the answer is a notification or an exact word on what is wrong."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.notification import Notification
from contracts.wire import CLOUDEVENT, JSON, MAX_PROBLEMS, Malformed, Properties, decode, encode
from tests.factories import document
from tests.unit.strategies import documents, json_values

LIMIT = 1024 * 1024


def read(body: bytes | str | dict[str, Any], **properties: Any) -> Notification | Malformed:
    octets = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
    return decode(octets, Properties(**properties), max_octets=LIMIT)


def refused(body: bytes | str | dict[str, Any], **properties: Any) -> Malformed:
    found = read(body, **properties)
    assert isinstance(found, Malformed)
    assert_tells(found)
    return found


def assert_tells(found: Malformed) -> None:
    """A refusal is of use: it says where and why, on one line, and not at a length that somebody else decides on."""
    assert 0 < len(found.problems) <= MAX_PROBLEMS
    for item in found.problems:
        assert item.field
        assert item.problem
        assert (item.field + item.problem).isprintable()
        assert len(item.field) <= 500
        assert len(item.problem) <= 1000


def event(data: object, **fields: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": "postlane.notification.v1",
        "source": "/crm",
        "id": "event-1",
        "data": data,
        **fields,
    }


def text_of(**fields: Any) -> str:
    return json.dumps(document(**fields))


@given(documents())
def test_valid_notification_goes_through_encode_and_decode_unchanged(fields: dict[str, Any]) -> None:
    first = read(fields, message_id=fields["id"], content_type=JSON)
    assert isinstance(first, Notification)
    assert read(encode(first)) == first


@given(documents())
def test_cloud_event_in_structured_mode_is_the_notification_in_it(fields: dict[str, Any]) -> None:
    found = read(event(fields), content_type=f"{CLOUDEVENT}; charset=utf-8")
    assert isinstance(found, Notification)
    assert found == read(fields)


@given(st.binary(max_size=200), st.sampled_from([None, JSON, CLOUDEVENT, "text/plain", ";", "\0"]))
def test_arbitrary_octets_are_refused_with_field_and_reason(octets: bytes, content_type: str | None) -> None:
    refused(octets, content_type=content_type)


@given(json_values, st.sampled_from([JSON, CLOUDEVENT]))
def test_arbitrary_json_is_refused_with_field_and_reason(value: object, content_type: str) -> None:
    refused(json.dumps(value), content_type=content_type)


# What goes wrong in producers, and what somebody would try on purpose. Values stand in the document as raw JSON.
RAW = (
    "null",
    "true",
    "0",
    "-1",
    "1e400",
    "1" + "0" * 5000,
    "NaN",
    "Infinity",
    "-Infinity",
    '""',
    '"\\u0000"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"a\\r\\nBcc: eve@evil.example"',
    '"\\u2028"',
    '"\x7f"',
    "[]",
    "[null]",
    "[[]]",
    "[{}]",
    "{}",
    '{"":null}',
    '{"a":1,"a":2}',
    '{"a":1e400}',
    '{"\\u0000":1}',
    '{"\\ud800":{"x":"\\ud800"}}',
    "[" * 300 + "]" * 300,
    '{"a":' * 300 + "1" + "}" * 300,
    "[" * 100_000,
    json.dumps(["a@x.de"] * 1001),
    json.dumps([{"address": "a@x.de", "name": "\U0001f600" * 101}]),
    json.dumps("x" * 5000),
)
FIELDS = (*sorted(Notification.model_fields), "from", "data", "specversion", "__class__", "", "\n", "x" * 3000)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid notification in which something was removed, retyped, added, doubled or cut off."""
    fields = {name: json.dumps(value) for name, value in draw(documents()).items()}
    pairs = list(fields.items())
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(FIELDS) | st.sampled_from(sorted(fields)))
        match draw(st.sampled_from(["remove", "replace", "add", "double"])):
            case "remove":
                pairs = [pair for pair in pairs if pair[0] != name]
            case "replace":
                value = draw(st.sampled_from(RAW))
                pairs = [(old, value if old == name else kept) for old, kept in pairs]
            case "add":
                pairs.append((name, draw(st.sampled_from(RAW))))
            case _:
                pairs += pairs[-1:]
    text = "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in pairs) + "}"
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    mutated(),
    st.sampled_from([JSON, CLOUDEVENT]),
    st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1"]),
    st.none() | st.text(max_size=5),
    st.sampled_from([None, None, None, "", "utf-8", "gzip", "\0"]),
)
def test_mutated_notification_is_read_or_refused_and_never_raises(
    text: str,
    content_type: str,
    charset: str,
    message_id: str | None,
    encoding: str | None,
) -> None:
    wrapper = '{"specversion":"1.0","type":"postlane.notification.v1","data":%s}'
    octets = (wrapper % text if content_type == CLOUDEVENT else text).encode(charset, "replace")
    found = read(octets, content_type=content_type, message_id=message_id, content_encoding=encoding)
    if isinstance(found, Malformed):
        assert_tells(found)
    else:
        assert read(encode(found)) == found


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        pytest.param(b"", "body", "is not JSON (line 1, column 1)", id="empty"),
        pytest.param(b"\xff\xfe", "body", "is not UTF-8 (octet 0)", id="not-utf8"),
        pytest.param(text_of().encode("utf-16"), "body", "is not UTF-8 (octet 0)", id="utf-16"),
        pytest.param(text_of().encode("utf-16-le"), "body", "is not JSON", id="utf-16-without-mark"),
        pytest.param("[]", "body", "must be a JSON object", id="array"),
        pytest.param("null", "body", "must be a JSON object", id="null"),
        pytest.param("{}", "type", "is missing", id="empty-object"),
        pytest.param('{"a":1}x', "body", "is not JSON (line 1, column 8)", id="text-after"),
        pytest.param("{'a':1}", "body", "is not JSON", id="single-quotes"),
        pytest.param('{"a":NaN}', "body", "contains NaN", id="nan"),
        pytest.param('{"a":-Infinity}', "body", "contains -Infinity", id="infinity"),
        pytest.param('{"to":[],"to":[]}', "to", "is given twice", id="duplicate-key"),
        pytest.param('{"to":[{"name":"a","name":"b"}]}', "name", "is given twice", id="duplicate-key-inside"),
        pytest.param('{"a":' * 5000 + "1" + "}" * 5000, "body", "nested too deeply", id="deep"),
        pytest.param(text_of(subject="a\0"), "subject", "NUL or a lone surrogate", id="nul"),
        pytest.param(text_of(text="a\ud800"), "text", "NUL or a lone surrogate", id="surrogate-in-body"),
        pytest.param(
            text_of(to=[{"address": "a@x.de", "name": "\udfff"}]), "to[0].name", "lone surrogate", id="surrogate-path"
        ),
        pytest.param(text_of(metadata={"a": [{"b": "\0"}]}), "metadata.a[0].b", "NUL", id="nul-path"),
        pytest.param(text_of(metadata={"\0": 1}), "metadata", "NUL", id="nul-in-a-name"),
        pytest.param('{"a":"\0"}', "body", "is not JSON", id="raw-nul"),
        pytest.param('{"a":"\n"}', "body", "is not JSON", id="raw-newline"),
        pytest.param(text_of(to=["nobody"]), "to[0].address", "has no @", id="address"),
        pytest.param(text_of(subjekt="x"), "subjekt", "is not a field of this message", id="unknown-field"),
        pytest.param(text_of(tenant=None), "tenant", "string", id="null-for-text"),
        pytest.param(text_of(to=[]), "notification", "needs at least one recipient", id="nobody"),
    ],
)
def test_unreadable_message_is_refused_at_the_place_of_the_fault(body: bytes | str, field: str, problem: str) -> None:
    found = {item.field: item.problem for item in refused(body).problems}
    assert problem in found.get(field, f"no word on {field}: {found}")


def test_byte_order_mark_is_no_obstacle() -> None:
    assert isinstance(read(text_of().encode("utf-8-sig")), Notification)


def test_pair_of_surrogate_escapes_is_one_character() -> None:
    found = read(text_of(subject="\U0001f600"))
    assert isinstance(found, Notification)
    assert found.subject == "\U0001f600"


def test_body_above_the_limit_is_refused_unread() -> None:
    found = refused(b"{" * (LIMIT + 1), message_id="reset-1")
    assert found.problems[0].problem == f"has {LIMIT + 1} octets; at most {LIMIT} are allowed"
    assert found.notification_id == "reset-1"


def test_body_of_exactly_the_limit_is_read() -> None:
    assert isinstance(read(text_of().encode().ljust(LIMIT)), Notification)


@pytest.mark.parametrize("encoding", [None, "", "identity", "utf-8", "UTF-8", "utf8"])
def test_harmless_content_encoding_is_accepted(encoding: str | None) -> None:
    assert isinstance(read(document(), content_encoding=encoding), Notification)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "base64", "utf-16", "gzip\r\n"])
def test_packed_content_is_refused(encoding: str) -> None:
    assert refused(document(), content_encoding=encoding).problems[0].field == "content_encoding"


@pytest.mark.parametrize("message_id", [None, "reset-7f3a", "made-up-by-the-client-library"])
def test_id_is_that_of_the_body_whatever_the_message_id(message_id: str | None) -> None:
    assert isinstance(read(document(), message_id=message_id), Notification)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(event(document(), specversion="0.3"), "specversion", id="old-version"),
        pytest.param(document(), "specversion", id="not-wrapped"),
        pytest.param(event(document(), type="com.example.other"), "type", id="another-type"),
        pytest.param(event(None), "data", id="no-data"),
        pytest.param(event(text_of()), "data", id="data-as-text"),
        pytest.param({**event(None), "data_base64": "e30="}, "data", id="data-in-base64"),
        pytest.param(event(document(subject="")), "subject", id="bad-notification-inside"),
    ],
)
def test_bad_cloud_event_is_refused_at_the_place_of_the_fault(body: dict[str, Any], field: str) -> None:
    assert refused(body, content_type=CLOUDEVENT).problems[0].field == field


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+json", "Application/CloudEvents+JSON ; charset=utf-8"]
)
def test_cloud_event_is_known_by_its_content_type_however_written(content_type: str) -> None:
    assert isinstance(read(event(document()), content_type=content_type), Notification)


def test_cloud_event_under_another_content_type_is_no_notification() -> None:
    assert refused(event(document()), content_type=JSON).notification_id == "reset-7f3a"


@pytest.mark.parametrize(
    ("body", "message_id", "expected"),
    [
        pytest.param(document(subject=""), None, ("reset-7f3a", "contoso"), id="both"),
        pytest.param(document(id="a b"), None, (None, "contoso"), id="bad-id"),
        pytest.param(document(id="a b"), "reset-1", ("reset-1", "contoso"), id="id-from-the-properties"),
        pytest.param(document(id=5), "a b", (None, "contoso"), id="no-good-id-anywhere"),
        pytest.param(document(tenant="a/b"), None, ("reset-7f3a", None), id="bad-tenant"),
        pytest.param(document(tenant=["contoso"]), None, ("reset-7f3a", None), id="tenant-of-another-type"),
        pytest.param(document(tenant="\ud800", id="\ud800"), "reset-1", ("reset-1", None), id="surrogates"),
        pytest.param("[]", "reset-1", ("reset-1", None), id="no-object"),
        pytest.param("{", "reset-1", ("reset-1", None), id="no-json"),
    ],
)
def test_refusal_keeps_what_can_be_read(
    body: str | dict[str, Any], message_id: str | None, expected: tuple[str | None, str | None]
) -> None:
    found = refused(body, message_id=message_id)
    assert (found.notification_id, found.tenant) == expected


def test_refusal_of_a_wrapped_notification_names_the_notification_and_not_the_event() -> None:
    found = refused(event(document(subject="")), content_type=CLOUDEVENT)
    assert (found.notification_id, found.tenant) == ("reset-7f3a", "contoso")


def test_event_without_a_notification_does_not_lend_it_its_own_id() -> None:
    # The id of a CloudEvent is the event's; a result under that name would be about a notification nobody has sent.
    assert refused(event(None), content_type=CLOUDEVENT, message_id="reset-1").notification_id == "reset-1"


def test_no_more_problems_are_listed_than_anybody_reads() -> None:
    assert len(refused(text_of(to=["nobody"] * 500)).problems) == MAX_PROBLEMS


@pytest.mark.parametrize(
    "body",
    [
        pytest.param('{"":1,"":2}', id="empty-name-twice"),
        pytest.param('{"a\\nb":"\\u0000"}', id="line-break-in-a-name"),
        pytest.param(json.dumps({"x" * 100_000: "\0"}), id="endless-name"),
        pytest.param(json.dumps({"metadata": {"\u202e": {"a" * 5000: "\0"}}}), id="bidi-and-long-name"),
        pytest.param(json.dumps({"x" * 100_000: 1}), id="endless-unknown-field"),
        pytest.param('{"' + "x" * 5000 + '":1,"' + "x" * 5000 + '":2}', id="endless-name-twice"),
    ],
)
def test_name_made_up_by_a_stranger_is_reported_fit_to_print(body: str) -> None:
    refused(body)


def test_number_beyond_every_float_is_refused_because_it_cannot_be_echoed() -> None:
    # JSON has no infinity: the result would echo null for what the producer sent.
    body = text_of(metadata={"a": 0}).replace('"a": 0', '"a": 1e400')
    assert refused(body).problems[0].field.startswith("metadata")


def test_python_name_of_a_field_is_not_a_field_of_the_message() -> None:
    # The schema knows only `from`; what one validator takes and the other refuses is no contract.
    assert refused(document(sender="a@x.de")).problems[0].field == "sender"


def deepest() -> int:
    """How many arrays the standard library's parser can read into each other from here."""
    depth = 100
    try:
        while True:
            json.loads("[" * depth + "]" * depth)
            depth += 1
    except RecursionError:
        return depth


@pytest.mark.parametrize("wrap", [lambda fields: fields, event], ids=["plain", "cloud-event"])
def test_no_depth_of_nesting_slips_between_the_limits_of_parser_and_writer(wrap: Callable[[Any], Any]) -> None:
    # They run into the interpreter's limit at slightly different depths, and a gap between them would raise.
    frame = json.dumps(wrap(document(metadata={"a": 0}))).replace('"a": 0', '"a": %s, "b": "\\u0041"')
    limit = deepest()
    for depth in range(limit - 40, limit + 10):
        for opening, closing in (("[", "]"), ('{"k":', "}")):
            body = frame % (opening * depth + "1" + closing * depth)
            assert all(isinstance(read(body, content_type=each), Malformed) for each in (JSON, CLOUDEVENT))


def test_order_of_fields_and_blanks_do_not_matter() -> None:
    fields = document(html="<p>x</p>", sent=None) | {"from": "a@x.de"}
    del fields["sent"]
    backwards = json.dumps(dict(reversed(fields.items())), indent=3)
    assert read(backwards) == read(fields)


def test_moments_keep_their_instant_through_the_wire() -> None:
    found = read(document(not_before="2026-06-01T14:00:00.250+02:00"))
    assert isinstance(found, Notification)
    assert found.not_before == datetime(2026, 6, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    assert read(encode(found)) == found
