"""A verdict in sentences: whose trouble it is, and what Postlane does about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from worker.domain.verdict import Action, Only, Scope, Verdict

_WHOSE: Final[Mapping[Scope, str]] = MappingProxyType(
    {
        Scope.RECIPIENT: "one recipient",
        Scope.MESSAGE: "this message",
        Scope.SENDER: "this sender address (or its domain)",
        Scope.CONNECTION: "this connection",
        Scope.MAILBOX: "the mailbox that sends",
        Scope.APP: "the app registration, with all mailboxes that log in by it",
        Scope.TENANT: "the whole tenant",
        Scope.SERVER: "the mail server, or the way to it",
    }
)
_PART: Final[Mapping[Only, str]] = MappingProxyType(
    {
        Only.EXTERNAL: "the whole tenant, for recipients outside it",
        Only.ONMICROSOFT: "all onmicrosoft.com senders of the tenant, for recipients outside it",
        Only.PASSWORD: "all mailboxes of the tenant that log in by password",
        Only.ONE_BY_ONE: "the tenant, apart from mailboxes that are excepted",
    }
)

_RESTS: Final[Mapping[Scope, str]] = MappingProxyType(
    {
        Scope.SERVER: "all mailboxes of that server",
        Scope.APP: "all mailboxes of that app registration",
        Scope.TENANT: "all mailboxes of that tenant",
    }
)
_RESTING_PART: Final[Mapping[Only, str]] = MappingProxyType(
    {
        Only.EXTERNAL: "mail of that tenant to recipients outside it",
        Only.ONMICROSOFT: "mail of that tenant's onmicrosoft.com senders to recipients outside it",
        Only.PASSWORD: "all mailboxes of that tenant that log in by password",
        Only.ONE_BY_ONE: "the mailbox",
    }
)

_DOES: Final[Mapping[Action, str]] = MappingProxyType(
    {
        Action.FAIL: "Fails the message for good and sets it aside as a dead letter.",
        Action.RETRY: "Tries again, with growing waits, until the message's horizon.",
        Action.SPLIT: "Tries the recipients again in smaller groups; a recipient that is refused alone fails.",
        Action.REFRESH: "Fetches a new token and tries once more; if that is refused too, it tries again later.",
        Action.RECONNECT: "Opens a new connection; a mail that was caught by it loses nothing.",
        Action.DOUBT: (
            "Sends nothing again by itself, as it might be a second copy, unless the producer said `resend`."
        ),
        Action.NONE: "Nothing.",
    }
)


def whose(verdict: Verdict) -> str:
    """Who or what is affected."""
    return _PART[verdict.only] if verdict.only else _WHOSE[verdict.scope]


def does(verdict: Verdict) -> str:
    """What Postlane does, in sentences."""
    return " ".join(part for part in (_action(verdict), _pace(verdict), _warning(verdict)) if part)


def _action(verdict: Verdict) -> str:
    match verdict.action:
        case Action.FAIL if verdict.scope is Scope.RECIPIENT:
            return "Fails this recipient for good; the others are not affected."
        case Action.RETRY if verdict.wait:
            return f"Tries again, in {_spoken(verdict.wait)} at the earliest, until the message's horizon."
        case Action.PAUSE:
            return (
                f"Rests {_rests(verdict)} for {_spoken(verdict.pause)}, longer each time, then lets one mail try. The "
                "mails that wait lose no attempt."
            )
        case action:
            return _DOES[action]


def _rests(verdict: Verdict) -> str:
    return _RESTING_PART[verdict.only] if verdict.only else _RESTS.get(verdict.scope, "the mailbox")


def _pace(verdict: Verdict) -> str:
    return "It is a sign to send less at a time." if verdict.throttle else ""


def _warning(verdict: Verdict) -> str:
    if not verdict.punished:
        return ""
    warning = "Do not let it repeat: the provider blocks a mailbox that keeps doing this."
    if verdict.scope is Scope.SENDER:
        return f"{warning} Further mail from that address waits, a minute at first and longer each time."
    return f"{warning} The mailbox's limits come down for a while."


def _spoken(time: timedelta) -> str:
    """`15 seconds`, `1 minute`, `2 hours`: the largest unit that leaves nothing over."""
    seconds = round(time.total_seconds())
    for unit, size in (("hour", 3600), ("minute", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}{'s' if seconds > size else ''}"
    return f"{seconds} seconds"
