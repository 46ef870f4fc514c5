"""What only the person who imports can know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

IIS = "iis"


@dataclass(frozen=True, slots=True)
class Wishes:
    """Answers to the questions that old settings leave open.

    Attributes:
        paths: directory there → directory here; the key `iis` stands for the pickup directory that only IIS knows.
        prefix: begins the mailboxes' names; empty: the product's name.
        component: which program of the product the file belongs to, where its name does not say so.
    """

    paths: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    component: str = ""

    def mapped(self, path: str) -> str | None:
        """The directory here for a directory there; the longest mapped beginning counts."""
        wanted = _folded(path)
        for old in sorted(self.paths, key=len, reverse=True):
            start = _folded(old)
            if wanted == start or wanted.startswith(f"{start}/"):
                rest = path.replace("\\", "/").rstrip("/")[len(start) :]
                return self.paths[old].rstrip("/") + rest
        return None


def _folded(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").lower()
