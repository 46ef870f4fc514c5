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
from worker.broker.connection import BROKEN, BrokerAddress, explained
from worker.broker.link import Link, TopologyMissing, open_link
from worker.broker.parcel import Parcel, buried, parked, part, received
from worker.broker.relay import relay
from worker.broker.topology import Topology
from worker.courier import Intake
from worker.domain.decision import Acknowledge, DeadLetter, Decision, Split, WaitUntil
from worker.events import BrokerDown, BrokerUp, Concluded, Crashed, Draining, ReplyFailed, StoreLost
from worker.ports import Dice, Observe, Outbox, StoreDown

Deliver = Callable[[Intake], Awaitable[Decision]]

_FIRST_BACKOFF = 0.5  # seconds
_LONGEST_BACKOFF = 15.0
_STORE_DOWN = "the store is out of reach, so nothing may be sent: {}"
_AT_ONCE = 50  # parts of a mass mail published together
_WAIT_HERE = 1.5  # seconds up to which a message is kept in memory instead of being parked


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How one worker consumes.

    Attributes:
        worker: name of this worker, for the lanes' preference.
        prefetch: unacknowledged deliveries per lane.
        concurrency: deliveries worked on at once.
        grace: seconds that deliveries under way get when the worker is told to stop.
    """

    worker: str
    prefetch: int = 16
    concurrency: int = 64
    grace: float = 25.0


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

    @property
    def ready(self) -> bool:
        """Whether our consumers exist on the broker."""
        return self._link is not None and self._link.alive and not self._stop.is_set()

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
                async with open_link(self._address, self._topology) as link:
                    await link.consume(self._arrived, self._options.worker, self._options.prefetch)
                    self._link, backoff = link, _FIRST_BACKOFF
                    self._observe(BrokerUp(link.lanes))
                    problem = await self._until_over(link)
            except TopologyMissing as error:
                problem = str(error)
            except StoreDown as error:
                lost, problem = StoreLost, str(error)
            except BROKEN as error:
                problem = explained(error, self._address)
            if not self._stop.is_set():
                pause = backoff * (0.5 + self._dice())
                self._observe(lost(problem, pause))
                await self._stopped_within(pause)
                backoff = min(backoff * 2, _LONGEST_BACKOFF)

    async def _until_over(self, link: Link) -> str:
        """Serve until the link breaks (says why) or we are told to stop; then let what is under way finish."""
        ended = asyncio.create_task(link.ended())
        stopped = asyncio.create_task(self._stop.wait())
        relaying = asyncio.create_task(self._relay(link))
        try:
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return ended.result()
            await self._drain(link)
            return ""
        finally:
            for task in (ended, stopped, relaying):
                task.cancel()
            await asyncio.gather(relaying, return_exceptions=True)

    async def _relay(self, link: Link) -> None:
        """Publish what others left behind; what keeps us from it keeps us from everything else too."""
        try:
            await relay(link, self._outbox, self._observe)
        except BROKEN as error:
            link.end(f"publishing failed: {error}")
        except StoreDown as error:
            link.end(_STORE_DOWN.format(error))
        except Exception as error:  # noqa: BLE001 - a bug here must not end the worker
            self._observe(Crashed("relay", None, error))
            link.end("a bug of ours, see the log")

    async def _drain(self, link: Link) -> None:
        """What was not started goes back to the broker when the channel closes; what was started is finished."""
        self._observe(Draining(self._in_flight))
        await link.cancel()
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
            if not item.link.alive or self._stop.is_set():
                continue
            self._in_flight += 1
            self._idle.clear()
            try:
                await self._handle(item)
            except BROKEN as error:
                item.link.end(f"publishing or acknowledging failed: {error}")
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
            return Decision((), dead, item.parcel.intake.carry)

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


def _now() -> datetime:
    return datetime.now(UTC)


def _seconds_until(when: datetime) -> float:
    return (when - _now()).total_seconds()
