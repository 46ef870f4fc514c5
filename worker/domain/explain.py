"""What would become of a notification, and why: the courier's decisions, with nothing sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from contracts.address import AddrSpec
from contracts.delivery import Because
from contracts.notification import Notification
from contracts.wire import Properties
from worker.domain.mailbox import Directory, Mailbox, MailScope, Restraint
from worker.domain.permission import authorise
from worker.domain.restraint import outgoing, stopped, suppressed
from worker.domain.routing import (
    Availability,
    Refusal,
    Route,
    Wait,
    all_available,
    check_sender,
    pool,
    presented,
    route,
    scope_of,
)
from worker.domain.verdict import Verdict


class Fate(StrEnum):
    """What would become of it now."""

    SENT = "sent"
    SUPPRESSED = "suppressed"
    WAITS = "waits"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Considered:
    """One mailbox, as the rules see it for this notification.

    Attributes:
        place: in the row of the scope's own servers, from 1; None: it is not one of them.
        words: what speaks for or against it.
    """

    mailbox: str
    place: int | None
    words: str


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision.

    Attributes:
        words: why.
        because: the rule that chose the mailbox, if one is chosen.
        redirected_to: who gets the mail in place of its recipients.
        barred: recipients whom the mailbox must not reach.
    """

    fate: Fate
    words: str
    remedy: str = ""
    mailbox: str | None = None
    because: Because | None = None
    redirected_to: tuple[str, ...] = ()
    barred: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and what it was made from.

    Attributes:
        scope: whose mail it is, in words.
    """

    scope: str
    category: str
    considered: tuple[Considered, ...]
    decided: Decided


def explain(
    notification: Notification,
    directory: Directory,
    availability: Availability = all_available,
    user: str | None = None,
) -> Explanation:
    """Decide as a worker would.

    Args:
        notification: what would be published.
        directory: the mailboxes.
        availability: of them.
        user: the producer's login; None: its rights are not looked at.
    """
    scope = scope_of(notification)
    refusal = authorise(notification, Properties(user_id=user), directory) if user is not None else None
    decided = _refused(refusal) if refusal else _decided(notification, scope, directory, availability)
    considered = _considered(notification, scope, directory, availability)
    return Explanation(str(scope), notification.category, considered, decided)


def _decided(notification: Notification, scope: MailScope, directory: Directory, availability: Availability) -> Decided:
    restraint = directory.restraint_of(scope)
    match stopped(notification, scope, restraint):
        case Refusal() as refusal:
            return _refused(refusal)
        case Verdict(explanation=words, remedy=remedy):
            return Decided(Fate.WAITS, words, remedy)
        case None:
            return _routed(notification, restraint, directory, availability)


def _routed(
    notification: Notification, restraint: Restraint, directory: Directory, availability: Availability
) -> Decided:
    chosen = route(notification, directory, availability)
    if isinstance(chosen, Refusal):
        return _refused(chosen)
    best = chosen.route if isinstance(chosen, Wait) else chosen
    mailbox = best.mailbox
    if isinstance(chosen, Route) and (barred := check_sender(presented(notification, best), mailbox)):
        return _refused(barred)
    if suppressed(mailbox, restraint):
        return Decided(Fate.SUPPRESSED, f"Suppressed mode is on. {best.why}", "", mailbox.name, best.because)
    if isinstance(chosen, Wait):
        verdict = chosen.unavailable.verdict
        return Decided(Fate.WAITS, verdict.explanation, verdict.remedy, mailbox.name, best.because)
    sent = outgoing(notification, best, restraint, _everybody(notification))
    if isinstance(sent, Refusal):
        return _refused(sent)
    redirect = sent.route.redirect
    return Decided(
        Fate.SENT,
        best.why,
        "",
        mailbox.name,
        best.because,
        tuple(map(str, redirect.addresses)) if redirect else (),
        tuple(map(str, sent.barred)),
    )


def _refused(refusal: Refusal) -> Decided:
    return Decided(Fate.REFUSED, refusal.explanation, refusal.remedy)


def _everybody(notification: Notification) -> Sequence[AddrSpec]:
    return tuple(dict.fromkeys(person.spec for person in notification.recipients()))


def _considered(
    notification: Notification, scope: MailScope, directory: Directory, availability: Availability
) -> tuple[Considered, ...]:
    own = pool(notification, directory)
    row = [
        Considered(mailbox.name, place, _state(notification, mailbox, availability))
        for place, mailbox in enumerate(own, start=1)
    ]
    others = [mailbox for mailbox in directory.mailboxes.values() if mailbox not in own]
    return (*row, *(Considered(mailbox.name, None, _other(mailbox, scope, directory)) for mailbox in others))


def _state(notification: Notification, mailbox: Mailbox, availability: Availability) -> str:
    words = [f"priority {mailbox.rank}"]
    if not mailbox.enabled:
        words.append("switched off")
    elif mailbox.held is not None:
        words.append(mailbox.held.why)
    elif (found := availability(mailbox.name)) is not None:
        words.append(found.verdict.explanation)
    if not mailbox.serves(notification.category):
        words.append(f"does not serve {notification.category!r}")
    if check_sender(notification, mailbox):
        words.append("may not send as this From")
    return ", ".join(words)


def _other(mailbox: Mailbox, scope: MailScope, directory: Directory) -> str:
    if mailbox.fallback_for:
        return f"fall-back for {', '.join(sorted(mailbox.fallback_for))}"
    if mailbox.name == directory.default:
        return "the platform's default"
    if not mailbox.tenants:
        return "the platform's, for those who name it"
    if scope.tenant not in mailbox.tenants:
        return "other tenants'"
    if mailbox.belongs_to(scope):
        return "a wider default, replaced by a narrower one"
    return "for other sites or components of this tenant"
