"""Header fields: folding (RFC 5322 section 2.2.3), encoded words (RFC 2047), parameters (RFC 2231).

Injection is impossible by construction: every value passes `_text` or is built from checked parts, and the only CR
and LF in a header are the ones written here.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar
from urllib.parse import quote

from contracts.notification import Address

T = TypeVar("T", str, bytes)

_LINE: Final = 78  # characters that a line should not exceed, RFC 5322 section 2.1.1
_WORD: Final = 75  # characters of one encoded word, RFC 2047 section 2
_PAYLOAD: Final = _WORD - len("=?utf-8?q??=")
_LONGEST_PLAIN_WORD: Final = 900  # leaves room below the hard limit of 998

_PLAIN = re.compile(r"[!-~]+(?: [!-~]+)*")
_ATOM_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f]")
# What may stand for itself in an encoded word wherever it is used, a display name included (RFC 2047 section 5).
_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_Q: Final = tuple(chr(n) if n in _Q_SAFE else "_" if n == ord(" ") else f"={n:02X}" for n in range(256))


def unstructured(name: str, value: str) -> str:
    """A field of free text, such as Subject."""
    text = _text(value)
    if _is_plain(text):
        return fold(name, text.split(" "))
    return fold(name, encoded_words(text))


def structured(name: str, value: str) -> str:
    """A field that has its own grammar and is ASCII already: folded at its blanks, otherwise untouched."""
    return fold(name, _text(value).split())


def addresses(name: str, people: Iterable[Address]) -> str:
    """An address list: From, Reply-To, To, Cc."""
    entries = [_mailbox(person) for person in people]
    words = [word for entry in entries[:-1] for word in (*entry[:-1], f"{entry[-1]},")]
    return fold(name, [*words, *entries[-1]])


def fold(name: str, words: Sequence[str]) -> str:
    """One field with its CRLF, broken before words so that lines stay short where they can."""
    lines = []
    line = first = f"{name}:"
    for word in words:
        if len(line) + 1 + len(word) > _LINE and line not in ("", first):
            lines.append(line)
            line = ""
        line = f"{line} {word}"
    lines.append(line)
    return "\r\n".join(lines) + "\r\n"


def encoded_words(text: str) -> list[str]:
    """The text as encoded words, in the shorter of the two encodings, never cutting a character in two."""
    characters = [character.encode() for character in text]
    quoted = ["".join(_Q[octet] for octet in character) for character in characters]
    if sum(map(len, quoted)) <= len(text.encode()) * 4 / 3:
        return [f"=?utf-8?q?{''.join(chunk)}?=" for chunk in _chunks(quoted, _PAYLOAD)]
    return [
        f"=?utf-8?b?{binascii.b2a_base64(b''.join(chunk), newline=False).decode()}?="
        for chunk in _chunks(characters, _PAYLOAD // 4 * 3)
    ]


def parameter(name: str, value: str) -> list[str]:
    """A MIME parameter, as words that begin with their semicolon's successor: `name="value"` or RFC 2231 pieces."""
    text = _text(value)
    if text.isascii() and len(text) <= _LINE - len(name) - len('=""'):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return [f'{name}="{escaped}"']
    pieces = ["".join(chunk) for chunk in _chunks([quote(character, safe="") for character in text], 50)]
    if len(pieces) == 1:
        return [f"{name}*=utf-8''{pieces[0]}"]
    return [f"{name}*{n}*={'' if n else _CHARSET}{piece}" for n, piece in enumerate(pieces)]


_CHARSET: Final = "utf-8''"


def with_parameters(name: str, value: str, parameters: Iterable[str]) -> str:
    """A field with MIME parameters, one a line where they are long."""
    words = [value, *parameters]
    return fold(name, [*(f"{word};" for word in words[:-1]), words[-1]])


def _mailbox(person: Address) -> list[str]:
    """One entry of an address list, as words between which a line may be broken."""
    if not person.name:
        return [str(person.spec)]
    return [*_phrase(person.name), f"<{person.spec}>"]


def _phrase(name: str) -> list[str]:
    text = _text(name)
    if _ATOM_PHRASE.fullmatch(text) and "=?" not in text:
        return text.split(" ")
    if _is_plain(text):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return [f'"{escaped}"']
    return encoded_words(text)


def _is_plain(text: str) -> bool:
    """Whether the text survives as it is: no run of blanks to lose, nothing that reads as an encoded word."""
    return bool(_PLAIN.fullmatch(text) and "=?" not in text and max(map(len, text.split(" "))) <= _LONGEST_PLAIN_WORD)


def _text(value: str) -> str:
    """The last line of defence; the contract has refused such values long before.

    Raises:
        ValueError: the value contains a control character.
    """
    if _FORBIDDEN.search(value):
        raise ValueError("a header value contains a control character")
    return value


def _chunks(parts: Sequence[T], longest: int) -> Iterable[list[T]]:
    """Group parts so that each group's total length stays within `longest`."""
    group: list[T] = []
    size = 0
    for part in parts:
        if group and size + len(part) > longest:
            yield group
            group, size = [], 0
        group.append(part)
        size += len(part)
    if group:
        yield group
