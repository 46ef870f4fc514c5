"""A tenant's own mail server by known keys, for portals whose tenants fill in a form of settings.

The keys become one mailbox in the store, named like the tenant. It is a draft: as long as one of the required keys is
missing the tenant's mail goes as if it had no server, and with the last one all of its mail takes the own server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from contracts.address import parse
from worker.administration import Administration, Invalid, NotThere, Shown, Taken
from worker.domain.document import REFERENCES

_HIGHEST_PORT = 65535
_SMTPS = 465


class Kind(StrEnum):
    """What a value of a key is."""

    TEXT = "Text"
    NUMBER = "Number"
    PASSWORD = "Password"  # noqa: S105 - the name of a type
    EMAIL = "Email"


@dataclass(frozen=True, slots=True)
class Known:
    """A key that a tenant may set.

    Attributes:
        place: key of the mailbox that it becomes.
    """

    key: str
    kind: Kind
    required: bool
    meaning: str
    place: str


KEYS: Mapping[str, Known] = {
    known.key: known
    for known in (
        Known("SMTP.Server", Kind.TEXT, True, "host name or address of the mail server", "host"),  # noqa: FBT003
        Known("SMTP.Port", Kind.NUMBER, True, "usually 587 (STARTTLS, required); 465: TLS at once", "port"),  # noqa: FBT003
        Known("SMTP.Username", Kind.TEXT, True, "login", "login.username"),  # noqa: FBT003
        Known("SMTP.Password", Kind.PASSWORD, True, "write-only; saved blank it stays", "login.password"),  # noqa: FBT003
        Known("SMTP.SenderName", Kind.TEXT, False, "name beside the sender's address", "display_name"),  # noqa: FBT003
        Known("SMTP.SenderAddress", Kind.EMAIL, False, "left out: the user name if it is an address", "address"),  # noqa: FBT003
    )
}
REQUIRED = tuple(known.place for known in KEYS.values() if known.required)
_KEY_OF = {known.place: known.key for known in KEYS.values()}


@dataclass(frozen=True, slots=True)
class TenantServer:
    """What a tenant has set, as it may be shown.

    Attributes:
        state: `default` (nothing is set), `incomplete`, or the mailbox's.
        missing: required keys that are not set.
        values: by key; of a password only `{"set": true}`.
    """

    tenant: str
    state: str
    explanation: str
    missing: tuple[str, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    revision: int | None = None


class TenantSettings:
    """What portals do to the settings of tenants."""

    def __init__(self, mailboxes: Administration) -> None:
        """Nothing is read yet."""
        self._mailboxes = mailboxes

    async def of(self, tenant: str) -> TenantServer:
        """What a tenant has set.

        Raises:
            NotThere: the tenant is not known.
            Taken: its mailbox was not made of these keys.
            StoreDown: the store is out of reach; so from all that follow.
        """
        shown = await self._server(tenant)
        return _told(tenant.lower(), shown)

    async def change(
        self, tenant: str, values: Mapping[str, Any], actor: str, expected: int | None = None
    ) -> TenantServer:
        """Set some keys; the others stay, and so does a password that is given blank.

        Raises:
            Invalid: a key is not known, a value is none. The text has a line for each mistake.
            Changed: its revision is not as expected (None: any will do).
            NotThere, Taken: as above.
        """
        if problems := list(filter(None, (_problem(key, value) for key, value in values.items()))):
            raise Invalid("\n".join(problems))
        shown, name = await self._server(tenant), tenant.lower()
        patch = _patch({key: value for key, value in values.items() if value != "" and value is not None})
        before = shown.settings if shown else {"tenants": [name], "required": list(REQUIRED)}
        _address_needed(before, patch, shown)
        try:
            if shown is None:
                await self._mailboxes.add(name, _merged(before, patch), actor, references=False)
            else:
                await self._mailboxes.change(name, patch, actor, expected, references=False)
        except Invalid as refused:
            raise Invalid(_in_keys(str(refused))) from None
        return await self.of(tenant)

    async def forget(self, tenant: str, key: str, actor: str) -> TenantServer:
        """Delete a value. Without a required one the tenant's mail goes as if it had no server.

        Raises:
            NotThere: the key is not set.
            Invalid: the key is not known; or the server goes and its password would stay.
            Taken: as above.
        """
        known, shown = _known(key), await self._server(tenant)
        if shown is None or key not in _told(tenant, shown).values:
            raise NotThere(f"{key} of tenant {tenant!r} is not set.")
        name = shown.name
        try:
            if known.kind is Kind.PASSWORD:
                await self._mailboxes.forget(name, known.place, actor)
            else:
                await self._mailboxes.change(name, _merged({}, _at(known.place, None)), actor)
        except Invalid as refused:
            raise Invalid(_in_keys(str(refused))) from None
        return await self.of(tenant)

    async def _server(self, tenant: str) -> Shown | None:
        name = tenant.lower()
        if not (await self._mailboxes.directory()).knows(name):
            raise NotThere(f"Tenant {tenant!r} is not known here.")
        try:
            shown = await self._mailboxes.one(name)
        except NotThere:
            return None
        if shown.managed or list(shown.settings.get("required", ())) != list(REQUIRED):
            raise Taken(f"Mailbox {name!r} was not made of tenant settings: see postlane mailbox show {name}")
        return shown


def _known(key: str) -> Known:
    if key not in KEYS:
        raise Invalid(f"{key}: is not a known key; there are {', '.join(KEYS)}")
    return KEYS[key]


def _problem(key: str, value: Any) -> str | None:
    """What is wrong with a value; it is never repeated, it may be a password."""
    try:
        known = _known(key)
    except Invalid as unknown:
        return str(unknown)
    blank = value is None or (isinstance(value, str) and not value.strip())
    match known.kind:
        case Kind.PASSWORD:
            fits = value is None or (isinstance(value, str) and not value.startswith(REFERENCES))
        case _ if blank:
            return f"{key}: is blank; deleting a value is an action of its own"
        case Kind.NUMBER:
            fits = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _HIGHEST_PORT
        case Kind.TEXT:
            fits = isinstance(value, str)
        case Kind.EMAIL:
            fits = isinstance(value, str) and _is_address(value)
    return None if fits else f"{key}: must be {_MUST[known.kind]}"


_MUST = {
    Kind.TEXT: "text",
    Kind.PASSWORD: "the password itself, as text",
    Kind.NUMBER: f"a number from 1 to {_HIGHEST_PORT}, not text",
    Kind.EMAIL: "an e-mail address",
}


def _is_address(text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _patch(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as keys of a mailbox; the port decides on encryption."""
    patch: dict[str, Any] = {}
    for key, value in values.items():
        patch = _merged(patch, _at(KEYS[key].place, value))
    if "port" in patch:
        patch["tls"] = "implicit" if patch["port"] == _SMTPS else "starttls"
    return patch


def _address_needed(before: Mapping[str, Any], patch: Mapping[str, Any], shown: Shown | None) -> None:
    """With the last required key somebody must be the sender."""
    after = _merged(before, patch)
    login = after.get("login", {})
    gaps = set(shown.missing if shown else REQUIRED) - {place for place in REQUIRED if _found(patch, place)}
    if not gaps - {"address"} and not after.get("address") and "@" not in str(login.get("username", "")):
        raise Invalid("SMTP.SenderAddress: SMTP.Username is no address that could be the sender; set it too")


def _told(tenant: str, shown: Shown | None) -> TenantServer:
    if shown is None:
        words = "Nothing is set: the tenant's mail goes as that of a tenant without a server."
        return TenantServer(tenant, "default", words, tuple(key for key, known in KEYS.items() if known.required))
    values = {known.key: value for known in KEYS.values() if (value := _found(shown.settings, known.place)) is not None}
    values = {key: value for key, value in values.items() if value != {"set": False}}
    missing = tuple(_KEY_OF.get(place, place) for place in shown.missing)
    words = f"incomplete: {', '.join(missing)}" if missing else shown.explanation
    return TenantServer(tenant, shown.state, words, missing, values, shown.revision)


def _in_keys(text: str) -> str:
    """Mistakes by the keys that the tenant knows."""
    lines = [line.partition(": ") for line in text.splitlines()]
    return "\n".join(f"{_KEY_OF.get(place, place)}{mark}{words}" for place, mark, words in lines)


def _at(place: str, value: Any) -> dict[str, Any]:
    table, _, last = place.rpartition(".")
    return {table: {last: value}} if table else {last: value}


def _found(document: Mapping[str, Any], place: str) -> Any:
    table, _, last = place.rpartition(".")
    inner = document.get(table) if table else document
    return inner.get(last) if isinstance(inner, Mapping) else None


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(one)
    for key, value in other.items():
        made[key] = {**made.get(key, {}), **value} if isinstance(value, Mapping) else value
    return made
