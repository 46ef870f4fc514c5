"""XML without what makes XML dangerous: a document type declaration, and with it every entity, is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from worker.importers.finding import Place, Refusal
from worker.importers.source import too_large

_DEEPEST = 64
_MOST = 20_000  # elements


@dataclass(slots=True)
class Element:
    """An element, without namespaces."""

    name: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, name: str) -> Iterator[Element]:
        """Children of this name."""
        return (child for child in self.children if child.name == name)

    def walk(self) -> Iterator[Element]:
        """The element and everything in it, in the order of the document."""
        pending = [self]
        while pending:
            element = pending.pop()
            yield element
            pending.extend(reversed(element.children))


def parse(text: str, file: str) -> Element:
    """Read a document.

    Raises:
        Refusal: malformed, too deep, or with a document type declaration.
    """
    try:
        return _Builder(file).build(text)
    except expat.ExpatError as error:
        raise Refusal(
            "xml.malformed",
            Place(file, line=error.lineno),
            f"the file is not XML: {expat.ErrorString(error.code)}",
            "correct the line, or export the settings again",
        ) from None


class _Builder:
    def __init__(self, file: str) -> None:
        self._file, self._count = file, 0
        self._open = [Element("", {}, 0)]
        # The text has been decoded already, whatever its declaration says.
        self._parser = expat.ParserCreate(encoding="utf-8")
        self._parser.buffer_text = True
        self._parser.ordered_attributes = False
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters

    def build(self, text: str) -> Element:
        self._parser.Parse(text.lstrip().encode(), True)  # noqa: FBT003 - expat's signature
        return self._open[0].children[0]

    def _doctype(self, *_: object) -> None:
        raise Refusal(
            "xml.doctype",
            Place(self._file, line=self._parser.CurrentLineNumber),
            "the file has a document type declaration; settings have none, and entities in it can be an attack",
            "remove the DOCTYPE and the entities",
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        self._count += 1
        if self._count > _MOST:
            raise too_large(self._file, f"the document has more than {_MOST} elements")
        if len(self._open) > _DEEPEST:
            raise Refusal(
                "xml.too_deep",
                Place(self._file, line=line),
                f"the document is nested deeper than {_DEEPEST} levels",
                "give the settings file itself, or only its mail section",
            )
        # Transformation files carry xdt:… attributes, and xmlns is no setting.
        plain = {key: value for key, value in attributes.items() if ":" not in key and key != "xmlns"}
        element = Element(name.rpartition(":")[2], plain, line)
        self._open[-1].children.append(element)
        self._open.append(element)

    def _end(self, _: str) -> None:
        self._open.pop()

    def _characters(self, text: str) -> None:
        self._open[-1].text += text
