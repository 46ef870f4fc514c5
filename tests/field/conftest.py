"""Real servers by other people, each started once and only if it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import pytest

from tests.field.dovecot import Dovecot, dovecot
from tests.field.exim import Exim, exim
from tests.field.ground import Missing, home
from tests.field.office import Office, office
from tests.field.oidc import PERSONS, Oidc, client, key_of, oidc, packages
from tests.field.opensmtpd import OpenSmtpd, opensmtpd
from tests.field.postfix import Postfix, postfix
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.emulator.authority import Certificates, make_certificates

Opening = Callable[..., AbstractAsyncContextManager[Office]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("field")


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    """For localhost and its addresses, readable for whomever a server runs as."""
    with home("certificates") as directory:
        made = make_certificates(directory)
        made.key_and_chain.chmod(0o644)
        yield made


@pytest.fixture(scope="session")
def ca_file(certificates: Certificates) -> Path:
    """What mailboxes trust."""
    return certificates.ca_file


@pytest.fixture(scope="module")
def passwords(certificates: Certificates) -> Iterator[Dovecot]:
    """A Dovecot that checks passwords."""
    with _installed(), dovecot(certificates) as server:
        yield server


@pytest.fixture
def mail_server(certificates: Certificates, passwords: Dovecot) -> Iterator[Postfix]:
    """A Postfix with an empty inbox whose logins Dovecot checks."""
    with _installed(), postfix(certificates, smtpd_sasl_path=f"inet:127.0.0.1:{passwords.sasl}") as server:
        yield server


@pytest.fixture
def exim_server(certificates: Certificates) -> Iterator[Exim]:
    """An Exim with an empty inbox."""
    with _installed(), exim(certificates) as server:
        yield server


@pytest.fixture
def openbsd_server() -> Iterator[OpenSmtpd]:
    """An OpenSMTPD with an empty inbox."""
    with _installed(), opensmtpd() as server:
        yield server


@pytest.fixture
def proxy(certificates: Certificates, mail_server: Postfix) -> Iterator[Dovecot]:
    """A Dovecot whose submission service passes mail on to Postfix."""
    with _installed(), dovecot(certificates, relay=mail_server.relay) as server:
        yield server


@pytest.fixture(scope="session")
def node() -> None:
    """Node, with what the tests need of npm."""
    with _installed():
        packages()


@pytest.fixture
def opened(address: BrokerAddress, topology: Topology, tmp_path: Path) -> Opening:
    """Opens an office with the given mailboxes."""

    def opening(mailboxes: str, **settings: str) -> AbstractAsyncContextManager[Office]:
        return office(address, topology, mailboxes, tmp_path, **settings)

    return opening


@pytest.fixture(scope="session")
def keys() -> Iterator[Path]:
    """A directory for certificates of clients."""
    with home("keys") as directory:
        yield directory


@pytest.fixture(scope="module")
def provider(certificates: Certificates, keys: Path) -> Iterator[Oidc]:
    """An OpenID Connect provider with a client for every way in which one can show who it is."""
    clients = [client("header", "client_secret_basic"), client("form", "client_secret_post"), PERSONS]
    clients += [key_of(keys, "rsa"), key_of(keys, "ecdsa")]
    with _installed(), oidc(certificates, *clients) as running:
        yield running


@pytest.fixture(scope="module")
def tokens(certificates: Certificates, provider: Oidc) -> Iterator[Dovecot]:
    """A Dovecot that has every token looked up at the provider, and checks passwords, too."""
    with (
        _installed(),
        dovecot(certificates, mechanisms="plain login xoauth2 oauthbearer", oauth=provider.dovecot) as server,
    ):
        yield server


@pytest.fixture
def token_server(certificates: Certificates, tokens: Dovecot) -> Iterator[Postfix]:
    """A Postfix with an empty inbox where tokens and passwords are good for a login."""
    with _installed(), postfix(certificates, smtpd_sasl_path=f"inet:127.0.0.1:{tokens.sasl}") as server:
        yield server
