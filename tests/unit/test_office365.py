"""The steps at Microsoft's, what a failure points to, and what a token shows."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import PurePath

import pytest
from pydantic import SecretStr

from contracts.address import parse
from worker.domain.claims import Claims, findings, permission_for, read
from worker.domain.cloud import CLOUDS, CloudName, is_high_volume, is_microsofts
from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.mailbox import (
    Certificate,
    Credentials,
    DeviceLogin,
    Endpoint,
    Federated,
    GraphEndpoint,
    Mailbox,
    ManagedIdentity,
    OAuth,
    Password,
    Proof,
    Secret,
    SmtpEndpoint,
    Tls,
)
from worker.domain.office365 import (
    SetupStep,
    Values,
    Way,
    cloud_of_mailbox,
    instructions,
    remedy_of,
    step_of,
    way_of,
)
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


MAILBOX_RIGHTS = ["mailbox-permission", "role-assignment"]
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
        (
            refused(BARE),
            False,
            ["permission", "consent", "service-principal", "mailbox-permission", "role-assignment", "smtp-auth"],
        ),
        (refused("550 5.7.60 Client does not have permissions to send as this sender", Stage.MAIL), True, ["send-as"]),
        (refused("430 4.2.0 STOREDRV; mailbox logon failure", Stage.DOT), True, MAILBOX_RIGHTS),
        (TokenRefused("no_managed_identity", ""), None, ["register"]),
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


@pytest.mark.parametrize(
    ("failure", "way", "steps"),
    [
        (refused(BARE), Way.PERSON, ["mailboxes-file", "permission", "smtp-auth"]),
        (refused("501 5.5.124 Invalid XOAUTH2 auth data"), Way.HIGH_VOLUME, ["permission", "consent", "high-volume"]),
        (refused("403 ErrorAccessDenied", Stage.GRAPH), Way.GRAPH, ["permission", "consent", "role-assignment"]),
        (refused("403 ErrorAccessDenied", Stage.GRAPH), Way.GRAPH_PERSON, ["permission", "consent"]),
        (refused("403 ErrorSendAsDenied The user account", Stage.GRAPH), Way.GRAPH, ["send-as"]),
        (refused("403 ErrorMessageSubmissionBlocked", Stage.GRAPH), Way.GRAPH, []),
    ],
)
def test_failure_points_to_the_step_of_its_way(failure: Refused, way: Way, steps: list[str]) -> None:
    assert [str(step) for step in step_of(failure, may_submit=True, way=way)] == steps


# what a mailbox tells


def steps_of(way: Way, values: Values) -> dict[str, str]:
    return {found.step: "\n".join((*found.lines, found.why)) for found in instructions(way, values)}


def submitting(credentials: Credentials, host: str = "smtp.office365.com", address: str = BOX) -> Mailbox:
    return Mailbox("box", parse(address), "", SmtpEndpoint(host, 587, Tls.STARTTLS, credentials))


def by(proof: Proof, authority: str = "https://login.microsoftonline.com/t", username: str = BOX) -> OAuth:
    return OAuth(authority, APP, proof, "scope", username)


SECRET = Secret(SecretStr("s"))
US = "https://login.microsoftonline.us/t"
PERSON = by(DeviceLogin(), username="owner@contoso.com")


@pytest.mark.parametrize(
    ("mailbox", "cloud"),
    [
        (submitting(by(SECRET)), CloudName.GLOBAL),
        (submitting(by(SECRET, US), "smtp.office365.us"), CloudName.GCC_HIGH),
        (submitting(by(SECRET, US), "outlook-dod.office365.us"), CloudName.DOD),
        (submitting(by(ManagedIdentity(), ""), "outlook-dod.office365.us"), CloudName.DOD),
        (submitting(Password("u", SecretStr("p")), "smtp.partner.outlook.cn"), CloudName.CHINA),
        (
            Mailbox("box", parse(BOX), "", GraphEndpoint("https://dod-graph.microsoft.us/v1.0", BOX, by(SECRET, US))),
            CloudName.DOD,
        ),
        (submitting(by(SECRET, "https://id.contoso.com"), "smtp.contoso.com"), None),
    ],
)
def test_cloud_is_told_by_hosts_where_clouds_share_an_authority(mailbox: Mailbox, cloud: CloudName | None) -> None:
    assert cloud_of_mailbox(mailbox) == cloud


@pytest.mark.parametrize(
    ("channel", "way"),
    [
        (submitting(by(SECRET)).endpoint, Way.MAILBOX_PERMISSION),
        (submitting(by(SECRET), "smtp.hve.mx.microsoft").endpoint, Way.HIGH_VOLUME),
        (submitting(PERSON).endpoint, Way.PERSON),
        (GraphEndpoint("https://graph.microsoft.com/v1.0", BOX, by(SECRET)), Way.GRAPH),
        (GraphEndpoint("https://graph.microsoft.com/v1.0", BOX, PERSON), Way.GRAPH_PERSON),
    ],
)
def test_way_is_told_by_channel_proof_and_host(channel: Endpoint, way: Way) -> None:
    assert way_of(channel) is way


def test_person_signs_in_and_sends_as_the_shared_mailbox() -> None:
    found = steps_of(Way.PERSON, Values("box", BOX, TENANT, APP, username="owner@contoso.com", proof=DeviceLogin()))
    assert "Allow public client flows" in found["proof"]
    assert "Delegated permissions > SMTP.Send" in found["permission"]
    assert f'-Identity "{BOX}" -Trustee "owner@contoso.com" -AccessRights SendAs' in found["send-as"]
    assert 'Set-CASMailbox -Identity "owner@contoso.com"' in found["smtp-auth"]
    assert 'username = "owner@contoso.com"\ndevice_login = true' in found["mailboxes-file"]
    assert "postlane token login box" in found["check"]
    assert not {"service-principal", "mailbox-permission"} & found.keys()


def test_high_volume_email_has_a_list_of_apps_and_no_mailbox() -> None:
    found = steps_of(Way.HIGH_VOLUME, Values("box", BOX, TENANT, APP, "the-object"))
    assert "Office 365 Exchange Online > Application permissions > Mail.Send" in found["permission"]
    assert f'Add-HVEAppAccess -Identity "{BOX}" -AppIds "the-object"' in found["high-volume"]
    assert 'preset = "office365-hve"' in found["mailboxes-file"]
    assert not {"service-principal", "mailbox-permission", "smtp-auth", "sent-items"} & found.keys()


def test_managed_identity_gets_its_role_by_powershell() -> None:
    found = steps_of(Way.MAILBOX_PERMISSION, Values("box", BOX, object_id="the-object", proof=ManagedIdentity()))
    assert "New-MgServicePrincipalAppRoleAssignment" in found["permission"]
    assert '-PrincipalId "the-object"' in found["permission"]
    assert 'managed_identity = "system"' in found["mailboxes-file"]
    assert "client_secret" not in found["mailboxes-file"]
    assert not {"proof", "consent"} & found.keys()


@pytest.mark.parametrize(
    ("proof", "line", "place"),
    [
        (Certificate(PurePath("/etc/app.pem")), 'certificate_file = "/etc/app.pem"', "Upload certificate"),
        (Federated(PurePath("/var/token")), 'federated_token_file = "/var/token"', "Add credential"),
    ],
    ids=["certificate", "federated"],
)
def test_app_keeps_the_proof_that_it_has(proof: Proof, line: str, place: str) -> None:
    found = steps_of(Way.GRAPH, Values("box", BOX, proof=proof))
    assert line in found["mailboxes-file"]
    assert "client_secret" not in found["mailboxes-file"]
    assert place in found["proof"]


def test_permission_for_every_mailbox_is_warned_of() -> None:
    assert "EVERY mailbox" in steps_of(Way.GRAPH, Values("box", BOX))["permission"]


def test_mailbox_of_the_store_is_changed_by_a_command() -> None:
    found = steps_of(Way.MAILBOX_PERMISSION, Values("box", BOX, TENANT, APP, stored=True))
    assert found["mailboxes-file"].startswith("postlane mailbox set box preset=office365 login= ")
    assert f'"oauth.client_id={APP}"' in found["mailboxes-file"]


@pytest.mark.parametrize(
    ("failure", "mailbox", "may_submit", "words"),
    [
        (refused(BARE), submitting(PERSON), True, "whether it is owner@contoso.com who has signed in"),
        (refused(BARE), submitting(by(SECRET, username="x@contoso.com")), True, "Leave `username` out"),
        (refused(BARE), submitting(by(SECRET)), False, "Test-ServicePrincipalAuthorization"),
        (refused("550 5.7.60 no", Stage.MAIL), submitting(PERSON), True, '-Trustee "owner@contoso.com"'),
        (refused("550 5.7.60 no", Stage.MAIL), submitting(by(SECRET)), True, "object id of the enterprise application"),
    ],
)
def test_remedy_names_what_the_mailbox_tells(
    failure: Refused,
    mailbox: Mailbox,
    may_submit: bool,  # noqa: FBT001 - of a table
    words: str,
) -> None:
    assert words in remedy_of(failure, mailbox, may_submit=may_submit)


@pytest.mark.parametrize(
    "failure",
    [refused(BARE), refused("535 5.7.139 SmtpClientAuthentication is disabled"), Broken(Stage.CONNECT, Fault.DNS, "")],
)
def test_remedy_is_the_catalogues_where_the_mailbox_tells_nothing(failure: Refused | Broken) -> None:
    assert remedy_of(failure, submitting(by(SECRET)), may_submit=True) == ""


def test_missing_role_is_looked_for_at_the_api_that_has_it() -> None:
    for scope, permission, api in (
        ("https://graph.microsoft.com/.default", "Mail.Send", "Add > Microsoft Graph >"),
        ("https://outlook.office365.com/.default", "Mail.Send", "Office 365 Exchange Online"),
        ("https://outlook.office365.com/.default", "SMTP.SendAsApp", "Office 365 Exchange Online"),
    ):
        shown = claims(audience=scope.removesuffix("/.default"), roles=())
        (found,) = findings(shown, credentials(scope=scope), permission, NOW)
        assert api in found.remedy
