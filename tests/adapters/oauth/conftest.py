"""A certificate authority, a token authority under it, and clients of it."""

import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr

from tests.adapters.oauth.authority import Authority, issuing, let_go
from tests.fakes import Events
from worker.domain.mailbox import OAuth, Secret
from worker.oauth.tokens import MsalTokens
from worker.oauth.vault import Vault

SECRET = "s3cret-of-the-app"


@pytest.fixture
async def authority(server_tls: ssl.SSLContext) -> AsyncIterator[Authority]:
    """An OpenID Connect issuer that is obedient until told otherwise."""
    async with issuing(server_tls) as running:
        yield running


@dataclass
class Client:
    """Tokens as a worker gets them, and what observers see."""

    events: Events = field(default_factory=Events)
    timeout: float = 5
    vault: Vault | None = None
    now: float = 0

    def __post_init__(self) -> None:
        self.tokens = MsalTokens(self.events, self.timeout, self.vault, clock=lambda: self.now)


@pytest.fixture
def client() -> Iterator[Client]:
    """A worker's tokens."""
    made = Client()
    yield made
    let_go(made.tokens)


@pytest.fixture
def hasty() -> Iterator[Client]:
    """The same with a short time-out."""
    made = Client(timeout=0.3)
    yield made
    let_go(made.tokens)


@pytest.fixture
def issuer(authority: Authority, ca_file: str) -> OAuth:
    """Credentials at the obedient issuer."""
    return OAuth(
        authority.url,
        "the-app",
        Secret(SecretStr(SECRET)),
        "api://mail/.default",
        "a@contoso.com",
        oidc=True,
        ca_file=ca_file,
    )
