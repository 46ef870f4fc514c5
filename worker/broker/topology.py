"""What exists on the broker, as data.

    producers -> notifications (topic) -> lanes (hash) -> lane.00 … lane.31 -> workers
                        |                    ^
                        v (no route)         | (TTL over)
                    unroutable             wait.1 … wait.3600 <- workers
    workers -> results (topic) -> queues of the consumers, else results.unclaimed
    workers, and the lanes' delivery limit -> dead

Lanes give affinity only (warm connections, warm caches): the hash keeps a tenant on one lane, and every worker consumes
every lane, each preferring some. Nothing breaks when their number changes, or when the broker has no hash exchange and
there is one lane.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from contracts.channels import DEFAULT_PREFIX, notifications_exchange, results_exchange

WAITS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600)  # seconds

# No limit, in effect. `-1` means that on 4.x only: 3.10 then drops whatever is given back to it once.
_UNLIMITED = 1_000_000_000
_DELIVERY_LIMIT = 50  # the default of 4.x is 20 and drops without a word where there is no dead-letter exchange
_UNCLAIMED_RESULTS = 100_000
_WEEK = 7 * 24 * 3600 * 1000  # milliseconds


Arguments = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange; all are durable."""

    name: str
    kind: str
    arguments: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue; all are durable quorum queues."""

    name: str
    arguments: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Binding:
    """From an exchange to a queue, or to another exchange."""

    source: str
    destination: str
    key: str = ""
    to_exchange: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    """Names and wiring.

    Attributes:
        prefix: first part of every name, so that several installations can share a broker.
        lanes: number of lanes; 1 if not hashed.
        hashed: whether the broker has the exchange type x-consistent-hash.
    """

    prefix: str = DEFAULT_PREFIX
    lanes: int = 32
    hashed: bool = True

    @property
    def notifications(self) -> str:
        return notifications_exchange(self.prefix)

    @property
    def results(self) -> str:
        return results_exchange(self.prefix)

    @property
    def unclaimed(self) -> str:
        return f"{self.prefix}.results.unclaimed"

    @property
    def lane_exchange(self) -> str:
        return f"{self.prefix}.lanes"

    @property
    def dead(self) -> str:
        return f"{self.prefix}.dead"

    @property
    def unroutable(self) -> str:
        return f"{self.prefix}.unroutable"

    @property
    def lane_stem(self) -> str:
        return f"{self.prefix}.lane."

    def lane(self, number: int) -> str:
        return f"{self.lane_stem}{number:02}"

    def wait(self, seconds: int) -> str:
        return f"{self.prefix}.wait.{seconds}"

    def owns(self, queue: str) -> bool:
        """Whether a queue is part of this installation, and so no place for somebody's replies."""
        return queue.startswith(f"{self.prefix}.")

    def exchanges(self) -> Iterator[Exchange]:
        """In an order in which they can be declared."""
        yield Exchange(self.unroutable, "fanout")
        yield Exchange(self.notifications, "topic", {"alternate-exchange": self.unroutable})
        kind = "x-consistent-hash" if self.hashed else "fanout"
        yield Exchange(self.lane_exchange, kind, {"alternate-exchange": self.unroutable})  # all lanes may be gone
        yield Exchange(self.unclaimed, "fanout")
        yield Exchange(self.results, "topic", {"alternate-exchange": self.unclaimed})
        yield Exchange(self.dead, "fanout")
        for seconds in WAITS:
            yield Exchange(self.wait(seconds), "fanout")

    def queues(self) -> Iterator[Queue]:
        """All queues. Dead-lettering is at least once, which also needs `reject-publish`."""
        for number in range(self.lanes if self.hashed else 1):
            yield _quorum(self.lane(number), {"x-delivery-limit": _DELIVERY_LIMIT, **_dead_letters(self.dead)})
        for seconds in WAITS:
            yield _quorum(self.wait(seconds), {"x-message-ttl": seconds * 1000, **_dead_letters(self.lane_exchange)})
        for name in (self.dead, self.unroutable):
            yield _quorum(name, {"x-delivery-limit": _UNLIMITED})
        kept: Arguments = {"x-max-length": _UNCLAIMED_RESULTS, "x-overflow": "drop-head", "x-message-ttl": _WEEK}
        yield _quorum(self.unclaimed, kept)

    def bindings(self) -> Iterator[Binding]:
        """All bindings; the key `1` is a lane's weight in the hash."""
        yield Binding(self.notifications, self.lane_exchange, "#", to_exchange=True)
        for number in range(self.lanes if self.hashed else 1):
            yield Binding(self.lane_exchange, self.lane(number), "1")
        for name in (self.unroutable, self.unclaimed, self.dead, *map(self.wait, WAITS)):
            yield Binding(name, name)


def preference(worker: str, lane: str) -> int:
    """Consumer priority of a worker for a lane, 0 to 255.

    Rendezvous hashing: every lane has its favourite worker, the next takes over when that one is full or gone, and a
    new worker moves only the lanes that it wins.
    """
    return hashlib.sha256(f"{worker}\0{lane}".encode()).digest()[0]


def rung(seconds: float) -> int:
    """The wait queue for a wait: the longest that is not too long; what remains is waited for in another."""
    return max((step for step in WAITS if step <= seconds), default=WAITS[0])


def _quorum(name: str, arguments: Arguments) -> Queue:
    return Queue(name, {"x-queue-type": "quorum", **arguments})


def _dead_letters(exchange: str) -> Arguments:
    return {
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
