"""Bearer tokens of a certified OpenID Connect provider, looked up there by Dovecot, for Postfix."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from contracts.delivery import DeliveryStatus
from tests.field.conftest import Opening
from tests.field.dovecot import Dovecot, dovecot
from tests.field.office import bearer, mailbox
from tests.field.oidc import SCOPE, SECRET, Oidc, visit
from tests.field.postfix import Postfix, postfix
from worker.emulator.authority import Certificates
from worker.sealing import new_key


@pytest.mark.parametrize("client_id", ["header", "form"])
async def test_mail_is_submitted_with_a_token_of_the_provider(
    client_id: str, token_server: Postfix, tokens: Dovecot, provider: Oidc, opened: Opening, ca_file: Path
) -> None:
    oauth = bearer(provider.issuer, ca_file, client_id=client_id, client_secret=SECRET, scope=SCOPE)
    async with opened(mailbox(token_server.submission, ca_file=ca_file, more=oauth)) as postlane:
        status, said = await postlane.command("check")
        assert status == 0, said
        results = [await postlane.send() for _ in range(3)]
    assert {result.status for result in results} == {DeliveryStatus.ACCEPTED}, results
    assert len(token_server.inbox.wait(3)) == 3
    assert token_server.logged("sasl_method=XOAUTH2, sasl_username=notifications@contoso.example")
    assert [event for event in provider.events("granted") if event["client"] == client_id]


@pytest.mark.parametrize("name", ["rsa", "ecdsa"])
async def test_client_shows_who_it_is_by_its_certificate(
    name: str, token_server: Postfix, provider: Oidc, opened: Opening, ca_file: Path, keys: Path
) -> None:
    certificate = str(keys / f"{name}.pem")
    oauth = bearer(provider.issuer, ca_file, client_id=name, certificate_file=certificate, scope=SCOPE)
    async with opened(mailbox(token_server.submission, ca_file=ca_file, more=oauth)) as postlane:
        result = await postlane.send()
    assert result.status is DeliveryStatus.ACCEPTED, result
    (granted,) = [event for event in provider.events("granted") if event["client"] == name]
    assert granted["method"] == "private_key_jwt"


async def test_person_signs_in_by_a_code_and_every_refresh_token_is_used_once(
    token_server: Postfix, provider: Oidc, opened: Opening, ca_file: Path, tmp_path: Path
) -> None:
    """The provider replaces refresh tokens of public clients, and revokes the sign-in if an old one is used."""
    oauth = bearer(provider.issuer, ca_file, client_id="persons", device_login=True)
    vault = {"POSTLANE_OAUTH__DIRECTORY": str(tmp_path / "sign-ins"), "POSTLANE_OAUTH__KEY": new_key()}
    async with opened(mailbox(token_server.submission, ca_file=ca_file, more=oauth), **vault) as postlane:
        await postlane.sign_in(partial(visit, ca_file=ca_file))
        for _ in range(2):
            status, said = await postlane.command("check")
            assert status == 0, said
        result = await postlane.send()
    assert result.status is DeliveryStatus.ACCEPTED, result
    assert len(token_server.inbox.wait()) == 1
    assert len([event for event in provider.events("granted") if event["client"] == "persons"]) == 4


async def test_token_that_the_provider_has_forgotten_is_replaced_once(
    token_server: Postfix, tokens: Dovecot, provider: Oidc, opened: Opening, ca_file: Path
) -> None:
    oauth = bearer(provider.issuer, ca_file, client_id="header", client_secret=SECRET, scope=SCOPE)
    box = mailbox(token_server.submission, ca_file=ca_file, messages_per_connection=1, more=oauth)
    async with opened(box) as postlane:
        first = await postlane.send()
        provider.restart()
        granted = len(provider.events("granted"))
        second = await postlane.send()
        assert len(provider.events("granted")) == granted + 1
    assert (first.status, second.status) == (DeliveryStatus.ACCEPTED, DeliveryStatus.ACCEPTED)
    assert len(token_server.inbox.wait(2)) == 2
    assert len(token_server.logged("SASL XOAUTH2 authentication failed")) == 1


async def test_server_that_knows_only_the_standards_mechanism_is_spoken_to_in_it(
    certificates: Certificates, provider: Oidc, opened: Opening, ca_file: Path
) -> None:
    oauth = bearer(provider.issuer, ca_file, client_id="header", client_secret=SECRET, scope=SCOPE)
    with (
        dovecot(certificates, mechanisms="oauthbearer", oauth=provider.dovecot) as judge,
        postfix(certificates, smtpd_sasl_path=f"inet:127.0.0.1:{judge.sasl}") as server,
    ):
        async with opened(
            mailbox(server.submission, ca_file=ca_file, messages_per_connection=1, more=oauth)
        ) as postlane:
            first = await postlane.send()
            provider.restart()
            second = await postlane.send()
        assert (first.status, second.status) == (DeliveryStatus.ACCEPTED, DeliveryStatus.ACCEPTED)
        assert len(server.logged("sasl_method=OAUTHBEARER, sasl_username=notifications@contoso.example")) == 2
        assert len(server.logged("SASL OAUTHBEARER authentication failed")) == 1


async def test_wrong_client_secret_sends_nothing_and_says_what_to_do(
    token_server: Postfix, provider: Oidc, opened: Opening, ca_file: Path
) -> None:
    oauth = bearer(provider.issuer, ca_file, client_id="header", client_secret="wrong", scope=SCOPE)
    async with opened(mailbox(token_server.submission, ca_file=ca_file, more=oauth)) as postlane:
        status, said = await postlane.command("check")
        await postlane.publish(id="waits")
        result = await postlane.inbox.first("waits")
    assert status == 1
    assert "Check `client_id` and the client secret" in said
    assert "office365" not in said, "the steps at Microsoft's are no help with another issuer"
    assert result.status is DeliveryStatus.DEFERRED
    assert not token_server.inbox.mails()
    assert not token_server.logged("authentication failed")


async def test_users_token_of_somebody_else_is_refused_and_the_mailbox_rests(
    token_server: Postfix, provider: Oidc, opened: Opening, ca_file: Path
) -> None:
    oauth = bearer(
        provider.issuer, ca_file, client_id="header", client_secret=SECRET, scope=SCOPE, username="petr@contoso.example"
    )
    async with opened(mailbox(token_server.submission, ca_file=ca_file, more=oauth)) as postlane:
        for number in range(5):
            await postlane.publish(id=f"n-{number}")
        await postlane.inbox.until(lambda results: len({result.notification_id for result in results}) == 5)
        results = postlane.inbox.results
    assert {result.status for result in results} == {DeliveryStatus.DEFERRED}
    assert len(token_server.logged("authentication failed")) <= 2
