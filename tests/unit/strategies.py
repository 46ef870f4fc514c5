"""Everything that the contract allows, the nasty parts of it first."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from contracts.address import parse
from contracts.headers import check_custom_header
from tests.factories import directory, mailbox, notification
from worker.domain.mailbox import Directory, Rank, Tenant

# U+2028 and U+2029 are the only signs outside category Cc that a header value must not have.
_HEADER_ALPHABET = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2028\u2029")
_NASTY_HEADER = (
    " ",
    "  ",
    "\u00a0",
    "=?utf-8?q?hello?=",
    "=?utf-8?b?4pyT?=",
    "=?",
    "?=",
    "Re:",
    "a: b: c:",
    "x" * 120,
    "\U0001f600" * 30,
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\u05e9\u05dc\u05d5\u05dd \u0639\u0627\u0644\u0645",
    "\u202etxt.exe",
    "\u6f22\u5b57" * 20,
    "e\u0301",
    "\ufeff",
    "Nov\u00e1k, Jana",
    '"',
    "\\",
    "<eve@evil.example>",
    "(comment)",
    "a;b=c,d:e",
    ".",
    "From ",
    "%0D%0ABcc: eve@evil.example",
    "it's 100% *new*",
    "=0D=0A",
)


def header_text(max_size: int, min_size: int = 0) -> st.SearchStrategy[str]:
    """What the contract lets into a header."""
    chunk = st.one_of(st.sampled_from(_NASTY_HEADER), st.text(_HEADER_ALPHABET, max_size=15))
    words = st.tuples(st.lists(chunk, max_size=8), st.sampled_from(["", " "])).map(lambda t: t[1].join(t[0]))
    # One sign over and over finds what goes wrong at exact lengths.
    run = st.tuples(st.sampled_from("x\u00e9\U0001f600:= "), st.integers(1, 400)).map(lambda t: t[0] * t[1])
    return st.one_of(words, words, run).map(lambda text: text[:max_size]).filter(lambda text: len(text) >= min_size)


_BODY_ALPHABET = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
_NASTY_LINES = (
    "",
    ".",
    "..",
    ".leading dot",
    "From here on",
    ">From",
    "-- ",
    "--=_m",
    "=_r",
    "trailing blanks   ",
    "trailing tab\t",
    "=3D =\u00e9",
    "x" * 75 + ".",
    "x" * 1200,
    "\u017e" * 700,
    "word " * 300,
    ("\u017elu\u0165ou\u010dk\u00fd " * 9)[:76] + ".From ",
    "\x0c\x0b\x1b\x7f\x85",
    "\u2028\u2029",
    "\U0001f600 \u05e9\u05dc\u05d5\u05dd",
)
_LINE_ENDS = ("\n", "\r\n", "\r", "\n\r", "\r\r\n", "")


def body_text() -> st.SearchStrategy[str]:
    """What the contract lets into a body, every kind of line end mixed."""
    line = st.one_of(st.sampled_from(_NASTY_LINES), st.text(_BODY_ALPHABET, max_size=90))
    pieces = st.lists(st.tuples(line, st.sampled_from(_LINE_ENDS)), max_size=8)
    return pieces.map(lambda found: "".join(text + end for text, end in found))


_ATOM = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=12)
_UTF8_ATOM = st.sampled_from(["jos\u00e9", "\u7528\u6237", "\u0438\u0432\u0430\u043d"])
_QUOTED = st.sampled_from(['"jana novak"', '"a@b"', '"with,comma"', '"say \\"hi\\""', '"x;y:z<w>"', '"."', '"a..b"'])
_DOMAINS = (
    "contoso.com",
    "intranet",
    "printer.local",
    "Sub.Example.ORG",
    "m\u00fcnchen.example",
    "\u4f8b\u3048.example",
    "fa\u00df.de",
    "xn--mnchen-3ya.example",
    "[192.0.2.1]",
    "[IPv6:2001:db8::1]",
    "a-" * 25 + "b." + "c" * 63 + ".example",
)


def addresses(domains: tuple[str, ...] = _DOMAINS, *, smtputf8: bool = True) -> st.SearchStrategy[str]:
    """Addresses as a producer may write them."""
    atoms = st.lists(st.one_of(_ATOM, _UTF8_ATOM) if smtputf8 else _ATOM, min_size=1, max_size=3)
    local = st.one_of(atoms.map(".".join), _QUOTED)
    return st.builds("{}@{}".format, local, st.sampled_from(domains))


def people(*, smtputf8: bool = True) -> st.SearchStrategy[Any]:
    """Addresses with and without a display name, in both forms."""
    address = addresses(smtputf8=smtputf8)
    return st.one_of(address, st.fixed_dictionaries({"address": address, "name": header_text(200)}))


# A domain that no other field uses: wherever it turns up in a mail, a hidden recipient has been told.
HIDDEN_DOMAIN = "hidden-recipients.example"
_hidden = addresses((HIDDEN_DOMAIN,), smtputf8=False)


def attachments(*, inline: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Files with their bytes, as attachments or as inline images."""
    filename = st.one_of(
        header_text(200, 1).map(lambda name: name.replace("/", "_").replace("\\", "_")),
        st.sampled_from(["invoice.pdf", 'quo"te.pdf', "p\u0159\u00edloha \u010d. 1.pdf", "\U0001f600.png", "x" * 200]),
    )
    fields: dict[str, st.SearchStrategy[Any]] = {
        "filename": filename,
        "content": st.binary(max_size=300).map(lambda octets: base64.b64encode(octets).decode()),
        "content_type": st.sampled_from(["application/octet-stream", "image/png", "text/html", "x-a/y.z+w"]),
    }
    if inline:
        fields["content_id"] = st.sampled_from(["logo", "img1@contoso.com", "a.b'c", "x" * 120])
    return st.fixed_dictionaries(fields)


_CUSTOM = (
    "X-Campaign",
    "x-" + "n" * 62,
    "Importance",
    "Keywords",
    "Comments",
    "Organization",
    "Thread-Topic",
    "List-Unsubscribe",
    "References",
    "Auto-Submitted",
    "Precedence",
)


def allowed(name: str, value: str) -> bool:
    """Whether the contract takes this header."""
    try:
        check_custom_header(name, value)
    except ValueError:
        return False
    return True


_custom_header = st.one_of(
    st.tuples(st.sampled_from(_CUSTOM), header_text(2000)),
    st.sampled_from(
        [
            ("List-Unsubscribe", "<https://contoso.com/u?a=1>,  <mailto:u@contoso.com>"),
            ("References", "<a=?b@contoso.com> <c@contoso.com>"),
            ("X-Steps", "step: " * 300),
            ("X-Empty", ""),
        ]
    ),
).filter(lambda item: allowed(*item))


def custom_headers() -> st.SearchStrategy[dict[str, str]]:
    """Headers that a producer may set, each name once."""
    return st.lists(_custom_header, max_size=4, unique_by=lambda item: item[0].lower()).map(dict)


_zones = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=_zones | st.just(UTC))  # noqa: DTZ001

_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(_BODY_ALPHABET, max_size=10),
)
json_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(_BODY_ALPHABET, max_size=5), inner, max_size=3),
    max_leaves=8,
)
_metadata = st.dictionaries(st.text(_BODY_ALPHABET, max_size=8), json_values, max_size=3).filter(
    lambda value: len(json.dumps(value, ensure_ascii=False).encode()) <= 4096
)

_optional_fields: dict[str, st.SearchStrategy[Any]] = {
    "category": st.sampled_from(["password-reset", "mass"]),
    "priority": st.sampled_from(["high", "normal", "low"]),
    "mailbox": st.sampled_from(["contoso-mail", "x.y_z"]),
    "from": people(),
    "reply_to": st.lists(people(), max_size=2),
    "cc": st.lists(people(), max_size=2),
    "bcc": st.lists(_hidden, max_size=2),
    "html": body_text(),
    "attachments": st.lists(attachments(inline=False) | attachments(inline=True), max_size=3),
    "headers": custom_headers(),
    "on_doubt": st.sampled_from(["hold", "resend"]),
    "metadata": _metadata,
}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """The JSON of a valid notification, as Python values."""
    document = draw(
        st.fixed_dictionaries(
            {
                "type": st.just("postlane.notification.v1"),
                "id": st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128),
                "tenant": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
                "subject": header_text(998, 1),
            },
            optional={**_optional_fields, "to": st.lists(people(), max_size=4), "text": body_text()},
        )
    )
    if "html" not in document:
        document.setdefault("text", draw(body_text()))
    if not any(document.get(field) for field in ("to", "cc", "bcc")):
        document["to"] = [draw(people())]
    first, second = sorted(draw(st.tuples(moments, moments)))
    if draw(st.booleans()):
        document["not_before"] = first.isoformat()
    if draw(st.booleans()) and first < second:
        document["expires_at"] = second.isoformat()
    return document


recipients = st.lists(addresses(), min_size=1, max_size=4).map(lambda found: list(dict.fromkeys(map(parse, found))))


# ---------------------------------------------------------------- directories and what they must route

_TENANTS = ["contoso", "fabrikam", "woodgrove"]
_PARTS = ["x", "y"]
MAILBOXES = ["a", "b", "c", "d"]
_PURPOSES = ["invite", "mass", "password-reset"]
_some = st.none() | st.frozensets(st.sampled_from(_PARTS))


@st.composite
def directories(draw: st.DrawFn) -> Directory:
    names = draw(st.lists(st.sampled_from(MAILBOXES), unique=True))
    mailboxes = [
        mailbox(
            name,
            tenants=draw(st.frozensets(st.sampled_from(_TENANTS), max_size=2)),
            sites=draw(_some),
            components=draw(_some),
            rank=draw(st.sampled_from(Rank)),
            enabled=draw(st.booleans()),
            purposes=draw(st.none() | st.frozensets(st.sampled_from(_PURPOSES))),
            fallback_for=draw(st.just(frozenset()) | st.frozensets(st.sampled_from(_PURPOSES))),
        )
        for name in names
    ]
    return directory(
        *mailboxes,
        default=draw(st.sampled_from(names or [None])),
        tenants=draw(
            st.none()
            | st.dictionaries(
                st.sampled_from(_TENANTS), st.builds(Tenant, st.sampled_from([None, True, False]), st.booleans())
            )
        ),
    )


routed = st.builds(
    lambda tenant, name, site, component, category: notification(
        tenant=tenant, mailbox=name, site=site, component=component, category=category
    ),
    st.sampled_from([*_TENANTS, *map(str.upper, _TENANTS), "stranger"]),
    st.sampled_from([None, *MAILBOXES]),
    st.sampled_from([None, *_PARTS, "X"]),
    st.sampled_from([None, *_PARTS]),
    st.sampled_from(_PURPOSES),
)
