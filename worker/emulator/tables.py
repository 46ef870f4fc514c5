"""Tables of TOML as the fields of a dataclass: whatever is wrong with one is said by its name and key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from enum import EnumType
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


def tables(tree: Mapping[str, Any], name: str) -> Iterable[Mapping[str, Any]]:
    """All that are called so.

    Raises:
        ValueError: it is written otherwise than [[name]].
    """
    found = tree.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"every {name} is a table [[{name}]] of its own")
    return found


def checked(what: str, entry: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The fields of a dataclass as a table gives them.

    Args:
        what: whose, for the error.
        entry: the table.
        kind: the dataclass.

    Raises:
        ValueError: a key is unknown, missing, or has a value that it cannot have.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{what} must be a table, not {entry!r}")  # noqa: TRY004 - it is a value of the file
    hints = get_type_hints(kind)
    if unknown := entry.keys() - hints.keys():
        raise ValueError(f"{what} has unknown keys {sorted(unknown)}")
    needed = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]
    if missing := [name for name in needed if name not in entry]:
        raise ValueError(f"{what}: {', '.join(missing)} is missing")
    return {key: _value(f"{what}: {key}", value, hints[key]) for key, value in entry.items()}


def _value(what: str, value: Any, kind: Any) -> Any:
    if isinstance(kind, UnionType):  # with None, which TOML cannot say
        kind = get_args(kind)[0]
    choices = list(kind) if isinstance(kind, EnumType) else list(get_args(kind)) if get_origin(kind) is Literal else []
    if choices:
        if value not in choices:
            raise ValueError(f"{what} must be one of {', '.join(choices)}, not {value!r}")
        return kind(value) if isinstance(kind, EnumType) else value
    if get_origin(kind) in {tuple, frozenset}:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"{what} must be a list of texts, not {value!r}")
        return get_origin(kind)(value)
    if not _is(value, kind):
        raise ValueError(f"{what} must be {_WANTED[kind]}, not {value!r}")
    return value


_WANTED = {
    int: "a whole number from 0",
    float: "a number from 0",
    str: "a text",
    bool: "true or false",
    datetime: "a moment with its offset from UTC",
}


def _is(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if kind is datetime:
        return isinstance(value, datetime) and value.tzinfo is not None
    return isinstance(value, int if kind is int else int | float) and value >= 0
