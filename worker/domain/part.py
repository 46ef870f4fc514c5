"""Parts of the mailboxes file that can be kept beside it: what they are called, and where in the file they belong.

`platform`, `tenants/contoso`, `tenants/contoso/sites/shop`, `tenants/contoso/components/agent`, `producers/web` and
`mailboxes/relay`: what is kept of such a mailbox are the keys that the file has made editable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PLATFORM, TENANTS, PRODUCERS, MAILBOXES = "platform", "tenants", "producers", "mailboxes"
_BELOW = ("sites", "components")
_FORMS = "platform, tenants/NAME, tenants/NAME/sites/SITE, tenants/NAME/components/COMPONENT or producers/LOGIN"
_FURTHER = 3  # steps from a tenant to one of its parts


@dataclass(frozen=True, slots=True)
class Part:
    """One of them, by the steps that lead to it."""

    steps: tuple[str, ...]

    def __str__(self) -> str:
        return "/".join(self.steps)

    @property
    def kind(self) -> str:
        """The first step."""
        return self.steps[0]

    @property
    def tenant(self) -> Part | None:
        """Whose part it is, if it is a site or a component."""
        return Part(self.steps[:2]) if self.kind == TENANTS and len(self.steps) > _FURTHER else None

    @property
    def restrains(self) -> bool:
        """Whether it is a scope, whose mail can be stopped."""
        return self.kind in (PLATFORM, TENANTS)


def named(text: str) -> Part:
    """The part of this name; tenants, sites and components in lower case, as they are compared.

    Raises:
        ValueError: it is no name of one.
    """
    match text.split("/"):
        case ["platform"]:
            return Part((PLATFORM,))
        case ["tenants", tenant] if tenant:
            return Part((TENANTS, tenant.lower()))
        case ["tenants", tenant, below, name] if tenant and name and below in _BELOW:
            return Part((TENANTS, tenant.lower(), below, name.lower()))
        case ["producers", *login] if login != [""] and login:
            return Part((PRODUCERS, "/".join(login)))
        case _:
            raise ValueError(f"{text!r} is no scope; write {_FORMS}")


def mailbox(name: str) -> Part:
    """The editable keys of the file's mailbox of this name."""
    return Part((MAILBOXES, name))


def found(tree: Mapping[str, Any], part: Part) -> Mapping[str, Any] | None:
    """What the file says about it alone, whatever the capital letters; None: nothing."""
    if part.kind == PRODUCERS:
        listed = tree.get(PRODUCERS, ())
        return next(({**each, "user": each["user"]} for each in listed if each.get("user") == part.steps[1]), None)
    table: Any = tree
    for step in part.steps:
        name = _spelt(table, step) if isinstance(table, Mapping) else None
        if name is None:
            return None
        table = table[name]
    return {key: value for key, value in table.items() if key not in _BELOW} if part.kind == TENANTS else table


def within(tree: Mapping[str, Any], part: Part, document: Mapping[str, Any]) -> dict[str, Any]:
    """The file with this part added; what the file says about it stays but for the keys that the document has."""
    if part.kind == PRODUCERS:
        others = [each for each in tree.get(PRODUCERS, ()) if each.get("user") != part.steps[1]]
        return {**tree, PRODUCERS: [*others, {**document, "user": part.steps[1]}]}
    return _placed(tree, part.steps, document)


def listed(tree: Mapping[str, Any]) -> tuple[Part, ...]:
    """Every scope and producer that the file says something about."""
    parts = [Part((PLATFORM,))] if PLATFORM in tree else []
    for tenant, table in tree.get(TENANTS, {}).items():
        whole = (TENANTS, tenant.lower())
        below = [Part((*whole, kind, name.lower())) for kind in _BELOW for name in table.get(kind, ())]
        parts += [Part(whole), *below]
    return (*parts, *(Part((PRODUCERS, each["user"])) for each in tree.get(PRODUCERS, ())))


def _placed(table: Mapping[str, Any], steps: tuple[str, ...], document: Mapping[str, Any]) -> dict[str, Any]:
    if not steps:
        return {**table, **document}
    name = _spelt(table, steps[0]) or steps[0]
    return {**table, name: _placed(table.get(name, {}), steps[1:], document)}


def _spelt(table: Mapping[str, Any], name: str) -> str | None:
    return next((each for each in table if each.lower() == name.lower()), None)
