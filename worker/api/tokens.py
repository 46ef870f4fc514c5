"""Who may use the API: a TOML file of bearer tokens, of which it holds only hashes.

```toml
[tokens.portal]
sha256 = "…"
roles = ["mail.settings.read", "mail.settings.manage"]
```
A token is 256 random bits, so a plain hash is as good as a slow one.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from worker.unusable import Unusable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Role(StrEnum):
    """What a token is good for. None includes another."""

    READ = "mail.settings.read"
    MANAGE = "mail.settings.manage"
    DOUBTS = "mail.doubts.resolve"
    AUDIT = "mail.audit.read"


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who holds a token."""

    name: str
    roles: frozenset[Role]


class TokensFile:
    """Read again whenever it was changed: a token that was taken out is good for nothing at once."""

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            Unusable: it cannot be read or is wrong.
        """
        self._path = path
        self._stamp = _stamp(path)
        self._bearers = _read(path)

    def bearer(self, token: str) -> Bearer | None:
        """Whose token it is. A file that was changed and is wrong lets nobody in."""
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._bearers = {}
            self._bearers = _read(self._path)
            self._stamp = stamp
        return self._bearers.get(_hashed(token))


def added(path: Path, name: str, roles: frozenset[Role]) -> str:
    """Put a new token into the file, which is made if there is none.

    Returns:
        The token. It is kept nowhere.

    Raises:
        Unusable: there is one of this name, or the file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise Unusable(f"{name!r} is no name: letters, digits, - and _.")
    try:
        if path.exists() and any(bearer.name == name for bearer in _read(path).values()):
            raise Unusable(f"{path} has a token {name!r} already: take it out first, or choose another name.")
        token = f"postlane_{secrets.token_urlsafe(32)}"
        listed = ", ".join(f'"{role}"' for role in sorted(roles))
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with open(aside, "x", encoding="utf-8", opener=lambda file, flags: os.open(file, flags, 0o600)) as file:
            file.write(f'{before}\n[tokens.{name}]\nsha256 = "{_hashed(token)}"\nroles = [{listed}]\n')
        if before:
            aside.chmod(path.stat().st_mode & 0o777)
        aside.replace(path)
    except OSError as error:
        raise Unusable(f"{path} cannot be written: {error.strerror}.") from error
    return token


def _read(path: Path) -> Mapping[str, Bearer]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unusable(f"POSTLANE_API__TOKENS_FILE: {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Unusable(f"POSTLANE_API__TOKENS_FILE: {path} is not TOML: {error}") from None
    found: dict[str, Bearer] = {}
    for name, table in tree.get("tokens", {}).items():
        found[_hash_of(path, name, table)] = Bearer(name, _roles_of(path, name, table))
    return found


def _hash_of(path: Path, name: str, table: Any) -> str:
    given = table.get("sha256") if isinstance(table, dict) else None
    if not isinstance(given, str) or not re.fullmatch(r"[0-9a-f]{64}", given):
        raise Unusable(f"{path}: tokens.{name}.sha256 must be 64 hexadecimal digits; `postlane api token` writes them.")
    return given


def _roles_of(path: Path, name: str, table: Mapping[str, Any]) -> frozenset[Role]:
    given = table.get("roles")
    if not isinstance(given, list) or not all(role in set(Role) for role in given):
        raise Unusable(f"{path}: tokens.{name}.roles must be a list of {', '.join(Role)}.")
    return frozenset(map(Role, given))


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
