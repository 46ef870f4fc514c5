"""Signed assertions of clients (RFC 7523), verified as Entra does it: signature, audience, time, and whose they are."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from worker.emulator.world import AppRegistration, FederatedCredential

_SKEW = 300  # seconds
_FEDERATED_AUDIENCE = "api://AzureADTokenExchange"


@dataclass(frozen=True, slots=True)
class Wrong:
    """Why an assertion is not accepted: a number of AADSTS and its words."""

    aadsts: int
    text: str


@dataclass(frozen=True, slots=True)
class _Assertion:
    head: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes

    def verified_by(self, key: object) -> bool:
        """Whether that key has signed it."""
        if not isinstance(key, rsa.RSAPublicKey):
            return False
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        scheme = {"RS256": padding.PKCS1v15(), "PS256": pss}.get(str(self.head.get("alg")))
        if scheme is None:
            return False
        try:
            key.verify(self.signature, self.signed, scheme, hashes.SHA256())
        except InvalidSignature:
            return False
        return True

    @property
    def in_time(self) -> bool:
        now = time.time()
        return float(self.claims.get("nbf", 0)) - _SKEW <= now <= float(self.claims.get("exp", 0)) + _SKEW


def wrong(text: str, app: AppRegistration, endpoint: str) -> Wrong | None:
    """What is wrong with an assertion; None if it proves that the client is this app."""
    assertion = _parsed(text)
    if assertion is None:
        return Wrong(50027, "JWT token is invalid or malformed.")
    if "x5t" in assertion.head or "x5t#S256" in assertion.head:
        return _certificate(assertion, app, endpoint)
    return _federated(assertion, app.federated)


def _certificate(assertion: _Assertion, app: AppRegistration, endpoint: str) -> Wrong | None:
    certificates = map(x509.load_pem_x509_certificate, map(str.encode, app.certificates))
    known = next((found for found in certificates if _thumbprints(found) & _named(assertion.head)), None)
    if known is None:
        return Wrong(700027, "The certificate with identifier used to sign the client assertion is not registered.")
    claims = assertion.claims
    if not assertion.verified_by(known.public_key()):
        return Wrong(700027, "Client assertion contains an invalid signature.")
    if not assertion.in_time:
        return Wrong(700024, "Client assertion is not within its valid time range.")
    if {claims.get("iss"), claims.get("sub")} != {app.client_id} or claims.get("aud") != endpoint:
        return Wrong(50013, "Assertion failed validation: wrong issuer, subject or audience.")
    return None


def _federated(assertion: _Assertion, trusted: Iterable[FederatedCredential]) -> Wrong | None:
    claims = assertion.claims
    for credential in trusted:
        if (claims.get("iss"), claims.get("sub")) == (credential.issuer, credential.subject):
            if claims.get("aud") != _FEDERATED_AUDIENCE:
                return Wrong(700212, "No matching federated identity record found for presented assertion audience.")
            if not assertion.in_time:
                return Wrong(500133, "Assertion is not within its valid time range.")
            if assertion.verified_by(load_pem_public_key(credential.public_key.encode())):
                return None
            return Wrong(5000224, "The signature of the presented assertion could not be verified.")
    return Wrong(700213, "No matching federated identity record found for presented assertion subject.")


def _parsed(text: str) -> _Assertion | None:
    try:
        head, claims, signature = text.split(".")
        return _Assertion(
            json.loads(_octets(head)), json.loads(_octets(claims)), f"{head}.{claims}".encode(), _octets(signature)
        )
    except (ValueError, binascii.Error):
        return None


def _named(head: dict[str, Any]) -> set[bytes]:
    return {_octets(str(head[name])) for name in ("x5t", "x5t#S256") if name in head}


def _thumbprints(certificate: x509.Certificate) -> set[bytes]:
    der = certificate.public_bytes(Encoding.DER)
    return {hashlib.sha1(der, usedforsecurity=False).digest(), hashlib.sha256(der).digest()}


def _octets(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
