"""MIME entities: transfer encodings (RFC 2045) and multiparts (RFC 2046).

Every body is 7-bit, has CRLF line ends, lines of at most 998 octets and no line that begins with a dot, so that a mail
is the same over SMTP and in a pickup directory, whose readers disagree about leading dots.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from worker.domain.header import fold, parameter, structured, with_parameters

_NEWLINE = re.compile(r"\r\n|\r|\n")
_UNSAFE_7BIT = re.compile(rb"[^\t\r\n -~]|^\.|^From |=_|^[^\r\n]{991}| \r\n", re.MULTILINE)
_QP_LINE = 76
_QP_UNSAFE = re.compile(rb"^\.|^From |^[^\r\n]{77}", re.MULTILINE)
_BASE64_LINE = 76


@dataclass(frozen=True, slots=True)
class Entity:
    """Header fields and body of one MIME part, ready to be written one after the other."""

    media_type: str
    fields: str
    body: bytes

    def __bytes__(self) -> bytes:
        return self.fields.encode() + b"\r\n" + self.body


def text(subtype: str, content: str) -> Entity:
    """A text part in the smallest encoding that keeps it intact."""
    body = _NEWLINE.sub("\r\n", content).encode()
    if not body.endswith(b"\r\n"):
        body += b"\r\n"
    encoding = "7bit"
    if _UNSAFE_7BIT.search(body):
        quoted, packed = quoted_printable(body), base64(body)
        encoding, body = ("quoted-printable", quoted) if len(quoted) <= len(packed) else ("base64", packed)
    return Entity(
        f"text/{subtype}",
        fold("Content-Type", [f"text/{subtype};", "charset=utf-8"]) + structured("Content-Transfer-Encoding", encoding),
        body,
    )


def file(content: bytes, content_type: str, filename: str, content_id: str | None) -> Entity:
    """An attachment, or with a content id an inline image (RFC 2183, RFC 2392)."""
    disposition = "attachment" if content_id is None else "inline"
    fields = (
        structured("Content-Type", content_type)
        + with_parameters("Content-Disposition", disposition, parameter("filename", filename))
        + structured("Content-Transfer-Encoding", "base64")
    )
    if content_id is not None:
        fields += structured("Content-ID", f"<{content_id}>")
    return Entity(content_type, fields, base64(content))


def multipart(subtype: str, parts: Sequence[Entity], boundary: str) -> Entity:
    """Several parts under one boundary, which must not occur in any of them."""
    return _multipart(subtype, parts, boundary, ())


def related(parts: Sequence[Entity], boundary: str) -> Entity:
    """A text and what it shows; `type` is that of the text, the first part (RFC 2387 section 3.1)."""
    return _multipart("related", parts, boundary, (f'type="{parts[0].media_type}"',))


def _multipart(subtype: str, parts: Sequence[Entity], boundary: str, parameters: Sequence[str]) -> Entity:
    delimiter = f"--{boundary}".encode()
    body = b"".join(delimiter + b"\r\n" + bytes(part) + b"\r\n" for part in parts) + delimiter + b"--\r\n"
    media_type = f"multipart/{subtype}"
    fields = with_parameters("Content-Type", media_type, [f'boundary="{boundary}"', *parameters])
    return Entity(media_type, fields, body)


def base64(content: bytes) -> bytes:
    """RFC 2045 section 6.8, with a final line end."""
    packed = binascii.b2a_base64(content, newline=False)
    lines = [packed[start : start + _BASE64_LINE] for start in range(0, len(packed), _BASE64_LINE)]
    return b"\r\n".join(lines) + b"\r\n"


def quoted_printable(content: bytes) -> bytes:
    """RFC 2045 section 6.7; content has CRLF line ends. Leading dots and "From " are quoted too."""
    encoded = binascii.b2a_qp(content, istext=True)
    return encoded if not _QP_UNSAFE.search(encoded) else b"\r\n".join(map(_guarded, encoded.split(b"\r\n")))


def _guarded(line: bytes) -> bytes:
    """Quote what must not begin a line, and break lines that became too long (`b2a_qp` itself makes some of 77)."""
    if line.startswith((b".", b"From ")):
        line = b"=%02X" % line[0] + line[1:]
    if len(line) <= _QP_LINE:
        return line
    cut = _QP_LINE - 1
    escape = line.rfind(b"=", cut - 2, cut)
    cut = cut if escape < 0 else escape
    return line[:cut] + b"=\r\n" + _guarded(line[cut:])
