"""Header fields: nothing breaks out of one, and readers get back what was written."""

import re
from email import message_from_string, policy
from email.header import decode_header, make_header
from email.utils import getaddresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.notification import Address
from tests.unit.strategies import header_text
from worker.domain import header

# The signs of RFC 2047 section 5 rule 3, which allows the fewest: words inside a display name.
ENCODED_WORD = re.compile(r"=\?utf-8\?b\?[A-Za-z0-9+/]+={0,2}\?=|=\?utf-8\?q\?[A-Za-z0-9!*+/=_-]+\?=")


def unfolded(field: str) -> str:
    """RFC 5322 section 2.2.3: a line break before white space is not there."""
    return re.sub(r"\r\n(?=[ \t])", "", field.removesuffix("\r\n"))


def lines_of(field: str) -> list[str]:
    """The field's lines, of which all but the first must be continuations."""
    assert field.endswith("\r\n")
    lines = field.removesuffix("\r\n").split("\r\n")
    assert not any("\r" in line or "\n" in line for line in lines)
    assert all(line.startswith(" ") and line.strip() for line in lines[1:])
    return lines


def read(field: str) -> str:
    """The value as the standard library's modern parser understands it."""
    (value,) = message_from_string(field, policy=policy.default).values()
    return str(value)


def read_legacy(field: str) -> str:
    """The value as the older RFC 2047 decoder understands it."""
    (value,) = message_from_string(field).values()
    return str(make_header(decode_header(unfolded(value))))


@given(header_text(998))
def test_unstructured_text_is_read_back_as_it_was(text: str) -> None:
    field = header.unstructured("Subject", text)
    lines_of(field)
    assert read(field) == text


@given(header_text(998))
def test_unstructured_text_is_read_back_by_the_older_decoder_too(text: str) -> None:
    assert read_legacy(header.unstructured("Subject", text)) == text


@given(header_text(998))
def test_unstructured_text_leaves_only_ascii_on_lines_that_mail_can_carry(text: str) -> None:
    field = header.unstructured("Subject", text)
    assert field.isascii()
    assert max(map(len, lines_of(field))) <= 998


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("step: " * 400, id="each-word-ends-with-a-colon"),
        pytest.param(": " * 900 + "x", id="only-colons"),
        pytest.param(("x" * 70 + ": ") * 20 + "end", id="long-words-with-colons"),
    ],
)
def test_words_that_end_with_a_colon_are_folded_like_others(text: str) -> None:
    # RFC 5322 section 2.1.1: a line must not have more than 998 characters.
    field = header.unstructured("X-Steps", text.strip())
    assert max(map(len, lines_of(field))) <= 998
    assert read(field) == text.strip()


def test_plain_text_stays_readable_and_short_lined() -> None:
    text = "Your new password is waiting, please follow the link below before it ends at noon tomorrow"
    assert header.unstructured("Subject", text) == (
        "Subject: Your new password is waiting, please follow the link below before it\r\n ends at noon tomorrow\r\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("two  blanks", id="run-of-blanks"),
        pytest.param(" first", id="leading-blank"),
        pytest.param("last ", id="trailing-blank"),
        pytest.param("=?utf-8?q?not_encoded?=", id="looks-encoded"),
        pytest.param("a =?b", id="half-encoded"),
        pytest.param("p\u0159\u00edloha", id="not-ascii"),
        pytest.param("x" * 901, id="word-without-a-place-to-break"),
    ],
)
def test_text_that_a_reader_would_spoil_is_sent_as_encoded_words(text: str) -> None:
    field = header.unstructured("Subject", text)
    assert "=?utf-8?" in field
    assert read(field) == read_legacy(field) == text


@given(header_text(300, 1))
def test_encoded_words_keep_to_rfc_2047(text: str) -> None:
    words = header.encoded_words(text)
    assert all(len(word) <= 75 and ENCODED_WORD.fullmatch(word) for word in words)
    # Section 5: each word stands for whole characters, so that a reader may decode it alone.
    assert "".join(str(make_header(decode_header(word))) for word in words) == text


def test_encoded_words_take_the_shorter_encoding() -> None:
    assert header.encoded_words("caf\u00e9 au lait") == ["=?utf-8?q?caf=C3=A9_au_lait?="]
    assert header.encoded_words("\u6f22\u5b57") == ["=?utf-8?b?5ryi5a2X?="]


@pytest.mark.parametrize(
    ("person", "field"),
    [
        pytest.param("jana@contoso.com", "jana@contoso.com", id="bare"),
        pytest.param({"name": "Jana", "address": "j@x.de"}, "Jana <j@x.de>", id="atom"),
        pytest.param({"name": "Jana M Novak", "address": "j@x.de"}, "Jana M Novak <j@x.de>", id="atoms"),
        pytest.param({"name": "Novak, Jana", "address": "j@x.de"}, '"Novak, Jana" <j@x.de>', id="comma"),
        pytest.param({"name": 'J "X" \\', "address": "j@x.de"}, '"J \\"X\\" \\\\" <j@x.de>', id="quotes"),
        pytest.param({"name": "J.", "address": "j@x.de"}, '"J." <j@x.de>', id="dot"),
        pytest.param({"name": "<e@x.de>,", "address": "j@x.de"}, '"<e@x.de>," <j@x.de>', id="looks-like-an-address"),
        pytest.param(
            {"name": "Zo\u00eb Novakova", "address": "j@x.de"}, "=?utf-8?q?Zo=C3=AB_Novakova?= <j@x.de>", id="not-ascii"
        ),
        pytest.param({"name": "=?x?=", "address": "j@x.de"}, "=?utf-8?b?PT94Pz0=?= <j@x.de>", id="looks-encoded"),
        pytest.param("j@M\u00dcNCHEN.example", "j@xn--mnchen-3ya.example", id="domain-in-ascii"),
    ],
)
def test_address_is_written_the_plainest_way_that_is_safe(person: object, field: str) -> None:
    assert header.addresses("To", [Address.model_validate(person)]) == f"To: {field}\r\n"


@given(st.lists(header_text(200), min_size=1, max_size=5))
def test_display_names_neither_get_lost_nor_become_addresses(names: list[str]) -> None:
    people = [Address(address=f"r{n}@contoso.com", name=name) for n, name in enumerate(names)]
    field = header.addresses("To", people)
    assert max(map(len, lines_of(field))) <= 998
    # The older parser: the modern one of Python 3.11 joins encoded words in a phrase with a blank (bpo-35547),
    # against RFC 2047 section 6.2.
    (value,) = message_from_string(field).values()
    found = getaddresses([unfolded(value)])
    assert [address for _, address in found] == [person.address for person in people]
    assert [str(make_header(decode_header(name))) for name, _ in found] == names


def test_thousand_recipients_are_folded_into_short_lines() -> None:
    people = [Address(address=f"recipient-{n}@contoso.com") for n in range(1000)]
    field = header.addresses("To", people)
    assert max(map(len, lines_of(field))) <= 78
    assert [address for _, address in getaddresses([unfolded(field).removeprefix("To:")])] == [
        person.address for person in people
    ]


@given(st.text(max_size=30), st.sampled_from("\0\r\n\t\x1b\x7f"), st.text(max_size=30))
def test_control_character_never_gets_into_a_header(before: str, control: str, after: str) -> None:
    text = before + control + after
    for write in (header.unstructured, header.structured, header.parameter):
        with pytest.raises(ValueError, match="control character"):
            write("X-Any", text)


def file_name(words: list[str]) -> str:
    """What a reader finds, by the standard library's older parser and RFC 2045's own rule for quoted strings.

    The modern parser decodes encoded words inside quoted strings, which RFC 2047 section 5 forbids; `get_filename` of
    both takes off blanks, angle brackets and second quotes that RFC 2045 section 5.1 keeps.
    """
    field = header.with_parameters("Content-Disposition", "attachment", words)
    assert max(map(len, lines_of(field))) <= 998
    value = message_from_string(field).get_param("filename", header="Content-Disposition", unquote=False)
    charset, _, quoted = value if isinstance(value, tuple) else ("ascii", "", str(value))
    return re.sub(r"\\(.)", r"\1", quoted[1:-1]).encode("latin-1").decode(charset)


@given(header_text(200, 1))
def test_file_name_is_read_back_as_it_was(name: str) -> None:
    words = header.parameter("filename", name)
    assert "".join(words).isascii()
    assert file_name(words) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("invoice.pdf", ['filename="invoice.pdf"'], id="plain"),
        pytest.param('a "b" \\ c;d', ['filename="a \\"b\\" \\\\ c;d"'], id="quoted"),
        pytest.param("\u017elu\u0165.pdf", ["filename*=utf-8''%C5%BElu%C5%A5.pdf"], id="extended"),
        pytest.param("it's 100%\u20ac.pdf", ["filename*=utf-8''it%27s%20100%25%E2%82%AC.pdf"], id="percent-and-quote"),
        pytest.param(
            "x" * 120,
            [f"filename*0*=utf-8''{'x' * 50}", f"filename*1*={'x' * 50}", f"filename*2*={'x' * 20}"],
            id="in-pieces",
        ),
    ],
)
def test_file_name_is_written_by_rfc_2231_where_it_must(name: str, words: list[str]) -> None:
    assert header.parameter("filename", name) == words


@given(st.lists(st.from_regex(r"[!-~]{1,80}", fullmatch=True), min_size=1, max_size=40))
def test_folding_keeps_all_words_and_breaks_only_before_them(words: list[str]) -> None:
    field = header.fold("X-Words", words)
    assert unfolded(field) == " ".join(["X-Words:", *words])
    for line in lines_of(field):
        assert len(line) <= 78 or len(line.split()) == 1 or line.startswith("X-Words: ")
        assert len(line) <= 78 + len("X-Words: ") + 80
