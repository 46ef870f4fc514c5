"""Whose mailbox carries a notification: five rules in one function.

1. The mailbox that the notification names, or none.
2. The scope's own servers: its default, then high, normal, low; the first that is available. They take all of its mail:
   when they are down it waits, and never leaves through another scope's.
3. Only if the scope has no server: the platform's default mailbox, if the tenant may use it, and never for mass mail.
4. Else a fall-back mailbox that takes this category.
5. Else it is refused at once, with the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from contracts.delivery import Because
from contracts.notification import MASS, Notification
from worker.domain.mailbox import Directory, Mailbox, MailScope, Rank, Redirect
from worker.domain.verdict import Action, Scope, Verdict

_RANKS = tuple(Rank)


@dataclass(frozen=True, slots=True)
class Route:
    """The chosen mailbox and the rule that chose it.

    Attributes:
        why: the same in words, with the mailboxes that were passed over.
        redirect: where the mail goes in place of its recipients, if it does.
    """

    mailbox: Mailbox
    because: Because
    why: str = ""
    redirect: Redirect | None = None


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


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why a mailbox cannot be used now: it rests, is at its limit, does not answer, or is switched off.

    Attributes:
        until: when it is worth another look; None: when somebody has switched it on.
    """

    verdict: Verdict
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """No mailbox that may carry it is available.

    Attributes:
        route: where it would go first.
        unavailable: what is the matter with that one.
        until: the earliest moment at which one of them is worth another look; None: when somebody acts.
    """

    route: Route
    unavailable: Unavailable
    until: datetime | None


Availability = Callable[[str], Unavailable | None]
"""Name of a mailbox → why it cannot be used now, None if it can. The mailbox's own switch is looked at here."""


def all_available(_name: str) -> None:
    """Nothing is known against any mailbox."""
    return


def scope_of(notification: Notification) -> MailScope:
    """Whose mail it is."""
    site, component = notification.site, notification.component
    return MailScope(
        notification.tenant.lower(), site.lower() if site else None, component.lower() if component else None
    )


def route(
    notification: Notification, directory: Directory, availability: Availability = all_available
) -> Route | Refusal | Wait:
    """Choose the mailbox for a notification, or say why there is none, or none at the moment."""
    scope = scope_of(notification)
    if not directory.knows(scope.tenant):
        return Refusal(
            "unknown-tenant",
            "tenant",
            f"Tenant {notification.tenant!r} is not known here.",
            "Check the spelling, or list the tenant under [tenants] in the mailboxes file.",
        )
    if notification.mailbox is not None:
        return _named(notification, notification.mailbox, scope, directory, availability)
    own = pool(notification, directory)
    if own:
        return _of_pool(notification, own, scope, availability)
    return _of_platform(notification, scope, directory, availability)


def pool(notification: Notification, directory: Directory) -> tuple[Mailbox, ...]:
    """The scope's own servers in the order in which they are asked, those that are switched off included.

    Of several defaults the one with the narrowest scope holds. Servers of one rank share the mail evenly; which comes
    first is the notification's own, so that every attempt finds the same order.
    """
    scope = scope_of(notification)
    own = [mailbox for mailbox in directory.bound(scope.tenant) if mailbox.belongs_to(scope)]
    narrowest = max((mailbox.bound_to for mailbox in own if mailbox.rank is Rank.DEFAULT), default=0)
    holding = [mailbox for mailbox in own if mailbox.rank is not Rank.DEFAULT or mailbox.bound_to == narrowest]
    return tuple(_in_turn(notification, holding))


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


def presented(notification: Notification, chosen: Route) -> Notification:
    """As its mailbox may send it: a fall-back speaks in its own name, and answers go to who would have spoken."""
    sender = notification.sender
    if chosen.because is not Because.PURPOSE or sender is None or chosen.mailbox.may_send_as(sender.spec):
        return notification
    return notification.model_copy(update={"sender": None, "reply_to": notification.reply_to or (sender,)})


def _has_server(scope: MailScope, directory: Directory) -> bool:
    """Whether the tenant has any server, be it for another of its sites or components."""
    return any(not mailbox.fallback_for for mailbox in directory.bound(scope.tenant))


def _may_use_shared(scope: MailScope, directory: Directory) -> bool:
    if not directory.lists(scope.tenant):
        return False
    return directory.tenant(scope.tenant).use_default is not False


def _may_use_default(scope: MailScope, directory: Directory) -> bool:
    """A tenant with servers leaves nothing to the platform's unless it was told to: a misspelt site must not leak."""
    if _has_server(scope, directory) and directory.tenant(scope.tenant).use_default is not True:
        return False
    return _may_use_shared(scope, directory)


def _named(
    notification: Notification, name: str, scope: MailScope, directory: Directory, availability: Availability
) -> Route | Refusal | Wait:
    """A named mailbox is that one or none: another scope's counts as none and is not even admitted to exist."""
    if not directory.tenant(scope.tenant).choose:
        return Refusal(
            "not-allowed",
            "mailbox",
            f"Notifications of tenant {notification.tenant!r} may not choose their mailbox: it is managed for them.",
            "Leave out `mailbox`.",
        )
    mailbox = directory.mailboxes.get(name)
    if mailbox is None or not _may_name(mailbox, scope, directory):
        return Refusal(
            "unknown-mailbox",
            "mailbox",
            f"There is no mailbox {name!r} that this tenant may use.",
            "Leave out `mailbox`, or bind the mailbox to the tenant in the mailboxes file.",
        )
    if name == directory.default and notification.category == MASS:
        return _NO_MASS_MAIL
    if not mailbox.serves(notification.category):
        return Refusal(
            "no-mailbox",
            "category",
            f"Mailbox {name!r} does not serve category {notification.category!r}.",
            f"Leave out `mailbox`, or add the category to `purposes` of mailbox {name!r}.",
        )
    return _first((mailbox,), availability, lambda _: (Because.NAMED, "The notification names it."))


def _may_name(mailbox: Mailbox, scope: MailScope, directory: Directory) -> bool:
    if mailbox.tenants or mailbox.fallback_for:
        return mailbox.belongs_to(scope)
    if mailbox.name == directory.default:
        return _may_use_default(scope, directory)
    return _may_use_shared(scope, directory)


def _of_pool(
    notification: Notification, own: Sequence[Mailbox], scope: MailScope, availability: Availability
) -> Route | Refusal | Wait:
    serving = [mailbox for mailbox in own if mailbox.serves(notification.category)]
    if not serving:
        return Refusal(
            "no-mailbox",
            "category",
            f"No server is configured for category {notification.category!r} of {scope}.",
            "Add the category to `purposes` of one of its mailboxes; another scope's never takes it.",
        )
    serving = [mailbox for mailbox in serving if check_sender(notification, mailbox) is None] or serving

    def because(mailbox: Mailbox) -> tuple[Because, str]:
        if mailbox.rank is Rank.DEFAULT:
            return Because.OWN, f"Default server of {scope}."
        if len(serving) == 1:
            return Because.OWN, f"Own server of {scope}."
        return Because.PRIORITY, f"Priority {mailbox.rank} among {len(serving)} servers of {scope}."

    return _first(serving, availability, because)


def _of_platform(
    notification: Notification, scope: MailScope, directory: Directory, availability: Availability
) -> Route | Refusal | Wait:
    """For a scope without any server: the default mailbox, else a fall-back."""
    category, default = notification.category, directory.mailboxes.get(directory.default or "")
    shared = default is not None and not default.tenants and _may_use_default(scope, directory)
    if default is not None and shared and category != MASS and default.serves(category):
        return _first((default,), availability, lambda _: (Because.DEFAULT, f"Platform default: {scope} has none."))
    willing = [
        mailbox
        for mailbox in directory.mailboxes.values()
        if category in mailbox.fallback_for and (not mailbox.tenants or scope.tenant in mailbox.tenants)
    ]
    if willing:
        words = f"Fall-back for category {category!r}: {scope} has no server."
        return _first(_in_turn(notification, willing), availability, lambda _: (Because.PURPOSE, words))
    if shared and category == MASS:
        return _NO_MASS_MAIL
    return Refusal(
        "no-mailbox",
        "tenant",
        f"No server is configured for category {category!r} of {scope}, and it may not use the default one.",
        "Add a mailbox with this tenant to the mailboxes file, or set use_default = true for the tenant.",
    )


_NO_MASS_MAIL = Refusal(
    "no-mailbox",
    "category",
    "Mass mail is not sent through the platform's default mailbox.",
    "Add a mailbox of the tenant's own to the mailboxes file.",
)


def _first(
    mailboxes: Sequence[Mailbox], availability: Availability, because: Callable[[Mailbox], tuple[Because, str]]
) -> Route | Wait:
    """The first that is available; what was passed over on the way is told."""
    passed: list[tuple[Mailbox, Unavailable]] = []
    for mailbox in mailboxes:
        found = _set_aside(mailbox) or availability(mailbox.name)
        if found is None:
            rule, words = because(mailbox)
            return Route(mailbox, rule, " ".join([words, *(_passed_over(*item) for item in passed)]))
        passed.append((mailbox, found))
    # What rests comes back by itself; what is switched off only matters if there is nothing else.
    first, reason = next((item for item in passed if item[1].until is not None), passed[0])
    until = min((found.until for _, found in passed if found.until is not None), default=None)
    return Wait(Route(first, *because(first)), reason, until)


def _passed_over(mailbox: Mailbox, found: Unavailable) -> str:
    until = f" until {found.until:%H:%M:%S %Z}" if found.until else ""
    return f"Passed over {mailbox.name!r}{until}: {found.verdict.explanation}"


def _set_aside(mailbox: Mailbox) -> Unavailable | None:
    if not mailbox.enabled:
        return _switched_off(mailbox)
    if (held := mailbox.held) is not None:
        return Unavailable(Verdict(held.kind, Scope.MAILBOX, Action.PAUSE, held.why, held.remedy), held.until)
    return None


def _switched_off(mailbox: Mailbox) -> Unavailable:
    return Unavailable(
        Verdict(
            "disabled",
            Scope.MAILBOX,
            Action.PAUSE,
            f"Mailbox {mailbox.name!r} is switched off.",
            f"Switch it on (`enabled` of mailbox {mailbox.name!r}), or give its scope another one.",
        )
    )


def _in_turn(notification: Notification, mailboxes: Sequence[Mailbox]) -> list[Mailbox]:
    seed = f"{notification.tenant.lower()}\0{notification.id}"

    def turn(mailbox: Mailbox) -> tuple[int, bytes]:
        draw = hashlib.blake2b(f"{seed}\0{mailbox.name}".encode(), digest_size=8).digest()
        return _RANKS.index(mailbox.rank), draw

    return sorted(mailboxes, key=turn)
