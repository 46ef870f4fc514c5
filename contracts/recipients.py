"""Recipient lists as one string, as mail programs and the products that came before write them.

`a@x.com; "Novák, Jana" <b@x.com>, c@x.com`: semicolon or comma, names with or without quotes. A comma inside a name
that has no quotes is understood if the address stands in angle brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# What stands in quotes or in angle brackets is taken as a whole; a lone quote or bracket is a sign like others.
_PIECE = re.compile(r'(?:"(?:[^"\\]|\\.)*"|<[^<>]*>|[^;,"<]|["<])*?(?=[;,]|\Z)', re.DOTALL)
_NAMED = re.compile(r"(?P<name>.*?)\s*<(?P<address>[^<>]*)>", re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)


def split(text: str) -> list[dict[str, str]]:
    """Take a recipient list apart; empty places are left out.

    Args:
        text: addresses with or without names, separated by `;` or `,`.

    Returns:
        Objects with `address` and, where there is one, `name`; whether they are addresses is not looked at.
    """
    return [_person(piece) for piece in _whole(_pieces(text))]


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """What stands between separators, each with the separator that follows it."""
    start = 0
    while start < len(text):
        found = _PIECE.match(text, start)
        end = found.end() if found else len(text)
        yield text[start:end].strip(), text[end : end + 1]
        start = end + 1


def _whole(pieces: Iterator[tuple[str, str]]) -> Iterator[str]:
    """Put a name together again that an unquoted comma has cut: `Novák, Jana <b@x.com>`."""
    before = ""
    for piece, separator in pieces:
        if separator == "," and piece and "@" not in piece:
            before = f"{before}{piece}, "
        elif before and "<" in piece:
            yield before + piece
            before = ""
        else:
            yield from filter(None, (before.removesuffix(", "), piece))
            before = ""
    if before:
        yield before.removesuffix(", ")


def _person(piece: str) -> dict[str, str]:
    if (named := _NAMED.fullmatch(piece)) is None:
        return {"address": piece}
    name = named["name"]
    if quoted := _QUOTED.fullmatch(name):
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    address = named["address"].strip()
    return {"address": address, "name": name} if name else {"address": address}
