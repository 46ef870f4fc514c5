"""Sessions of a mailbox: used again, never too many, closed when idle, and never again after something went wrong."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from contracts.address import parse
from tests.adapters.smtp.dialog import SMALL, Tokens
from tests.adapters.smtp.server import PATIENCE, Listener, Obedient, Peer, listening, turns
from tests.factories import mailbox
from tests.fakes import Events
from worker.domain.delivery import Accepted, Broken, Busy, Fault, Refused, Stage, Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Mailbox, NoLogin, SessionLimits, SmtpEndpoint, Tls
from worker.domain.message import OutgoingMessage
from worker.domain.reply import Reply
from worker.events import SessionOpened
from worker.smtp.connect import Timeouts
from worker.smtp.pool import Pool, Unopened
from worker.smtp.session import Session
from worker.smtp.transport import SmtpTransport

ENVELOPE = Envelope.of(parse("noreply@contoso.com"), [parse("jana@fabrikam.com")])
LARGE = b"Subject: long\r\n\r\n" + b"0123456789abcdef\r\n" * 700_000


async def always() -> bool:
    return True


def box(port: int, limits: SessionLimits, name: str = "contoso-mail") -> Mailbox:
    return mailbox(name, endpoint=SmtpEndpoint("127.0.0.1", port, Tls.NONE, NoLogin(), limits, helo="client.example"))


@dataclass
class Rig:
    """A worker with one mailbox on one server."""

    server: Obedient
    listener: Listener
    limits: SessionLimits
    events: Events = field(default_factory=Events)
    transport: SmtpTransport = field(init=False)

    def __post_init__(self) -> None:
        timeouts = Timeouts(PATIENCE, PATIENCE, PATIENCE)
        self.transport = SmtpTransport(Tokens([]), timeouts, self.events)

    async def submit(
        self,
        handing_over: Callable[[], Awaitable[bool]] = always,
        *,
        content: bytes = SMALL,
        name: str = "contoso-mail",
    ) -> Submission:
        message = OutgoingMessage("<1@contoso.com>", content)
        return await self.transport.submit(box(self.listener.port, self.limits, name), ENVELOPE, message, handing_over)

    def submitting(self, count: int, **options: bytes) -> list[asyncio.Task[Submission]]:
        return [asyncio.create_task(self.submit(**options)) for _ in range(count)]


@asynccontextmanager
async def rig(server: Obedient | None = None, **limits: object) -> AsyncIterator[Rig]:
    server = server or Obedient("PIPELINING")
    async with listening(server.serve) as listener:
        made = Rig(server, listener, SessionLimits(**{"idle": timedelta(minutes=1), **limits}))
        try:
            yield made
        finally:
            await made.transport.close()
            server.go_on.set()
        await listener.until(lambda: listener.open == 0)


class Gatekeeper:
    """Holds back the replies to final dots until it is told to let them go."""

    def __init__(self) -> None:
        self.waiting = 0
        self._more = asyncio.Condition()
        self._open = False

    async def __call__(self) -> str:
        async with self._more:
            self.waiting += 1
            self._more.notify_all()
            await self._more.wait_for(lambda: self._open)
            self.waiting -= 1
        return "250 2.0.0 Ok"

    async def holds(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE), self._more:
            await self._more.wait_for(lambda: self.waiting == count)

    async def let_go(self) -> None:
        async with self._more:
            self._open = True
            self._more.notify_all()


# used again, and not too many


async def test_mails_one_after_the_other_share_a_connection() -> None:
    async with rig() as made:
        outcomes = [await made.submit() for _ in range(20)]
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert len(made.server.mails) == 20
    assert len(made.listener.peers) == 1
    assert len(made.events.of(SessionOpened)) == 1


async def test_many_mails_at_once_never_open_more_connections_than_allowed() -> None:
    gate = Gatekeeper()
    async with rig(Obedient("PIPELINING", at_dot=gate), connections=3) as made:
        tasks = made.submitting(9)
        await gate.holds(3)
        await turns()
        assert gate.waiting == 3
        await gate.let_go()
        outcomes = await asyncio.gather(*tasks)
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert len(made.server.mails) == 9
    assert made.listener.most_open == 3
    assert len(made.listener.peers) == 3


async def test_one_mail_at_a_time_keeps_to_the_connection_used_last() -> None:
    gate = Gatekeeper()
    async with rig(Obedient(at_dot=gate), connections=2) as made:
        tasks = made.submitting(2)
        await gate.holds(2)
        await gate.let_go()
        await asyncio.gather(*tasks)
        before = [len(peer.heard) for peer in made.listener.peers]
        for _ in range(5):
            await made.submit()
        talked = [len(peer.heard) > length for peer, length in zip(made.listener.peers, before, strict=True)]
    assert sorted(talked) == [False, True]


async def test_mailboxes_do_not_share_connections() -> None:
    async with rig(connections=1) as made:
        await made.submit(name="one")
        await made.submit(name="other")
        assert len(made.listener.peers) == 2


# replaced


async def test_connection_is_replaced_after_its_number_of_mails() -> None:
    async with rig(messages=3, connections=1) as made:
        outcomes = [await made.submit() for _ in range(7)]
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert len(made.server.mails) == 7
    assert [peer.heard.count(b"MAIL FROM") for peer in made.listener.peers] == [3, 3, 1]
    assert all(peer.heard.endswith(b"QUIT\r\n") for peer in made.listener.peers)


async def test_connection_is_replaced_when_it_is_too_old() -> None:
    async with rig(age=timedelta(0)) as made:
        outcomes = [await made.submit() for _ in range(3)]
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert len(made.listener.peers) == 3


async def test_replaced_connection_is_gone_before_the_next_one_comes() -> None:
    """A server with a limit counts a connection until it has read our goodbye."""

    class Slow(Obedient):
        async def _reach(self, place: str, peer: Peer) -> None:
            if place == "QUIT":
                await turns(200)
            await super()._reach(place, peer)

    async with rig(Slow(), messages=1, connections=1) as made:
        for _ in range(3):
            assert isinstance(await made.submit(), Accepted)
    assert made.listener.most_open == 1


async def test_free_reconnect_keeps_to_the_limit_of_connections() -> None:
    """A dead connection is replaced while others come and go: there must never be more than allowed at once."""

    class Dying(Obedient):
        dying = False

        async def _reach(self, place: str, peer: Peer) -> None:
            if place == "MAIL" and self.dying:
                self.dying = False
                self.stalled.set()
                await self.go_on.wait()
                peer.cut()
            await super()._reach(place, peer)

    dots: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def at_dot() -> str:
        may_answer = asyncio.Event()
        await dots.put(may_answer)
        await may_answer.wait()
        return "250 2.0.0 Ok"

    server = Dying(at_dot=at_dot)
    async with rig(server, connections=2) as made, asyncio.timeout(PATIENCE):
        first = made.submitting(2)
        for dot in [await dots.get(), await dots.get()]:
            dot.set()
        await asyncio.gather(*first)
        server.dying = True
        (unlucky,) = made.submitting(1)
        await server.stalled.wait()
        (lucky,) = made.submitting(1)
        dot_of_lucky = await dots.get()
        (waiting,) = made.submitting(1)
        await turns()
        server.go_on.set()  # one connection dies, and whoever waits opens another one in its place
        dot_of_waiting = await dots.get()
        dot_of_lucky.set()  # its connection is idle now, but the unlucky one wants a fresh one
        dot_of_unlucky = await dots.get()
        dot_of_waiting.set()
        dot_of_unlucky.set()
        outcomes = await asyncio.gather(unlucky, lucky, waiting)
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert made.listener.most_open == 2


# idle


async def test_idle_connection_is_closed_by_itself() -> None:
    async with rig(idle=timedelta(seconds=0.2)) as made:
        await made.submit()
        assert made.listener.open == 1
        await made.listener.until(lambda: made.listener.open == 0)
        assert made.server.commands[-1] == b"QUIT"
        assert isinstance(await made.submit(), Accepted)
        assert len(made.listener.peers) == 2


async def test_all_idle_connections_dead_cost_no_attempt_and_no_second_copy() -> None:
    gate = Gatekeeper()
    calls = 0

    async def counted() -> bool:
        nonlocal calls
        calls += 1
        return True

    async with rig(Obedient(at_dot=gate), connections=3) as made:
        tasks = made.submitting(3)
        await gate.holds(3)
        await gate.let_go()
        await asyncio.gather(*tasks)
        for peer in made.listener.peers:
            peer.cut()
        outcomes = await asyncio.gather(*(made.submit(counted) for _ in range(3)))
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert len(made.server.mails) == 6
    assert calls == 3


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("421 4.4.2 Message submission rate for this client has exceeded the configured limit", True),
        ("421 4.7.0 Too many connections from your address", True),
        ("421 4.4.1 Connection timed out. Total session duration: 00:20:55", False),
        ("421 4.3.2 Service shutting down", False),
    ],
)
async def test_server_that_wants_less_is_heard_though_it_ends_a_used_session(said: str, *, heard: bool) -> None:
    """What only ends the session costs nothing."""

    class Limited(Obedient):
        def answer(self, command: bytes) -> str:
            return said if command.startswith(b"MAIL") and self.count(b"MAIL") == 2 else "250 2.0.0 Ok"

    async with rig(Limited()) as made:
        assert isinstance(await made.submit(), Accepted)
        outcome = await made.submit()
    assert isinstance(outcome, Refused if heard else Accepted)


# waiting


@asynccontextmanager
async def pooled(made: Rig, patience: float) -> AsyncIterator[Pool]:
    endpoint = box(made.listener.port, made.limits).endpoint
    assert isinstance(endpoint, SmtpEndpoint)
    pool = Pool(lambda **_: made.transport.open("contoso-mail", endpoint), made.limits, patience)
    yield pool
    await pool.close()


async def test_mail_that_has_waited_too_long_for_a_session_is_told_busy() -> None:
    async with rig(connections=1) as made, pooled(made, patience=0.05) as pool:
        async with pool.session() as lent, pool.session() as waiting:
            assert isinstance(lent, Session)
            assert waiting == Busy()
        async with pool.session() as again:
            assert again is lent
    assert len(made.listener.peers) == 1


async def test_mail_that_would_have_to_wait_in_a_long_line_is_told_busy_at_once() -> None:
    """A mailbox with a backlog must not occupy the whole worker."""
    gate = Gatekeeper()
    async with rig(Obedient(at_dot=gate), connections=2) as made, pooled(made, patience=60) as pool:

        async def submit() -> Submission:
            async with pool.session() as session:
                if not isinstance(session, Session):
                    return session
                return await session.submit(ENVELOPE, OutgoingMessage("<1@contoso.com>", SMALL), always)

        tasks = [asyncio.create_task(submit()) for _ in range(20)]
        await gate.holds(2)
        await asyncio.wait(tasks, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        await turns()
        waiting = [task for task in tasks if not task.done()]
        assert {task.result() for task in tasks if task.done()} == {Busy()}
        assert 2 < len(waiting) < 20
        await gate.let_go()
        outcomes = await asyncio.gather(*waiting)
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert made.listener.most_open == 2


async def test_urgent_mail_may_join_a_long_line() -> None:
    gate = Gatekeeper()
    async with rig(Obedient(at_dot=gate), connections=1) as made, pooled(made, patience=60) as pool:

        async def submit(*, urgent: bool) -> Submission:
            async with pool.session(urgent=urgent) as session:
                if not isinstance(session, Session):
                    return session
                return await session.submit(ENVELOPE, OutgoingMessage("<1@contoso.com>", SMALL), always)

        tasks = [asyncio.create_task(submit(urgent=False)) for _ in range(5)]
        await gate.holds(1)
        await asyncio.wait(tasks, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        assert await submit(urgent=False) == Busy()
        urgent = asyncio.create_task(submit(urgent=True))
        await gate.let_go()
        assert isinstance(await urgent, Accepted)
        await asyncio.wait(tasks, timeout=PATIENCE)


async def test_urgent_mail_comes_first_whoever_waits() -> None:
    gate = Gatekeeper()
    async with rig(Obedient(at_dot=gate), connections=1) as made, pooled(made, patience=60) as pool:

        async def submit(*, urgent: bool) -> bool:
            async with pool.session(urgent=urgent) as session:
                assert isinstance(session, Session)
                assert isinstance(
                    await session.submit(ENVELOPE, OutgoingMessage("<1@contoso.com>", SMALL), always), Accepted
                )
            served.append(urgent)
            return urgent

        served: list[bool] = []
        others = [asyncio.create_task(submit(urgent=False)) for _ in range(3)]
        await gate.holds(1)
        urgent = asyncio.create_task(submit(urgent=True))
        await turns()
        await gate.let_go()
        await asyncio.gather(urgent, *others)
    assert served == [False, True, False, False]


async def test_mail_that_is_given_up_as_its_turn_comes_leaves_the_place_to_the_next() -> None:
    async with rig(connections=1) as made, pooled(made, patience=60) as pool:

        async def lent() -> Session | Unopened:
            async with pool.session() as session:
                return session

        async with pool.session() as held:
            given_up, patient = asyncio.create_task(lent()), asyncio.create_task(lent())
            await turns()
        given_up.cancel()
        assert await patient is held


async def test_transport_is_patient_for_seconds_and_then_busy() -> None:
    gate = Gatekeeper()
    async with rig(Obedient(at_dot=gate), connections=1) as made:
        (first,) = made.submitting(1)
        await gate.holds(1)
        assert await made.submit() == Busy()
        await gate.let_go()
        assert isinstance(await first, Accepted)


async def test_login_that_fails_is_tried_once_however_many_mails_wait_for_it() -> None:
    """A server locks an account after a few wrong passwords, and four connections have a few at once."""
    tries, go_on = 0, asyncio.Event()
    refusal = Refused(Stage.AUTH, Reply.of(535, ["5.7.8 no"]))

    async def refused(**_: object) -> Refused:
        nonlocal tries
        tries += 1
        await go_on.wait()
        return refusal

    pool = Pool(refused, SessionLimits(connections=4), patience=PATIENCE)

    async def lent() -> object:
        async with pool.session() as session:
            return session

    waiting = [asyncio.create_task(lent()) for _ in range(8)]
    await turns()
    go_on.set()
    assert await asyncio.gather(*waiting) == [refusal] * 8
    assert tries == 1


async def test_waiting_mail_that_is_given_up_does_not_take_a_session_with_it() -> None:
    gate = Gatekeeper()
    async with rig(Obedient(at_dot=gate), connections=1) as made:
        (first,) = made.submitting(1)
        await gate.holds(1)
        (waiting,) = made.submitting(1)
        await turns()
        waiting.cancel()
        await asyncio.wait({waiting})
        await gate.let_go()
        assert isinstance(await first, Accepted)
        assert isinstance(await made.submit(), Accepted)
    assert len(made.listener.peers) == 1


async def test_sessions_that_cannot_be_opened_give_their_place_back() -> None:
    async def full(peer: Peer) -> None:
        await peer.reply("421 4.3.2 full")

    async with rig(connections=1) as made, listening(full) as refusing:
        made.listener = refusing
        outcomes = [await made.submit() for _ in range(5)]
    assert all(isinstance(outcome, Refused) for outcome in outcomes)


# cancelled


STAGES = ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "BODY", "."]


@pytest.mark.parametrize("stage", STAGES)
async def test_cancelled_mail_closes_its_connection_and_frees_its_place(stage: str) -> None:
    server = Obedient()
    server.stall_at = stage
    async with rig(server, connections=1) as made:
        (task,) = made.submitting(1, content=LARGE if stage == "BODY" else SMALL)
        async with asyncio.timeout(PATIENCE):
            await server.stalled.wait()
        await turns()
        task.cancel()
        await asyncio.wait({task})
        server.go_on.set()
        await made.listener.until(lambda: made.listener.open == 0)
        server.stall_at = ""
        assert task.cancelled()
        assert isinstance(await made.submit(), Accepted)
    assert len(made.listener.peers) == 2
    assert not server.left_over.endswith(b"\r\n.\r\n")
    assert server.count(b".") == (2 if stage == "." else 1)


async def test_mail_cancelled_while_it_is_handed_over_closes_its_connection_without_a_dot() -> None:
    asked = asyncio.Event()

    async def never() -> bool:
        asked.set()
        return await asyncio.get_running_loop().create_future()

    async with rig(connections=1) as made:
        task = asyncio.create_task(made.submit(never))
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
        task.cancel()
        await asyncio.wait({task})
        await made.listener.until(lambda: made.listener.open == 0)
        assert isinstance(await made.submit(), Accepted)
    assert len(made.server.mails) == 1


async def test_cancelled_mail_among_others_hurts_none_of_them() -> None:
    gate = Gatekeeper()
    async with rig(Obedient("PIPELINING", at_dot=gate), connections=3) as made:
        tasks = made.submitting(9)
        await gate.holds(3)
        tasks[0].cancel()
        await asyncio.wait({tasks[0]})
        await gate.let_go()
        outcomes = await asyncio.gather(*tasks[1:])
        assert all(isinstance(outcome, Accepted) for outcome in outcomes)
        assert isinstance(await made.submit(), Accepted)


async def test_time_out_at_the_network_closes_the_connection_before_the_dot() -> None:
    """A server that stops reading in the middle of a large body: not sent, and nothing in doubt."""
    server = Obedient()
    server.stall_at = "BODY"
    async with rig(server, connections=1) as made:
        made.transport = SmtpTransport(Tokens([]), Timeouts(PATIENCE, 0.2, PATIENCE), made.events)
        outcome = await made.submit(content=LARGE)
        server.go_on.set()
        await made.listener.until(lambda: made.listener.open == 0)
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == ("data", Fault.TIMEOUT)
    assert b"\r\n.\r\n" not in server.left_over


# closed


async def test_close_says_goodbye_on_idle_connections_at_once_and_on_others_when_they_are_done() -> None:
    gate = Gatekeeper()
    server = Obedient()
    async with rig(server, connections=2) as made:
        await made.submit()
        server.at_dot = gate
        (busy, also_busy) = made.submitting(2)
        await gate.holds(2)
        await made.transport.close()
        await turns()
        assert made.listener.open == 2
        await gate.let_go()
        assert isinstance(await busy, Accepted)
        assert isinstance(await also_busy, Accepted)
        await made.listener.until(lambda: made.listener.open == 0)
    assert all(peer.heard.endswith(b"QUIT\r\n") for peer in made.listener.peers)


async def test_close_leaves_nothing_that_fires_later() -> None:
    async with rig(idle=timedelta(seconds=30)) as made:
        await made.submit()
        await made.transport.close()
        await made.listener.until(lambda: made.listener.open == 0)
        await made.transport.close()
    assert made.server.count(b"QUIT") == 1


# a mailbox that is changed while the worker runs


async def test_mailbox_that_gets_another_server_leaves_the_old_one_and_finishes_what_is_under_way() -> None:
    gate, new = Gatekeeper(), Obedient("PIPELINING")
    async with rig(Obedient("PIPELINING", at_dot=gate)) as made, listening(new.serve) as listener:
        (under_way,) = made.submitting(1)
        await gate.holds(1)
        message, moved = OutgoingMessage("<2@contoso.com>", SMALL), box(listener.port, made.limits)
        assert isinstance(await made.transport.submit(moved, ENVELOPE, message, always), Accepted)
        await gate.let_go()
        assert isinstance(await under_way, Accepted)
        await made.listener.until(lambda: made.listener.open == 0)
        await made.transport.close()
    assert (len(made.server.mails), len(new.mails)) == (1, 1)


async def test_unchanged_mailbox_read_anew_keeps_its_sessions() -> None:
    async with rig() as made:
        await made.submit()
        made.limits = SessionLimits(idle=timedelta(minutes=1))
        await made.submit()
    assert len(made.listener.peers) == 1


async def test_pools_of_thousands_of_mailboxes_are_forgotten_unless_they_hold_a_session() -> None:
    made, kept = SessionLimits(messages=1), SessionLimits(messages=100)
    async with rig() as stage:
        busy = replace(box(stage.listener.port, kept), name="busy")
        assert isinstance(await submitted(stage.transport, busy), Accepted)
        for number in range(1100):
            once = replace(box(stage.listener.port, made), name=f"box-{number}")
            assert isinstance(await submitted(stage.transport, once), Accepted)
            if number % 50 == 0:  # lest it be idle for too long on a slow machine
                assert isinstance(await submitted(stage.transport, busy), Accepted)
        assert isinstance(await submitted(stage.transport, busy), Accepted)
        assert len(stage.listener.peers) == 1 + 1100, "its session was kept"
        alive = sum(isinstance(each, Pool) for each in gc.get_objects())
    assert alive < 300


async def submitted(transport: SmtpTransport, mailbox: Mailbox) -> Submission:
    return await transport.submit(mailbox, ENVELOPE, OutgoingMessage("<1@contoso.com>", SMALL), always)
