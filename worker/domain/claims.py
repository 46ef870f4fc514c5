"""What stands in an access token, and which of it keeps a mailbox shut.

Exchange Online answers a bare 535 whatever is wrong; most of it can be read in the token. Nothing is verified here:
the token is our own, and only the server's opinion of it counts.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from worker.domain.cloud import CLOUDS, is_high_volume
from worker.domain.mailbox import DeviceLogin, ManagedIdentity, OAuth
from worker.domain.office365 import SetupStep

_AT_HAND_OVER = timedelta(minutes=10)
_OUTLOOK = frozenset({"https://outlook.office365.com", "https://outlook.office.com"})
_GRAPH = {cloud.graph for cloud in CLOUDS.values()} | {"00000003-0000-0000-c000-000000000000"}
_SMTP = "SMTP.SendAsApp"
_BY_ID = "00000002-0000-0ff1-ce00-000000000000"  # Exchange Online names itself so in v2 tokens


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says of itself.

    Attributes:
        audience: `aud`, the service that it is for.
        tenant: `tid`.
        app: `appid`, or `azp`.
        roles: application permissions.
        scopes: delegated permissions; a token of an app itself has none.
        user: whose token it is; empty for an app's own.
        expires: `exp`.
    """

    audience: str
    tenant: str
    app: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    user: str
    expires: datetime | None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a token that keeps the mailbox shut, or may.

    Attributes:
        fatal: it does; else it depends on how rights were given.
        step: of `postlane office365 setup`, that was left out or went wrong.
    """

    problem: str
    remedy: str
    fatal: bool = True
    step: SetupStep | None = None


def read(token: str) -> Claims | None:
    """The claims of a JSON Web Token (RFC 7519), None if it is none: tokens of other authorities may be opaque."""
    try:
        _, middle, _ = token.split(".")
        said = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    except (ValueError, binascii.Error):
        return None
    if not isinstance(said, Mapping):
        return None
    ends = said.get("exp")
    return Claims(
        audience=_text(said, "aud"),
        tenant=_text(said, "tid"),
        app=_text(said, "appid") or _text(said, "azp"),
        roles=_texts(said.get("roles")),
        scopes=_texts(said.get("scp")),
        user=_text(said, "upn") or _text(said, "preferred_username") or _text(said, "unique_name"),
        expires=datetime.fromtimestamp(ends, UTC) if isinstance(ends, int | float) else None,
    )


def findings(claims: Claims, credentials: OAuth, permission: str, now: datetime) -> Iterator[Finding]:
    """What is wrong with a token of Microsoft's for this purpose.

    Args:
        claims: of the token.
        credentials: that it was fetched with.
        permission: wanted of an app, `SMTP.SendAsApp` or `Mail.Send`; the delegated one follows from it.
        now: for its end.
    """
    wanted = _resource(credentials.scope)
    if permission == _SMTP and claims.audience.rstrip("/") in _GRAPH:
        yield Finding(
            "The token is for Microsoft Graph, and SMTP takes it for a wrong one (a bare 535 5.7.3).",
            "Leave `scope` out, or name Outlook's: https://outlook.office365.com/.default.",
            step=SetupStep.MAILBOXES_FILE,
        )
    elif not _same_audience(claims.audience, wanted):
        yield Finding(
            f"The token is for {claims.audience or 'nobody'}, not for {wanted}.",
            f"`scope` must name {wanted}; a token for Graph does not open SMTP, nor the other way round.",
            step=SetupStep.MAILBOXES_FILE,
        )
    if isinstance(credentials.proof, DeviceLogin):
        yield from _of_a_person(claims, credentials, permission)
    elif permission not in claims.roles:
        yield _role_missing(claims, permission, _api(permission, wanted))
    tenant = urlsplit(credentials.authority).path.strip("/")
    if claims.tenant and "-" in tenant and "." not in tenant and claims.tenant.lower() != tenant.lower():
        problem = f"The token is of tenant {claims.tenant}, not {tenant}."
        yield Finding(problem, "Check `tenant_id`.", step=SetupStep.MAILBOXES_FILE)
    managed = isinstance(credentials.proof, ManagedIdentity)
    if claims.app and not managed and claims.app.lower() != credentials.client_id.lower():
        problem = f"The token is of app {claims.app}, not {credentials.client_id}."
        yield Finding(problem, "Check `client_id`.", step=SetupStep.MAILBOXES_FILE)
    if claims.expires is not None and claims.expires - now < _AT_HAND_OVER:
        yield Finding(
            f"The token ends at {claims.expires:%H:%M} UTC, in less than ten minutes.",
            "High Volume Email refuses such tokens. Check this machine's clock and the tenant's token lifetime policy.",
            fatal=claims.expires <= now,
        )


def permission_for(host: str) -> str:
    """The application permission that a submission host wants; High Volume Email has one of its own."""
    return "Mail.Send" if is_high_volume(host) else _SMTP


def _api(permission: str, wanted: str) -> str:
    """Where in the portal an application permission is found: `Mail.Send` there are two of."""
    exchange = permission == _SMTP or wanted in _OUTLOOK | {_resource(cloud.scope) for cloud in CLOUDS.values()}
    return "APIs my organization uses > Office 365 Exchange Online" if exchange else "Microsoft Graph"


def _role_missing(claims: Claims, permission: str, api: str) -> Finding:
    has = f" It has {', '.join(claims.roles)}." if claims.roles else " It has none."
    if claims.scopes:
        return Finding(
            f"The token is a person's ({', '.join(claims.scopes)}), not the app's own.",
            "Check `scope`: an app's own token is asked for with …/.default.",
            step=SetupStep.PERMISSION,
        )
    return Finding(
        f"The token shows no application permission {permission}.{has}",
        f"API permissions > Add > {api} > Application permissions > {permission}, then Grant admin consent. "
        "As it should be if the right was given by RBAC for Applications.",
        fatal=False,
        step=SetupStep.CONSENT,
    )


def _of_a_person(claims: Claims, credentials: OAuth, permission: str) -> Iterator[Finding]:
    wanted = "SMTP.Send" if permission == _SMTP else permission
    if wanted not in claims.scopes:
        yield Finding(
            f"The token has no delegated permission {wanted} (it has {', '.join(claims.scopes) or 'none'}).",
            f"API permissions > Add > Delegated permissions > {wanted}; then `postlane token login` again.",
            step=SetupStep.PERMISSION,
        )
    if claims.user and claims.user.lower() != credentials.username.lower():
        yield Finding(
            f"{claims.user} has signed in, but the mailbox logs in as {credentials.username}.",
            "`username` must name whoever has signed in; a shared mailbox is named by `address` only.",
            fatal=False,
        )


def _same_audience(audience: str, wanted: str) -> bool:
    return audience.rstrip("/") == wanted or (wanted in _OUTLOOK and audience.rstrip("/") in _OUTLOOK | {_BY_ID})


def _resource(scope: str) -> str:
    return scope.rpartition("/")[0].rstrip("/")


def _text(said: Mapping[str, object], name: str) -> str:
    return str(said.get(name) or "")


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(value.split())
    return tuple(map(str, value)) if isinstance(value, Sequence) else ()
