"""Which resource a `scope` means, and which permissions of it a token must show."""

from __future__ import annotations

from dataclasses import dataclass

from worker.emulator.aadsts import No, missing

SMTP_RESOURCE = "https://outlook.office365.com"
GRAPH_RESOURCE = "https://graph.microsoft.com"
_EXCHANGE = frozenset({SMTP_RESOURCE, "https://outlook.office.com", "00000002-0000-0ff1-ce00-000000000000"})
_GRAPH = frozenset({GRAPH_RESOURCE, "00000003-0000-0000-c000-000000000000"})
_ELSEWHERE = frozenset(
    {
        "https://outlook.office365.us",
        "https://partner.outlook.cn",
        "https://graph.microsoft.us",
        "https://dod-graph.microsoft.us",
        "https://microsoftgraph.chinacloudapi.cn",
        "https://vault.azure.net",
        "https://management.azure.com",
    }
)
"""Resources that exist and open nothing here."""

_DEFAULT = ".default"
_OF_OPENID = frozenset({"openid", "profile", "email"})
_OFFLINE = "offline_access"
_NOT_OF_GRAPH = ("SMTP.", "IMAP.", "POP.", "full_access_as_app")


@dataclass(frozen=True, slots=True)
class Right:
    """What a token must show one of.

    Attributes:
        of_app: application permissions, in the claim `roles`.
        of_person: delegated ones, in `scp`.
    """

    of_app: frozenset[str]
    of_person: frozenset[str]


SUBMIT = Right(frozenset({"SMTP.SendAsApp"}), frozenset({"SMTP.Send"}))
SEND = Right(frozenset({"Mail.Send"}), frozenset({"Mail.Send", "Mail.Send.Shared"}))
WRITE = Right(frozenset({"Mail.ReadWrite"}), frozenset({"Mail.ReadWrite", "Mail.ReadWrite.Shared"}))
READ = Right(
    WRITE.of_app | {"Mail.Read", "Mail.ReadBasic", "Mail.ReadBasic.All"},
    WRITE.of_person | {"Mail.Read", "Mail.Read.Shared", "Mail.ReadBasic", "Mail.ReadBasic.Shared"},
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a person lets an app do.

    Attributes:
        audience: the resource.
        permissions: of it.
        offline: a refresh token is wanted.
        identity: so is an ID token.
    """

    audience: str
    permissions: tuple[str, ...]
    offline: bool
    identity: bool

    @property
    def text(self) -> str:
        """As an answer names it."""
        return " ".join(f"{self.audience}/{permission}" for permission in self.permissions)


def same(one: str, other: str) -> bool:
    """Whether two names mean one resource."""
    return one == other or any({one, other} <= names for names in (_EXCHANGE, _GRAPH))


def shown(audience: str, roles: tuple[str, ...]) -> list[str]:
    """The application permissions that a token for this resource shows; those of SMTP are not Graph's."""
    return [role for role in roles if audience not in _GRAPH or not role.startswith(_NOT_OF_GRAPH)]


def resource_of_app(scope: str, tenant: str, own: str) -> str:
    """The resource that an app asks for on its own account.

    Args:
        scope: as it was asked for.
        tenant: where.
        own: the address of the token endpoint's host, which answers for Graph about registrations.

    Raises:
        No: it must name one resource and `.default`.
    """
    if not scope:
        raise missing("scope")
    wanted = [item for item in scope.split() if item not in _OF_OPENID | {_OFFLINE}]
    if len(wanted) != 1 or not wanted[0].endswith(f"/{_DEFAULT}"):
        raise No(70011, f"The provided value for scope {scope} is not valid.")
    resource = wanted[0].removesuffix(f"/{_DEFAULT}")
    return resource if resource == own else _known(resource, tenant)


def scope_of_person(scope: str, tenant: str) -> Scope:
    """What is asked for in a person's name: permissions of one resource; a bare name is Graph's.

    Raises:
        No: of several resources, of an unknown one, or of none.
    """
    if not scope:
        raise missing("scope")
    items = scope.split()
    named = [item.rpartition("/") for item in items if item not in _OF_OPENID | {_OFFLINE}]
    resources = {_known(resource or GRAPH_RESOURCE, tenant) for resource, _, _ in named}
    if len(resources) != 1:
        raise No(70011, f"The provided value for the input parameter 'scope' is not valid: {scope}")
    (audience,) = resources
    permissions = tuple(dict.fromkeys(each for _, _, name in named for each in _consented(audience, name)))
    return Scope(audience, permissions, _OFFLINE in items, "openid" in items)


def _consented(audience: str, permission: str) -> tuple[str, ...]:
    if permission != _DEFAULT:
        return (permission,)
    return ("Mail.Send", "Mail.ReadWrite") if audience in _GRAPH else ("SMTP.Send",)


def _known(resource: str, tenant: str) -> str:
    if resource not in _EXCHANGE | _GRAPH | _ELSEWHERE:
        raise No(500011, f"The resource principal named {resource} was not found in the tenant named {tenant}.")
    return resource
