"""What mailboxes have in common: a server, an app registration, a tenant. A fault of it is a fault of all of them.

Each is a name, the same in every worker. Two mailboxes share one only if a fault of the one must be a fault of the
other: a server with the same settings of TLS, an app with the same proof. Better two names for one server than one bad
secret that keeps others from sending.
"""

from __future__ import annotations

import hashlib
from urllib.parse import urlsplit

from contracts.address import AddrSpec
from worker.domain.cloud import is_microsofts
from worker.domain.delivery import Stage
from worker.domain.mailbox import (
    Certificate,
    DeviceLogin,
    Federated,
    GraphEndpoint,
    Mailbox,
    ManagedIdentity,
    NoLogin,
    OAuth,
    Password,
    PickupDirectory,
    Secret,
    SmtpEndpoint,
)
from worker.domain.verdict import Action, Only, Scope, Verdict

_LONGEST = 160  # characters


def shared_by(way: Mailbox, sender: AddrSpec | None = None, *, external: bool = True) -> tuple[str, ...]:
    """All that a mailbox shares on its first way out, and that an attempt needs.

    Args:
        way: the mailbox.
        sender: who stands in MAIL FROM.
        external: whether a recipient is outside the sender's domain.
    """
    tenant = _tenant(way)
    names = [_server(way), _logins(way), _app(way), tenant]
    if tenant and isinstance(_credentials(way), Password):
        names.append(_part(tenant, Only.PASSWORD))
    if tenant and external:
        names.append(_part(tenant, Only.EXTERNAL))
        if _onmicrosoft(way):
            names.append(_part(tenant, Only.ONMICROSOFT))
    if sender is not None:
        names.append(_sender(way, sender))
    return tuple(name for name in names if name)


def whose(verdict: Verdict, way: Mailbox, sender: AddrSpec, stage: Stage | None) -> str:
    """What is to rest because of a verdict; empty: the mailbox alone.

    Args:
        verdict: about an attempt.
        way: the mailbox by the channel that was used.
        sender: who stood in MAIL FROM.
        stage: how far the attempt had come.
    """
    if verdict.scope is Scope.SENDER and verdict.punished:
        return _sender(way, sender)
    if verdict.action is not Action.PAUSE:
        return ""
    match verdict.scope:
        case Scope.SERVER:
            return _server(way) if stage is Stage.CONNECT else _logins(way)
        case Scope.APP:
            return _app(way)
        case Scope.TENANT:
            return _within_tenant(verdict, way)
        case _:
            return ""


def shown(name: str) -> str:
    """For people: without what only tells two settings apart."""
    return name.partition(" #")[0]


def senders_of(mailbox: str) -> str:
    """What the names of a mailbox's senders begin with."""
    return f"sender of {mailbox}: "


def _within_tenant(verdict: Verdict, way: Mailbox) -> str:
    tenant = _tenant(way)
    match verdict.only:
        case None:
            return tenant
        case Only.ONE_BY_ONE:
            return ""
        case Only.PASSWORD if not isinstance(_credentials(way), Password):
            return ""
        case Only.ONMICROSOFT if not _onmicrosoft(way):
            return ""
        case part:
            return _part(tenant, part) if tenant else ""


def _server(way: Mailbox) -> str:
    match way.endpoint:
        case SmtpEndpoint(host=host, port=port, tls=tls, helo=helo, ca_file=ca_file):
            settings = (helo, ca_file)
            return _name(f"server {host.lower()}:{port} ({tls})", settings if any(settings) else ())
        case GraphEndpoint(url=url, ca_file=ca_file):
            return _name(f"server {urlsplit(url).netloc.lower()}", (ca_file,) if ca_file else ())
        case PickupDirectory():
            return ""


def _logins(way: Mailbox) -> str:
    server = _server(way)
    match _credentials(way):
        case NoLogin():
            kind = "mail without login"
        case Password():
            kind = "logins by password"
        case OAuth():
            kind = "logins by token"
    return f"{kind}, {server}" if server else ""


def _app(way: Mailbox) -> str:
    match _credentials(way):
        case OAuth(client_id=client, authority=authority, proof=proof) if client:
            match proof:
                case Secret(value=value):
                    known = value.get_secret_value()
                case Certificate(file=file) | Federated(file=file):
                    known = str(file)
                case DeviceLogin():
                    known = "device"
                case ManagedIdentity():
                    return ""
            return _name(f"app {client} of {authority}", (type(proof).__name__, known))
        case _:
            return ""


def _tenant(way: Mailbox) -> str:
    """A Microsoft tenant: by the authority of its tokens, else by the domain, which only one tenant can have."""
    match way.endpoint, _credentials(way):
        case _, OAuth(authority=authority, oidc=False) if authority:
            return _name(f"tenant {authority.lower()}")
        case SmtpEndpoint(host=host), _ if is_microsofts(host):
            return _name(f"tenant of {way.address.domain}")
        case _:
            return ""


def _part(tenant: str, only: Only) -> str:
    return f"{tenant}, {only}"


def _sender(way: Mailbox, sender: AddrSpec) -> str:
    return _name(f"{senders_of(way.name)}{sender}")


def _onmicrosoft(way: Mailbox) -> bool:
    return way.address.domain.endswith(".onmicrosoft.com")


def _credentials(way: Mailbox) -> NoLogin | Password | OAuth:
    match way.endpoint:
        case SmtpEndpoint(credentials=credentials):
            return credentials
        case GraphEndpoint(credentials=oauth):
            return oauth
        case PickupDirectory():
            return NoLogin()


def _name(words: str, more: tuple[object, ...] = ()) -> str:
    """Short enough for a key; four octets of a digest tell settings apart and give no secret away."""
    if not more and len(words) <= _LONGEST:
        return words
    digest = hashlib.blake2b("\0".join([words, *map(str, more)]).encode(), digest_size=4).hexdigest()
    return f"{words[:_LONGEST]} #{digest}"
