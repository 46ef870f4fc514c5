"""rules.toml: what is sent to whom on which event, with every mistake named by its place in the file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from contracts.model import PartName, TenantName
from contracts.notification import MASS, Address, Priority
from contracts.recipients import split
from worker.domain.wording import Rule

FILE = "rules.toml"
_MOST = 100  # recipients of a rule; more are a distribution list's work
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_People = Annotated[tuple[Address, ...], Field(max_length=_MOST)]


class RulesError(Exception):
    """The file is wrong. A line for each mistake."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Rule(_Table):
    event: Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z][A-Za-z0-9._-]{0,99})$")]
    tenants: tuple[TenantName, ...] = ()
    sites: tuple[PartName, ...] = ()
    components: tuple[PartName, ...] = ()
    template: _Name | None = None
    locale: str | None = None
    mailbox: _Name | None = None
    category: Annotated[str | None, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")] = None
    priority: Priority | None = None
    sender: Annotated[Address | None, Field(alias="from")] = None
    reply_to: _People = ()
    to: _People = ()
    cc: _People = ()
    bcc: _People = ()
    data: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("to", "cc", "bcc", "reply_to", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return split(value) if isinstance(value, str) else value

    @field_validator("category")
    @classmethod
    def _not_mass(cls, value: str | None) -> str | None:
        if value == MASS:
            raise ValueError("a rule cannot make it mass mail: one to a person is what the producer must want")
        return value

    @model_validator(mode="after")
    def _of_use(self) -> _Rule:
        if self.model_fields_set <= {"event", "tenants", "sites", "components"}:
            raise ValueError("says nothing: give at least a template")
        return self


class _File(_Table):
    locales: tuple[str, ...] = ()
    rules: tuple[_Rule, ...] = ()


class Rules:
    """The file as it is now."""

    def __init__(self, directory: Path) -> None:
        """Nothing is read yet."""
        self._path = directory / FILE
        self._signature: tuple[int, int, int] | None = None
        self._file = _File()

    def current(self) -> tuple[Rule, ...]:
        """All rules, in their order; none if there is no file.

        Raises:
            RulesError: it is wrong.
            OSError: it cannot be read.
        """
        self._refresh()
        return tuple(_rule(table) for table in self._file.rules)

    def locales(self) -> tuple[str, ...]:
        """The order in which locales are the first; errors as in `current`."""
        self._refresh()
        return self._file.locales

    def _refresh(self) -> None:
        try:
            state = self._path.stat()
        except FileNotFoundError:
            self._signature, self._file = None, _File()
            return
        signature = (state.st_mtime_ns, state.st_size, state.st_ino)
        if signature != self._signature:
            self._file = _read(self._path)
            self._signature = signature


def _read(path: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RulesError(f"{FILE} is not TOML: {error}") from error
    except ValidationError as error:
        raise RulesError("\n".join(f"{FILE}: {line}" for line in _problems(error))) from error


def _rule(table: _Rule) -> Rule:
    fields = {name: getattr(table, name) for name in _Rule.model_fields}
    lower = {name: tuple(map(str.lower, fields[name])) for name in ("tenants", "sites", "components")}
    return Rule(**{**fields, **lower})


def _problems(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(step + 1) if isinstance(step, int) else step for step in item["loc"])
        message = {"extra_forbidden": "is not a known key", "missing": "is missing"}.get(item["type"], item["msg"])
        yield f"{place}: {message.removeprefix('Value error, ')}"
