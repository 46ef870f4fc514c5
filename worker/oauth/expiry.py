"""When secrets and certificates end, told weeks ahead; and who still logs in with a password at Microsoft's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

from worker.domain.cloud import is_microsofts
from worker.domain.mailbox import (
    Certificate,
    Directory,
    GraphEndpoint,
    Mailbox,
    OAuth,
    Password,
    PickupDirectory,
    Secret,
    SmtpEndpoint,
)
from worker.events import BasicAuthRetiring, CredentialEndForgotten, CredentialEnds, Event
from worker.oauth import certificate

WARN = timedelta(weeks=6)


@dataclass(frozen=True, slots=True)
class End:
    """When a proof ends.

    Attributes:
        what: `client secret` or `certificate`.
    """

    what: str
    at: datetime

    def days(self, now: datetime) -> int:
        """Whole days that are left, negative once it is over."""
        return (self.at - now).days


def end_of(credentials: OAuth) -> End | None:
    """When its proof ends; None if nobody knows, or if it has no end, or if the certificate cannot be read."""
    match credentials.proof:
        case Secret(expires=date() as day):
            return End("client secret", datetime.combine(day, time(tzinfo=UTC)))
        case Certificate() as proof:
            try:
                return End("certificate", certificate.expires(proof))
            except (OSError, ValueError):
                return None
        case _:
            return None


_NOTHING: Mapping[str, End] = {}


def credentials_of(mailbox: Mailbox) -> Iterator[OAuth]:
    """Of all its ways out."""
    for channel in mailbox.channels:
        match channel:
            case SmtpEndpoint(credentials=OAuth() as credentials) | GraphEndpoint(credentials=credentials):
                yield credentials
            case SmtpEndpoint() | PickupDirectory():
                continue


def retiring(mailbox: Mailbox) -> str | None:
    """The host of Microsoft's where it logs in with a password, if it does."""
    return next(
        (
            channel.host
            for channel in mailbox.channels
            if isinstance(channel, SmtpEndpoint)
            and isinstance(channel.credentials, Password)
            and is_microsofts(channel.host)
        ),
        None,
    )


def _earliest(mailbox: Mailbox, known: dict[OAuth, End | None]) -> End | None:
    """Of all its proofs. Mailboxes of one app share a certificate, which is read once."""
    for credentials in credentials_of(mailbox):
        if (client := replace(credentials, username="", scope="")) not in known:
            known[client] = end_of(client)
    found = (known[replace(credentials, username="", scope="")] for credentials in credentials_of(mailbox))
    return min((end for end in found if end is not None), key=lambda end: end.at, default=None)


def review(directory: Directory, now: datetime, registered: Mapping[str, End] = _NOTHING) -> Iterator[Event]:
    """What observers are told at start and every day.

    Args:
        directory: its mailboxes.
        now: from when the days are counted.
        registered: ends that nobody has written down, as Entra knows them, by mailbox.
    """
    known: dict[OAuth, End | None] = {}
    for mailbox in directory.mailboxes.values():
        first = _earliest(mailbox, known) or registered.get(mailbox.name)
        if first is not None:
            yield CredentialEnds(mailbox.name, first.what, first.at, first.days(now), urgent=first.at - now < WARN)
    names = tuple(name for name, mailbox in directory.mailboxes.items() if retiring(mailbox) is not None)
    if names:
        yield BasicAuthRetiring(names)


def withdrawn(before: Iterable[Event], found: Iterable[Event]) -> Iterator[Event]:
    """What takes back those events of an earlier review that a later one has no word on."""
    known = {event.mailbox for event in found if isinstance(event, CredentialEnds)}
    for event in before:
        match event:
            case CredentialEnds(mailbox=mailbox) if mailbox not in known:
                yield CredentialEndForgotten(mailbox)
            case BasicAuthRetiring(mailboxes) if mailboxes and not any(isinstance(e, BasicAuthRetiring) for e in found):
                yield BasicAuthRetiring(())
            case _:
                continue
