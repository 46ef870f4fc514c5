"""From the octets of a file to its text, and what kind of text it is."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from enum import StrEnum

from worker.importers.finding import Findings, Place, Refusal

MOST = 1024 * 1024  # octets; the largest honest file, a dump of all settings keys, has a few hundred thousand
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]{0,80}encoding\s*=\s*["']([A-Za-z0-9._-]{1,20})["']""")
_SINGLE_BYTE = {"windows-1250", "windows-1251", "windows-1252", "iso-8859-1", "iso-8859-2", "iso-8859-15", "us-ascii"}
_ODD = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Form(StrEnum):
    """What a text looks like."""

    JSON = "json"
    XML = "xml"
    LINES = "lines"


@dataclass(frozen=True, slots=True)
class Source:
    """A file as it was handed in. Only a reader of its own may repeat what is in it.

    Attributes:
        name: without directory.
        content: octets; more than `MOST` are refused.
        fault: why it could not be read, if it could not.
    """

    name: str
    content: bytes = field(repr=False)
    fault: str = ""


def too_large(file: str, what: str) -> Refusal:
    """Settings are not as large as that, and a refusal must come at once."""
    return Refusal(
        "file.too_large",
        Place(file),
        f"{what}; settings have not so much",
        "give the settings file itself, or only its mail section",
    )


def text_of(source: Source, findings: Findings) -> str:
    """The text, whichever of the usual encodings it has; line ends become LF.

    Raises:
        Refusal: too large, empty, or no text.
    """
    place = Place(source.name)
    if source.fault:
        raise Refusal("file.unreadable", place, source.fault, "give a file that can be read")
    if len(source.content) > MOST:
        raise too_large(source.name, f"the file is larger than {MOST // 1024} KiB")
    text = _decoded(source.content, place, findings).removeprefix("\ufeff")
    if odd := _ODD.search(text):
        line = text.count("\n", 0, odd.start()) + 1
        raise Refusal(
            "file.not_text",
            Place(source.name, line=line),
            f"the file holds the control character U+{ord(odd[0]):04X}; it is no settings file, or a damaged one",
            "give the settings file as text, UTF-8 or UTF-16",
        )
    if not text.strip():
        raise Refusal("file.empty", place, "the file is empty", "give the settings file of the product")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def form_of(text: str) -> Form:
    """JSON, XML or lines, by the first character that says so."""
    match text.lstrip()[:1]:
        case "{" | "[":
            return Form.JSON
        case "<":
            return Form.XML
        case "/":
            return Form.JSON if text.lstrip()[:2] in {"//", "/*"} else Form.LINES
        case _:
            return Form.LINES


def _decoded(content: bytes, place: Place, findings: Findings) -> str:
    encoding, body = _encoding(content)
    try:
        return body.decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8" or content.startswith(codecs.BOM_UTF8):
            raise Refusal(
                "file.not_text", place, f"the file is not {encoding.upper()} as it says", "save it as UTF-8"
            ) from None
    try:
        text = body.decode("cp1252")
    except UnicodeDecodeError:
        raise Refusal("file.not_text", place, "the file is neither UTF-8 nor UTF-16", "save it as UTF-8") from None
    findings.warn(
        "file.not_utf8",
        place,
        "the file is not UTF-8 and was read as Windows-1252",
        "compare names and senders with letters beyond ASCII, or save the file as UTF-8",
    )
    return text


def _encoding(content: bytes) -> tuple[str, bytes]:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding, content[len(mark) :]
    # Without a mark, the first character of every form is ASCII: its other octet tells.
    if len(content) > 1 and (content[0] == 0) != (content[1] == 0):
        return ("utf-16-be" if content[0] == 0 else "utf-16-le"), content
    declared = _DECLARED.match(content[:200])
    name = declared[1].decode().lower() if declared else ""
    return (name if name in _SINGLE_BYTE else "utf-8"), content
