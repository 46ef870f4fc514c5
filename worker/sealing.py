"""Secrets at rest: AES-256-GCM (NIST SP 800-38D) under keys that can be replaced.

Each sealed text is bound to the place where it lies: moved elsewhere it cannot be opened, so that nobody who can write
to a database passes one mailbox's secret off as another's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from worker.unusable import Unusable

_KEY_OCTETS = 32
NONCE_OCTETS = 12


class KeyUnusable(Unusable):
    """What is configured is no key. The text says how to make one, and nothing of what is configured."""


class CannotOpen(Exception):  # noqa: N818 - what happened
    """Its key is not at hand, or it was damaged or moved."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed text."""

    key_id: str
    nonce: bytes
    ciphertext: bytes = field(repr=False)


class Keyring:
    """The first key seals, all of them open."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        """Keep the keys, of 32 octets each, the newest first; without any nothing can be sealed."""
        self._keys = {_key_id(key): key for key in keys}

    @property
    def newest(self) -> str | None:
        """Id of the key that seals."""
        return next(iter(self._keys), None)

    def knows(self, key_id: str) -> bool:
        """Whether what this key has sealed can be opened."""
        return key_id in self._keys

    def seal(self, clear: str, place: bytes) -> Sealed:
        """Seal a text for its place.

        Raises:
            LookupError: there is no key.
        """
        if self.newest is None:
            raise LookupError("no key")
        nonce = secrets.token_bytes(NONCE_OCTETS)
        return Sealed(self.newest, nonce, AESGCM(self._keys[self.newest]).encrypt(nonce, clear.encode(), place))

    def open(self, sealed: Sealed, place: bytes) -> str:
        """Open what was sealed for this place.

        Raises:
            CannotOpen: with any key that is at hand.
        """
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise CannotOpen(f"key {sealed.key_id} is not at hand")
        try:
            return AESGCM(key).decrypt(sealed.nonce, sealed.ciphertext, place).decode()
        except (InvalidTag, ValueError):
            raise CannotOpen("it was damaged or moved") from None


def keys(given: SecretStr | None, setting: str, remedy: str) -> list[bytes]:
    """Read keys as they are configured: base64 of 32 octets each, the newest first, spaces or commas between.

    Args:
        given: the setting's value.
        setting: its name, for the error.
        remedy: the command that makes a key.

    Raises:
        KeyUnusable: one is not that.
    """
    found = []
    for text in filter(None, re.split(r"[\s,]+", given.get_secret_value()) if given else ()):
        try:
            key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != _KEY_OCTETS:
            raise KeyUnusable(f"{setting} must be 32 random octets in base64; `{remedy}` makes one.")
        found.append(key)
    return found


def new_key() -> str:
    """A key as it is configured."""
    return base64.b64encode(secrets.token_bytes(_KEY_OCTETS)).decode()


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"postlane key id" + key).hexdigest()[:8]
