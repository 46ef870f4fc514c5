"""The address grammar: RFC 5321 section 4.1.2, RFC 6531, and nothing that could break out of a command or a header."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.address import parse
from tests.unit.strategies import addresses


@pytest.mark.parametrize(
    ("written", "local", "domain"),
    [
        pytest.param("jana@contoso.com", "jana", "contoso.com", id="plain"),
        pytest.param("Jana.Novak+crm@Contoso.COM", "Jana.Novak+crm", "contoso.com", id="domain-lower-local-kept"),
        pytest.param("root@intranet", "root", "intranet", id="single-label"),
        pytest.param("scan_1@mfp_7.local", "scan_1", "mfp_7.local", id="underscore-host"),
        pytest.param("o'brien!#$%&*/=?^_`{|}~-@a.b", "o'brien!#$%&*/=?^_`{|}~-", "a.b", id="all-of-atext"),
        pytest.param('"jana novak"@contoso.com', '"jana novak"', "contoso.com", id="quoted"),
        pytest.param('"a@b"@contoso.com', '"a@b"', "contoso.com", id="at-sign-quoted"),
        pytest.param('"say \\"hi\\""@contoso.com', '"say \\"hi\\""', "contoso.com", id="escaped-quotes"),
        pytest.param("jos\u00e9@contoso.com", "jos\u00e9", "contoso.com", id="utf8-local"),
        pytest.param("jana@M\u00dcNCHEN.example", "jana", "xn--mnchen-3ya.example", id="idna"),
        pytest.param("jana@fa\u00df.de", "jana", "xn--fa-hia.de", id="idna-2008-keeps-sharp-s"),
        pytest.param("jana@contoso\u3002com", "jana", "contoso.com", id="ideographic-full-stop"),
        pytest.param("jana@xn--mnchen-3ya.example", "jana", "xn--mnchen-3ya.example", id="a-label-as-it-is"),
        pytest.param("jana@[192.0.2.1]", "jana", "[192.0.2.1]", id="ipv4-literal"),
        pytest.param("jana@[ipv6:2001:DB8:0::1]", "jana", "[IPv6:2001:db8::1]", id="ipv6-literal-canonical"),
        pytest.param("x" * 64 + "@contoso.com", "x" * 64, "contoso.com", id="longest-local"),
        pytest.param("a@" + "b" * 63 + ".c", "a", "b" * 63 + ".c", id="longest-label"),
        pytest.param("a@" + "b." * 125 + "cd", "a", "b." * 125 + "cd", id="longest-path"),
    ],
)
def test_address_within_the_grammar_is_taken_apart(written: str, local: str, domain: str) -> None:
    spec = parse(written)
    assert (spec.local, spec.domain) == (local, domain)


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        pytest.param("", "has no @", id="empty"),
        pytest.param("jana", "has no @", id="no-at"),
        pytest.param("@contoso.com", "before the @", id="no-local"),
        pytest.param("jana@", "after the @", id="no-domain"),
        pytest.param("Jana <jana@contoso.com>", "display name", id="display-name"),
        pytest.param("<jana@contoso.com>", "display name", id="angle-brackets"),
        pytest.param("jana novak@contoso.com", "display name", id="blank-unquoted"),
        pytest.param("a,b@contoso.com", "display name", id="comma"),
        pytest.param(".jana@contoso.com", "display name", id="leading-dot"),
        pytest.param("ja..na@contoso.com", "display name", id="double-dot"),
        pytest.param('"jana@contoso.com', "display name", id="open-quote"),
        pytest.param('""jana"@contoso.com', "display name", id="quote-inside"),
        pytest.param("jana@contoso.com\r\nRCPT TO:<eve@evil.example>", "control", id="command-injection"),
        pytest.param("jana\0@contoso.com", "control", id="nul"),
        pytest.param("jana@contoso.com\n", "control", id="trailing-newline"),
        pytest.param("moc.osotnoc@\u202ejana", "control or invisible", id="right-to-left-override"),
        pytest.param("ja\u200bna@contoso.com", "control or invisible", id="zero-width-blank"),
        pytest.param("ja\ud800na@contoso.com", "control or invisible", id="lone-surrogate"),
        pytest.param("jana@con toso.com", "not a host name", id="blank-in-domain"),
        pytest.param("jana@contoso..com", "not a host name", id="empty-label"),
        pytest.param("jana@contoso.com.", "not a host name", id="root-dot"),
        pytest.param("jana@-contoso.com", "not a host name", id="hyphen-first"),
        pytest.param("jana@contoso-.com", "not a host name", id="hyphen-last"),
        pytest.param("jana@" + "b" * 64 + ".c", "not a host name", id="label-too-long"),
        pytest.param("jana@m\u00fcnchen..de", "IDNA", id="idna-empty-label"),
        pytest.param("jana@\u2603.example", "IDNA", id="idna-2008-has-no-snowman"),
        pytest.param("jana@" + "\u00fc" * 70 + ".de", "IDNA", id="idna-label-too-long"),
        pytest.param("jana@[192.0.2.1", "address literal", id="literal-open"),
        pytest.param("jana@[192.0.2.256]", "address literal", id="literal-out-of-range"),
        pytest.param("jana@[IPv6:2001:db8::1::2]", "address literal", id="literal-ipv6-wrong"),
        pytest.param("jana@[contoso.com]", "address literal", id="literal-with-a-name"),
        pytest.param("x" * 65 + "@contoso.com", "more than 64", id="local-too-long"),
        pytest.param("\u00e9" * 33 + "@contoso.com", "more than 64", id="local-too-long-in-octets"),
        pytest.param("jana@" + "b." * 127 + "com", "longer than", id="domain-too-long"),
        pytest.param("x" * 64 + "@" + "b." * 94 + "cd", "longer than 254", id="path-too-long"),
    ],
)
def test_address_outside_the_grammar_is_refused_in_words(written: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(written)


@pytest.mark.parametrize(
    "written",
    [
        pytest.param("a@[IPv6:fe80::1%x> NOTIFY=NEVER]", id="breaks-out-of-the-smtp-path"),
        pytest.param("a@[IPv6:fe80::1%1], postmaster, [x]", id="breaks-out-of-the-header-list"),
        pytest.param("a@[IPv6:fe80::1%\u017e]", id="not-ascii"),
        pytest.param("a@[IPv6:fe80::1%eth0]", id="harmless-but-no-part-of-the-grammar"),
    ],
)
def test_ipv6_literal_with_a_zone_is_refused(written: str) -> None:
    # RFC 5321 section 4.1.3 knows no zone identifiers, and Python takes anything for one.
    with pytest.raises(ValueError, match="address literal"):
        parse(written)


@pytest.mark.parametrize(
    "mark",
    [
        pytest.param("\u00ad", id="soft-hyphen"),
        pytest.param("\u061c", id="arabic-letter-mark"),
        pytest.param("\u180e", id="mongolian-vowel-separator"),
        pytest.param("\u2060", id="word-joiner"),
        pytest.param("\u2062", id="invisible-times"),
        pytest.param("\U000e0061", id="tag-letter"),
    ],
)
def test_invisible_mark_in_the_local_part_is_refused(mark: str) -> None:
    # They would make two addresses that nobody can tell apart.
    with pytest.raises(ValueError, match="invisible"):
        parse(f"jana{mark}@contoso.com")


@given(addresses())
def test_checked_address_written_out_is_read_as_itself(written: str) -> None:
    spec = parse(written)
    assert parse(str(spec)) == spec


# Whatever stands between the angle brackets of MAIL and RCPT must not be able to end them.
_ASCII_DOMAIN = re.compile(r"[A-Za-z0-9._-]+|\[[0-9.]+\]|\[IPv6:[0-9a-f:.]+\]")


@given(addresses() | st.text(max_size=40) | st.text('"\\ <>@[]%.:,;(a1', max_size=20))
def test_any_text_is_refused_or_has_a_clean_domain(written: str) -> None:
    try:
        spec = parse(written)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - both ends are fine, a silent one is not
        return
    assert _ASCII_DOMAIN.fullmatch(spec.domain)
    assert spec.local.startswith('"') or not set(spec.local) & set(' <>(),;:"@[]')
    assert len(str(spec).encode()) <= 254


@given(addresses())
def test_smtputf8_is_needed_exactly_for_local_parts_beyond_ascii(written: str) -> None:
    spec = parse(written)
    assert spec.needs_smtputf8 == (not str(spec).isascii())
