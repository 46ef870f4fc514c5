"""Certificates of app registrations: PEM with key and certificate in one file, or PFX (PKCS #12)."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from worker.domain.mailbox import Certificate

_PEM = b"-----BEGIN"


def presented(proof: Certificate) -> dict[str, Any]:
    """What MSAL signs assertions with.

    Raises:
        OSError: the file cannot be read.
        ValueError: no certificate with its key is in it, or the password does not open it.
    """
    read(proof)
    password = _password(proof)
    if not _is_pem(proof):
        return {"private_key_pfx_path": str(proof.file), **({"passphrase": password} if password else {})}
    text = Path(proof.file).read_text(encoding="ascii")
    return {"private_key": text, "public_certificate": text, **({"passphrase": password} if password else {})}


def read(proof: Certificate) -> x509.Certificate:
    """The certificate, once it is sure that its key can be used.

    Raises:
        OSError, ValueError: as `presented`.
    """
    return opened(proof)[1]


def opened(proof: Certificate) -> tuple[PrivateKeyTypes, x509.Certificate]:
    """The key and the certificate that belongs to it.

    Raises:
        OSError, ValueError: as `presented`.
    """
    content, password = Path(proof.file).read_bytes(), _password(proof)
    secret = password.encode() if password else None
    try:
        if not content.lstrip().startswith(_PEM):
            bag = load_pkcs12(content, secret)
            key, found = bag.key, bag.cert.certificate if bag.cert else None
        else:
            key, found = load_pem_private_key(content, secret), x509.load_pem_x509_certificate(content)
    except (ValueError, TypeError):
        key, found = None, None
    if key is None or found is None or key.public_key() != found.public_key():
        raise ValueError(
            "is neither a PEM file with private key and matching certificate nor a PFX file with both, or "
            "certificate_password does not open it"
        )
    return key, found


def expires(proof: Certificate) -> datetime:
    """When the certificate ends.

    Raises:
        OSError, ValueError: as `presented`.
    """
    return read(proof).not_valid_after_utc


def _is_pem(proof: Certificate) -> bool:
    return Path(proof.file).read_bytes().lstrip().startswith(_PEM)


def _password(proof: Certificate) -> str | None:
    return proof.password.get_secret_value() if proof.password else None
