"""Whose fault it is: what rests with a mailbox, and that nothing else does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from contracts.address import parse
from tests.factories import mailbox, verdict
from worker.domain.delivery import Stage
from worker.domain.mailbox import (
    Credentials,
    GraphEndpoint,
    Mailbox,
    ManagedIdentity,
    NoLogin,
    OAuth,
    Password,
    Secret,
    SmtpEndpoint,
    Tls,
)
from worker.domain.sharing import shared_by, shown, whose
from worker.domain.verdict import Action, Only, Scope

ENTRA = "https://login.microsoftonline.com/"
SENDER = parse("noreply@contoso.com")
BY_PASSWORD = Password("noreply@contoso.com", SecretStr("pass"))


def app(tenant: str = "contoso", client: str = "app-1", secret: str = "s3cret", **fields: Any) -> OAuth:
    return OAuth(f"{ENTRA}{tenant}", client, Secret(SecretStr(secret)), "scope", "noreply@contoso.com", **fields)


def at(
    host: str = "smtp.office365.com", credentials: Credentials = BY_PASSWORD, name: str = "box", **fields: Any
) -> Mailbox:
    address = fields.pop("address", "noreply@contoso.com")
    return mailbox(name, address, endpoint=SmtpEndpoint(host, 587, Tls.STARTTLS, credentials, **fields))


def rests(scope: Scope, way: Mailbox, stage: Stage = Stage.DOT, **fields: Any) -> str:
    return whose(verdict(Action.PAUSE, scope=scope, **fields), way, SENDER, stage)


def touched(scope: Scope, one: Mailbox, other: Mailbox, stage: Stage = Stage.DOT, **fields: Any) -> bool:
    """Whether a fault that one mailbox meets keeps the other one's mail back."""
    return rests(scope, one, stage, **fields) in shared_by(other, SENDER)


@pytest.mark.parametrize("scope", [Scope.MAILBOX, Scope.MESSAGE, Scope.RECIPIENT, Scope.CONNECTION, Scope.SENDER])
def test_fault_of_a_mailbox_is_nobody_elses(scope: Scope) -> None:
    assert rests(scope, at()) == ""


def test_server_that_cannot_be_reached_rests_for_all_its_mailboxes_however_they_log_in() -> None:
    other = at(credentials=app(), name="other", address="info@fabrikam.com")
    assert touched(Scope.SERVER, at(), other, Stage.CONNECT)


def test_server_that_refuses_after_the_greeting_rests_for_those_who_log_in_the_same_way() -> None:
    assert touched(Scope.SERVER, at(credentials=NoLogin()), at(credentials=NoLogin(), name="other"), Stage.MAIL)
    assert not touched(Scope.SERVER, at(credentials=NoLogin()), at(name="other"), Stage.MAIL)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(at("smtp.contoso.com"), id="another-host"),
        pytest.param(at(ca_file="/etc/other.pem"), id="trusts-others"),
        pytest.param(at(helo="mail.contoso.com"), id="another-name"),
        pytest.param(
            mailbox(endpoint=SmtpEndpoint("smtp.office365.com", 465, Tls.IMPLICIT, BY_PASSWORD)), id="another-port"
        ),
        pytest.param(mailbox(endpoint=SmtpEndpoint("smtp.office365.com", 587, Tls.NONE)), id="without-tls"),
    ],
)
def test_server_is_another_one_with_other_settings(other: Mailbox) -> None:
    assert not touched(Scope.SERVER, at(), other, Stage.CONNECT)


def test_app_rests_for_all_mailboxes_that_log_in_by_it() -> None:
    assert touched(Scope.APP, at(credentials=app()), at(credentials=app(), name="other", address="a@fabrikam.com"))


@pytest.mark.parametrize(
    "other", [app(client="app-2"), app(tenant="fabrikam"), app(secret="new")], ids=["app", "tenant", "secret"]
)
def test_app_with_another_proof_or_of_another_tenant_is_another_one(other: OAuth) -> None:
    assert not touched(Scope.APP, at(credentials=app()), at(credentials=other))


def test_secret_is_not_to_be_seen_in_what_rests() -> None:
    name = rests(Scope.APP, at(credentials=app()))
    assert "s3cret" not in name
    assert shown(name) == f"app app-1 of {ENTRA}contoso"


@pytest.mark.parametrize("way", [at(), at(credentials=app(oidc=True))], ids=["password", "managed"])
def test_who_has_no_app_rests_alone(way: Mailbox) -> None:
    if isinstance(way.endpoint, SmtpEndpoint) and isinstance(way.endpoint.credentials, OAuth):
        identity = replace(way.endpoint.credentials, client_id="", authority="", proof=ManagedIdentity())
        way = replace(way, endpoint=replace(way.endpoint, credentials=identity))
    assert rests(Scope.APP, way) == ""


def test_tenant_is_known_by_its_authority_whatever_the_domain_and_by_smtp_and_graph_alike() -> None:
    graph = mailbox("g", "a@fabrikam.com", endpoint=GraphEndpoint("https://graph.microsoft.com/v1.0", "u", app()))
    assert touched(Scope.TENANT, at(credentials=app(client="app-2")), graph)
    assert not touched(Scope.TENANT, at(credentials=app("fabrikam")), graph)


def test_tenant_of_a_password_is_known_by_its_domain_at_microsofts_hosts_only() -> None:
    assert touched(Scope.TENANT, at(), at(name="other", address="info@contoso.com"))
    assert not touched(Scope.TENANT, at(), at(name="other", address="info@fabrikam.com"))
    assert rests(Scope.TENANT, at("smtp.contoso.com")) == ""


def test_end_of_passwords_in_a_tenant_leaves_its_tokens_alone() -> None:
    by_token = at(credentials=app(), name="other")
    assert touched(Scope.TENANT, at(), at(name="third"), only=Only.PASSWORD)
    assert not touched(Scope.TENANT, at(), by_token, only=Only.PASSWORD)


def test_tenant_that_may_not_send_to_the_outside_goes_on_inside() -> None:
    name = rests(Scope.TENANT, at(credentials=app()), only=Only.EXTERNAL)
    other = at(credentials=app(), name="other")
    assert name in shared_by(other, SENDER, external=True)
    assert name not in shared_by(other, SENDER, external=False)


def test_limit_of_onmicrosoft_com_is_nothing_to_a_domain_of_ones_own() -> None:
    one = at(credentials=app(), address="a@contoso.onmicrosoft.com")
    assert touched(Scope.TENANT, one, at(credentials=app(), name="b", address="b@contoso.onmicrosoft.com"),
                   only=Only.ONMICROSOFT)  # fmt: skip
    assert not touched(Scope.TENANT, one, at(credentials=app(), name="b"), only=Only.ONMICROSOFT)


def test_switch_that_mailboxes_may_be_excepted_from_is_each_ones_own() -> None:
    assert rests(Scope.TENANT, at(), only=Only.ONE_BY_ONE) == ""


def test_punished_sender_rests_with_its_mailbox_and_no_other_one() -> None:
    name = whose(verdict(Action.FAIL, scope=Scope.SENDER, punished=True), at(), SENDER, Stage.DOT)
    assert name in shared_by(at(), SENDER)
    assert name not in shared_by(at(), parse("billing@contoso.com"))
    assert name not in shared_by(at(name="other"), SENDER)


def test_names_fit_into_a_key_and_stay_apart() -> None:
    long = [at("h" * 240 + tail, name="n" * 64) for tail in (".a", ".b")]
    names = [rests(Scope.SERVER, way, Stage.CONNECT) for way in long]
    assert len(set(names)) == 2
    assert max(map(len, names)) <= 200
