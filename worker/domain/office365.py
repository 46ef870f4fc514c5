"""What an administrator does at Microsoft's so that a mailbox can submit: every click and every line, with its values.

The steps are those of Microsoft's page "Authenticate an IMAP, POP or SMTP connection using OAuth" and of "Role Based
Access Control for Applications in Exchange Online". A failure of `postlane check` names the step that it points to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from worker.domain.cloud import CLOUDS, Cloud, CloudName
from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused

RETIREMENT = (
    "Microsoft switches basic authentication for SMTP AUTH off by default at the end of December 2026; an "
    "administrator can switch it on again for a while; the final date will be announced in the second half of 2027."
)
HVE_RETIREMENT = "High Volume Email takes passwords until September 2028."


class SetupStep(StrEnum):
    """In the order in which they are done."""

    REGISTER = "register"
    PROOF = "proof"
    PERMISSION = "permission"
    CONSENT = "consent"
    SERVICE_PRINCIPAL = "service-principal"
    MAILBOX_PERMISSION = "mailbox-permission"
    ROLE_ASSIGNMENT = "role-assignment"
    SEND_AS = "send-as"
    SMTP_AUTH = "smtp-auth"
    SENT_ITEMS = "sent-items"
    MAILBOXES_FILE = "mailboxes-file"
    CHECK = "check"


class Way(StrEnum):
    """How the app is let at the mailbox."""

    MAILBOX_PERMISSION = "mailbox-permission"
    RBAC = "rbac"
    GRAPH = "graph"
    GRAPH_RBAC = "graph-rbac"


_OF_GRAPH = {Way.GRAPH, Way.GRAPH_RBAC}


@dataclass(frozen=True, slots=True)
class Values:
    """What is filled in. What nobody knows yet stays a name in angle brackets.

    Attributes:
        name: of the mailbox in the mailboxes file.
        object_id: of the ENTERPRISE APPLICATION; the app registration's own looks alike and does not work.
        senders: further addresses that stand in From.
    """

    name: str
    address: str
    tenant: str = "<tenant id>"
    client_id: str = "<application (client) id>"
    object_id: str = "<object id of the enterprise application>"
    senders: tuple[str, ...] = ()
    cloud: CloudName = CloudName.GLOBAL


@dataclass(frozen=True, slots=True)
class Instruction:
    """One step: where it is done, what to do there, what it is for, and how one sees that it is done."""

    step: SetupStep
    title: str
    place: str
    lines: tuple[str, ...]
    why: str = ""
    proof: str = ""


_PORTAL = "Entra admin center"
_SHELL = "Exchange Online PowerShell"


def instructions(way: Way, values: Values) -> tuple[Instruction, ...]:
    """All of it, in order."""
    cloud = CLOUDS[values.cloud]
    return (
        *_entra(way, values, cloud),
        *(_graph(way, values, cloud) if way in _OF_GRAPH else _exchange(way, values, cloud)),
        *_here(way, values),
    )


def _entra(way: Way, values: Values, cloud: Cloud) -> Iterator[Instruction]:
    yield Instruction(
        SetupStep.REGISTER,
        "Register an application",
        f"{_PORTAL} ({cloud.portal}) > App registrations",
        (
            "New registration > name: Postlane > accounts in this organizational directory only > Register",
            f"Overview: copy the Application (client) ID: {values.client_id}",
            f"Overview: copy the Directory (tenant) ID: {values.tenant}",
        ),
        "The app registration must live in the same cloud as the mailbox.",
        "`postlane check` gets past AADSTS700016 and AADSTS90002.",
    )
    yield Instruction(
        SetupStep.PROOF,
        "Give it a proof",
        f"{_PORTAL} > App registrations > Postlane > Certificates & secrets",
        (
            "Federated credentials or a certificate if you can",
            "Else New client secret: copy its Value, not its Secret ID",
            "Write down when it expires: `expires` in the mailboxes file has Postlane warn you weeks ahead",
        ),
        "When a secret expires all mailboxes of the app stop at once. Two secrets may overlap.",
        "`postlane check` gets past AADSTS7000215, AADSTS7000222 and AADSTS700027.",
    )
    if way in {Way.RBAC, Way.GRAPH_RBAC}:
        return
    api, permission = (
        ("Microsoft Graph", "Mail.Send")
        if way in _OF_GRAPH
        else ("APIs my organization uses > Office 365 Exchange Online", "SMTP.SendAsApp")
    )
    yield Instruction(
        SetupStep.PERMISSION,
        f"Ask for the application permission {permission}",
        f"{_PORTAL} > App registrations > Postlane > API permissions",
        (f"Add a permission > {api} > Application permissions > {permission} > Add",),
        proof=f"`postlane token inspect {values.name}` shows the role {permission}.",
    )
    yield Instruction(
        SetupStep.CONSENT,
        "Consent to it for the organization",
        f"{_PORTAL} > App registrations > Postlane > API permissions",
        ("Grant admin consent > Yes",),
        proof="`postlane check` gets past AADSTS65001, and the token shows the role.",
    )


def _connect(cloud: Cloud) -> str:
    return f"Connect-ExchangeOnline{cloud.powershell}"


def _principal(values: Values) -> Instruction:
    return Instruction(
        SetupStep.SERVICE_PRINCIPAL,
        "Make the application known to Exchange",
        _SHELL,
        (
            "# Object ID as under ENTERPRISE APPLICATIONS > Postlane > Overview, not as under App registrations",
            f'New-ServicePrincipal -AppId "{values.client_id}" -ObjectId "{values.object_id}" -DisplayName "Postlane"',
        ),
        "The Object ID of the app registration is the most frequent mistake: it is taken without complaint, and every "
        "login then fails with a bare 535 5.7.3.",
        f'Get-ServicePrincipal | Where-Object AppId -eq "{values.client_id}" | Format-List AppId, ObjectId',
    )


def _exchange(way: Way, values: Values, cloud: Cloud) -> Iterator[Instruction]:
    principal = _principal(values)
    yield replace(principal, lines=(_connect(cloud), *principal.lines))
    if way is Way.RBAC:
        yield _role(
            values,
            "Application SMTP.SendAsApp",
            "Give the app NO permission SMTP.SendAsApp in Entra: with the claim in its token Exchange asks for mailbox "
            "permissions as well.",
        )
    else:
        whom = f'-Identity "{values.address}" -User "{values.object_id}"'
        yield Instruction(
            SetupStep.MAILBOX_PERMISSION,
            "Let it at the mailbox",
            _SHELL,
            (f"Add-MailboxPermission {whom} -AccessRights FullAccess",),
            "May take up to an hour to take effect.",
            f"Get-MailboxPermission {whom}",
        )
    if values.senders:
        yield Instruction(
            SetupStep.SEND_AS,
            "Let it send as its other addresses",
            _SHELL,
            tuple(
                f'Add-RecipientPermission -Identity "{sender}" -Trustee "{values.object_id}" -AccessRights SendAs '
                "-Confirm:$false"
                for sender in values.senders
            ),
            "Without it a mail is refused at its end: 554 5.2.252 SendAsDenied.",
            f'Get-RecipientPermission -Identity "{values.senders[0]}"',
        )
    yield Instruction(
        SetupStep.SMTP_AUTH,
        "Switch Authenticated SMTP on for the mailbox",
        _SHELL,
        (f'Set-CASMailbox -Identity "{values.address}" -SmtpClientAuthenticationDisabled $false',),
        "It is needed for OAuth too; the switch of the whole organization may stay off.",
        f'Get-CASMailbox -Identity "{values.address}" | Format-List SmtpClientAuthenticationDisabled  # False',
    )
    yield Instruction(
        SetupStep.SENT_ITEMS,
        "Keep no copies in Sent Items",
        _SHELL,
        (f'Set-Mailbox -Identity "{values.address}" -MessageCopyForSMTPClientSubmissionEnabled $false',),
        "Else the mailbox fills up, and a full mailbox may not send.",
        f'Get-Mailbox -Identity "{values.address}" | Format-List MessageCopyForSMTPClientSubmissionEnabled  # False',
    )


def _role(values: Values, role: str, why: str) -> Instruction:
    scope = f"Postlane {values.name}"
    quoted = values.address.replace("'", "''")
    only = f"\"PrimarySmtpAddress -eq '{quoted}'\""
    return Instruction(
        SetupStep.ROLE_ASSIGNMENT,
        "Give it the right for this mailbox only (RBAC for Applications)",
        _SHELL,
        (
            f'New-ManagementScope -Name "{scope}" -RecipientRestrictionFilter {only}',
            f'New-ManagementRoleAssignment -Role "{role}" -App "{values.client_id}" -CustomResourceScope "{scope}"',
        ),
        why,
        f'Test-ServicePrincipalAuthorization -Identity "{values.client_id}" -Resource "{values.address}"',
    )


def _graph(way: Way, values: Values, cloud: Cloud) -> Iterator[Instruction]:
    if way is Way.GRAPH_RBAC:
        principal = _principal(values)
        yield replace(principal, lines=(_connect(cloud), *principal.lines))
        yield _role(
            values,
            "Application Mail.Send",
            "Give the app NO permission Mail.Send in Entra: rights of both kinds add up, and that one is for every "
            "mailbox of the organization.",
        )


def _here(way: Way, values: Values) -> Iterator[Instruction]:
    endpoint = (f"[mailboxes.{values.name}.graph]",) if way in _OF_GRAPH else ()
    preset = () if way in _OF_GRAPH else ('preset = "office365"',)
    cloud = (f'cloud = "{values.cloud}"',) if values.cloud is not CloudName.GLOBAL else ()
    listed = ", ".join(f'"{sender}"' for sender in values.senders)
    senders = (f"senders = [{listed}]",) if values.senders else ()
    yield Instruction(
        SetupStep.MAILBOXES_FILE,
        "Write it into the mailboxes file",
        "here",
        (
            f"[mailboxes.{values.name}]",
            f'address = "{values.address}"',
            *preset,
            *cloud,
            *senders,
            f"[mailboxes.{values.name}.oauth]",
            f'tenant_id = "{values.tenant}"',
            f'client_id = "{values.client_id}"',
            f'client_secret_file = "/run/secrets/{values.name}"  # or certificate_file, federated_token_file, …',
            "expires = 2027-01-31  # when the client secret ends",
            *endpoint,
        ),
    )
    yield Instruction(
        SetupStep.CHECK, "Prove it", "here", (f"postlane check --mailbox {values.name}",), "Sends nothing."
    )


_BY_NUMBER: dict[int, SetupStep] = {
    **dict.fromkeys((700016, 700011, 70001, 7000112, 1000031, 90002, 90038, 900382, 900432), SetupStep.REGISTER),
    **dict.fromkeys(
        (7000215, 7000222, 7000218, 70002, 700027, 50012, 700024, 700030, 700212, 700213, 500133), SetupStep.PROOF
    ),
    **dict.fromkeys((500011, 650057, 70011), SetupStep.PERMISSION),
    **dict.fromkeys((65001, 90094, 90095, 650056), SetupStep.CONSENT),
}


def step_of(failure: Refused | TokenRefused | Broken, *, may_submit: bool | None) -> tuple[SetupStep, ...]:
    """The steps that a failure of a check points to, the likeliest first; none if it is nothing of these.

    Args:
        failure: at whatever stage.
        may_submit: whether the token shows the permission; None: it is not known.
    """
    match failure:
        case TokenRefused(error, _, hints):
            found = tuple(dict.fromkeys(_BY_NUMBER[hint] for hint in hints if hint in _BY_NUMBER))
            by_error = {"unknown_authority": (SetupStep.REGISTER,), "invalid_client": (SetupStep.PROOF,)}
            return found or by_error.get(error, ())
        case Refused(stage=Stage.AUTH, reply=reply):
            if "SmtpClientAuth" in reply.text or "5.7.139" in reply.text:
                return (SetupStep.SMTP_AUTH,)
            rights = (SetupStep.SERVICE_PRINCIPAL, SetupStep.MAILBOX_PERMISSION, SetupStep.SMTP_AUTH)
            return rights if may_submit is not False else (SetupStep.PERMISSION, SetupStep.CONSENT, *rights)
        case Refused(stage=Stage.MAIL | Stage.RCPT | Stage.DATA | Stage.DOT, reply=reply) if "SendAs" in reply.text:
            return (SetupStep.SEND_AS,)
        case Broken(fault=Fault.NO_MECHANISM):
            return (SetupStep.SMTP_AUTH,)
        case _:
            return ()
