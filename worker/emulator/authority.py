"""A certificate authority that is made for one run and trusted by nobody but those who are given its file."""

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
    """Make an authority and one certificate for the given host names and addresses."""
    directory.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA(organization_name="Postlane emulator")
    made = Certificates(directory / "ca.pem", directory / "server.pem")
    authority.cert_pem.write_to_path(made.ca_file)
    certificate = authority.issue_cert("localhost", "127.0.0.1", "::1", *names)
    made.key_and_chain.touch(mode=0o600)
    certificate.private_key_and_cert_chain_pem.write_to_path(made.key_and_chain)
    return made
