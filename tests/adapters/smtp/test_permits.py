"""Connections are counted over all workers: a session holds its permit from before it connects until after its QUIT."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace

from tests.adapters.smtp.server import PATIENCE, Obedient, listening
from tests.adapters.smtp.test_pool import ENVELOPE, SMALL, Tokens, always, box
from tests.fakes import Events
from worker.domain.delivery import Accepted, Broken, Busy
from worker.domain.mailbox import Limits, Mailbox, SessionLimits
from worker.domain.message import OutgoingMessage
from worker.smtp.connect import Timeouts
from worker.smtp.transport import SmtpTransport


@dataclass
class Counted:
    """Permits that all workers share."""

    most: int
    out: set[int] = field(default_factory=set)
    given: int = 0
    refused: bool = False
    asked: list[bool] = field(default_factory=list)
    rested: float = float("-inf")

    async def acquire(self, mailbox: Mailbox, *, urgent: bool = False) -> int | None:
        assert mailbox.limits.connections is not None
        self.asked.append(urgent)
        if len(self.out) >= self.most:
            self.refused = True
            return None
        self.given += 1
        self.out.add(self.given)
        return self.given

    async def release(self, number: int) -> None:
        self.out.remove(number)

    def rested_since(self, mailbox: str, moment: float) -> bool:
        return mailbox == "contoso-mail" and self.rested > moment

    def wanted(self) -> frozenset[str]:
        return frozenset({"contoso-mail"} if self.refused else ())


def worker(permits: Counted) -> SmtpTransport:
    return SmtpTransport(Tokens([]), Timeouts(PATIENCE, PATIENCE, PATIENCE), Events(), permits)


def limited(port: int, connections: int = 1) -> Mailbox:
    return replace(box(port, SessionLimits()), limits=Limits(connections=connections))


async def submit(transport: SmtpTransport, mailbox: Mailbox, *, urgent: bool = False) -> object:
    return await transport.submit(mailbox, ENVELOPE, OutgoingMessage("<1@contoso.com>", SMALL, urgent=urgent), always)


async def test_session_keeps_its_permit_from_mail_to_mail_and_gives_it_back_when_closed() -> None:
    permits = Counted(1)
    async with listening(Obedient().serve) as listener:
        transport = worker(permits)
        for _ in range(3):
            assert isinstance(await submit(transport, limited(listener.port)), Accepted)
        assert permits.given == 1
        assert permits.out == {1}
        await transport.close()
    assert permits.out == set()


async def test_mail_that_stood_in_line_when_the_mailbox_began_to_rest_does_not_go_out() -> None:
    """The mailbox's next attempt, its probe, comes after that and does."""
    permits = Counted(1)
    async with listening(Obedient().serve) as listener:
        transport = worker(permits)
        permits.rested = time.monotonic() + PATIENCE
        assert isinstance(await submit(transport, limited(listener.port)), Busy)
        permits.rested = time.monotonic()
        assert isinstance(await submit(transport, limited(listener.port)), Accepted)
        await transport.close()


async def test_worker_that_gets_no_permit_is_busy_and_never_connects() -> None:
    permits = Counted(0)
    async with listening(Obedient().serve) as listener:
        transport = worker(permits)
        assert isinstance(await submit(transport, limited(listener.port)), Busy)
        await transport.close()
        assert listener.peers == []


async def test_connection_that_could_not_be_opened_keeps_no_permit() -> None:
    permits = Counted(1)
    transport = worker(permits)
    assert isinstance(await submit(transport, limited(1)), Broken)
    assert permits.out == set()


async def test_idle_session_is_closed_at_once_when_another_worker_wants_its_permit() -> None:
    permits = Counted(1)
    async with listening(Obedient().serve) as listener:
        one, two = worker(permits), worker(permits)
        mailbox = limited(listener.port)
        first = asyncio.create_task(submit(one, mailbox))
        second = asyncio.create_task(submit(two, mailbox))
        answers = await asyncio.gather(first, second)
        assert all(isinstance(answer, Accepted) for answer in answers)
        assert permits.given == 2
        await one.close()
        await two.close()
    assert permits.out == set()


async def test_session_that_is_idle_already_is_closed_when_another_worker_wants_its_permit() -> None:
    permits = Counted(1)
    async with listening(Obedient().serve) as listener:
        one, two = worker(permits), worker(permits)
        mailbox = limited(listener.port)
        assert isinstance(await submit(one, mailbox), Accepted)
        assert isinstance(await submit(two, mailbox), Accepted), "within the patience of a mail"
        assert permits.given == 2
        await one.close()
        await two.close()
    assert permits.out == set()


async def test_mail_that_waits_for_a_permit_gives_way_to_urgent_mail() -> None:
    permits = Counted(0)
    async with listening(Obedient().serve) as listener:
        transport, mailbox = worker(permits), limited(listener.port, connections=2)
        other = asyncio.create_task(submit(transport, mailbox))
        urgent = asyncio.create_task(submit(transport, mailbox, urgent=True))
        assert isinstance(await other, Busy)
        permits.most = 1
        assert isinstance(await urgent, Accepted)
        await transport.close()
    assert permits.asked.count(False) < permits.asked.count(True) + 2, "it has stopped asking"


async def test_mailbox_without_a_limit_asks_for_no_permit() -> None:
    permits = Counted(0)
    async with listening(Obedient().serve) as listener:
        transport = worker(permits)
        assert isinstance(await submit(transport, box(listener.port, SessionLimits())), Accepted)
        await transport.close()
    assert permits.given == 0
