"""The address grammar both sides share: RFC 5321 section 4.1.2, RFC 6531 for non-ASCII, RFC 5891 for domains.

It is deliberately wider than "looks like an internet address": single-label domains (`intranet`), `.local`,
address literals and quoted local parts are in daily use inside companies. It is deliberately narrower than
RFC 5322: no comments, no folding, no obsolete routes, no display name.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

import idna

MAX_LOCAL_PART = 64  # octets, RFC 5321 section 4.5.3.1.1
MAX_DOMAIN = 255  # octets, RFC 5321 section 4.5.3.1.2
MAX_PATH = 254  # octets, RFC 5321 section 4.5.3.1.3 less the two angle brackets

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]"
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
_QUOTED_STRING = re.compile(r'"(?:[ !#-\[\]-~\u0080-\U0010ffff]|\\[ -~])*"')
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
# Controls, and the separators and invisible marks with which an address can be made to look like another one.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class AddrSpec:
    """A checked address: the local part as written, the domain in its ASCII form.

    Attributes:
        local: local part, quotes included if it was quoted.
        domain: lower-case A-labels (`xn--…`) or an address literal in brackets.
    """

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Whether the local part cannot be sent without SMTPUTF8 (RFC 6531)."""
        return not self.local.isascii()


def parse(text: str) -> AddrSpec:
    """Check an address and bring its domain into ASCII form.

    Args:
        text: `local@domain`, no angle brackets, no display name.

    Raises:
        ValueError: says in words what is wrong with the address, without repeating it.
    """
    if _UNPRINTABLE.search(text):
        raise ValueError("contains a control or invisible character")
    local, at, domain = text.rpartition("@")
    if not at:
        raise ValueError("has no @")
    spec = AddrSpec(_local_part(local), _domain(domain))
    if len(str(spec).encode()) > MAX_PATH:
        raise ValueError(f"is longer than {MAX_PATH} octets")
    return spec


def _local_part(local: str) -> str:
    if not local:
        raise ValueError("has nothing before the @")
    if len(local.encode()) > MAX_LOCAL_PART:
        raise ValueError(f"has more than {MAX_LOCAL_PART} octets before the @")
    if not (_DOT_STRING.fullmatch(local) or _QUOTED_STRING.fullmatch(local)):
        raise ValueError("is not of the form name@domain (a display name belongs in `name`)")
    return local


@lru_cache(1024)
def _domain(domain: str) -> str:
    if not domain:
        raise ValueError("has nothing after the @")
    if domain.startswith("["):
        return _address_literal(domain)
    ascii_domain = domain.lower() if domain.isascii() else _to_ascii(domain)
    if len(ascii_domain) > MAX_DOMAIN:
        raise ValueError(f"has a domain longer than {MAX_DOMAIN} octets")
    if not all(_LABEL.fullmatch(label) for label in ascii_domain.split(".")):
        raise ValueError("has a domain that is not a host name")
    return ascii_domain


def _to_ascii(domain: str) -> str:
    try:
        return idna.encode(domain, uts46=True, transitional=False).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError("has a domain that IDNA 2008 does not allow") from error


def _address_literal(domain: str) -> str:
    """RFC 5321 section 4.1.3: `[192.0.2.1]` or `[IPv6:2001:db8::1]`, without a zone, which could hold anything."""
    inner = domain[1:-1] if domain.endswith("]") and "%" not in domain else ""
    try:
        if inner[:5].lower() == "ipv6:":
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:])}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError as error:
        raise ValueError("has an address literal that is no IP address") from error
