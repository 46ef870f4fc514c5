"""JSON as .NET's configuration reads it: comments and trailing commas allowed, keys without case, no key twice.

Source: `JsonConfigurationFileParser` (duplicates) and `JsonDocumentOptions` (comments, trailing commas, depth 64).
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from worker.importers.finding import Findings, Place, Refusal
from worker.importers.source import too_large

_DEEPEST = 64
_MOST = 80_000  # tokens
_TOKEN = re.compile(
    r"""(?P<space>[ \t\n]+)|(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<string>"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*")"""
    r"""|(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)|(?P<word>true|false|null)"""
    r"""|(?P<mark>[{}\[\],:])""",
    re.DOTALL,
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Kind(StrEnum):
    """JSON type of a single value."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    NULL = "null"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value as .NET would hand it to the program: as text."""

    text: str
    kind: Kind
    line: int


@dataclass(frozen=True, slots=True)
class Member:
    """A key with its value."""

    key: str
    node: Node
    line: int


@dataclass(frozen=True, slots=True)
class Object:
    """Members in the order of the file; no two differ only by case."""

    members: tuple[Member, ...]
    line: int

    def get(self, key: str) -> Member | None:
        """The member of this name, whatever its case."""
        return next((member for member in self.members if member.key.lower() == key.lower()), None)


@dataclass(frozen=True, slots=True)
class Array:
    """Items in order."""

    items: tuple[Node, ...]
    line: int


Node = Scalar | Object | Array


def parse(text: str, file: str, findings: Findings) -> Node:
    """Read a document.

    Raises:
        Refusal: it is malformed, too deep, or has a key twice.
    """
    return _Reader(text, file, findings).document()


class _Reader:
    def __init__(self, text: str, file: str, findings: Findings) -> None:
        self._file, self._findings, self._told = file, findings, False
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._tokens = self._read(text)
        self._kind, self._text, self._line = next(self._tokens)

    def document(self) -> Node:
        node = self._value(1, "")
        if self._kind != "end":
            self._malformed("something follows after the end of the document")
        return node

    def _read(self, text: str) -> Iterator[tuple[str, str, int]]:
        at = count = 0
        while at < len(text):
            count += 1
            if count > _MOST:
                raise too_large(self._file, "the document has tens of thousands of values")
            line = bisect_right(self._line_ends, at - 1) + 1
            token = _TOKEN.match(text, at)
            if token is None or token.lastgroup is None:
                self._line = line
                self._malformed("here stands what is no JSON")
            at = token.end()
            if token.lastgroup == "comment":
                self._tolerated(line)
            elif token.lastgroup != "space":
                yield token.lastgroup, token[0], line
        while True:
            yield "end", "", len(self._line_ends) + 1

    def _next(self) -> None:
        self._kind, self._text, self._line = next(self._tokens)

    def _value(self, depth: int, path: str) -> Node:
        if depth > _DEEPEST:
            raise Refusal(
                "json.too_deep",
                Place(self._file, line=self._line),
                f"the document is nested deeper than {_DEEPEST} levels, which .NET refuses as well",
                "give the settings file itself, or only its mail section",
            )
        line = self._line
        match self._kind, self._text:
            case "mark", "{":
                return Object(tuple(self._members(depth, path)), line)
            case "mark", "[":
                return Array(tuple(self._items(depth, path)), line)
            case "string", text:
                scalar = Scalar(self._string(text), Kind.STRING, line)
            case "number", text:
                scalar = Scalar(text, Kind.NUMBER, line)
            case "word", "null":
                scalar = Scalar("", Kind.NULL, line)
            case "word", text:
                scalar = Scalar(text.capitalize(), Kind.BOOLEAN, line)
            case _:
                self._malformed("a value is missing")
        self._next()
        return scalar

    def _members(self, depth: int, path: str) -> Iterator[Member]:
        seen: dict[str, str] = {}
        self._next()
        while not self._at("}"):
            if self._kind != "string":
                self._malformed("a key in quotation marks is missing")
            key, line = self._string(self._text), self._line
            self._once(key, seen, path, line)
            self._next()
            if not self._at(":"):
                self._malformed("a colon is missing after a key")
            self._next()
            yield Member(key, self._value(depth + 1, f"{path}{key}:"), line)
            self._separated("}")
        self._next()

    def _items(self, depth: int, path: str) -> Iterator[Node]:
        number = 0
        self._next()
        while not self._at("]"):
            yield self._value(depth + 1, f"{path}{number}:")
            self._separated("]")
            number += 1
        self._next()

    def _at(self, mark: str) -> bool:
        return self._kind == "mark" and self._text == mark

    def _separated(self, end: str) -> None:
        """Step over the comma behind a member, if it is not the last."""
        if self._at(","):
            line = self._line
            self._next()
            if self._at(end):
                self._tolerated(line)
        elif not self._at(end):
            self._malformed(f"a comma or {end} is missing")

    def _once(self, key: str, seen: dict[str, str], path: str, line: int) -> None:
        first = seen.get(key.lower())
        if first is not None:
            code = "key.duplicate" if first == key else "key.duplicate_by_case"
            raise Refusal(
                f"{code}:{first}",
                Place(self._file, f"{path}{first}", line),
                f"{first} is there a second time{'' if first == key else f' as {key}'}; .NET keys ignore case, "
                "so it is one key, and .NET refuses the file",
                "keep one of the two",
            )
        seen[key.lower()] = key

    def _string(self, token: str) -> str:
        try:
            text: str = json.loads(token)
        except ValueError:
            self._malformed("a text has an escape that does not exist")
        if _SURROGATE.search(text):
            self._malformed("a text has half of a character")
        return text

    def _tolerated(self, line: int) -> None:
        if self._told:
            return
        self._told = True
        self._findings.warn(
            "json.comment_or_trailing_comma",
            Place(self._file, line=line),
            "the file has a comment or a comma after the last member; .NET takes it, other readers do not",
            "nothing, if only this product reads the file",
        )

    def _malformed(self, what: str) -> NoReturn:
        raise Refusal(
            "json.malformed",
            Place(self._file, line=self._line),
            f"the file is not JSON: {what}",
            "correct the line, or export the settings again",
        )
