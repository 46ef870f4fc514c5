"""What an administrator does at Microsoft's so that a mailbox can submit: every click and every line, with its values.

The steps are those of Microsoft's page "Authenticate an IMAP, POP or SMTP connection using OAuth" and of "Role Based
Access Control for Applications in Exchange Online". A failure of `postlane check` names the step that it points to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from worker.domain.cloud import CLOUDS, Cloud, CloudName, cloud_of, is_high_volume
from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.mailbox import (
    Certificate,
    DeviceLogin,
    Endpoint,
    Federated,
    GraphEndpoint,
    Mailbox,
    ManagedIdentity,
    OAuth,
    Proof,
    Secret,
    SmtpEndpoint,
)

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
    HIGH_VOLUME = "high-volume"
    SEND_AS = "send-as"
    SMTP_AUTH = "smtp-auth"
    SENT_ITEMS = "sent-items"
    MAILBOXES_FILE = "mailboxes-file"
    CHECK = "check"


class Way(StrEnum):
    """How the mailbox is sent through, and how the app is let at it."""

    MAILBOX_PERMISSION = "mailbox-permission"
    RBAC = "rbac"
    PERSON = "person"
    HIGH_VOLUME = "high-volume"
    GRAPH = "graph"
    GRAPH_RBAC = "graph-rbac"
    GRAPH_PERSON = "graph-person"


_OF_GRAPH = {Way.GRAPH, Way.GRAPH_RBAC, Way.GRAPH_PERSON}
_BY_ROLE = {Way.RBAC, Way.GRAPH_RBAC}
_OF_A_PERSON = {Way.PERSON, Way.GRAPH_PERSON}


def way_of(channel: Endpoint) -> Way:
    """The way that a channel goes, as far as the mailbox tells; how the app got its rights it does not tell."""
    match channel:
        case GraphEndpoint(credentials=OAuth(proof=DeviceLogin())):
            return Way.GRAPH_PERSON
        case GraphEndpoint():
            return Way.GRAPH
        case SmtpEndpoint(host=host) if is_high_volume(host):
            return Way.HIGH_VOLUME
        case SmtpEndpoint(credentials=OAuth(proof=DeviceLogin())):
            return Way.PERSON
        case _:
            return Way.MAILBOX_PERMISSION


@dataclass(frozen=True, slots=True)
class Values:
    """What is filled in. What nobody knows yet stays a name in angle brackets.

    Attributes:
        name: of the mailbox in the mailboxes file.
        object_id: of the ENTERPRISE APPLICATION; the app registration's own looks alike and does not work.
        senders: further addresses that stand in From.
        username: the mailbox or person that logs in; empty: it is the address.
        proof: None: it is not chosen yet.
        stored: the mailbox is kept in the store, not in the file.
    """

    name: str
    address: str
    tenant: str = "<tenant id>"
    client_id: str = "<application (client) id>"
    object_id: str = "<object id of the enterprise application>"
    senders: tuple[str, ...] = ()
    cloud: CloudName = CloudName.GLOBAL
    username: str = ""
    proof: Proof | None = None
    stored: bool = False

    @property
    def opened(self) -> str:
        """The mailbox that is logged in to."""
        return self.username or self.address

    @property
    def others(self) -> tuple[str, ...]:
        """Addresses that stand in From and are not the login's own."""
        return (*((self.address,) if self.opened != self.address else ()), *self.senders)


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
_GRAPH_SHELL = "Microsoft Graph PowerShell"
_GRAPH_ENVIRONMENTS = {
    CloudName.GLOBAL: "",
    CloudName.GCC_HIGH: " -Environment USGov",
    CloudName.DOD: " -Environment USGovDoD",
    CloudName.CHINA: " -Environment China",
}


@dataclass(frozen=True, slots=True)
class _Permission:
    """What an app needs: of which API, of which kind."""

    name: str
    api: str = "APIs my organization uses > Office 365 Exchange Online"
    api_id: str = "00000002-0000-0ff1-ce00-000000000000"
    kind: str = "Application"


_OF_MICROSOFT_GRAPH = ("Microsoft Graph", "00000003-0000-0000-c000-000000000000")
_PERMISSIONS = {
    Way.MAILBOX_PERMISSION: _Permission("SMTP.SendAsApp"),
    Way.HIGH_VOLUME: _Permission("Mail.Send"),
    Way.PERSON: _Permission("SMTP.Send", *_OF_MICROSOFT_GRAPH, "Delegated"),
    Way.GRAPH: _Permission("Mail.Send", *_OF_MICROSOFT_GRAPH),
    Way.GRAPH_PERSON: _Permission("Mail.Send", *_OF_MICROSOFT_GRAPH, "Delegated"),
}
"""By role there is none in Entra."""

_EVERYWHERE = (
    "With it the app may send as EVERY mailbox of the organization. Better give it the right for this one only: "
    "the steps of --rbac."
)


def instructions(way: Way, values: Values) -> tuple[Instruction, ...]:
    """All of it, in order."""
    cloud = CLOUDS[values.cloud]
    if values.proof is None and way in _OF_A_PERSON:
        values = replace(values, proof=DeviceLogin())
    steps = _graph(way, values) if way in _OF_GRAPH else _exchange(way, values)
    return (*_entra(way, values, cloud), *_connected(steps, cloud), *_here(way, values, cloud))


def _entra(way: Way, values: Values, cloud: Cloud) -> Iterator[Instruction]:
    if isinstance(values.proof, ManagedIdentity):
        yield from _identity(way, values)
        return
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
    yield _proof(values)
    if (permission := _PERMISSIONS.get(way)) is None:
        return
    shown = "role" if permission.kind == "Application" else "delegated permission"
    yield Instruction(
        SetupStep.PERMISSION,
        f"Ask for the {permission.kind.lower()} permission {permission.name}",
        f"{_PORTAL} > App registrations > Postlane > API permissions",
        (f"Add a permission > {permission.api} > {permission.kind} permissions > {permission.name} > Add",),
        _EVERYWHERE if way is Way.GRAPH else "",
        f"`postlane token inspect {values.name}` shows the {shown} {permission.name}.",
    )
    yield Instruction(
        SetupStep.CONSENT,
        "Consent to it for the organization",
        f"{_PORTAL} > App registrations > Postlane > API permissions",
        ("Grant admin consent > Yes",),
        proof=f"`postlane check` gets past AADSTS65001, and the token shows the {shown}.",
    )


def _proof(values: Values) -> Instruction:
    """What the app shows that it is the app."""
    there = f"{_PORTAL} > App registrations > Postlane > Certificates & secrets"
    match values.proof:
        case DeviceLogin():
            return Instruction(
                SetupStep.PROOF,
                "Let a person sign in with it",
                f"{_PORTAL} > App registrations > Postlane > Authentication",
                ("Allow public client flows > Yes > Save",),
                "The app needs no secret: it acts for whoever has signed in.",
                "`postlane token login` gets past AADSTS7000218.",
            )
        case Certificate():
            return Instruction(
                SetupStep.PROOF,
                "Give it the certificate",
                there,
                ("Certificates > Upload certificate: the one in `certificate_file`, without its private key",),
                "Two certificates may overlap: upload the new one before the file is replaced.",
                "`postlane check` gets past AADSTS700027.",
            )
        case Federated():
            return Instruction(
                SetupStep.PROOF,
                "Have it trust the platform",
                there,
                (
                    "Federated credentials > Add credential: issuer and subject as in the platform's token",
                    "Audience: api://AzureADTokenExchange",
                ),
                "There is no secret that could end or get lost.",
                "`postlane check` gets past AADSTS700212 and AADSTS700213.",
            )
        case _:
            return Instruction(
                SetupStep.PROOF,
                "Give it a proof",
                there,
                (
                    "Federated credentials or a certificate if you can",
                    "Else New client secret: copy its Value, not its Secret ID",
                    "Write down when it expires: `expires` in the mailboxes file has Postlane warn you weeks ahead",
                ),
                "When a secret expires all mailboxes of the app stop at once. Two secrets may overlap.",
                "`postlane check` gets past AADSTS7000215, AADSTS7000222 and AADSTS700027.",
            )


def _identity(way: Way, values: Values) -> Iterator[Instruction]:
    """A managed identity has no app registration: the permission goes to its service principal, by PowerShell only."""
    yield Instruction(
        SetupStep.REGISTER,
        "Give the machine an identity",
        "Azure portal > the machine, App Service, … > Identity",
        (
            "System assigned > On, or User assigned > Add",
            f"Copy its Object (principal) ID: {values.object_id}",
            f"Its application ID, {values.client_id}:",
            f'Get-MgServicePrincipal -ServicePrincipalId "{values.object_id}" | Format-List AppId',
        ),
        "It has no secret that could end or get lost.",
        "`postlane check` gets a token.",
    )
    if (permission := _PERMISSIONS.get(way)) is None:
        return
    scopes = "Application.Read.All, AppRoleAssignment.ReadWrite.All"
    whose = f'-ServicePrincipalId "{values.object_id}" -PrincipalId "{values.object_id}"'
    yield Instruction(
        SetupStep.PERMISSION,
        f"Assign it the role {permission.name}",
        _GRAPH_SHELL,
        (
            f"Connect-MgGraph -Scopes {scopes}{_GRAPH_ENVIRONMENTS[values.cloud]}",
            f"$api = Get-MgServicePrincipal -Filter \"appId eq '{permission.api_id}'\"",
            f'$role = $api.AppRoles | Where-Object Value -eq "{permission.name}"',
            f"New-MgServicePrincipalAppRoleAssignment {whose} -ResourceId $api.Id -AppRoleId $role.Id",
        ),
        f"No portal can do it; a consent is not needed. {_EVERYWHERE if way is Way.GRAPH else ''}".rstrip(),
        f"`postlane token inspect {values.name}` shows the role {permission.name}.",
    )


def _connected(steps: Iterable[Instruction], cloud: Cloud) -> Iterator[Instruction]:
    """The first of them connects."""
    for number, step in enumerate(steps):
        yield replace(step, lines=(_connect(cloud), *step.lines)) if number == 0 else step


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


def _exchange(way: Way, values: Values) -> Iterator[Instruction]:
    match way:
        case Way.HIGH_VOLUME:
            yield _high_volume(values)
            return
        case Way.PERSON:
            yield from _send_as(values, values.opened)
        case Way.RBAC:
            yield _principal(values)
            yield _role(
                values,
                "Application SMTP.SendAsApp",
                "Give the app NO permission SMTP.SendAsApp in Entra: with the claim in its token Exchange asks for "
                "mailbox permissions as well.",
            )
            yield from _send_as(values, values.object_id)
        case _:
            yield _principal(values)
            yield _full_access(values)
            yield from _send_as(values, values.object_id)
    yield Instruction(
        SetupStep.SMTP_AUTH,
        "Switch Authenticated SMTP on for the mailbox",
        _SHELL,
        (f'Set-CASMailbox -Identity "{values.opened}" -SmtpClientAuthenticationDisabled $false',),
        "It is needed for OAuth too; the switch of the whole organization may stay off.",
        f'Get-CASMailbox -Identity "{values.opened}" | Format-List SmtpClientAuthenticationDisabled  # False',
    )
    yield Instruction(
        SetupStep.SENT_ITEMS,
        "Keep no copies in Sent Items",
        _SHELL,
        (f'Set-Mailbox -Identity "{values.opened}" -MessageCopyForSMTPClientSubmissionEnabled $false',),
        "Else the mailbox fills up, and a full mailbox may not send.",
        f'Get-Mailbox -Identity "{values.opened}" | Format-List MessageCopyForSMTPClientSubmissionEnabled  # False',
    )


def _full_access(values: Values) -> Instruction:
    whom = f'-Identity "{values.opened}" -User "{values.object_id}"'
    return Instruction(
        SetupStep.MAILBOX_PERMISSION,
        "Let it at the mailbox",
        _SHELL,
        (f"Add-MailboxPermission {whom} -AccessRights FullAccess",),
        "May take up to an hour to take effect.",
        f"Get-MailboxPermission {whom}",
    )


def _send_as(values: Values, trustee: str) -> Iterator[Instruction]:
    if values.others:
        yield Instruction(
            SetupStep.SEND_AS,
            "Let the login send as its other addresses",
            _SHELL,
            tuple(_send_as_line(address, trustee) for address in values.others),
            "Without it a mail is refused at its end: 554 5.2.252 SendAsDenied.",
            f'Get-RecipientPermission -Identity "{values.others[0]}"',
        )


def _send_as_line(address: str, trustee: str) -> str:
    return f'Add-RecipientPermission -Identity "{address}" -Trustee "{trustee}" -AccessRights SendAs -Confirm:$false'


def _high_volume(values: Values) -> Instruction:
    return Instruction(
        SetupStep.HIGH_VOLUME,
        "Put the app on the account's list",
        _SHELL,
        (
            "# Object ID as under ENTERPRISE APPLICATIONS > Postlane > Overview; the client ID is refused",
            f'Add-HVEAppAccess -Identity "{values.opened}" -AppIds "{values.object_id}"',
        ),
        "At most ten apps. It takes up to five minutes to take effect.",
        f'Get-HVEAppAccess -Identity "{values.opened}"',
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


def _graph(way: Way, values: Values) -> Iterator[Instruction]:
    match way:
        case Way.GRAPH_RBAC:
            yield _principal(values)
            yield _role(
                values,
                "Application Mail.Send",
                "Give the app NO permission Mail.Send in Entra: rights of both kinds add up, and that one is for every "
                "mailbox of the organization.",
            )
        case Way.GRAPH_PERSON:
            yield from _send_as(values, values.opened)
        case _:
            return


def _here(way: Way, values: Values, cloud: Cloud) -> Iterator[Instruction]:
    told = _command(way, values, cloud) if values.stored else _table(way, values)
    title = "Change it in the store" if values.stored else "Write it into the mailboxes file"
    yield Instruction(SetupStep.MAILBOXES_FILE, title, "here", told)
    sign_in = (f"postlane token login {values.name}  # as {values.opened}",) if way in _OF_A_PERSON else ()
    yield Instruction(
        SetupStep.CHECK, "Prove it", "here", (*sign_in, f"postlane check --mailbox {values.name}"), "Sends nothing."
    )


def _table(way: Way, values: Values) -> tuple[str, ...]:
    preset = f'preset = "{_preset(way)}"' if _preset(way) else ""
    listed = ", ".join(f'"{sender}"' for sender in values.senders)
    lines = (
        f"[mailboxes.{values.name}]",
        f'address = "{values.address}"',
        preset,
        f'cloud = "{values.cloud}"' if values.cloud is not CloudName.GLOBAL else "",
        f"senders = [{listed}]" if values.senders else "",
        f"[mailboxes.{values.name}.oauth]",
        *(f'{key} = "{value}"' for key, value in _client(values).items()),
        *_proof_lines(values),
        f"[mailboxes.{values.name}.graph]" if way in _OF_GRAPH else "",
    )
    return tuple(filter(None, lines))


def _command(way: Way, values: Values, cloud: Cloud) -> tuple[str, ...]:
    """One line; a password that was there before is taken away by it."""
    pairs = [
        f"preset={_preset(way)}" if _preset(way) else f"graph.url={cloud.graph}",
        *([f"cloud={values.cloud}"] if values.cloud is not CloudName.GLOBAL else []),
        "login=",
        *(f'"oauth.{key}={value}"' for key, value in _client(values).items()),
    ]
    match values.proof:
        case Certificate(file=file):
            proof = f"oauth.certificate_file={file}"
        case Federated(file=file):
            proof = f"oauth.federated_token_file={file}"
        case ManagedIdentity() as identity:
            proof = f"oauth.managed_identity={_called(identity)}"
        case DeviceLogin():
            proof = "oauth.device_login=true"
        case _:
            proof = "--password-file FILE  # with the client secret"
    return (f"postlane mailbox set {values.name} {' '.join(pairs)} {proof}",)


def _preset(way: Way) -> str:
    match way:
        case Way.GRAPH | Way.GRAPH_RBAC | Way.GRAPH_PERSON:
            return ""
        case Way.HIGH_VOLUME:
            return "office365-hve"
        case _:
            return "office365"


def _client(values: Values) -> dict[str, str]:
    """The keys of [oauth] that say which app it is, and for whom it logs in."""
    username = {"username": values.username} if values.username not in ("", values.address) else {}
    if isinstance(values.proof, ManagedIdentity):
        return username
    if isinstance(values.proof, DeviceLogin):
        username = {"username": values.opened}
    return {"tenant_id": values.tenant, "client_id": values.client_id} | username


def _proof_lines(values: Values) -> tuple[str, ...]:
    match values.proof:
        case Certificate(file=file):
            return (f'certificate_file = "{file}"',)
        case Federated(file=file):
            return (f'federated_token_file = "{file}"',)
        case ManagedIdentity() as identity:
            return (f'managed_identity = "{_called(identity)}"',)
        case DeviceLogin():
            return ("device_login = true",)
        case proof:
            ends = proof.expires if isinstance(proof, Secret) and proof.expires else "2027-01-31"
            return (
                f'client_secret_file = "/run/secrets/{values.name}"  # or certificate_file, federated_token_file, …',
                f"expires = {ends}  # when the client secret ends",
            )


def _called(identity: ManagedIdentity) -> str:
    return identity.client_id or identity.resource_id or "system"


_BY_NUMBER: dict[int, SetupStep] = {
    **dict.fromkeys((700016, 700011, 70001, 7000112, 1000031, 90002, 90038, 900382, 900432), SetupStep.REGISTER),
    **dict.fromkeys(
        (7000215, 7000222, 7000218, 70002, 700027, 50012, 700024, 700030, 700212, 700213, 500133), SetupStep.PROOF
    ),
    **dict.fromkeys((500011, 650057, 70011), SetupStep.PERMISSION),
    **dict.fromkeys((65001, 90094, 90095, 650056), SetupStep.CONSENT),
}


_SEND_AS = re.compile(r"send ?as", re.IGNORECASE)
_NO_RIGHT = re.compile(r"mailbox logon failure|MapiExceptionLogonFailed|no rights on this session", re.IGNORECASE)


def step_of(
    failure: Refused | TokenRefused | Broken, *, may_submit: bool | None, way: Way = Way.MAILBOX_PERMISSION
) -> tuple[SetupStep, ...]:
    """The steps that a failure of a check points to, the likeliest first; none if it is nothing of these.

    Args:
        failure: at whatever stage.
        may_submit: whether the token shows the permission; None: it is not known.
        way: that the mailbox goes; by role or by permission nobody can see.
    """
    match failure:
        case TokenRefused(error, _, hints):
            found = tuple(dict.fromkeys(_BY_NUMBER[hint] for hint in hints if hint in _BY_NUMBER))
            by_error = {
                "unknown_authority": (SetupStep.REGISTER,),
                "no_managed_identity": (SetupStep.REGISTER,),
                "invalid_client": (SetupStep.PROOF,),
            }
            return found or by_error.get(error, ())
        case Refused(stage=Stage.AUTH, reply=reply):
            if "SmtpClientAuth" in reply.text or "5.7.139" in reply.text:
                return (SetupStep.SMTP_AUTH,)
            return _login_steps(may_submit, way)
        case Refused(reply=reply) if way in _OF_GRAPH and "ErrorAccessDenied" in reply.text:
            return (
                SetupStep.PERMISSION,
                SetupStep.CONSENT,
                *((SetupStep.ROLE_ASSIGNMENT,) if way is Way.GRAPH else ()),
            )
        case Refused(reply=reply):
            if _SEND_AS.search(reply.text) or str(reply.enhanced) == "5.7.60":
                return (SetupStep.SEND_AS,)
            return (SetupStep.MAILBOX_PERMISSION, SetupStep.ROLE_ASSIGNMENT) if _NO_RIGHT.search(reply.text) else ()
        case Broken(fault=Fault.NO_MECHANISM):
            return (SetupStep.SMTP_AUTH,)
        case _:
            return ()


def _login_steps(may_submit: bool | None, way: Way) -> tuple[SetupStep, ...]:  # noqa: FBT001 - as in `step_of`
    match way:
        case Way.PERSON:
            return (SetupStep.MAILBOXES_FILE, SetupStep.PERMISSION, SetupStep.SMTP_AUTH)
        case Way.HIGH_VOLUME:
            return (SetupStep.PERMISSION, SetupStep.CONSENT, SetupStep.HIGH_VOLUME)
        case _ if may_submit is False:
            return (
                SetupStep.PERMISSION,
                SetupStep.CONSENT,
                SetupStep.SERVICE_PRINCIPAL,
                SetupStep.MAILBOX_PERMISSION,
                SetupStep.ROLE_ASSIGNMENT,
                SetupStep.SMTP_AUTH,
            )
        case _:
            return (SetupStep.SERVICE_PRINCIPAL, SetupStep.MAILBOX_PERMISSION, SetupStep.SMTP_AUTH)


def remedy_of(failure: Refused | TokenRefused | Broken, mailbox: Mailbox, *, may_submit: bool | None) -> str:
    """What to do about it where the mailbox tells more than the catalogue of replies can know; else empty.

    Args:
        failure: of a check.
        mailbox: with the way out that was tried.
        may_submit: whether the token shows the permission; None: it is not known.
    """
    credentials = getattr(mailbox.endpoint, "credentials", None)
    address, way, login = str(mailbox.address), way_of(mailbox.endpoint), getattr(credentials, "username", "")
    by_app = isinstance(credentials, OAuth) and way is Way.MAILBOX_PERMISSION
    match failure:
        case Refused(stage=Stage.AUTH) if step_of(failure, may_submit=may_submit, way=way) == (SetupStep.SMTP_AUTH,):
            return ""
        case Refused(stage=Stage.AUTH) if way is Way.PERSON:
            return (
                f"Check in this order: whether it is {login} who has signed in (`username` is the person, `address` "
                "the shared mailbox); the delegated permission SMTP.Send; "
                f'Set-CASMailbox -Identity "{login}" -SmtpClientAuthenticationDisabled $false.'
            )
        case Refused(stage=Stage.AUTH) if by_app and login.lower() != address.lower():
            return (
                f"The login names {login}, and the mailbox is {address}: an app logs in to a mailbox that it has "
                f"rights on. Leave `username` out, or give the app its rights on {login} too."
            )
        case Refused(stage=Stage.AUTH) if by_app and may_submit is False:
            return (
                "If the right was given by RBAC for Applications the token shows no permission, and must not: check "
                "New-ServicePrincipal, the role assignment and its scope by "
                f'Test-ServicePrincipalAuthorization -Resource "{address}". Else the permission SMTP.SendAsApp and '
                "its consent are missing."
            )
        case Refused() if step_of(failure, may_submit=None, way=way) == (SetupStep.SEND_AS,):
            trustee = "<object id of the enterprise application>" if by_app else login
            return (
                f"{address} is the mailbox's own address, and its login {login} may not send as it: "
                f"{_send_as_line(address, trustee)} (effective within an hour), or set `address` to the login's own."
            )
        case _:
            return ""


def cloud_of_mailbox(mailbox: Mailbox) -> CloudName | None:
    """The cloud of a mailbox, by where it submits and where its tokens come from; None: nothing tells."""
    hosts, authority = [], ""
    for channel in mailbox.channels:
        match channel:
            case SmtpEndpoint(host=host, credentials=credentials):
                hosts.append(host.lower())
            case GraphEndpoint(url=url, credentials=credentials):
                hosts.append(url.removeprefix("https://").partition("/")[0].lower())
            case _:
                continue
        authority = authority or (credentials.authority if isinstance(credentials, OAuth) else "")
    found = cloud_of(authority, hosts)
    return found.name if found is not None else None
