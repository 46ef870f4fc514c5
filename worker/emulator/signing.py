"""The key that the emulated Entra signs with, made once for the process, and its public half for those who verify."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

_KEY_ID = "emulator"


def signed(claims: Mapping[str, Any]) -> str:
    """A JSON Web Token (RFC 7519) by RS256."""
    what = ".".join(map(part, ({"alg": "RS256", "typ": "JWT", "kid": _KEY_ID}, claims)))
    return f"{what}.{_text(_key().sign(what.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def public_keys() -> dict[str, object]:
    """The keys in the form of RFC 7517."""
    numbers = _key().public_key().public_numbers()
    key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": _KEY_ID, "n": _number(numbers.n), "e": _number(numbers.e)}
    return {"keys": [key]}


def part(claims: Mapping[str, Any]) -> str:
    """JSON in base64url, as one part of a token."""
    return _text(json.dumps(claims).encode())


@cache
def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _number(value: int) -> str:
    return _text(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _text(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
