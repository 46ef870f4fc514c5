"""Whose mailbox carries a notification: the named one, else the tenant's own, else the default, else none.

A tenant's own mailbox takes all of its mail: when it is down the mail waits, and never leaves through another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.delivery import Because
from contracts.notification import Notification
from worker.domain.mailbox import Directory, Mailbox


@dataclass(frozen=True, slots=True)
class Route:
    """The chosen mailbox and the rule that chose it."""

    mailbox: Mailbox
    because: Because


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a notification is not sent at all.

    Attributes:
        kind: reason class of the result.
        field: path of the offending field in the notification.
    """

    kind: str
    field: str
    explanation: str
    remedy: str


def route(notification: Notification, directory: Directory) -> Route | Refusal:
    """Choose the mailbox for a notification, or say why there is none."""
    tenant = notification.tenant.lower()
    own = next((mailbox for mailbox in directory.mailboxes.values() if tenant in mailbox.tenants), None)
    if not _known(tenant, own, directory):
        return Refusal(
            "unknown-tenant",
            "tenant",
            f"Tenant {notification.tenant!r} is not known here.",
            "Check the spelling, or list the tenant under [tenants] in the mailboxes file.",
        )
    if notification.mailbox is not None:
        return _named(notification.mailbox, tenant, directory)
    if own is not None:
        return Route(own, Because.OWN)
    default = directory.mailboxes.get(directory.default or "")
    if default is not None and not default.tenants and _may_use_default(tenant, directory):
        return Route(default, Because.DEFAULT)
    return Refusal(
        "no-mailbox",
        "tenant",
        f"Tenant {notification.tenant!r} has no mailbox of its own and may not use the default one.",
        "Add a mailbox with this tenant to the mailboxes file, or set use_default = true for the tenant.",
    )


def check_sender(notification: Notification, mailbox: Mailbox) -> Refusal | None:
    """Refuse a From that the mailbox may not use: the server would, after three of them it punishes the mailbox."""
    sender = notification.sender
    if sender is None or mailbox.may_send_as(sender.spec):
        return None
    return Refusal(
        "sender-not-allowed",
        "from",
        f"Mailbox {mailbox.name!r} may not send as {sender.address}.",
        f"Leave out `from`, or add the address to `senders` of mailbox {mailbox.name!r} "
        "(on Office 365 it also needs Send As permission).",
    )


def _known(tenant: str, own: Mailbox | None, directory: Directory) -> bool:
    return own is not None or directory.tenants is None or tenant in directory.tenants


def _may_use_default(tenant: str, directory: Directory) -> bool:
    return directory.tenants is None or directory.tenants.get(tenant, False)


def _named(name: str, tenant: str, directory: Directory) -> Route | Refusal:
    """A named mailbox is that one or none: another tenant's counts as none and is not even admitted to exist."""
    mailbox = directory.mailboxes.get(name)
    if mailbox is not None and (
        tenant in mailbox.tenants or (not mailbox.tenants and _may_use_default(tenant, directory))
    ):
        return Route(mailbox, Because.NAMED)
    return Refusal(
        "unknown-mailbox",
        "mailbox",
        f"There is no mailbox {name!r} that this tenant may use.",
        "Leave out `mailbox`, or bind the mailbox to the tenant in the mailboxes file.",
    )
