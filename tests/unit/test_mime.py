"""Transfer encodings and multiparts: the same octets over SMTP and in a pickup directory."""

import quopri
import re
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.strategies import body_text
from worker.domain import mime


def parsed(entity: mime.Entity) -> EmailMessage:
    return message_from_bytes(bytes(entity), _class=EmailMessage, policy=policy.default)  # type: ignore[arg-type]


def canonical(content: str) -> str:
    """RFC 2046 section 4.1.1: line breaks of text are CRLF; the last line is a line too."""
    text = re.sub(r"\r\n|\r|\n", "\r\n", content)
    return text if text.endswith("\r\n") else f"{text}\r\n"


def assert_carried_by_any_relay(octets: bytes) -> None:
    assert re.search(rb"\r(?!\n)|(?<!\r)\n", octets) is None
    assert octets.endswith(b"\r\n")
    for line in octets.split(b"\r\n"):
        assert len(line) <= 998
        assert not line.startswith(b".")
        assert line.isascii()
        assert b"\0" not in line


@given(body_text())
def test_text_is_read_back_with_its_lines(content: str) -> None:
    entity = mime.text("plain", content)
    assert_carried_by_any_relay(entity.body)
    part = parsed(entity)
    assert part.get_content_type() == "text/plain"
    assert part.get_content_charset() == "utf-8"
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode() == canonical(content)


@given(body_text())
def test_no_line_of_text_is_taken_for_the_start_of_a_mailbox_entry(content: str) -> None:
    # mboxo writers put ">" before such lines and break what was signed or encoded.
    assert re.search(rb"^From ", mime.text("plain", content).body, re.MULTILINE) is None


@given(body_text())
def test_no_line_of_text_ends_with_a_blank_that_a_relay_may_take_off(content: str) -> None:
    # RFC 2045 section 6.7 rule 3 is about this; 7bit text has to be free of it too.
    assert b" \r\n" not in mime.text("plain", content).body


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        pytest.param("", "7bit", id="empty"),
        pytest.param("Hello\nworld", "7bit", id="ascii"),
        pytest.param("x" * 990, "7bit", id="longest-line"),
        pytest.param("x" * 991, "quoted-printable", id="line-too-long"),
        pytest.param("caf\u00e9 au lait, s'il vous pla\u00eet", "quoted-printable", id="mostly-ascii"),
        pytest.param("\u6f22\u5b57" * 20, "base64", id="mostly-not-ascii"),
        pytest.param(".hidden", "quoted-printable", id="leading-dot"),
        pytest.param("a\n.\nb", "quoted-printable", id="lonely-dot"),
        pytest.param("From me", "quoted-printable", id="from-line"),
        pytest.param("last \nline", "quoted-printable", id="trailing-blank"),
        pytest.param("last ", "quoted-printable", id="trailing-blank-at-the-end"),
        pytest.param("--=_m0123", "quoted-printable", id="looks-like-our-boundary"),
        pytest.param("\x1b[31m", "quoted-printable", id="control"),
        pytest.param("a\u2028b", "quoted-printable", id="line-separator"),
    ],
)
def test_text_takes_the_smallest_encoding_that_keeps_it_intact(content: str, encoding: str) -> None:
    entity = mime.text("plain", content)
    assert parsed(entity)["Content-Transfer-Encoding"] == encoding
    assert parsed(entity).get_payload(decode=True) == canonical(content).encode()


# Signs that make a line begin with a dot or with "From " exactly after a soft line break.
_TRICKY = st.lists(
    st.sampled_from([".", "From ", "\u00e9", "x", "=", " ", "\t", "\r\n", "x" * 70, "x" * 74]), max_size=40
)


@given(_TRICKY.map("".join))
@example("x" * 75 + "." + "x" * 80)
@example("\u00e9" * 12 + "xxx" + ".From .From " * 9)
@example("x" * 75 + "From " + "\u00e9" * 30)
@example("x" * 74 + " ")
def test_quoted_printable_keeps_to_rfc_2045_and_guards_every_line(content: str) -> None:
    octets = canonical(content).encode()
    encoded = mime.quoted_printable(octets)
    assert quopri.decodestring(encoded) == octets
    assert_carried_by_any_relay(encoded)
    for line in encoded.split(b"\r\n"):
        assert len(line) <= 76
        assert not line.startswith(b"From ")
        assert not line.endswith((b" ", b"\t"))
        assert re.fullmatch(rb"(?:[\t -<>-~]|=[0-9A-F]{2})*=?", line)


@given(st.binary(max_size=400))
def test_base64_keeps_to_rfc_2045(content: bytes) -> None:
    encoded = mime.base64(content)
    assert_carried_by_any_relay(encoded)
    assert max(map(len, encoded.split(b"\r\n"))) <= 76
    assert parsed(mime.file(content, "application/octet-stream", "x", None)).get_payload(decode=True) == content


@pytest.mark.parametrize(
    ("content_id", "disposition"),
    [pytest.param(None, "attachment", id="file"), pytest.param("a@b", "inline", id="image")],
)
def test_file_says_how_it_is_to_be_shown(content_id: str | None, disposition: str) -> None:
    part = parsed(mime.file(b"x", "image/png", "logo.png", content_id))
    assert part.get_content_type() == "image/png"
    assert part.get_content_disposition() == disposition
    assert part.get_filename() == "logo.png"
    assert part["Content-ID"] == (f"<{content_id}>" if content_id else None)


@given(st.lists(body_text(), min_size=1, max_size=4))
def test_multipart_gives_back_each_part_to_the_last_octet(contents: list[str]) -> None:
    whole = mime.multipart("mixed", [mime.text("plain", content) for content in contents], "=_m0")
    assert_carried_by_any_relay(bytes(whole))
    parts = list(parsed(whole).iter_parts())
    assert [part.get_payload(decode=True) for part in parts] == [canonical(content).encode() for content in contents]


def test_multipart_within_a_multipart_is_told_apart_by_its_boundary() -> None:
    inner = mime.multipart("alternative", [mime.text("plain", "a"), mime.text("html", "b")], "=_a0")
    outer = parsed(mime.multipart("mixed", [inner, mime.text("plain", "c")], "=_m0"))
    types = [part.get_content_type() for part in outer.walk()]
    assert types == ["multipart/mixed", "multipart/alternative", "text/plain", "text/html", "text/plain"]
