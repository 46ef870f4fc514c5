"""A request's JSON, read as strictly as Graph reads it: what has the wrong type is refused by name."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from worker.emulator.graph_errors import Refused, unreadable


@dataclass(frozen=True, slots=True)
class Fields:
    """An object of JSON; null is the same as nothing.

    Attributes:
        name: of the property that it stands in, for what is said about it.
        loose: the names may be written in any case, as those of an action's parameters.
    """

    found: Mapping[str, Any]
    name: str = ""
    loose: bool = False

    @classmethod
    def of(cls, body: bytes) -> Self:
        """Read a request's body.

        Raises:
            Refused: it is no object of JSON.
        """
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refused(400, "BadRequest", "Unable to read JSON request payload.")
        return cls({name.lower(): value for name, value in found.items()}, loose=True)

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.found)

    def names(self) -> frozenset[str]:
        """Of its properties, without annotations."""
        return frozenset(name for name in self.found if "@" not in name)

    def text(self, name: str) -> str:
        """A string, empty if there is none."""
        return str(self._typed(name, str, ""))

    def number(self, name: str) -> int:
        """A whole number."""
        return int(self._typed(name, int, 0))

    def flag(self, name: str, *, otherwise: bool = False) -> bool:
        """True or false."""
        return bool(self._typed(name, bool, otherwise))

    def inner(self, name: str) -> Fields:
        """An object, empty if there is none."""
        return Fields(self._typed(name, dict, {}), name)

    def several(self, name: str) -> list[Fields]:
        """A list of objects."""
        items = self._typed(name, list, [])
        if not all(isinstance(item, dict) for item in items):
            raise unreadable(f"An item of the property '{name}' is not an object.")
        return [Fields(item, name) for item in items]

    def octets(self, name: str) -> bytes:
        """What stands there in base64."""
        try:
            return base64.b64decode(self.text(name), validate=True)
        except (binascii.Error, ValueError):
            raise unreadable(f"Cannot convert the value of '{name}' to the expected type 'Edm.Binary'.") from None

    def _typed(self, name: str, wanted: type, otherwise: Any) -> Any:
        value = self.found.get(name.lower() if self.loose else name)
        if value is None:
            return otherwise
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise unreadable(f"The property '{name}' has a value of the wrong type.")
        return value
