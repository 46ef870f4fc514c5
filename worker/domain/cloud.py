"""Microsoft's clouds: where each has its logins, its mail and its Graph. They know nothing of one another.

Hosts of mail in the national clouds are as users report them; no page of Microsoft names them, so every value can be
given in the mailboxes file instead.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class CloudName(StrEnum):
    """As it stands in the mailboxes file."""

    GLOBAL = "global"
    GCC_HIGH = "gcc-high"
    DOD = "dod"
    CHINA = "china"


@dataclass(frozen=True, slots=True)
class Cloud:
    """One of them.

    Attributes:
        authority: of tokens, `https://host`, without the tenant.
        scope: of app-only tokens for SMTP.
        delegated_scope: of a person's tokens for SMTP.
        smtp: submission host.
        graph: `https://host` of Microsoft Graph.
        powershell: what Connect-ExchangeOnline needs to get there.
    """

    name: CloudName
    authority: str
    scope: str
    delegated_scope: str
    smtp: str
    graph: str
    portal: str
    powershell: str = ""


def _cloud(
    name: CloudName,
    authority: str,
    mail: str,
    smtp: str,
    graph: str,
    portal: str,
    *,
    delegated: str = "",
    more: str = "",
) -> Cloud:
    return Cloud(
        name,
        f"https://{authority}",
        f"https://{mail}/.default",
        f"https://{delegated or mail}/SMTP.Send",
        smtp,
        f"https://{graph}",
        f"https://{portal}",
        f" -ExchangeEnvironmentName {more}" if more else "",
    )


CLOUDS = {
    cloud.name: cloud
    for cloud in (
        _cloud(
            CloudName.GLOBAL,
            "login.microsoftonline.com",
            "outlook.office365.com",
            "smtp.office365.com",
            "graph.microsoft.com",
            "entra.microsoft.com",
            delegated="outlook.office.com",
        ),
        _cloud(
            CloudName.GCC_HIGH,
            "login.microsoftonline.us",
            "outlook.office365.us",
            "smtp.office365.us",
            "graph.microsoft.us",
            "entra.microsoft.us",
            more="O365USGovGCCHigh",
        ),
        _cloud(
            CloudName.DOD,
            "login.microsoftonline.us",
            "outlook.office365.us",
            "outlook-dod.office365.us",
            "dod-graph.microsoft.us",
            "entra.microsoft.us",
            more="O365USGovDoD",
        ),
        _cloud(
            CloudName.CHINA,
            "login.partner.microsoftonline.cn",
            "partner.outlook.cn",
            "smtp.partner.outlook.cn",
            "microsoftgraph.chinacloudapi.cn",
            "entra.microsoftonline.cn",
            more="O365China",
        ),
    )
}

_MICROSOFT = (
    ".office365.com",
    ".outlook.com",
    ".office365.us",
    ".outlook.cn",
    ".mx.microsoft",
)


def cloud_of(authority: str, hosts: Collection[str]) -> Cloud | None:
    """The cloud of a mailbox; None if nothing tells it.

    Args:
        authority: of its tokens; empty if it has none. GCC High and DoD share theirs.
        hosts: of its mail and of Graph, which tell those two apart.
    """
    known = tuple(CLOUDS.values())
    fitting = [cloud for cloud in known if authority.startswith(f"{cloud.authority}/")]
    by_host = (cloud for cloud in fitting or known if {cloud.smtp, cloud.graph.removeprefix("https://")} & {*hosts})
    return next(by_host, fitting[0] if fitting else None)


def is_entras(authority: str) -> bool:
    """Whether it is a tenant of one of the clouds."""
    return cloud_of(authority, ()) is not None


def is_high_volume(host: str) -> bool:
    """Whether it is High Volume Email's."""
    return host.lower().endswith(".mx.microsoft") or host.lower().startswith("smtp-hve.")


def is_microsofts(host: str) -> bool:
    """Whether basic authentication is about to end there."""
    return host.lower().endswith(_MICROSOFT)
