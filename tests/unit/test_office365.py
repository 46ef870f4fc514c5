"""The steps at Microsoft's, what a failure points to, and what a token shows."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from worker.domain.claims import Claims, findings, permission_for, read
from worker.domain.cloud import CLOUDS, CloudName, is_high_volume, is_microsofts
from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.mailbox import DeviceLogin, ManagedIdentity, OAuth, Proof, Secret
from worker.domain.office365 import SetupStep, Values, Way, instructions, step_of
from worker.domain.reply import Reply

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
TENANT, APP = "11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
BOX = "box@contoso.com"
OUTLOOK = "https://outlook.office365.com"


def credentials(proof: Proof | None = None, scope: str = f"{OUTLOOK}/.default") -> OAuth:
    authority = f"https://login.microsoftonline.com/{TENANT}"
    return OAuth(authority, APP, proof or Secret(SecretStr("s")), scope, BOX)


def claims(**changes: object) -> Claims:
    good = {
        "audience": OUTLOOK,
        "tenant": TENANT,
        "app": APP,
        "roles": ("SMTP.SendAsApp",),
        "scopes": (),
        "user": "",
        "expires": NOW + timedelta(hours=1),
    }
    return Claims(**{**good, **changes})  # type: ignore[arg-type]


def packed(said: object) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip('=')}.signature"


# claims


def test_token_is_read() -> None:
    said = {"aud": OUTLOOK, "tid": TENANT, "appid": APP, "roles": ["SMTP.SendAsApp"], "exp": NOW.timestamp() + 3600}
    assert read(packed(said)) == claims()


def test_persons_token_is_read() -> None:
    found = read(packed({"aud": OUTLOOK, "azp": APP, "scp": "SMTP.Send IMAP.AccessAsUser.All", "upn": BOX}))
    assert found is not None
    assert (found.scopes, found.user, found.app) == (("SMTP.Send", "IMAP.AccessAsUser.All"), BOX, APP)
    assert found.expires is None


@pytest.mark.parametrize(
    "token", ["", "opaque", "a.b", "a.b.c", "a.!!!.c", packed([1]), packed("text"), "é.é.é", "a.b.c.d"]
)
def test_token_that_is_none_of_ours_is_opaque(token: str) -> None:
    assert read(token) is None


def test_good_token_has_no_findings() -> None:
    assert list(findings(claims(), credentials(), "SMTP.SendAsApp", NOW)) == []


@pytest.mark.parametrize(
    ("changes", "proof", "says", "fatal"),
    [
        ({"audience": "https://graph.microsoft.com"}, None, "for Microsoft Graph", True),
        ({"audience": "https://vault.azure.net"}, None, "not for https://outlook.office365.com", True),
        ({"roles": ("Mail.Send",)}, None, "no application permission SMTP.SendAsApp. It has Mail.Send", False),
        ({"roles": ()}, None, "It has none", False),
        ({"roles": (), "scopes": ("SMTP.Send",)}, None, "The token is a person's", True),
        ({"tenant": "other"}, None, "The token is of tenant other", True),
        ({"app": "other"}, None, "The token is of app other", True),
        ({"expires": NOW + timedelta(minutes=9)}, None, "in less than ten minutes", False),
        ({"expires": NOW - timedelta(minutes=1)}, None, "in less than ten minutes", True),
        ({"roles": (), "scopes": ("Mail.Send",)}, DeviceLogin(), "no delegated permission SMTP.Send", True),
        (
            {"scopes": ("SMTP.Send",), "user": "other@contoso.com"},
            DeviceLogin(),
            "other@contoso.com has signed in",
            False,
        ),
    ],
    ids=[
        "graph",
        "another-service",
        "another-role",
        "no-role",
        "person-for-app",
        "tenant",
        "app",
        "ends-soon",
        "ended",
        "scope",
        "another-person",
    ],
)
def test_what_keeps_a_mailbox_shut_is_found(
    changes: dict[str, object],
    proof: Proof | None,
    says: str,
    fatal: bool,  # noqa: FBT001 - of a table
) -> None:
    (finding,) = findings(claims(**changes), credentials(proof), "SMTP.SendAsApp", NOW)
    assert says in finding.problem
    assert finding.fatal is fatal
    assert finding.remedy


def test_outlooks_names_are_one_audience() -> None:
    person = claims(audience="https://outlook.office.com", roles=(), scopes=("SMTP.Send",))
    asked = credentials(DeviceLogin(), f"{OUTLOOK}/SMTP.Send")
    assert list(findings(person, asked, "SMTP.SendAsApp", NOW)) == []


def test_managed_identity_has_an_app_of_its_own() -> None:
    assert list(findings(claims(app="the-identity"), credentials(ManagedIdentity()), "SMTP.SendAsApp", NOW)) == []


@pytest.mark.parametrize(
    ("host", "permission"),
    [
        ("smtp.office365.com", "SMTP.SendAsApp"),
        ("smtp.hve.mx.microsoft", "Mail.Send"),
        ("smtp-hve.office365.com", "Mail.Send"),
    ],
)
def test_high_volume_email_wants_a_permission_of_its_own(host: str, permission: str) -> None:
    assert permission_for(host) == permission


# clouds


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=lambda cloud: cloud.name)
def test_submission_hosts_of_all_clouds_are_microsofts(cloud: object) -> None:
    assert is_microsofts(getattr(cloud, "smtp"))  # noqa: B009 - of a table


@pytest.mark.parametrize("host", ["smtp.contoso.com", "office365.com.evil.example", "localhost"])
def test_others_are_not(host: str) -> None:
    assert not is_microsofts(host)
    assert not is_high_volume(host)


# steps


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("cloud", CloudName)
def test_every_way_has_its_steps_once_and_ends_with_the_proof(way: Way, cloud: CloudName) -> None:
    steps = [found.step for found in instructions(way, Values("box", BOX, cloud=cloud, senders=("a@contoso.com",)))]
    assert len(steps) == len(set(steps))
    assert steps[0] is SetupStep.REGISTER
    assert steps[-2:] == [SetupStep.MAILBOXES_FILE, SetupStep.CHECK]


def test_rights_by_role_leave_out_consent_and_mailbox_permission() -> None:
    steps = {found.step for found in instructions(Way.RBAC, Values("box", BOX))}
    assert SetupStep.ROLE_ASSIGNMENT in steps
    assert not steps & {SetupStep.PERMISSION, SetupStep.CONSENT, SetupStep.MAILBOX_PERMISSION}


def test_line_for_the_service_principal_has_the_enterprise_applications_object_id() -> None:
    values = Values("box", BOX, TENANT, APP, "the-object-id")
    (found,) = (step for step in instructions(Way.MAILBOX_PERMISSION, values) if step.step == "service-principal")
    assert f'New-ServicePrincipal -AppId "{APP}" -ObjectId "the-object-id" -DisplayName "Postlane"' in found.lines


def test_apostrophe_in_an_address_does_not_end_the_filter() -> None:
    steps = instructions(Way.RBAC, Values("box", "o'brien@contoso.com"))
    (found,) = (step for step in steps if step.step is SetupStep.ROLE_ASSIGNMENT)
    assert "PrimarySmtpAddress -eq 'o''brien@contoso.com'" in found.lines[0]


def refused(reply: str, stage: Stage = Stage.AUTH) -> Refused:
    return Refused(stage, Reply.parse(reply), mechanism="xoauth2")


BARE = "535 5.7.3 Authentication unsuccessful [AM0.eurprd01.prod.outlook.com]"


@pytest.mark.parametrize(
    ("failure", "may_submit", "steps"),
    [
        (TokenRefused("invalid_client", "", (7000215,)), None, ["proof"]),
        (TokenRefused("unauthorized_client", "", (700016,)), None, ["register"]),
        (TokenRefused("invalid_grant", "", (65001,)), None, ["consent"]),
        (TokenRefused("invalid_client", ""), None, ["proof"]),
        (TokenRefused("unknown_authority", ""), None, ["register"]),
        (TokenRefused("temporarily_unavailable", ""), None, []),
        (refused(BARE), True, ["service-principal", "mailbox-permission", "smtp-auth"]),
        (refused(BARE), False, ["permission", "consent", "service-principal", "mailbox-permission", "smtp-auth"]),
        (refused("535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled"), True, ["smtp-auth"]),
        (refused("554 5.2.252 SendAsDenied; a not allowed to send as b", Stage.DOT), True, ["send-as"]),
        (Broken(Stage.AUTH, Fault.NO_MECHANISM, ""), True, ["smtp-auth"]),
        (Broken(Stage.CONNECT, Fault.TIMEOUT, ""), True, []),
    ],
)
def test_failure_points_to_the_step(
    failure: Refused | TokenRefused | Broken,
    may_submit: bool | None,  # noqa: FBT001 - of a table
    steps: list[str],
) -> None:
    assert [str(step) for step in step_of(failure, may_submit=may_submit)] == steps
