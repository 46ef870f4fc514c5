"""What an importer finds: where it stands, what is wrong with it, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

_MOST = 100  # findings; a person reads no more, and a hostile file must not make us write a book


class Weight(IntEnum):
    """What follows from a finding for the file it is in."""

    NOTE = 0
    WARNING = 1
    SECRET = 2
    REFUSAL = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands.

    Attributes:
        file: name of the file, without its directory.
        key: key with its section, as the product writes it; empty: the file as a whole.
        line: counted from 1; 0: not known.
    """

    file: str
    key: str = ""
    line: int = 0

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line else ""
        return f"{self.file}{line}: {self.key}" if self.key else f"{self.file}{line}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark. No text of it repeats a secret.

    Attributes:
        code: stable name, `port.not_smtp:993`.
        reason: what is so, and why it matters.
        proposal: what to write or do instead; may be empty for a note.
    """

    code: str
    place: Place
    reason: str
    proposal: str
    weight: Weight


class Refusal(Exception):  # noqa: N818 - it carries a finding, it is no mistake of ours
    """A file that cannot be read any further."""

    def __init__(self, code: str, place: Place, reason: str, proposal: str) -> None:
        super().__init__(code)
        self.finding = Finding(code, place, reason, proposal, Weight.REFUSAL)


class Findings:
    """The remarks of one import, in the order in which they were found."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}

    def note(self, code: str, place: Place, reason: str, proposal: str = "") -> None:
        """Something worth knowing that asks nothing of anybody."""
        self._add(Finding(code, place, reason, proposal, Weight.NOTE))

    def warn(self, code: str, place: Place, reason: str, proposal: str) -> None:
        """Something that the operator must see."""
        self._add(Finding(code, place, reason, proposal, Weight.WARNING))

    def ask(self, code: str, place: Place, reason: str, proposal: str, *, in_effect: bool = True) -> None:
        """A secret that a person must enter; of a mailbox without effect it can wait."""
        self._add(Finding(code, place, reason, proposal, Weight.SECRET if in_effect else Weight.WARNING))

    def refuse(self, code: str, place: Place, reason: str, proposal: str) -> None:
        """Something that keeps the file from being taken over."""
        self._add(Finding(code, place, reason, proposal, Weight.REFUSAL))

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """A refusal inside ends the block and is remembered."""
        try:
            yield
        except Refusal as refusal:
            self._add(refusal.finding)

    @property
    def full(self) -> bool:
        """Whether looking further is of no use to anybody."""
        return len(self._found) >= _MOST

    def all(self) -> tuple[Finding, ...]:
        """Everything found."""
        return tuple(self._found)

    def _add(self, finding: Finding) -> None:
        # A refusal is never the one that is left out: it decides.
        if not self.full or (finding.weight is Weight.REFUSAL and len(self._found) < 2 * _MOST):
            self._found.setdefault(finding)
