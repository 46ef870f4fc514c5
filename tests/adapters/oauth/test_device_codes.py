"""Signing in by device code at an authority that does not behave."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.adapters.oauth.authority import Answer, Authority, Request, error
from worker.domain.mailbox import DeviceLogin, OAuth
from worker.oauth.login import Invitation, LoginFailed, sign_in
from worker.oauth.vault import Vault, keys
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
