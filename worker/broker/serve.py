"""The loop that a worker is: take deliveries, have them decided on, publish what was decided, acknowledge last."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import assert_never

from aio_pika.abc import AbstractIncomingMessage

from contracts.cancellation import Cancellation
from contracts.delivery import Result
from contracts.notification import Notification
from contracts.wire import decode
from worker.broker.connection import BROKEN, BrokerAddress, cancelled, explained
from worker.broker.link import Link, TopologyMissing, open_link
from worker.broker.parcel import Parcel, buried, parked, part, received
from worker.broker.relay import relay
from worker.broker.topology import Topology
from worker.courier import Intake
from worker.domain import report
from worker.domain.decision import Acknowledge, DeadLetter, Decision, Split, WaitUntil
from worker.events import (
    BrokerBlocked,
    BrokerDown,
    BrokerUnblocked,
    BrokerUp,
    Concluded,
    ConsumerSilent,
    Crashed,
    Draining,
    ReplyFailed,
    StoreLost,
)
from worker.ports import Dice, Observe, Outbox, StoreDown

Deliver = Callable[[Intake], Awaitable[Decision]]

_FIRST_BACKOFF = 0.5  # seconds
_LONGEST_BACKOFF = 15.0
_STORE_DOWN = "the store is out of reach, so nothing may be sent: {}"
_AT_ONCE = 50  # parts of a mass mail published together
_WAIT_HERE = 1.5  # seconds up to which a message is kept in memory instead of being parked
_HANG_UP_WITHIN = 1.0  # seconds
_CANCELLED_WITHIN = 2.0
_LOOK_BEHIND_EVERY = 20  # looks: RabbitMQ logs an error each time that somebody asks for a lane that is not there
_BLOCKED = "the broker takes no results (short of memory or disk), so no mail is begun until it does"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How one worker consumes.

    Attributes:
        worker: name of this worker, for the lanes' preference.
        prefetch: unacknowledged deliveries per lane.
        concurrency: deliveries worked on at once.
        grace: seconds that deliveries under way get when the worker is told to stop.
        look_every: seconds after which a lane that says nothing is looked into.
    """

    worker: str
    prefetch: int = 16
    concurrency: int = 64
    grace: float = 25.0
    look_every: float = 15.0


@dataclass(order=True, slots=True)
class _Item:
    """A delivery in line; urgent ones first, else in the order of arrival."""

    urgency: int
    number: int
    link: Link = field(compare=False)
    message: AbstractIncomingMessage = field(compare=False)
    parcel: Parcel = field(compare=False)


class Worker:
    """Consumes until told to stop, whatever the broker does in the meantime."""

    def __init__(
        self,
        address: BrokerAddress,
        topology: Topology,
        deliver: Deliver,
        outbox: Outbox,
        options: ServeOptions,
        observe: Observe,
        dice: Dice,
    ) -> None:
        """Nothing happens before `run`."""
        self._address = address
        self._topology = topology
        self._deliver = deliver
        self._outbox = outbox
        self._options = options
        self._observe = observe
        self._dice = dice
        self._line: asyncio.PriorityQueue[_Item] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._stop = asyncio.Event()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._link: Link | None = None
        self._problem = "not connected yet"
        self._blocked = False

    @property
    def ready(self) -> bool:
        """Whether our consumers exist on the broker, and it takes our results."""
        return not self.unready

    @property
    def unready(self) -> str:
        """Why this worker takes nothing at the moment; empty if it does."""
        if self._stop.is_set():
            return "stopping"
        if self._blocked:
            return _BLOCKED
        if self._link is None or not self._link.alive:
            return f"no consumers on the broker: {self._problem}"
        return ""

    @property
    def in_flight(self) -> int:
        """Deliveries being worked on."""
        return self._in_flight

    def stop(self) -> None:
        """Take nothing new, finish what is under way, then `run` returns."""
        self._stop.set()

    async def run(self) -> None:
        """Work until stopped."""
        hands = [asyncio.create_task(self._work()) for _ in range(self._options.concurrency)]
        try:
            await self._stay_linked()
            await self._finished()  # with the broker gone there was no drain, but mails may still be under way
        finally:
            for hand in hands:
                hand.cancel()
            await asyncio.gather(*hands, return_exceptions=True)

    async def _stay_linked(self) -> None:
        backoff = _FIRST_BACKOFF
        while not self._stop.is_set():
            lost: type[BrokerDown | StoreLost] = BrokerDown
            try:
                await self._outbox.ready()
                link = await self._linked()
                if link is None:
                    return
                backoff = _FIRST_BACKOFF
                try:
                    self._problem = await self._until_over(link)
                finally:
                    await link.close()
            except TopologyMissing as error:
                self._problem = str(error)
            except StoreDown as error:
                lost, self._problem = StoreLost, str(error)
            except BROKEN as error:
                self._problem = explained(error, self._address)
            self._unblocked()
            if not self._stop.is_set():
                pause = backoff * (0.5 + self._dice())
                self._observe(lost(self._problem, pause))
                await self._stopped_within(pause)
                backoff = min(backoff * 2, _LONGEST_BACKOFF)

    async def _linked(self) -> Link | None:
        """A link that consumes; None if we are told to stop before there is one."""
        linking = asyncio.create_task(self._link_up())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((linking, stopped), return_when=asyncio.FIRST_COMPLETED)
            if linking.done():
                return linking.result()
            return None
        finally:
            stopped.cancel()
            if not linking.done():
                linking.cancel()
                await asyncio.wait((linking,), timeout=_HANG_UP_WITHIN)

    async def _link_up(self) -> Link:
        link = await open_link(self._address, self._topology)
        try:
            await link.confirms(self._now_blocked)
            self._unblocked()
            await link.consume(self._arrived, self._options.worker, self._options.prefetch)
        except BaseException:
            await link.close()
            raise
        self._link = link
        self._observe(BrokerUp(link.lanes, link.gaps))
        return link

    async def _until_over(self, link: Link) -> str:
        """Serve until the link breaks (says why) or we are told to stop; then let what is under way finish."""
        ended = asyncio.create_task(link.ended())
        stopped = asyncio.create_task(self._stop.wait())
        looking = asyncio.create_task(self._look_after(link))
        relaying = asyncio.create_task(self._relay(link))
        try:
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return ended.result()
            await self._drain(link)
            return ""
        finally:
            for task in (ended, stopped, looking, relaying):
                task.cancel()
            await asyncio.gather(relaying, return_exceptions=True)

    async def _relay(self, link: Link) -> None:
        """Publish what others left behind; what keeps us from it keeps us from everything else too."""
        try:
            await relay(link, self._outbox, self._observe)
        except BROKEN as error:
            link.end(f"publishing failed: {_said(error)}")
        except StoreDown as error:
            link.end(_STORE_DOWN.format(error))
        except Exception as error:  # noqa: BLE001 - a bug here must not end the worker
            self._observe(Crashed("relay", None, error))
            link.end("a bug of ours, see the log")

    async def _look_after(self, link: Link) -> None:
        """Notice what nobody tells us: a broker that takes nothing, a consumer that it forgot, a lane that is new."""
        tick = min(1.0, self._options.look_every)
        looks, since = 0, 0.0
        try:
            while link.alive:
                await asyncio.sleep(tick)
                if await link.blocked():
                    self._now_blocked()
                    continue
                self._unblocked()
                since += tick
                if since >= self._options.look_every:
                    looks, since = looks + 1, 0.0
                    await self._look(link, behind=looks % _LOOK_BEHIND_EVERY == 0)
        except BROKEN as error:
            link.end(f"looking after the lanes failed: {_said(error)}")

    async def _look(self, link: Link, *, behind: bool) -> None:
        quiet = self._options.look_every
        if (lane := await link.overlooked(quiet)) is not None:
            self._observe(ConsumerSilent(lane, quiet))
            link.end(f"{lane} holds messages, but the broker has sent none of them for {quiet:g} seconds")
        elif await link.take_new(self._arrived, self._options.worker, behind=behind):
            self._observe(BrokerUp(link.lanes, link.gaps))

    def _now_blocked(self) -> None:
        if not self._blocked:
            self._blocked = True
            self._observe(BrokerBlocked(_BLOCKED))

    def _unblocked(self) -> None:
        if self._blocked:
            self._blocked = False
            self._observe(BrokerUnblocked())

    async def _drain(self, link: Link) -> None:
        """What was not started goes back to the broker when the channel closes; what was started is finished."""
        self._observe(Draining(self._in_flight))
        try:
            async with asyncio.timeout(_CANCELLED_WITHIN):
                await link.cancel()
        except BROKEN as error:
            link.end(f"the broker did not take our leave: {_said(error)}")
        while not self._line.empty():
            self._line.get_nowait()
        await self._finished()

    async def _finished(self) -> None:
        """Wait for what is under way, but not for ever: unacknowledged, the broker gives it to another worker."""
        try:
            async with asyncio.timeout(self._options.grace):
                await self._idle.wait()
        except TimeoutError:
            pass

    async def _stopped_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass

    # ---------------------------------------------------------------- one delivery

    def _arrived(self, link: Link, message: AbstractIncomingMessage) -> None:
        """Put a delivery in line, or set a timer if it came back a moment too early."""
        parcel = received(message, link.login)
        item = _Item(parcel.urgency, next(self._numbers), link, message, parcel)
        early = _seconds_until(parcel.not_before) if parcel.not_before else 0.0
        if 0 < early <= _WAIT_HERE:
            asyncio.get_running_loop().call_later(early, self._line.put_nowait, item)
        else:
            self._line.put_nowait(item)

    async def _work(self) -> None:
        while True:
            item = await self._line.get()
            await item.link.flows()
            if not item.link.alive or self._stop.is_set():
                continue
            self._in_flight += 1
            self._idle.clear()
            try:
                await self._handle(item)
            except asyncio.CancelledError:
                if cancelled():
                    raise
                item.link.end("the line broke while a message was acknowledged")
            except BROKEN as error:
                item.link.end(f"publishing or acknowledging failed: {_said(error)}")
            except StoreDown as error:
                item.link.end(_STORE_DOWN.format(error))
            except Exception as error:  # noqa: BLE001 - a bug in one delivery must not end the worker
                self._observe(Crashed("broker", item.message.message_id, error))
                item.link.end("a bug of ours, see the log")
            finally:
                self._in_flight -= 1
                if self._in_flight == 0:
                    self._idle.set()

    async def _handle(self, item: _Item) -> None:
        """Decide, publish, dispose, acknowledge: in this order, and never the last without the others."""
        parcel, link = item.parcel, item.link
        early = _seconds_until(parcel.not_before) if parcel.not_before else 0.0
        if early > 0:
            await self._park(item, early, parcel.not_before or _now(), parcel.intake.carry)
        else:
            started = asyncio.get_running_loop().time()
            decision = await self._decided(item)
            for result in decision.results:
                await link.publish_result(result)
                await self._answer(link, result, parcel.intake.properties.reply_to)
                self._observe(Concluded(result, asyncio.get_running_loop().time() - started))
            await self._dispose(item, decision)
            if decision.key is not None:
                await self._outbox.published(decision.key, decision.results, disposed=True)
        await item.message.ack()

    async def _decided(self, item: _Item) -> Decision:
        try:
            return await self._deliver(item.parcel.intake)
        except StoreDown:
            raise
        except Exception as error:  # noqa: BLE001 - our bug: set the message aside instead of failing on it for ever
            self._observe(Crashed("deliver", item.message.message_id, error))
            dead = DeadLetter("internal-error", f"Postlane itself failed: {type(error).__name__}")
            return Decision(_crashed(item.parcel.intake), dead, item.parcel.intake.carry)

    async def _answer(self, link: Link, result: Result, reply_to: str | None) -> None:
        if reply_to and (problem := await link.reply(result, reply_to)):
            self._observe(ReplyFailed(result.notification_id, problem))

    async def _dispose(self, item: _Item, decision: Decision) -> None:
        match decision.disposition:
            case Acknowledge():
                pass
            case WaitUntil(when):
                await self._park(item, _seconds_until(when), when, decision.carry)
            case DeadLetter() as dead:
                copy = buried(item.message, item.parcel, dead, decision.carry, item.link.login, _now())
                await item.link.bury(copy, item.message.routing_key or "")
            case Split(parts):
                for begin in range(0, len(parts), _AT_ONCE):
                    await asyncio.gather(*(self._part(item, each) for each in parts[begin : begin + _AT_ONCE]))
            case unknown:
                assert_never(unknown)

    async def _part(self, item: _Item, content: Notification | Cancellation) -> None:
        copy = part(item.message, item.parcel, content, item.link.login)
        await item.link.park(copy, item.message.routing_key or "", 0)

    async def _park(self, item: _Item, seconds: float, until: datetime, carry: str) -> None:
        copy = parked(item.message, item.parcel, until, carry, item.link.login)
        await item.link.park(copy, item.message.routing_key or "", seconds)


def _crashed(intake: Intake) -> tuple[Result, ...]:
    try:
        found = decode(intake.body, intake.properties, max_octets=len(intake.body))
        if isinstance(found, Cancellation):
            return ()
        return (report.crashed(found, intake.body, intake.properties, _now()),)
    except Exception:  # noqa: BLE001 - it may be the reading that fails; the first fault is logged already
        return ()


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _now() -> datetime:
    return datetime.now(UTC)


def _seconds_until(when: datetime) -> float:
    return (when - _now()).total_seconds()
