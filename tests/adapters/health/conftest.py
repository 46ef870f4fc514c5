"""A throw-away certificate authority, and what a good server shows."""

import ssl

import pytest

from worker.emulator.authority import Certificates, make_certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """For localhost and its addresses."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server_tls(certificates: Certificates) -> ssl.SSLContext:
    """What a good server shows."""
    return certificates.server_context()


@pytest.fixture
def ca_file(certificates: Certificates) -> str:
    """What the mailbox trusts."""
    return str(certificates.ca_file)
