"""What rests: a mailbox, what it shares with others, and, in this worker, one of its ways out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache

from contracts.address import AddrSpec
from worker.domain.mailbox import Endpoint, Mailbox, NoLogin, SmtpEndpoint, Tls
from worker.domain.sharing import senders_of, shared_by, shown
from worker.domain.verdict import Verdict
from worker.ports import Admission, Demand, Gate, Hold, Paced

_AT_LEAST = timedelta(minutes=1)
_REMEMBERED = 4096  # mailboxes and their senders
_NOBODY = AddrSpec("nobody", "postlane.invalid")
_NOWHERE = SmtpEndpoint("postlane.invalid", 25, Tls.NONE, NoLogin())


class RestingChannels:
    """Channels that failed before anything of a mail had left, while another one of the mailbox stepped in."""

    def __init__(self) -> None:
        """All are awake."""
        self._until: dict[tuple[str, str], datetime] = {}

    def awake(self, mailbox: Mailbox, now: datetime) -> tuple[Mailbox, ...]:
        """The mailbox by each of its channels that may be tried, in order; by all of them if all rest."""
        if not mailbox.further:
            return (mailbox,)
        ways = _ways(mailbox)
        awake = tuple(way for way in ways if self._until.get(_key(way), now) <= now)
        return awake or ways

    def rest(self, way: Mailbox, verdict: Verdict, now: datetime) -> datetime:
        """Let a channel rest as long as what is wrong with it asks for. Returns until when."""
        until = self._until[_key(way)] = now + max(verdict.pause, _AT_LEAST)
        return until


@dataclass(frozen=True, slots=True)
class Leave(Admission):
    """Leave to try once, by some of the mailbox's ways out.

    Attributes:
        shared: leave of everything that the mailbox shares with others.
        closed: ways out that rest, because something that they share with others does.
    """

    shared: tuple[Admission, ...] = ()
    closed: frozenset[str] = frozenset()


class SharedGate:
    """A gate for mailboxes and for what they share, the port `Entrance`.

    What is shared rests in the store's gate like a mailbox without limits: longer each time, for all workers, until one
    mail, whosever, finds out that it is over.
    """

    def __init__(self, gate: Gate) -> None:
        """Nothing rests.

        Args:
            gate: of single mailboxes.
        """
        self._gate = gate
        self._names: dict[tuple[str, str, AddrSpec | None, bool], tuple[Endpoint, tuple[str, ...]]] = {}

    async def admit(self, mailbox: Mailbox, demand: Demand, now: datetime) -> Leave | Hold | Paced:
        """Let through if a way out is open and the mailbox itself is; what was found open is left as it was if not."""
        asked: dict[str, Admission | Hold] = {}
        shared = replace(demand, slot=None) if demand.slot is not None else demand
        closed: dict[str, Hold] = {}
        ways = _ways(mailbox)
        for way in ways:
            names = self._shared(way, demand.sender, external=demand.external > 0)
            if (hold := await self._shut(names, asked, shared, now)) is not None:
                closed[way.transport] = hold
        admitted = tuple(each for each in asked.values() if isinstance(each, Admission))
        answer: Admission | Hold | Paced
        if len(closed) == len(ways):
            answer = min(closed.values(), key=lambda hold: hold.until)
        else:
            answer = await self._gate.admit(mailbox, demand, now)
        if not isinstance(answer, Admission):
            await self._given_back(admitted)
            return answer
        granted = answer.mailbox, answer.epoch, answer.probe, answer.ticket, answer.configured
        return Leave(*granted, shared=admitted, closed=frozenset(closed))

    async def paused(
        self,
        admission: Admission,
        verdict: Verdict,
        now: datetime,
        *,
        shared: str = "",
        others: Verdict | None = None,
        tried: bool = False,
    ) -> datetime:
        """Rest what is at fault: the mailbox, or what it shares."""
        leaves = admission.shared if isinstance(admission, Leave) else ()
        if not shared:
            await self._given_back(leaves)
            return await self._gate.paused(admission, verdict, now)
        await self._gate.cleared(admission, tried=tried, said=verdict)
        await self._given_back(leave for leave in leaves if leave.mailbox != shared)
        of = next((leave for leave in leaves if leave.mailbox == shared), Admission(shared))
        return await self._gate.paused(of, others or verdict, now)

    async def cleared(
        self,
        admission: Admission,
        *,
        tried: bool,
        accepted: int = 0,
        said: Verdict | None = None,
        by: Mailbox | None = None,
    ) -> tuple[str, ...]:
        """End the rests that the attempt has shown to be over. Returns whose, for people."""
        over = []
        if await self._gate.cleared(admission, tried=tried, accepted=accepted, said=said):
            over.append(admission.mailbox)
        leaves = tuple(each for each in admission.shared if each.probe) if isinstance(admission, Leave) else ()
        if not leaves:
            return tuple(over)
        used = frozenset(shared_by(by)) if by is not None else frozenset()
        for leave in leaves:
            proven = tried and (leave.mailbox in used or leave.mailbox.startswith(senders_of(admission.mailbox)))
            if await self._gate.cleared(leave, tried=proven):
                over.append(shown(leave.mailbox))
        return tuple(over)

    def _shared(self, way: Mailbox, sender: AddrSpec | None, *, external: bool) -> tuple[str, ...]:
        """The names, from memory if they were asked for lately: every mail asks."""
        key = (way.name, way.transport, sender, external)
        known = self._names.get(key)
        if known is not None and known[0] is way.endpoint:
            return known[1]
        if len(self._names) >= _REMEMBERED:
            self._names.clear()
        names = shared_by(way, sender, external=external)
        self._names[key] = way.endpoint, names
        return names

    async def _shut(
        self, names: Iterable[str], asked: dict[str, Admission | Hold], demand: Demand, now: datetime
    ) -> Hold | None:
        for name in names:
            if name not in asked:
                found = await self._gate.admit(_as_mailbox(name), demand, now)
                asked[name] = found if isinstance(found, Admission | Hold) else Admission(name)
            if isinstance(hold := asked[name], Hold):
                return hold
        return None

    async def _given_back(self, leaves: Iterable[Admission]) -> None:
        for leave in leaves:
            if leave.probe:
                await self._gate.cleared(leave, tried=False)


@lru_cache(maxsize=4096)
def _as_mailbox(name: str) -> Mailbox:
    return Mailbox(name, _NOBODY, "", _NOWHERE)


def _ways(mailbox: Mailbox) -> tuple[Mailbox, ...]:
    return tuple(map(mailbox.via, mailbox.channels)) if mailbox.further else (mailbox,)


def _key(way: Mailbox) -> tuple[str, str]:
    return way.name, way.transport
