"""Replies as values: nothing of what the support asks for gets lost, nothing that harms a log gets in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.reply import EnhancedStatusCode, Reply

# As Exchange Online says it: code and enhanced code on every line, diagnostics for the support, the server at the end.
SEND_AS_DENIED = """\
554-5.2.252 SendAsDenied; robot@contoso.com not allowed to send as boss@contoso.com;
554-5.2.252 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied;
554-5.2.252 Failed to process message due to a permanent exception with message [BeginDiagnosticData]
554-5.2.252 Cannot submit message. 0.35250:FF010000, 5.56248:DC04000053656E64417320636865636B
554 5.2.252 [EndDiagnosticData] [Hostname=AM0PR01MB1234.eurprd01.prod.exchangelabs.com]"""


@pytest.mark.parametrize(
    ("said", "code", "enhanced", "text"),
    [
        pytest.param("250 2.1.5 Recipient OK", 250, (2, 1, 5), "Recipient OK", id="usual"),
        pytest.param("250", 250, None, "", id="bare-code"),
        pytest.param("250 ", 250, None, "", id="code-and-blank"),
        pytest.param("550 5.1.1", 550, (5, 1, 1), "", id="no-text"),
        pytest.param("550 user unknown", 550, None, "user unknown", id="no-enhanced-code"),
        pytest.param("550 5.7.606 Access denied", 550, (5, 7, 606), "Access denied", id="three-digits"),
        pytest.param("450 5.1.1 odd", 450, (5, 1, 1), "odd", id="classes-disagree"),
        pytest.param("550 3.1.1 odd", 550, None, "3.1.1 odd", id="there-is-no-class-3"),
        pytest.param("550 5.1.1.9 version", 550, None, "5.1.1.9 version", id="four-numbers"),
        pytest.param("550 5.1.1x text", 550, None, "5.1.1x text", id="glued"),
        pytest.param("250-first\n250-second\n250 third", 250, None, "first second third", id="lines"),
        pytest.param("250-2.0.0 a\r\n250 2.0.0 b", 250, (2, 0, 0), "a b", id="code-on-each-line"),
        pytest.param("550-Sorry\n550 5.1.1 unknown", 550, (5, 1, 1), "Sorry unknown", id="code-on-the-last-line"),
        pytest.param("  550 5.1.1 unknown  \n", 550, (5, 1, 1), "unknown", id="blanks-around"),
        pytest.param("354 go ahead", 354, None, "go ahead", id="intermediate"),
    ],
)
def test_reply_is_taken_apart(said: str, code: int, enhanced: tuple[int, int, int] | None, text: str) -> None:
    reply = Reply.parse(said)
    assert (reply.code, reply.text) == (code, text)
    assert reply.enhanced == (EnhancedStatusCode(*enhanced) if enhanced else None)


@pytest.mark.parametrize("said", ["", "\n", "OK", "25 OK", "2500 OK", "150 early", "650 late", "-550 x", "550x"])
def test_text_that_is_no_reply_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="three digits"):
        Reply.parse(said)


def test_long_exchange_reply_is_joined_without_its_repeated_codes() -> None:
    reply = Reply.parse(SEND_AS_DENIED)
    assert reply.enhanced == EnhancedStatusCode(5, 2, 252)
    assert "5.2.252" not in reply.text
    assert reply.text.startswith("SendAsDenied; robot@contoso.com")
    assert "[BeginDiagnosticData] Cannot submit message." in reply.text
    assert reply.text.endswith("[EndDiagnosticData] [Hostname=AM0PR01MB1234.eurprd01.prod.exchangelabs.com]")


def test_another_enhanced_code_on_a_later_line_stays_whole() -> None:
    # The repeated code is taken off, not the beginning of a longer one that starts with the same digits.
    assert Reply.of(550, ["5.1.1 Unknown,", "5.1.10 RecipientNotFound"]).text == "Unknown, 5.1.10 RecipientNotFound"


def test_fifty_long_lines_are_bounded_and_keep_the_suffix() -> None:
    suffix = "[Hostname=AM0PR01MB1234.eurprd01.prod.exchangelabs.com]"
    reply = Reply.of(554, [f"5.2.0 {'x' * 1990}" for _ in range(49)] + [f"5.2.0 {suffix}"])
    assert len(reply.text) <= 2000
    assert reply.text.startswith("xxx")
    assert reply.text.endswith(suffix)


@given(st.integers(1900, 2100))
def test_text_is_shortened_only_above_the_bound(length: int) -> None:
    text = "".join(chr(ord("a") + n % 26) for n in range(length))
    kept = Reply.of(250, [text]).text
    assert (kept == text) == (length <= 2000)
    assert len(kept) == min(length, 2000)
    assert kept[:1500] == text[:1500]
    assert kept[-400:] == text[-400:]


_lines = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(
            ["5.1.1 ", "5.1.1", "4.3.2 busy", "\x1b[2J", "a\x00b", "\u2028", "\u202e", "x" * 1500, "[Hostname=a]"]
        ),
    ),
    max_size=6,
)


@given(st.integers(200, 599), _lines)
def test_text_is_printable_single_line_and_bounded_whatever_the_server_says(code: int, lines: list[str]) -> None:
    reply = Reply.of(code, lines)
    assert len(reply.text) <= 2000
    assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in reply.text)
    assert len(reply.text.splitlines()) <= 1


@pytest.mark.parametrize(
    "sign",
    [
        pytest.param("\n", id="line-feed"),
        pytest.param("\r", id="carriage-return"),
        pytest.param("\x1b", id="escape"),
        pytest.param("\0", id="nul"),
        pytest.param("\x85", id="next-line"),
        pytest.param("\u2028", id="line-separator"),
        pytest.param("\u2029", id="paragraph-separator"),
        pytest.param("\u202e", id="right-to-left-override"),
        pytest.param("\u200b", id="zero-width-blank"),
        pytest.param("\ufeff", id="byte-order-mark"),
        pytest.param("\ud800", id="lone-surrogate"),
    ],
)
def test_sign_that_is_not_printable_becomes_a_blank(sign: str) -> None:
    # Replies go into log lines, results and terminals; "text: printable" is what the class promises.
    kept = ascii(Reply.of(550, [f"before{sign}after"]).text)  # a lone surrogate cannot even be reported by xdist
    assert kept == "'before after'"


@given(st.integers(200, 599), st.lists(st.text("abc .:;[]=-5\u00e9", max_size=30), max_size=4))
def test_reply_written_out_is_read_as_itself(code: int, lines: list[str]) -> None:
    reply = Reply.parse("\n".join(f"{code} {line}" for line in ["5.1.1 first", *lines]))
    assert Reply.parse(str(reply)) == reply


@given(st.sampled_from([2, 4, 5]), st.integers(0, 999), st.integers(0, 999))
def test_enhanced_code_written_out_is_read_as_itself(klass: int, subject: int, detail: int) -> None:
    code = EnhancedStatusCode(klass, subject, detail)
    assert EnhancedStatusCode.parse(str(code)) == EnhancedStatusCode.parse(f"{code} and text") == code


@pytest.mark.parametrize("text", ["", "x 5.1.1", " 5.1.1", "5.1", "6.1.1", "5.1.1000", "5.1.1-", "5..1"])
def test_text_that_begins_with_no_enhanced_code_has_none(text: str) -> None:
    assert EnhancedStatusCode.parse(text) is None


@given(st.integers(200, 599))
def test_code_says_by_its_first_digit_what_kind_it_is(code: int) -> None:
    reply = Reply(code, None, "")
    assert reply.positive == (str(code)[0] == "2")
    assert reply.temporary == (str(code)[0] == "4")
    assert not (reply.positive and reply.temporary)


def test_only_421_ends_the_session() -> None:
    assert [code for code in range(200, 600) if Reply(code, None, "").closing] == [421]


SUFFIXES = {
    "server-time-id": "[FR2P281CA0001.DEUP281.PROD.OUTLOOK.COM 2026-06-01T12:00:00.000Z 08DDA1B2C3D4E5F6]",
    "hostname": "[Hostname=AM0PR01MB1234.eurprd01.prod.exchangelabs.com]",
}


@pytest.mark.parametrize("suffix", SUFFIXES.values(), ids=SUFFIXES)
@pytest.mark.parametrize("words", ["Authentication unsuccessful", "long " * 1000], ids=["short", "long"])
def test_suffix_that_the_support_asks_for_is_kept_and_found(words: str, suffix: str) -> None:
    assert Reply.parse(f"535 5.7.3 {words} {suffix}").suffix == suffix


@pytest.mark.parametrize(
    "text", ["550 5.1.1 unknown", "550 [192.0.2.1] banned", "421 [a] b", "554 refused [192.0.2.1]"]
)
def test_reply_without_a_suffix_has_none(text: str) -> None:
    assert not Reply.parse(text).suffix


def hexadecimal(words: str, number: str = "DC040000") -> str:
    return number + words.encode().hex().upper()


def test_diagnostics_are_decoded_for_people() -> None:
    found = Reply.parse(
        "554-5.2.252 SendAsDenied; a@contoso.com not allowed to send as b@contoso.com [BeginDiagnosticData]Cannot "
        f"submit message. 0.35250:0A004678, 5.56248:{hexadecimal('SendAs check failed because AAI is null')}, "
        f"7.36354:010000000000000B[EndDiagnosticData]\n554 5.2.252 {SUFFIXES['hostname']}"
    )
    assert found.diagnostics == ("Cannot submit message.", "SendAs check failed because AAI is null")
    assert found.suffix == SUFFIXES["hostname"]


def test_missing_right_is_read_out_of_the_diagnostics_of_a_logon_failure() -> None:
    words = "AuthenticationContext has no rights on this session"
    found = Reply.parse(f"430 4.2.0 mailbox logon failure [BeginDiagnosticData]16.1:{hexadecimal(words)}")
    assert found.diagnostics == (words,)


@pytest.mark.parametrize(
    "text",
    [
        "550 5.1.1 unknown",
        "554 [BeginDiagnosticData][EndDiagnosticData]",
        "554 5.2.0 no block but 5.56248:DC04000053656E64417320636865636B",
        "554 [EndDiagnosticData]wrong way round[BeginDiagnosticData]",
    ],
)
def test_reply_without_diagnostics_has_none(text: str) -> None:
    assert Reply.parse(text).diagnostics == ()


@given(st.binary(max_size=60))
def test_diagnostics_that_are_no_text_are_left_out(octets: bytes) -> None:
    found = Reply.parse(f"554 5.2.0 x [BeginDiagnosticData]1.2:{octets.hex()}[EndDiagnosticData]").diagnostics
    assert all(words.isprintable() and words for words in found)


@given(st.text(max_size=80))
def test_whatever_a_server_says_has_diagnostics_and_suffix_that_can_be_shown(text: str) -> None:
    reply = Reply.of(554, [f"[BeginDiagnosticData]{text}", text])
    assert all(words.isprintable() for words in (*reply.diagnostics, reply.suffix))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#5.1.1 unknown", "5.1.1"),
        ("(5.7.233)", "5.7.233"),
        ("rejected: 4.7.500-699", "4.7.500"),
        ("smtp;550 5.1.10 x", "5.1.10"),
        ("from 5.1.1.4", None),
        ("version 2.15.1234", None),
        ("", None),
    ],
)
def test_enhanced_code_within_a_text_is_found_unless_it_is_an_address(text: str, expected: str | None) -> None:
    found = EnhancedStatusCode.quoted(text)
    assert (str(found) if found else None) == expected
