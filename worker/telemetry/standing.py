"""How every mailbox stands with this worker, made of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from worker.domain.mailbox import Limits, Mailbox
from worker.domain.pacing import of_limit
from worker.domain.standing import Tally, Trouble, availability
from worker.events import Event, MailboxPaused, Submitted, Submitting
from worker.ports import Clock, Hold

Resting = Callable[[Mailbox, datetime], Hold | None]
"""A mailbox and the present moment → why it rests, None if it does not; whichever worker has met the fault."""

Share = Callable[[str], float]
"""Name of a mailbox → how much of its limits it has, since its server asked for less."""


class Standings:
    """Counts submissions, and remembers the last trouble of each mailbox."""

    def __init__(self, clock: Clock) -> None:
        """Nothing has happened yet."""
        self._clock = clock
        self._tallies: dict[str, Tally] = {}

    def __call__(self, event: Event) -> None:
        """Take note of the event."""
        match event:
            case Submitting(mailbox):
                tally = self.of(mailbox)
                self._tallies[mailbox] = replace(tally, in_flight=tally.in_flight + 1)
            case Submitted(mailbox, sent):
                tally = self.of(mailbox)
                self._tallies[mailbox] = replace(tally, in_flight=tally.in_flight - 1, sent=tally.sent + sent)
            case MailboxPaused(mailbox=what, kind=kind, explanation=explanation, found_by=found_by):
                name = found_by or what
                self._tallies[name] = replace(self.of(name), trouble=Trouble(kind, explanation, self._clock()))
            case _:
                pass

    def of(self, name: str) -> Tally:
        """Of one mailbox."""
        return self._tallies.get(name, Tally())

    def told(
        self, mailboxes: Mapping[str, Mailbox], resting: Resting, share: Share = lambda _: 1.0
    ) -> dict[str, dict[str, object]]:
        """For machines. There is no secret in it, nor anything of a mail."""
        now = self._clock()
        return {
            name: _told(mailbox, self.of(name), resting(mailbox, now), share(name))
            for name, mailbox in mailboxes.items()
        }


def _told(mailbox: Mailbox, tally: Tally, rest: Hold | None, share: float) -> dict[str, object]:
    trouble = tally.trouble
    return {
        "kind": mailbox.transport,
        "enabled": mailbox.enabled,
        "priority": mailbox.rank,
        "scope": _scope(mailbox),
        "availability": availability(mailbox, tally, resting=rest is not None),
        "rests_until": rest and _time(rest.until),
        "lowered_to": _lowered(mailbox.limits, share),
        "last_error": _error(rest, trouble),
        "in_flight": tally.in_flight,
        "sent": tally.sent,
    }


def _lowered(limits: Limits, share: float) -> dict[str, object] | None:
    """The limits that are kept since the server asked for less; None: all of them again."""
    if share >= 1:
        return None
    kept = {"connections": limits.connections, "per_minute": limits.per_minute}
    return {name: of_limit(limit, share) for name, limit in kept.items() if limit is not None}


def _error(rest: Hold | None, trouble: Trouble | None) -> dict[str, object] | None:
    """What keeps it from working now, else what was the matter with it last."""
    if rest is not None and (trouble is None or trouble.kind != rest.verdict.kind):
        return {"class": rest.verdict.kind, "explanation": rest.verdict.explanation, "at": None}
    if trouble is None:
        return None
    return {"class": trouble.kind, "explanation": trouble.explanation, "at": _time(trouble.at)}


def _scope(mailbox: Mailbox) -> dict[str, object]:
    """Empty `tenants`: the platform's. No `sites` or `components`: of all of them."""
    parts = {"sites": mailbox.sites, "components": mailbox.components}
    return {
        "tenants": sorted(mailbox.tenants),
        **{name: sorted(part) for name, part in parts.items() if part is not None},
    }


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
