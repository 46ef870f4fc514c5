"""A certificate authority that is made for one directory and trusted by nobody but those who are given its file."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificates:
    """Where the files lie.

    Attributes:
        ca_file: what clients are to trust.
        key_and_chain: the servers' own, one file with both.
    """

    ca_file: Path
    key_and_chain: Path

    def server_context(self) -> ssl.SSLContext:
        """For a server's side of TLS."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.key_and_chain)
        return context


def make_certificates(directory: Path, *names: str) -> Certificates:
    """Make a certificate for the given host names and addresses, by the authority of the directory.

    The authority stays from run to run, so that it can be handed out once; it is made if there is none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = Certificates(directory / "ca.pem", directory / "server.pem")
    certificate = _authority(made.ca_file, directory / "ca-key.pem").issue_cert("localhost", "127.0.0.1", "::1", *names)
    _keep(made.key_and_chain, certificate.private_key_and_cert_chain_pem)
    return made


def _authority(certificate: Path, key: Path) -> trustme.CA:
    if certificate.exists() and key.exists():
        return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
    authority = trustme.CA(organization_name="Postlane emulator")
    authority.cert_pem.write_to_path(certificate)
    _keep(key, authority.private_key_pem)
    return authority


def _keep(path: Path, secret: trustme.Blob) -> None:
    path.touch(mode=0o600)
    secret.write_to_path(path)
