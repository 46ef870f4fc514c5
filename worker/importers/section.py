"""One section of an old product's settings: keys, values, and where each of them stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from worker.importers.dotnet_json import Kind, Member, Node, Object, Scalar
from worker.importers.finding import Place


@dataclass(frozen=True, slots=True)
class Setting:
    """A value. It may be a secret: never put it into a text.

    Attributes:
        key: as the file spells it.
        text: blank for null.
    """

    key: str
    text: str = field(repr=False)
    kind: Kind
    place: Place
    from_environment: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Settings of one section by key.

    Attributes:
        place: of the section itself.
        settings: by folded key, unless `exact`.
        exact: keys differ by case (XML).
        joint: what stands between the section's name and a key.
    """

    place: Place
    settings: Mapping[str, Setting]
    exact: bool = False
    joint: str = ":"

    def get(self, key: str) -> Setting | None:
        """The setting if the file has it and it is not null."""
        found = self.settings.get(key if self.exact else key.lower())
        return None if found is None or found.kind is Kind.NULL else found

    def text(self, key: str) -> str:
        """Its text without the blanks around it; blank if it is not there."""
        found = self.get(key)
        return found.text.strip() if found else ""

    def has(self, key: str) -> bool:
        """Whether the key stands in the file, be it empty or null."""
        return (key if self.exact else key.lower()) in self.settings

    def at(self, key: str) -> Place:
        """Where the key stands, or where it would."""
        found = self.settings.get(key if self.exact else key.lower())
        if found is not None:
            return found.place
        name = f"{self.place.key}{self.joint}{key}" if self.place.key else key
        return Place(self.place.file, name, self.place.line)


def of_object(node: Object, file: str, path: str) -> Section:
    """The single values of an object; what is nested stays out."""
    return Section(
        Place(file, path, node.line),
        {member.key.lower(): _setting(member, member.node, file, path) for member in _single(node)},
        joint=".",
    )


def _single(node: Object) -> Iterable[Member]:
    return (member for member in node.members if isinstance(member.node, Scalar))


def _setting(member: Member, node: Node, file: str, path: str) -> Setting:
    scalar = node if isinstance(node, Scalar) else Scalar("", Kind.NULL, member.line)
    key = f"{path}.{member.key}" if path else member.key
    return Setting(member.key, scalar.text, scalar.kind, Place(file, key, member.line))
