"""What keeps mail back: stop switches, purposes that are off, suppressed mode, and recipients that must not be reached.

A redirect is applied in one function to envelope and headers together, so that no transport can see one without the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from contracts.address import AddrSpec
from contracts.delivery import RecipientStatus
from contracts.notification import Address, Notification
from worker.domain.delivery import Accepted, Broken, Outcome, Refused, Submission
from worker.domain.mailbox import Directory, Mailbox, MailScope, Redirect, Restraint, Stop
from worker.domain.routing import Refusal, Route, presented
from worker.domain.verdict import Action, Scope, Verdict

ORIGINAL_HEADER = "X-Postlane-Original-"
_NAMED = 50  # original recipients of each kind that a header names; a thousand would not fit
_BARRED = "recipient-not-allowed"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A notification as it leaves, which may be another one than its producer wrote.

    Attributes:
        notification: what is composed.
        rcpt_to: who stands in the envelope.
        tried: the producer's recipients whose fate the attempt decides.
        barred: those that the mailbox must not reach.
        route: with the redirect, if there is one.
    """

    notification: Notification
    rcpt_to: tuple[AddrSpec, ...]
    tried: tuple[AddrSpec, ...]
    route: Route
    barred: Mapping[AddrSpec, Outcome] = field(default_factory=dict)


def stopped(notification: Notification, scope: MailScope, restraint: Restraint) -> Refusal | Verdict | None:
    """What a switch says before anything else is looked at: refuse, hold (for the reason in the verdict), or go on."""
    if notification.category in restraint.purposes_off:
        return Refusal(
            "purpose-off",
            "category",
            f"Category {notification.category!r} is switched off for {scope}.",
            "Take it out of `purposes_off` if it is wanted, then publish the notification again.",
        )
    match restraint.stop:
        case Stop.REFUSE:
            return Refusal(
                "stopped",
                "tenant",
                f"The stop switch of {scope} is on: its mail is refused.",
                "Remove `stop` when mail may flow again, then publish the notification again.",
            )
        case Stop.HOLD:
            return Verdict(
                "stopped",
                Scope.TENANT,
                Action.PAUSE,
                f"The stop switch of {scope} is on: its mail waits.",
                "Remove `stop` when mail may flow again; what waits then goes by itself.",
            )
        case None:
            return None


def suppressed(mailbox: Mailbox, restraint: Restraint) -> bool:
    """Whether nothing may leave."""
    return restraint.suppress or mailbox.suppress


def redirect_of(mailbox: Mailbox, restraint: Restraint) -> Redirect | None:
    """Where all mail goes in place of its recipients: what the scope says, else the mailbox, else its catch-all."""
    return restraint.redirect or mailbox.redirect or mailbox.catch_all


def outgoing(
    notification: Notification,
    chosen: Route,
    restraint: Restraint,
    recipients: Sequence[AddrSpec],
    turn: Callable[[Sequence[AddrSpec]], Sequence[AddrSpec]] = tuple,
) -> Outgoing | Refusal:
    """Apply redirect and allowed domains.

    Args:
        notification: as its producer wrote it.
        chosen: its mailbox.
        restraint: of its scope.
        recipients: those that are still open.
        turn: who of those that may be reached has a part in this submission; a redirected mail is one for all.
    """
    mailbox, everybody = chosen.mailbox, tuple(recipients)
    shown = presented(notification, chosen)
    if redirect := redirect_of(mailbox, restraint):
        return Outgoing(_redirected(shown, redirect), redirect.addresses, everybody, replace(chosen, redirect=redirect))
    barred = {rcpt: Outcome(RecipientStatus.FAILED, None, _BARRED) for rcpt in everybody if not mailbox.may_reach(rcpt)}
    reached = tuple(rcpt for rcpt in everybody if rcpt not in barred)
    if barred and not reached:
        return Refusal(
            _BARRED,
            "to",
            f"Mailbox {mailbox.name!r} may not send to any of the recipients' domains.",
            f"Add the domains to `allowed_domains` of mailbox {mailbox.name!r}, or correct the recipients.",
        )
    now = tuple(turn(reached))
    return Outgoing(_without(shown, mailbox), now, now, chosen, barred)


def barred_verdict(outcomes: Mapping[AddrSpec, Outcome]) -> Verdict | None:
    """What to tell of a mail that went well but for recipients whom it must not reach."""
    barred = sum(outcome.verdict == _BARRED for outcome in outcomes.values())
    if not barred:
        return None
    return Verdict(
        _BARRED,
        Scope.RECIPIENT,
        Action.FAIL,
        f"The mailbox may not send to the domains of {barred} of the recipients; nothing was sent to them.",
        "Add the domains to `allowed_domains` of the mailbox, or correct the recipients.",
    )


def answered(submission: Submission, sent: Outgoing) -> Submission:
    """What the answer means for the producer's recipients: of a redirected mail the sandbox's fate is theirs."""
    redirect = sent.route.redirect
    if redirect is None or not isinstance(submission, Accepted | Refused | Broken):
        return submission
    said = submission.refused.get(redirect.to)
    return replace(submission, refused=dict.fromkeys(sent.tried, said) if said else {})


def _redirected(notification: Notification, redirect: Redirect) -> Notification:
    given = {"To": notification.to, "Cc": notification.cc, "Bcc": notification.bcc}
    original = {f"{ORIGINAL_HEADER}{name}": _listing(people) for name, people in given.items() if people}
    return notification.model_copy(
        update={
            "to": (Address(address=str(redirect.to)),),
            "cc": (Address(address=str(redirect.cc)),) if redirect.cc else (),
            "bcc": (),
            "headers": {**notification.headers, **original},
        }
    )


def _without(notification: Notification, mailbox: Mailbox) -> Notification:
    """Without those whom the mailbox must not reach: an Exchange pickup directory sends to everybody in the headers."""
    if not mailbox.allowed_domains:
        return notification
    kept = {
        name: tuple(person for person in getattr(notification, name) if mailbox.may_reach(person.spec))
        for name in ("to", "cc", "bcc")
    }
    return notification.model_copy(update=kept)


def _listing(people: Sequence[Address]) -> str:
    named = ", ".join(str(person.spec) for person in people[:_NAMED])
    more = len(people) - _NAMED
    return f"{named} and {more} more" if more > 0 else named


def noticed(directory: Directory) -> Iterator[tuple[str, str]]:
    """What is switched on or set aside in a directory and should not be forgotten: of what, in words."""
    yield from _noticed("platform", directory.restraint)
    for name, tenant in (directory.tenants or {}).items():
        yield from _noticed(f"tenant {name}", tenant.restraint)
        for kind, parts in (("site", tenant.sites), ("component", tenant.components)):
            for part, restraint in parts.items():
                yield from _noticed(f"tenant {name}, {kind} {part}", restraint)
    for mailbox in directory.mailboxes.values():
        subject = f"mailbox {mailbox.name}"
        if not mailbox.enabled:
            yield subject, "It is switched off."
        if mailbox.held is not None:
            yield subject, f"{mailbox.held.why} {mailbox.held.remedy}"
        if mailbox.sites == frozenset() or mailbox.components == frozenset():
            yield subject, "It is bound to no site or component, so it is never used."
        if redirect := mailbox.redirect or mailbox.catch_all:
            yield subject, f"All its mail goes to {redirect.to}; no recipient gets any."
        if mailbox.suppress:
            yield subject, "Suppressed mode is on: its mail is decided on and not sent."


def _noticed(subject: str, restraint: Restraint) -> Iterator[tuple[str, str]]:
    match restraint.stop:
        case Stop.HOLD:
            yield subject, "The stop switch is on: mail waits."
        case Stop.REFUSE:
            yield subject, "The stop switch is on: mail is refused."
        case None:
            pass
    if restraint.suppress:
        yield subject, "Suppressed mode is on: mail is decided on and not sent."
    if restraint.redirect:
        yield subject, f"All mail goes to {restraint.redirect.to}; no recipient gets any."
    if restraint.purposes_off:
        yield subject, f"Switched off: {', '.join(sorted(restraint.purposes_off))}."
