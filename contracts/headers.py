"""Which headers a producer may set itself, and to what."""

from __future__ import annotations

import re

MAX_VALUE = 2000  # characters
MAX_WORD = 900  # characters that cannot be folded, below the line limit of 998 octets

_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_ALLOWED = frozenset(
    {
        "auto-submitted",
        "comments",
        "expires",
        "feedback-id",
        "importance",
        "in-reply-to",
        "keywords",
        "organization",
        "precedence",
        "priority",
        "references",
        "sensitivity",
        "thread-index",
        "thread-topic",
    }
)
_ALLOWED_FAMILIES = ("x-", "list-")
# Pickup and Replay directories take these as orders (who sends, who receives), Exchange takes its own as facts,
# and ours tell which notification a mail belongs to: no producer may forge them.
_RESERVED_FAMILIES = (
    "x-sender",
    "x-receiver",
    "x-createdby",
    "x-endofinjectedxheaders",
    "x-extendedmessageprops",
    "x-helodomain",
    "x-source",
    "x-ms-exchange-",
    "x-postlane-",
)
_STRUCTURED = ("list-", "in-reply-to", "references", "auto-submitted", "expires", "precedence", "thread-index")


def is_structured(name: str) -> bool:
    """Whether a field has a grammar of its own, in which an encoded word (RFC 2047 section 5) has no place."""
    return name.lower().startswith(_STRUCTURED)


def check_custom_header(name: str, value: str) -> None:
    """Accept a header that a producer wants to set.

    Raises:
        ValueError: names the header and why it is refused.
    """
    lower = name.lower()
    if not _NAME.fullmatch(name):
        raise ValueError("has a header name that is not letters, digits and hyphens")
    if lower.startswith(_RESERVED_FAMILIES) or not (lower in _ALLOWED or lower.startswith(_ALLOWED_FAMILIES)):
        raise ValueError(f"may not set {name}: Postlane writes it itself, or it steers delivery")
    if len(value) > MAX_VALUE:
        raise ValueError(f"has a value of {name} longer than {MAX_VALUE} characters")
    if is_structured(name):
        if not value.isascii():
            raise ValueError(f"has a value of {name} that is not ASCII")
        if max(map(len, value.split()), default=0) > MAX_WORD:
            raise ValueError(f"has a word in {name} longer than {MAX_WORD} characters, which no mail line can hold")
