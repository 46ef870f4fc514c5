"""Certificates of app registrations: PEM with key and certificate in one file, or PFX (PKCS #12)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from worker.domain.mailbox import Certificate

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----", re.DOTALL)
"""RFC 7468; what stands around a block, the bag attributes of OpenSSL for example, is nobody's business."""

_SEQUENCE = 0x30  # how DER begins, and with it a PFX


def presented(proof: Certificate) -> dict[str, Any]:
    """What MSAL signs assertions with, for Microsoft's authorities.

    Raises:
        OSError: the file cannot be read.
        ValueError: no certificate with its key is in it, the password does not open it, or the key is not RSA.
    """
    key, found = opened(proof)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("has no RSA key, and Entra takes RSA keys only: make a certificate with one")  # noqa: TRY004
    return {
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "public_certificate": found.public_bytes(Encoding.PEM).decode(),
    }


def read(proof: Certificate) -> x509.Certificate:
    """The certificate, once it is sure that its key can be used.

    Raises:
        OSError, ValueError: as `opened`.
    """
    return opened(proof)[1]


def opened(proof: Certificate) -> tuple[PrivateKeyTypes, x509.Certificate]:
    """The key and the certificate that belongs to it.

    Raises:
        OSError: the file cannot be read.
        ValueError: no certificate with its key is in it, or the password does not open it.
    """
    content = Path(proof.file).read_bytes()
    secret = proof.password.get_secret_value().encode() if proof.password else None
    blocks = [(found[1], found[0]) for found in _BLOCK.finditer(content)]
    key, certificates = _of_pem(blocks, secret) if blocks else _of_pfx(content, secret)
    if not certificates:
        raise ValueError("holds a private key and no certificate")
    mine = next((found for found in certificates if found.public_key() == key.public_key()), None)
    if mine is None:
        raise ValueError("holds a private key and a certificate that do not belong together")
    return key, mine


def expires(proof: Certificate) -> datetime:
    """When the certificate ends.

    Raises:
        OSError, ValueError: as `opened`.
    """
    return read(proof).not_valid_after_utc


def _of_pem(blocks: list[tuple[bytes, bytes]], secret: bytes | None) -> tuple[PrivateKeyTypes, list[x509.Certificate]]:
    keys = [block for label, block in blocks if label.endswith(b"PRIVATE KEY")]
    if not keys:
        raise ValueError("holds a certificate without its private key")
    return _key(keys[0], secret), list(_certificates(blocks))


def _key(block: bytes, secret: bytes | None) -> PrivateKeyTypes:
    encrypted = b"ENCRYPTED" in block
    if encrypted and secret is None:
        raise ValueError("holds an encrypted private key: give certificate_password")
    try:
        return load_pem_private_key(block, secret if encrypted else None)
    except (ValueError, TypeError):
        wrong = "certificate_password does not open it" if encrypted else "it is damaged"
        raise ValueError(f"holds a private key that cannot be read: {wrong}") from None


def _certificates(blocks: list[tuple[bytes, bytes]]) -> Iterator[x509.Certificate]:
    for label, block in blocks:
        if label == b"CERTIFICATE":
            try:
                yield x509.load_pem_x509_certificate(block)
            except ValueError:
                raise ValueError("holds a damaged certificate") from None


def _of_pfx(content: bytes, secret: bytes | None) -> tuple[PrivateKeyTypes, list[x509.Certificate]]:
    if content[:1] != bytes([_SEQUENCE]):
        raise ValueError("is neither a PEM file nor a PFX file")
    try:
        bag = load_pkcs12(content, secret)
    except (ValueError, TypeError):
        raise ValueError(_no_pfx(content, secret)) from None
    if bag.key is None:
        raise ValueError("holds a certificate without its private key")
    return bag.key, [each.certificate for each in (bag.cert, *bag.additional_certs) if each is not None]


def _no_pfx(content: bytes, secret: bytes | None) -> str:
    try:
        x509.load_der_x509_certificate(content)
    except ValueError:
        missing = "give certificate_password" if secret is None else "certificate_password is another one"
        return f"is a PFX file that does not open: {missing}, or it is damaged"
    return "holds a certificate without its private key"
