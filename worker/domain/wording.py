"""What a mail says and to whom, where its producer left that to us: rules for events, templates for text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from contracts.notification import MASS, Address, Notification, Priority
from worker.domain.mailbox import MailScope
from worker.domain.routing import Refusal
from worker.domain.verdict import Action, Scope, Verdict

ANY_EVENT = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """What an event's notification gets where it says nothing itself.

    Attributes:
        event: its name, or `*` for all others.
        tenants, sites, components: for whose mail it holds, in lower case; empty: for all.
        data: what placeholders stand for unless the notification says something else.
    """

    event: str
    tenants: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    template: str | None = None
    locale: str | None = None
    mailbox: str | None = None
    category: str | None = None
    priority: Priority | None = None
    sender: Address | None = None
    reply_to: tuple[Address, ...] = ()
    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    data: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be written.

    Attributes:
        locale: the wanted one; None: the template's first.
        recipient: `address` and `name`, if there is only one.
        titled: whether the subject is given, so that the template need not have one.
    """

    template: str
    locale: str | None
    data: Mapping[str, JsonValue] = field(repr=False)
    recipient: Mapping[str, str] | None = field(default=None, repr=False)
    titled: bool = False


@dataclass(frozen=True, slots=True)
class Wording:
    """What a template came to.

    Attributes:
        locale: the one that was taken.
        subject: one line; None if none was asked for.
        text: never missing: made from the html where the template has none.
    """

    locale: str
    subject: str | None = field(repr=False)
    text: str = field(repr=False)
    html: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unrenderable:
    """The template does not work, or not with these data: a person has to look at it."""

    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Templates and rules cannot be had at present; it is no fault of the notification."""

    problem: str
    remedy: str


def rule_for(event: str, scope: MailScope, rules: Sequence[Rule]) -> Rule | None:
    """The first rule of this event that holds for the scope, else the first of `*`."""
    fitting = [rule for rule in rules if _holds(rule, scope)]
    return next((rule for wanted in (event, ANY_EVENT) for rule in fitting if rule.event == wanted), None)


def complete(notification: Notification) -> bool:
    """Whether it says itself what is to be sent to whom."""
    return any(notification.recipients()) and not _unsaid(notification)


def filled(notification: Notification, rule: Rule | None) -> Notification | Refusal:
    """The notification with what its rule adds; whatever it says itself stands. Rules add nothing to mass mail.

    Category and priority count as said if they are not the contract's defaults, which many clients write out.
    """
    if notification.category == MASS:
        return notification if complete(notification) else _mass_by_rule(notification)
    whole = notification.model_copy(update=_changes(notification, rule)) if rule is not None else notification
    if complete(whole):
        return whole
    return _no_rule(notification) if rule is None else _not_enough(whole)


def ordered(notification: Notification) -> Order | None:
    """What is to be written by a template; None: nothing is."""
    if notification.template is None:
        return None
    people = list(dict.fromkeys(person.spec for person in notification.recipients()))
    first = next(notification.recipients(), None)
    alone = {"address": first.address, "name": first.name} if first is not None and len(people) == 1 else None
    titled = notification.subject is not None
    return Order(notification.template, notification.locale, notification.data, alone, titled)


def worded(notification: Notification, wording: Wording) -> Notification:
    """The notification as it is sent: with a text, without a template."""
    return notification.model_copy(
        update={
            "subject": notification.subject if notification.subject is not None else wording.subject,
            "text": wording.text,
            "html": wording.html,
            "template": None,
        }
    )


def refusal_of(fault: Unrenderable) -> Refusal:
    """In the words of a result."""
    return Refusal("template", "template", fault.problem, fault.remedy)


def verdict_of(away: Unreadable) -> Verdict:
    """In the words of a result that tells of a wait."""
    return Verdict("templates-unavailable", Scope.SERVER, Action.PAUSE, away.problem, remedy=away.remedy)


def _holds(rule: Rule, scope: MailScope) -> bool:
    return (
        (not rule.tenants or scope.tenant in rule.tenants)
        and (not rule.sites or scope.site in rule.sites)
        and (not rule.components or scope.component in rule.components)
    )


def _changes(notification: Notification, rule: Rule) -> dict[str, Any]:
    changes: dict[str, Any] = {
        name: value
        for name in ("locale", "mailbox", "sender", "reply_to")
        if not getattr(notification, name) and (value := getattr(rule, name))
    }
    changes |= {
        name: value
        for name in ("category", "priority")
        if getattr(notification, name) == Notification.model_fields[name].default and (value := getattr(rule, name))
    }
    if notification.text is None and notification.html is None and notification.template is None:
        changes["template"] = rule.template
    if not any(notification.recipients()):
        changes |= {"to": rule.to, "cc": rule.cc, "bcc": rule.bcc}
    if rule.data:
        changes["data"] = {**rule.data, **notification.data}
    return changes


def _unsaid(notification: Notification) -> str:
    """Which field is missing for a mail."""
    if notification.template is not None:
        return ""
    if notification.text is None and notification.html is None:
        return "template"
    return "" if notification.subject is not None else "subject"


def _no_rule(notification: Notification) -> Refusal:
    return Refusal(
        "no-rule",
        "event",
        f"No rule says what is sent to whom on event {notification.event!r} of tenant {notification.tenant!r}.",
        "Add [[rules]] for it to rules.toml in the template directory, then replay the dead letter; "
        "or do not publish events that nobody wants to be told of.",
    )


def _not_enough(notification: Notification) -> Refusal:
    missing = _unsaid(notification) or "to"
    return Refusal(
        "no-rule",
        missing,
        f"Neither the notification nor the rule for event {notification.event!r} gives `{missing}`.",
        "Add it to the rule in rules.toml or to the notification, then replay the dead letter.",
    )


def _mass_by_rule(notification: Notification) -> Refusal:
    return Refusal(
        "no-rule",
        "event",
        f"It is mass mail, and leaves it to a rule for event {notification.event!r} what is sent to whom.",
        "A mass mail names its template and its recipients itself.",
    )
