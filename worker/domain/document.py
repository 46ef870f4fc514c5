"""A mailbox as a document: what is written about it in the mailboxes file, with its secrets taken out.

Where a secret is kept apart, its key stays behind with the value None: it belongs there, whether it has been given yet
or not. What is read never shows a secret, and what is saved with a blank in its place leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

REFERENCES = ("file:", "env:", "keyvault:")
"""What a secret's value begins with if it is not the secret itself but says where it is."""

SECRETS = ("login.password", "oauth.client_secret", "oauth.certificate_password")
"""The keys that hold secrets."""

_ELSEWHERE = {
    "login.password": ("password_file", "password_env", "password_keyvault"),
    "oauth.client_secret": (
        "client_secret_file",
        "client_secret_env",
        "client_secret_keyvault",
        "certificate_file",
        "federated_token_file",
        "federated_token_file_env",
        "managed_identity",
        "device_login",
    ),
    "oauth.certificate_password": (
        "certificate_password_file",
        "certificate_password_env",
        "certificate_password_keyvault",
    ),
}
_LEADS_TO = {
    "login.password": ("host", "port", "tls", "preset", "cloud"),
    "oauth.client_secret": ("cloud", "oauth.tenant_id", "oauth.authority", "oauth.oidc_issuer"),
    "oauth.certificate_password": (),
}
_WAY = ("host", "port", "tls", "ca_file", "helo", "preset", "cloud", "channels", "login", "oauth", "graph", "pickup")
_REFERENCES = (
    *("login.password_file", "login.password_env", "oauth.client_secret_file", "oauth.client_secret_env"),
    *("oauth.certificate_password_file", "oauth.certificate_password_env"),
    *("login.password_keyvault", "oauth.client_secret_keyvault", "oauth.certificate_password_keyvault"),
    *("oauth.certificate_file", "oauth.federated_token_file", "oauth.federated_token_file_env"),
)


@dataclass(frozen=True, slots=True)
class Parted:
    """A document and the secrets that were in it.

    Attributes:
        document: without any.
        given: key → secret.
    """

    document: dict[str, Any]
    given: Mapping[str, str] = field(repr=False)


def parted(document: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> Parted:
    """Take the secrets out of a document.

    A value `file:PATH`, `env:NAME` or `keyvault:ADDRESS` is a reference and becomes the key `…_file`, `…_env` or
    `…_keyvault`. A blank, or what a reader
    was shown in its place, stands for the secret that is there.

    Args:
        document: as somebody wrote it.
        before: as it was kept until now; secrets that the new one does not mention stay.

    Raises:
        ValueError: a secret is no text. It is not repeated.
    """
    whole = {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in deepcopy(dict(document)).items()
    }
    given: dict[str, str] = {}
    for place in SECRETS:
        table_name, key = place.split(".")
        table = whole.get(table_name)
        if isinstance(table, dict) and (secret := _taken(table, place, key, _kept(before, table_name, key))):
            given[place] = secret
    return Parted(whole, given)


def _taken(table: dict[str, Any], place: str, key: str, kept: bool) -> str | None:  # noqa: FBT001 - a private three-liner's
    elsewhere = any(table.get(other) is not None for other in _ELSEWHERE[place])
    mentioned, value = key in table, table.pop(key, None)
    match value:
        case str() if value.startswith(REFERENCES):
            kind, _, rest = value.partition(":")
            table[f"{key}_{kind}"] = rest
        case str() if value:
            table[key] = None
            return value
        case None | "" | {"set": _}:
            belongs = mentioned or kept or place == "login.password"
            if belongs and not elsewhere and (place != "oauth.certificate_password" or "certificate_file" in table):
                table[key] = None
        case _:
            raise ValueError(f"{place}: must be text")
    return None


def _kept(before: Mapping[str, Any] | None, table: str, key: str) -> bool:
    found = (before or {}).get(table)
    return isinstance(found, Mapping) and key in found and found[key] is None


def wanted(document: Mapping[str, Any]) -> frozenset[str]:
    """The secrets that the document wants to be kept apart."""
    return frozenset(place for place in SECRETS if _kept(document, *place.split(".")))


def whole(document: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """The document with its secrets in place."""
    made = deepcopy(dict(document))
    for place, secret in secrets.items():
        table, key = place.split(".")
        made[table][key] = secret
    return made


def masked(document: Mapping[str, Any], there: Collection[str]) -> dict[str, Any]:
    """What may be shown: of a secret only whether it is set.

    Args:
        document: may hold secrets, as the mailboxes file does.
        there: secrets that are kept apart.
    """
    shown = deepcopy(dict(document))
    for place in SECRETS:
        table_name, key = place.split(".")
        table = shown.get(table_name)
        if isinstance(table, dict) and key in table:
            table[key] = {"set": place in there or bool(table[key])}
    return shown


STORE_ONLY = ("default", "required")
"""Keys that only a mailbox in the store has: it is the platform's default; what must be there before it is used."""


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document as the mailboxes file would have it; a draft's login is its address if nothing else is."""
    made = {key: value for key, value in document.items() if key not in STORE_ONLY}
    if "required" in document and not made.get("address") and "@" in str(_at(made, "login.username") or ""):
        made["address"] = _at(made, "login.username")
    return made


def lacking(document: Mapping[str, Any], there: Collection[str]) -> tuple[str, ...]:
    """What a draft lacks before it is used; a mailbox that is none lacks nothing.

    Args:
        document: as it is kept.
        there: secrets that are kept for it.
    """
    if "required" not in document:
        return ()
    made = plain(document)
    ways = [key for key in ("host", "preset", "graph", "pickup") if made.get(key)]
    needed = [*_listed(document["required"]), *(() if ways else ("host",)), "address"]
    needed += ["login.username"] if "login" in made else []
    absent = [key for key in needed if key not in SECRETS and _at(made, key) in (None, "")]
    secrets = [place for place in SECRETS if place in {*needed, *wanted(document)} and place not in there]
    elsewhere = {place for place in secrets if any(_at(made, f"{place.split('.')[0]}.{o}") for o in _ELSEWHERE[place])}
    return tuple(dict.fromkeys([*absent, *(place for place in secrets if place not in elsewhere)]))


def supposed(document: Mapping[str, Any], lacks: Collection[str]) -> dict[str, Any]:
    """The draft as if it were complete, to be checked."""
    made = deepcopy(dict(document))
    for key in lacks:
        *above, last = key.split(".")
        table = made
        for step in above:
            table = table.setdefault(step, {})
        table[last] = _SUPPOSED.get(key, table.get(last))
        if table[last] is None:
            del table[last]
    return made


_SUPPOSED = {"address": "nobody@invalid.invalid", "host": "nowhere.invalid", "login.username": "nobody"}


def _listed(value: Any) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list | tuple) else ()


def merged(document: Any, patch: Any) -> Any:
    """A merge patch (RFC 7396): null takes a key away, tables are merged, everything else is replaced."""
    if not isinstance(patch, Mapping):
        return patch
    made = dict(document) if isinstance(document, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = merged(made.get(name), value)
    return made


def led_astray(before: Mapping[str, Any], after: Parted, lacks: Collection[str] = ()) -> tuple[str, ...]:
    """Secrets that would be kept and from now on be shown to another server than the one they were given for.

    Args:
        before: as it was kept.
        after: as it would be.
        lacks: what it lacked as a draft, which was never used: where nothing was said, something may be added.
    """
    staying = wanted(before) & wanted(after.document) - after.given.keys()

    def moved(key: str) -> bool:
        return _at(before, key) != _at(after.document, key) and not (lacks and _at(before, key) is None)

    return tuple(place for place in SECRETS if place in staying and any(moved(key) for key in _LEADS_TO[place]))


def new_references(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys that newly name a file or a variable of the workers as the source of a secret."""
    return tuple(key for key in _REFERENCES if _at(after, key) not in (None, _at(before or {}, key)))


def reconnects(before: Mapping[str, Any] | None, after: Parted) -> bool:
    """Whether the way to its server or the login there is another one than before."""
    return bool(after.given) or any((before or {}).get(key) != after.document.get(key) for key in _WAY)


def _at(document: Mapping[str, Any], key: str) -> Any:
    found: Any = document
    for step in key.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found
