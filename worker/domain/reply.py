"""What a mail server says: reply code, enhanced status code, text (RFC 5321 section 4.2, RFC 3463)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_MAX_TEXT = 2000  # characters kept of a reply; Exchange may send 50 lines of 2,000
_TAIL = 400  # of which at the end, where Exchange puts the suffix that its support asks for

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?= |$)")
_QUOTED = re.compile(r"(?:^|[\s#(\[<;:'\"])([245])\.(\d{1,3})\.(\d{1,3})(?=[\s:;,)\]>'\"-]|$)")

_DIAGNOSTICS = re.compile(r"\[BeginDiagnosticData\](.*?)(?:\[EndDiagnosticData\]|$)", re.DOTALL)
_GROUP = re.compile(r"\b\d+\.\d+:((?:[0-9A-Fa-f]{2})+)")
_ERROR_NUMBER = 4  # octets before the words of a group
_WORDS = re.compile(rb"[\x20-\x7e]{8,}")
_SUFFIX = re.compile(
    r"\[(?:Hostname=[^\]\s]+|[\w.-]+\.[\w.-]+ \d{4}-\d\d-\d\dT[\d:.]+Z(?: [0-9A-Fa-f]{8,32})?)\]\s*$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, order=True)
class EnhancedStatusCode:
    """`class.subject.detail` of RFC 3463; the class need not agree with the reply code's first digit."""

    klass: int
    subject: int
    detail: int

    @classmethod
    def parse(cls, text: str) -> EnhancedStatusCode | None:
        """The code at the start of a text, if there is one."""
        found = _ENHANCED.match(text)
        return cls(*map(int, found.groups())) if found else None

    @classmethod
    def quoted(cls, text: str) -> EnhancedStatusCode | None:
        """The first code within a text, set apart as in `#5.1.1` or `(5.1.1)`; a network address is none."""
        found = _QUOTED.search(text)
        return cls(*map(int, found.groups())) if found else None

    def __str__(self) -> str:
        return f"{self.klass}.{self.subject}.{self.detail}"


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply, its lines joined.

    Attributes:
        code: 200 to 599.
        enhanced: of the first line that carries one.
        text: printable, without the codes, at most 2,000 characters; the end is always kept.
    """

    code: int
    enhanced: EnhancedStatusCode | None
    text: str

    @classmethod
    def of(cls, code: int, lines: Sequence[str]) -> Reply:
        """Build a reply from its lines without their `250-` prefixes.

        Exchange repeats the enhanced code on every line; it is taken off each.
        """
        enhanced = next((found for line in lines if (found := EnhancedStatusCode.parse(line))), None)
        repeated = re.compile(rf"{re.escape(str(enhanced))}(?= |$)") if enhanced else None
        parts = (
            _printable(repeated.sub("", line, count=1) if repeated and repeated.match(line) else line) for line in lines
        )
        return cls(code, enhanced, bounded(" ".join(part for part in parts if part), _MAX_TEXT))

    @classmethod
    def parse(cls, text: str) -> Reply:
        """Read a reply as people write it: `550 5.1.1 user unknown`, several lines allowed.

        Raises:
            ValueError: the text does not begin with a three-digit code.
        """
        lines = [line.strip() for line in text.strip().splitlines()]
        if not lines or not re.match(r"[2-5]\d\d(?:[ -]|$)", lines[0]):
            raise ValueError("a reply begins with a code of three digits, such as 550")
        code = lines[0][:3]
        return cls.of(int(code), [re.sub(rf"^{code}[ -]?", "", line) for line in lines])

    @property
    def positive(self) -> bool:
        """2yz: the command was carried out."""
        return 200 <= self.code < 300  # noqa: PLR2004 - the RFC's own ranges

    @property
    def negative(self) -> bool:
        """4yz or 5yz: the command was refused, now or for good."""
        return 400 <= self.code < 600  # noqa: PLR2004

    @property
    def temporary(self) -> bool:
        """4yz: the same command may succeed later."""
        return 400 <= self.code < 500  # noqa: PLR2004

    @property
    def closing(self) -> bool:
        """421: the server ends the session whatever the command was."""
        return self.code == 421  # noqa: PLR2004

    @property
    def diagnostics(self) -> tuple[str, ...]:
        """What Exchange hides in `[BeginDiagnosticData]`: words in the clear, then those it wrote in hexadecimal."""
        return tuple(dict.fromkeys(words for found in _DIAGNOSTICS.findall(self.text) for words in _said(found)))

    @property
    def suffix(self) -> str:
        """`[server time id]` or `[Hostname=server]` at the end, which Microsoft Support asks for; empty without one."""
        found = _SUFFIX.search(self.text)
        return found[0].strip() if found else ""

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.code, self.enhanced, self.text) if part)


def _said(diagnostics: str) -> Iterator[str]:
    """The words of one block: before the first group of hexadecimal digits, and in each of them after its number."""
    first = _GROUP.search(diagnostics)
    if clear := diagnostics[: first.start() if first else None].strip(" ;,"):
        yield clear
    for group in _GROUP.findall(diagnostics):
        for words in _WORDS.findall(bytes.fromhex(group)[_ERROR_NUMBER:]):
            yield words.decode("ascii").strip()


def bounded(text: str, longest: int) -> str:
    """The text within so many characters; of a long one the end is kept, where Exchange names its server."""
    if len(text) <= longest:
        return text
    tail = min(_TAIL, longest // 2)
    return f"{text[: longest - tail - 3]} … {text[-tail:]}" if tail else ""


def _printable(text: str) -> str:
    if text.isprintable():
        return text.strip()
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
