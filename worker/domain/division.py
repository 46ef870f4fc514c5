"""A mail that is too large for one request, divided: its files apart, the rest as it was, octet for octet.

Only mails of our own composer are divided (`message.compose`): every boundary is unique, every file is base64.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from email.policy import default as modern

_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class File:
    """An attachment, decoded.

    Attributes:
        content_id: without angle brackets, of an inline image; None: an ordinary attachment.
    """

    name: str
    content_type: str
    content: bytes
    content_id: str | None


@dataclass(frozen=True, slots=True)
class Divided:
    """The mail without some of its files, and those."""

    rest: bytes
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class _Leaf:
    """Where a file stands, from its delimiter to the next one."""

    start: int
    end: int
    content: int
    head: EmailMessage

    @property
    def octets(self) -> int:
        return self.end - self.start


def divide(content: bytes, most: int) -> Divided | None:
    """Take out as many files, the largest first, as it needs for the rest to have at most so many octets.

    Returns:
        None if even without any file it has more.
    """
    left, taken = len(content), []
    for leaf in sorted(_files(content, 0, len(content)), key=lambda leaf: leaf.octets, reverse=True):
        if left <= most:
            break
        taken.append(leaf)
        left -= leaf.octets
    if left > most:
        return None
    taken.sort(key=lambda leaf: leaf.start)
    return Divided(b"".join(_between(content, taken)), tuple(_file(content, leaf) for leaf in taken))


def _files(content: bytes, start: int, end: int) -> Iterator[_Leaf]:
    """The files within a multipart entity, those within its parts included."""
    head, body = _head(content, start)
    boundary = head.get_boundary()
    if head.get_content_maintype() != "multipart" or boundary is None:
        return
    delimiter = f"--{boundary}".encode()
    at = content.find(delimiter, body, end)
    while at >= 0 and content[at + len(delimiter) : at + len(delimiter) + 2] != b"--":
        following = content.find(b"\r\n" + delimiter, at + len(delimiter), end) + 2
        if following <= at:
            return
        first = at + len(delimiter) + 2
        part, inner = _head(content, first)
        if part.get_filename() is not None:
            yield _Leaf(at, following, inner, part)
        else:
            yield from _files(content, first, following)
        at = following


def _head(content: bytes, start: int) -> tuple[EmailMessage, int]:
    """The header fields that begin there, and where the body after them begins."""
    end = content.find(_END, start) + len(_END)
    parsed = BytesHeaderParser(policy=modern).parsebytes(content[start:end])
    return parsed, end


def _between(content: bytes, taken: list[_Leaf]) -> Iterator[bytes]:
    start = 0
    for leaf in taken:
        yield content[start : leaf.start]
        start = leaf.end
    yield content[start:]


def _file(content: bytes, leaf: _Leaf) -> File:
    content_id = leaf.head.get("Content-ID")
    return File(
        name=leaf.head.get_filename() or "",
        content_type=leaf.head.get_content_type(),
        content=binascii.a2b_base64(content[leaf.content : leaf.end]),
        content_id=str(content_id).strip(" <>") if content_id is not None else None,
    )
