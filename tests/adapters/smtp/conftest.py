"""A throw-away certificate authority, and contexts for servers that behave and for servers that do not."""

import ssl
from pathlib import Path

import pytest
import trustme

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


@pytest.fixture
def other_authority(tmp_path: Path) -> trustme.CA:
    """One that nobody trusts."""
    return trustme.CA(organization_name="Somebody else")
