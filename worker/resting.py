"""Which ways out of a mailbox rest, in this worker: a login that is refused must not be tried again with every mail."""

from __future__ import annotations

from datetime import datetime, timedelta

from worker.domain.mailbox import Mailbox
from worker.domain.verdict import Verdict

_AT_LEAST = timedelta(minutes=1)


class RestingChannels:
    """Channels that failed before anything of a mail had left, while another one of the mailbox stepped in."""

    def __init__(self) -> None:
        """All are awake."""
        self._until: dict[tuple[str, str], datetime] = {}

    def awake(self, mailbox: Mailbox, now: datetime) -> tuple[Mailbox, ...]:
        """The mailbox by each of its channels that may be tried, in order; by all of them if all rest."""
        if not mailbox.further:
            return (mailbox,)
        ways = tuple(map(mailbox.via, mailbox.channels))
        awake = tuple(way for way in ways if self._until.get(_key(way), now) <= now)
        return awake or ways

    def rest(self, way: Mailbox, verdict: Verdict, now: datetime) -> datetime:
        """Let a channel rest as long as what is wrong with it asks for. Returns until when."""
        until = self._until[_key(way)] = now + max(verdict.pause, _AT_LEAST)
        return until


def _key(way: Mailbox) -> tuple[str, str]:
    return way.name, way.transport
