"""Settings of a .NET program: JSON files and environment variables, one tree of `Section:Key`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from worker.importers import environment
from worker.importers.dotnet_json import Array, Node, Object, Scalar, parse
from worker.importers.finding import Findings, Place, Refusal
from worker.importers.section import Section, Setting
from worker.importers.source import Form, Source, form_of, text_of

_LOOKED_AT = 1000  # sections among which the nearest name is looked for


class Tree:
    """Settings of all sections, flattened as .NET does: `Section:Key`, later sources override earlier ones."""

    def __init__(self) -> None:
        self._settings: dict[str, Setting] = {}
        self._sections: dict[str, Place] = {}

    def add_json(self, node: Node, file: str) -> None:
        """Take over a document.

        Raises:
            Refusal: it is no object, or has a setting twice by writing its section in two ways.
        """
        if not isinstance(node, Object):
            raise Refusal(
                "json.no_object",
                Place(file, line=node.line),
                "the document is a list or a single value, not settings",
                'settings are an object: { "Section": { … } }',
            )
        added: dict[str, Setting] = {}
        self._flatten(node, "", file, added)
        self._settings.update(added)

    def add_environment(self, variables: Iterable[tuple[str, Scalar]], file: str) -> None:
        """Take over variables; of two with the same name the later one counts."""
        for path, scalar in variables:
            place = Place(file, path, scalar.line)
            self._settings[path.lower()] = Setting(
                path.rpartition(":")[2], scalar.text, scalar.kind, place, from_environment=True
            )
            self._know_sections(path, file, scalar.line)

    def override(self, other: Tree) -> None:
        """Settings of another tree count where both have them."""
        self._settings.update(other._settings)
        self._sections.update(other._sections)

    def section(self, path: str) -> Section | None:
        """The section, if any source has it."""
        folded = path.lower()
        place = self._sections.get(folded)
        if place is None:
            return None
        prefix = f"{folded}:"
        return Section(
            place,
            {key.removeprefix(prefix): value for key, value in self._settings.items() if key.startswith(prefix)},
        )

    def section_missing(self, wanted: str, findings: Findings) -> None:
        """Refuse because a section is not there, and say what comes near it."""
        files = {setting.place.file for setting in self._settings.values()}
        names = [place.key for place in self._sections.values()]
        last = {name.rpartition(":")[2].lower(): name for name in names[:_LOOKED_AT]}
        close = get_close_matches(wanted.rpartition(":")[2].lower(), last, n=1)
        place = self._sections[last[close[0]].lower()] if close else Place(next(iter(sorted(files)), ""))
        findings.refuse(
            f"section.not_found:{wanted}",
            Place(place.file, wanted, place.line),
            f"the section {wanted} is not there" + (f"; {place.key} comes near, but is not read" if close else ""),
            f"write the settings under {wanted}",
        )

    def settings(self) -> Iterable[Setting]:
        """Every setting with its whole path as the key of its place."""
        return self._settings.values()

    def _flatten(self, node: Node, path: str, file: str, added: dict[str, Setting]) -> None:
        match node:
            case Scalar(text=text, kind=kind, line=line):
                if path.lower() in added:
                    first = added[path.lower()]
                    raise Refusal(
                        f"key.duplicate_by_case:{first.key}",
                        first.place,
                        f"{first.place.key} is there a second time; .NET refuses the file",
                        "keep one of the two",
                    )
                added[path.lower()] = Setting(path.rpartition(":")[2], text, kind, Place(file, path, line))
            case Array(items=items, line=line):
                self._sections.setdefault(path.lower(), Place(file, path, line))
                for number, item in enumerate(items):
                    self._flatten(item, f"{path}:{number}", file, added)
            case Object(members=members, line=line):
                if path:
                    self._sections.setdefault(path.lower(), Place(file, path, line))
                for member in members:
                    if ":" in member.key:
                        self._know_sections(f"{path}:{member.key}" if path else member.key, file, member.line)
                    self._flatten(member.node, f"{path}:{member.key}" if path else member.key, file, added)

    def _know_sections(self, path: str, file: str, line: int) -> None:
        while ":" in path:
            path = path.rpartition(":")[0]
            self._sections.setdefault(path.lower(), Place(file, path, line))


@dataclass(frozen=True, slots=True)
class Variables:
    """One file of environment variables."""

    file: str
    found: tuple[tuple[str, Scalar], ...]

    def check_names(self, section: str, known: Sequence[str], findings: Findings) -> None:
        """Refuse a variable that is nearly one of the section: .NET would pass over it in silence."""
        names = {_plain(f"{section}:{key}"): f"{section}:{key}".replace(":", "__") for key in known}
        for path, scalar in self.found:
            if _plain(path) in names and not path.lower().startswith(f"{section.lower()}:"):
                meant = names[_plain(path)].upper()
                place = Place(self.file, path, scalar.line)
                findings.refuse(
                    f"key.unknown:{path[:80]}",
                    place,
                    "the variable is nearly one that .NET reads, and would be passed over in silence",
                    f"did you mean {meant}? Sections are separated by two underscores",
                )


@dataclass(frozen=True, slots=True)
class Documents:
    """What was handed in, each JSON file by itself; what could not be read is among the findings."""

    trees: tuple[tuple[str, Tree], ...]
    variables: tuple[Variables, ...]


def documents(sources: Sequence[Source], findings: Findings) -> Documents:
    """Read every JSON file and every file of variables."""
    trees: list[tuple[str, Tree]] = []
    variables: list[Variables] = []
    for source in sources:
        with findings.gathering():
            text = text_of(source, findings)
            match form_of(text):
                case Form.JSON:
                    tree = Tree()
                    tree.add_json(parse(text, source.name, findings), source.name)
                    trees.append((source.name, tree))
                case Form.LINES:
                    variables.append(Variables(source.name, tuple(environment.parse(text, source.name))))
                case Form.XML:
                    raise Refusal(
                        "format.unexpected",
                        Place(source.name),
                        "the file is XML; these settings are JSON or environment variables",
                        "give appsettings.json",
                    )
    return Documents(tuple(trees), tuple(variables))


def _plain(path: str) -> str:
    return "".join(letter for letter in path.lower() if letter.isalnum())
