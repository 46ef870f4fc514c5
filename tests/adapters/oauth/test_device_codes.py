"""Signing in by device code at an authority that does not behave."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.adapters.oauth.authority import Answer, Authority, Request, error, let_go, token
from tests.adapters.oauth.conftest import Client
from worker.domain.delivery import Broken, Fault
from worker.domain.mailbox import DeviceLogin, OAuth
from worker.oauth.login import Invitation, LoginFailed, sign_in
from worker.oauth.vault import Vault, keys
from worker.ports import Token
from worker.sealing import new_key

CODE = "d3vice-c0de-of-jana"


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "sign-ins", keys(SecretStr(new_key())))


@pytest.fixture
def jana(issuer: OAuth, authority: Authority) -> OAuth:
    """Credentials at the obedient issuer, which knows device codes."""
    told = authority.configuration(device_authorization_endpoint=f"{authority.url}/device")
    authority.answers[authority.discovery_path] = Answer(body=json.dumps(told))
    authority.answers[f"{authority.tenant}/device"] = Answer(body=json.dumps(invited()))
    return replace(issuer, proof=DeviceLogin(), scope="smtp")


def invited(**changes: object) -> dict[str, object]:
    """RFC 8628 section 3.2, with a pause between questions that no test waits for."""
    return {
        "device_code": CODE,
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://login.example/device",
        "expires_in": 30,
        "interval": 0.01,
    } | changes


async def login(credentials: OAuth, vault: Vault, show: Callable[[Invitation], None] = lambda _invitation: None) -> str:
    return await asyncio.to_thread(sign_in, credentials, vault, 5, show)


async def test_what_an_authority_repeats_of_the_form_is_not_shown(
    jana: OAuth, authority: Authority, vault: Vault
) -> None:
    async def parrot(request: Request) -> Answer:
        return error(400, "access_denied", error_description=f"you sent {request.body}")

    authority.answers[authority.token_path] = parrot
    with pytest.raises(LoginFailed, match="you sent") as failed:
        await login(jana, vault)
    assert CODE not in str(failed.value)


async def test_authority_out_of_reach_is_no_trouble_of_the_directory(
    jana: OAuth, authority: Authority, vault: Vault
) -> None:
    """What the network raises while the vault is open is an error of input and output, too."""
    authority.answers[authority.token_path] = token(refresh_token="r")
    await login(jana, vault)
    client = Client(vault=vault)
    kept = await client.tokens.token("box", jana)
    assert isinstance(kept, Token)
    await authority.close()
    answer = await client.tokens.token("box", jana, rejected=kept)
    let_go(client.tokens)
    assert isinstance(answer, Broken)
    assert answer.fault is Fault.TOKEN_ENDPOINT


async def test_trouble_while_the_person_signs_in_does_not_end_it(
    jana: OAuth, authority: Authority, vault: Vault
) -> None:
    said = [Answer(503, "busy"), error(400, "authorization_pending"), token(refresh_token="r")]

    async def in_turn(_request: Request) -> Answer:
        return said.pop(0)

    authority.answers[authority.token_path] = in_turn
    await login(jana, vault)
    assert said == []


@pytest.mark.parametrize("status", [503, 429])
async def test_trouble_at_the_beginning_is_told_with_its_status(
    jana: OAuth, authority: Authority, vault: Vault, status: int
) -> None:
    authority.answers[f"{authority.tenant}/device"] = Answer(status, "busy")
    with pytest.raises(LoginFailed, match=f"HTTP status {status}.*try again later"):
        await login(jana, vault)


async def test_page_under_googles_name_is_shown_and_a_lifetime_may_be_missing(
    jana: OAuth, authority: Authority, vault: Vault
) -> None:
    told = {name: value for name, value in invited().items() if name not in ("verification_uri", "expires_in")}
    told["verification_url"] = "https://login.example/google"
    authority.answers[f"{authority.tenant}/device"] = Answer(body=json.dumps(told))
    authority.answers[authority.token_path] = token(refresh_token="r")
    shown: list[Invitation] = []
    await login(jana, vault, shown.append)
    assert shown == [Invitation("https://login.example/google", "WDJB-MJHT", 600)]


async def test_code_without_a_page_cannot_be_used(jana: OAuth, authority: Authority, vault: Vault) -> None:
    told = {name: value for name, value in invited().items() if name != "verification_uri"}
    authority.answers[f"{authority.tenant}/device"] = Answer(body=json.dumps(told))
    with pytest.raises(LoginFailed, match="no page to enter it"):
        await login(jana, vault)
