"""Secrets of a key vault: one GET with a token of ours, over real HTTPS to an emulated vault and authority."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from tests.adapters.oauth.authority import Answer, Authority
from tests.adapters.oauth.conftest import SECRET
from worker import mailbox_file
from worker.domain.mailbox import OAuth, Password, Secret, SmtpEndpoint
from worker.oauth.keyvault import KeyVault, NoSecret, Surroundings

VALUE = "the-smtp-password-in-the-vault"
SCOPE = "https://vault.azure.net/.default"


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Place:
    """An emulated vault and the authority that it trusts, and our reader of both."""

    authority: Authority
    vaults: KeyVault
    clock: Clock

    @property
    def reference(self) -> str:
        return f"https://{self.authority.netloc}/secrets/smtp"

    def answers(self, status: int, body: Mapping[str, Any]) -> None:
        self.authority.answers["/secrets/smtp"] = Answer(status, json.dumps(body))

    async def read(self, reference: str | None = None) -> str:
        return await asyncio.to_thread(self.vaults.secret, reference or self.reference)

    def asked(self) -> list[Any]:
        return [each for each in self.authority.requests if each.path.startswith("/secrets/")]


@pytest.fixture
def vault(authority: Authority, ca_file: str) -> Place:
    issuer = f"https://{authority.netloc}{authority.tenant}"
    credentials = OAuth(issuer, "app", Secret(SecretStr(SECRET)), SCOPE, "", oidc=True, ca_file=ca_file)
    clock = Clock()
    made = Place(authority, KeyVault(credentials, (authority.netloc,), clock), clock)
    made.answers(200, {"value": VALUE, "id": made.reference})
    return made


async def test_secret_is_read_with_a_token_for_the_vault_and_believed_for_a_while(vault: Place) -> None:
    assert await vault.read() == VALUE
    assert await vault.read() == VALUE
    (asked,) = vault.asked()
    assert {name.lower(): value for name, value in asked.headers.items()}["authorization"] == "Bearer token-1"
    (form,) = [each.form for each in vault.authority.requests if each.method == "POST"]
    assert form["scope"].split() == [SCOPE]
    vault.answers(200, {"value": "a-newer-one"})
    vault.clock.now += 301
    assert await vault.read() == "a-newer-one"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, {"error": {"code": "SecretNotFound", "message": VALUE}}, "is not there"),
        (403, {"error": {"code": "Forbidden", "message": VALUE}}, "Key Vault Secrets User"),
        (500, {"value": VALUE}, "answers 500"),
        (200, {"value": 7}, "answers 200"),
        (302, {}, "answers 302"),
    ],
)
async def test_secret_that_cannot_be_had_is_told_by_its_reference_and_never_by_its_value(
    vault: Place, status: int, body: dict[str, Any], said: str
) -> None:
    vault.answers(status, body)
    with pytest.raises(NoSecret, match=said) as refused:
        await vault.read()
    assert vault.reference in str(refused.value)
    assert VALUE not in str(refused.value)
    with pytest.raises(NoSecret, match=said):
        await vault.read()
    assert len(vault.asked()) == 1, "a vault that has failed is left alone for a while"


async def test_secret_that_was_read_is_used_on_while_its_vault_is_out_of_reach(vault: Place) -> None:
    assert await vault.read() == VALUE
    vault.answers(503, {})
    vault.clock.now += 10_000
    assert await vault.read() == VALUE


@pytest.mark.parametrize(
    "reference",
    [
        "https://evil.example/secrets/smtp",
        "http://HOST/secrets/smtp",
        "https://HOST/keys/smtp",
        "https://HOST/secrets/smtp?x=1",
        "https://HOST@evil.example/secrets/smtp",
    ],
)
async def test_token_goes_to_key_vaults_only(vault: Place, reference: str) -> None:
    with pytest.raises(NoSecret, match="no secret of a key vault"):
        await vault.read(reference.replace("HOST", vault.authority.netloc))
    assert vault.authority.requests == []


async def test_mailbox_takes_its_password_from_the_vault_and_a_missing_one_names_the_mailbox(vault: Place) -> None:
    login = {"username": "info", "password_keyvault": vault.reference}
    box = {"address": "info@contoso.example", "host": "smtp.contoso.example", "login": login}
    tree = {"mailboxes": {"own": box}}
    near = Surroundings({"HOME": "/"}, vault.vaults)
    directory = await asyncio.to_thread(mailbox_file.assembled, tree, near)
    endpoint = directory.mailboxes["own"].endpoint
    assert isinstance(endpoint, SmtpEndpoint)
    assert isinstance(endpoint.credentials, Password)
    assert endpoint.credentials.password.get_secret_value() == VALUE
    assert VALUE not in repr(directory)
    with pytest.raises(mailbox_file.MailboxFileError, match=r"mailboxes\.own: login\.password_keyvault: .*IDENTITY"):
        mailbox_file.assembled(tree, Surroundings({}, None))
