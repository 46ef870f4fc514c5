"""Tokens from the emulated Entra: fetched once however many ask, refused with the reason that Microsoft gives."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import SecretStr

from tests.adapters.oauth.authority import let_go
from tests.adapters.oauth.conftest import Client
from worker.domain.delivery import TokenRefused
from worker.domain.mailbox import OAuth, Secret
from worker.domain.verdict import catalogue, of_token
from worker.emulator.run import Emulator
from worker.events import TokenFetched
from worker.ports import Token


@pytest.fixture
def entra(emulator: Emulator) -> OAuth:
    """Credentials at the emulated Entra."""
    app = emulator.plan.apps[0]
    return OAuth(
        f"{emulator.token_url}/{app.tenant_id}",
        app.client_id,
        Secret(SecretStr(app.client_secret)),
        "https://outlook.office365.com/.default",
        "notifications@contoso.example",
        ca_file=str(emulator.certificates.ca_file),
    )


@pytest.fixture
def client(emulator: Emulator) -> Iterator[Client]:
    """A worker's tokens, let go of before the emulator ends: it would wait for their connections."""
    made = Client()
    yield made
    let_go(made.tokens)


async def fetched(client: Client, credentials: OAuth) -> Token:
    token = await client.tokens.token("box", credentials)
    assert isinstance(token, Token)
    return token


async def test_fifty_mails_at_once_cost_one_request(client: Client, entra: OAuth, emulator: Emulator) -> None:
    answers = await asyncio.gather(*(client.tokens.token("box", entra) for _ in range(50)))
    tokens = [token for token in answers if isinstance(token, Token)]
    assert len(tokens) == 50
    assert len({token.value for token in tokens}) == 1
    assert sum(token.fresh for token in tokens) == 1
    assert emulator.authority.requests == 1
    (event,) = client.events.of(TokenFetched)
    assert isinstance(event, TokenFetched)
    assert event.ok


async def test_mailboxes_of_one_app_share_its_token(client: Client, entra: OAuth, emulator: Emulator) -> None:
    await fetched(client, entra)
    other = await fetched(client, replace(entra, username="somebody-else@contoso.example"))
    assert not other.fresh
    assert emulator.authority.requests == 1


async def test_token_from_the_cache_is_not_fresh_and_nobody_is_told(client: Client, entra: OAuth) -> None:
    first = await fetched(client, entra)
    second = await fetched(client, entra)
    assert (first.fresh, second.fresh) == (True, False)
    assert first.value == second.value
    assert len(client.events.of(TokenFetched)) == 1


async def test_rejected_token_is_replaced_by_a_new_one(client: Client, entra: OAuth, emulator: Emulator) -> None:
    await fetched(client, entra)
    stale = await fetched(client, entra)
    new = await client.tokens.token("box", entra, rejected=stale)
    assert isinstance(new, Token)
    assert new.value != stale.value
    assert new.fresh
    assert emulator.authority.requests == 2


async def test_twenty_rejections_at_once_cost_one_request(client: Client, entra: OAuth, emulator: Emulator) -> None:
    await fetched(client, entra)
    stale = await fetched(client, entra)
    answers = await asyncio.gather(*(client.tokens.token("box", entra, rejected=stale) for _ in range(20)))
    tokens = [token for token in answers if isinstance(token, Token)]
    assert len(tokens) == 20
    assert {token.value for token in tokens} != {stale.value}
    assert len({token.value for token in tokens}) == 1
    assert all(token.fresh for token in tokens), "whoever was rejected must not try a third"
    assert emulator.authority.requests == 2


async def test_token_rejected_long_ago_costs_no_request(client: Client, entra: OAuth, emulator: Emulator) -> None:
    stale = await fetched(client, entra)
    await client.tokens.token("box", entra, rejected=stale)
    late = await client.tokens.token("box", entra, rejected=stale)
    assert isinstance(late, Token)
    assert late.value != stale.value
    assert emulator.authority.requests == 2


@pytest.mark.parametrize(
    ("changes", "error", "hints", "kind"),
    [
        ({"proof": Secret(SecretStr("wrong"))}, "invalid_client", (7000215,), "credential/secret-wrong"),
        ({"client_id": "unknown"}, "unauthorized_client", (700016,), "auth-config/app-unknown"),
        ({"scope": "https://outlook.office365.com/SMTP.Send"}, "invalid_scope", (70011,), "auth-config/scope"),
    ],
    ids=["wrong-secret", "unknown-app", "wrong-scope"],
)
async def test_refusal_carries_the_error_and_its_numbers(
    client: Client, entra: OAuth, changes: dict[str, object], error: str, hints: tuple[int, ...], kind: str
) -> None:
    answer = await client.tokens.token("box", replace(entra, **changes))
    assert isinstance(answer, TokenRefused)
    assert (answer.error, answer.hints) == (error, hints)
    assert answer.description.startswith(f"AADSTS{hints[0]}")
    assert of_token(catalogue(), answer).kind == kind
    (event,) = client.events.of(TokenFetched)
    assert isinstance(event, TokenFetched)
    assert not event.ok


async def test_unknown_tenant_is_told_apart_from_an_authority_in_trouble(client: Client, entra: OAuth) -> None:
    base, _, _ = entra.authority.rpartition("/")
    answer = await client.tokens.token("box", replace(entra, authority=f"{base}/99999999-0000-0000-0000-000000000000"))
    assert isinstance(answer, TokenRefused)
    assert of_token(catalogue(), answer).kind == "auth-config/tenant-unknown"


async def test_refused_secret_does_not_spoil_the_good_one(client: Client, entra: OAuth) -> None:
    """A secret that was mended is tried at once: MSAL remembers refusals for a minute."""
    assert isinstance(await client.tokens.token("box", replace(entra, proof=Secret(SecretStr("wrong")))), TokenRefused)
    assert isinstance(await client.tokens.token("box", entra), Token)


async def test_rejection_that_cannot_be_made_good_is_refused_and_not_the_old_token(
    client: Client, entra: OAuth, emulator: Emulator
) -> None:
    stale = await fetched(client, entra)
    emulator.authority._apps.clear()
    answer = await client.tokens.token("box", entra, rejected=stale)
    assert isinstance(answer, TokenRefused)
    assert answer.error == "unauthorized_client"
