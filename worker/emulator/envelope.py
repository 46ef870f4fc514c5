"""The arguments of EHLO, MAIL and RCPT (RFC 5321, 3461, 6531), and how Exchange says what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_INVALID = "501 5.5.4 Invalid arguments"
_UNKNOWN = "501 5.5.4 Unrecognized parameter"
_PATH = re.compile(r' *<((?:"(?:[^"\\]|\\.)*"|[^">])*)>((?: +\S+)*) *')
_ATOM = r'[^\s"(),.:;<>@\[\\\]\x00-\x1f\x7f]+'
_LOCAL = re.compile(rf'{_ATOM}(?:\.{_ATOM})*|"(?:[^"\\\x00-\x1f\x7f]|\\[ -~])*"')
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Za-z.:-]+\]")
_HOST = re.compile(r"[\w.-]+|\[[0-9A-Za-z.:-]+\]", re.ASCII)
_LONGEST_LOCAL, _LONGEST_DOMAIN = 64, 255  # octets
_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*"
_EVENT = "(?:SUCCESS|FAILURE|DELAY)"

# parameter: keyword of EHLO that it belongs to, and its value
_OF_MAIL = {
    "SIZE": ("SIZE", r"\d{1,20}"),
    "BODY": ("8BITMIME", "7BIT|8BITMIME|BINARYMIME"),
    "SMTPUTF8": ("SMTPUTF8", ""),
    "RET": ("DSN", "FULL|HDRS"),
    "ENVID": ("DSN", _XTEXT),
    "AUTH": ("AUTH", f"<>|{_XTEXT}"),
}
_OF_RCPT = {
    "NOTIFY": ("DSN", f"NEVER|{_EVENT}(?:,{_EVENT})*"),
    "ORCPT": ("DSN", f"[A-Za-z0-9-]+;{_XTEXT}"),
}


class Malformed(Exception):  # noqa: N818 - what an argument is
    """The text is the reply."""


@dataclass(frozen=True, slots=True)
class Path:
    """Where a mail comes from or goes to.

    Attributes:
        address: empty for the null sender.
        parameters: by their names in capitals, values in capitals too where their case says nothing.
    """

    address: str
    parameters: Mapping[str, str]


def sender(argument: bytes, keywords: Iterable[str]) -> Path:
    """Of MAIL.

    Raises:
        Malformed: it is none.
    """
    address, parameters = _parts(argument, "FROM:", _OF_MAIL, keywords, "501 5.1.7 Invalid address")
    if address:
        _check(address, "501 5.1.7 Invalid address", "501 5.1.7 Invalid address", utf8="SMTPUTF8" in parameters)
    return Path(address, parameters)


def recipient(argument: bytes, keywords: Iterable[str], *, utf8: bool) -> Path:
    """Of RCPT, in a mail that may have addresses beyond ASCII or not.

    Raises:
        Malformed: it is none.
    """
    address, parameters = _parts(argument, "TO:", _OF_RCPT, keywords, "501 5.1.3 Invalid address")
    _check(address, "501 5.1.3 Invalid address", "501 5.1.3 Long addresses not supported", utf8=utf8)
    return Path(address, parameters)


def check_host(argument: bytes) -> None:
    """The name that a client gives itself.

    Raises:
        Malformed: it gives none, or one that cannot be.
    """
    name = argument.strip().decode("ascii", "replace")
    if not name:
        raise Malformed("501 5.0.0 EHLO requires domain address")
    if not _HOST.fullmatch(name):
        raise Malformed("501 5.5.4 Invalid domain name")


def _parts(
    argument: bytes, prefix: str, known: Mapping[str, tuple[str, str]], keywords: Iterable[str], invalid: str
) -> tuple[str, Mapping[str, str]]:
    try:
        text = argument.decode()
    except UnicodeDecodeError as error:
        raise Malformed(_INVALID) from error
    if text[: len(prefix)].upper() != prefix:
        raise Malformed(_INVALID)
    found = _PATH.match(text, len(prefix))
    if found is None:
        raise Malformed(invalid)
    if found.end() != len(text):
        raise Malformed(_INVALID)
    return found[1], _parameters(found[2].split(), known, {keyword.partition(" ")[0] for keyword in keywords})


def _parameters(
    given: Iterable[str], known: Mapping[str, tuple[str, str]], keywords: Iterable[str]
) -> Mapping[str, str]:
    parameters: dict[str, str] = {}
    for each in given:
        name, _, value = each.partition("=")
        name = name.upper()
        keyword, form = known.get(name, ("", ""))
        if keyword not in keywords:
            raise Malformed(_UNKNOWN)
        if name in parameters or not re.fullmatch(form, value, re.IGNORECASE):
            raise Malformed(_INVALID)
        parameters[name] = value if name in {"ENVID", "ORCPT", "AUTH"} else value.upper()
    return parameters


def _check(address: str, invalid: str, long: str, *, utf8: bool) -> None:
    local, _, domain = address.rpartition("@")
    if not utf8 and not address.isascii():
        raise Malformed("501 5.1.6 SMTPUTF8 argument required")
    if len(local.encode()) > _LONGEST_LOCAL or len(domain.encode()) > _LONGEST_DOMAIN:
        raise Malformed(long)
    if not (_LOCAL.fullmatch(local) and _DOMAIN.fullmatch(domain)):
        raise Malformed(invalid)
