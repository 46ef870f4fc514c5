"""The line to the broker breaks in every way it can. Nothing is lost, the worker comes back, and it says what is so."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from aio_pika import Message
from yarl import URL

from contracts.channels import notification_key
from tests.adapters.broker.conftest import PASSWORD, Logins
from tests.adapters.broker.stage import (
    SOON,
    Desk,
    Lines,
    Post,
    channel_on,
    forgotten,
    killed,
    lines_to,
    posting,
    serving,
    until_ready,
    waiting_in,
)
from tests.neighbours import PATIENCE, Inbox
from worker.broker import apply as topologies
from worker.broker.connection import BrokerAddress, LineBroken, on_the_line, open_connection
from worker.broker.topology import Topology, preference
from worker.events import BrokerDown, BrokerUp, Concluded, Crashed, Draining


async def in_lanes(address: BrokerAddress, topology: Topology) -> int:
    """Messages in the lanes that nobody has."""
    waiting = await waiting_in(address, topology)
    return sum(count for queue, count in waiting.items() if queue.startswith(topology.lane_stem))


async def until_in_lanes(address: BrokerAddress, topology: Topology, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while await in_lanes(address, topology) != count:
            pass


# ---------------------------------------------------------------- cut


@pytest.mark.parametrize("which", ["both", "consuming", "publishing"])
async def test_line_that_is_cut_is_opened_again_and_both_are_told(
    lines: Lines, topology: Topology, post: Post, inbox: Inbox, which: str
) -> None:
    async with serving(lines.address, topology, Desk()) as served:
        (lines if which == "both" else getattr(lines, which)).cut()
        down = await served.events.until(BrokerDown)
        assert not served.worker.ready
        assert re.fullmatch(r"the (consuming|publishing) (connection|channel) was closed: .+", down.problem)
        await served.events.until(BrokerUp, 2)
        assert served.worker.ready
        await post("n-1")
        await inbox.final("n-1")
    assert [type(event) for event in served.events.seen[:3]] == [BrokerUp, BrokerDown, BrokerUp]


async def test_deliveries_of_a_dead_link_are_not_worked_on(
    address: BrokerAddress, lines: Lines, topology: Topology, post: Post
) -> None:
    desk = Desk(forgotten)
    desk.close()
    async with serving(lines.address, topology, desk, concurrency=1) as served:
        await post.many(["first", "a", "b", "c"])
        await desk.asked()
        await until_in_lanes(address, topology, 0)
        lines.cut()
        await served.events.until(BrokerUp, 2)
        await until_in_lanes(address, topology, 0)
        desk.open()
        await desk.asked(5)
    assert sorted(name or "" for name in desk.ids) == ["a", "b", "c", "first", "first"]
    assert await waiting_in(address, topology) == {}


async def test_work_of_a_dead_link_is_finished_but_not_acknowledged(
    address: BrokerAddress, lines: Lines, topology: Topology, post: Post, inbox: Inbox
) -> None:
    """The mail may be half sent: it must not be cancelled because the broker is away."""
    desk = Desk()
    desk.close()
    async with serving(lines.address, topology, desk) as served:
        await post("n-1")
        await desk.asked()
        lines.cut()
        await served.events.until(BrokerUp, 2)
        await desk.asked(2)
        desk.open()
        await inbox.final("n-1")
    assert desk.finished == 2
    assert len(inbox.of("n-1")) == 1
    assert await waiting_in(address, topology) == {}


async def test_messages_are_all_handled_however_often_the_line_is_cut(
    address: BrokerAddress, lines: Lines, topology: Topology, post: Post, inbox: Inbox
) -> None:
    wanted = {f"n-{number}" for number in range(60)}
    desk = Desk()
    async with serving(lines.address, topology, desk) as served:
        for cut in range(6):
            await post.many([f"n-{number}" for number in range(cut * 10, cut * 10 + 10)])
            await served.events.until(BrokerUp, cut + 1)
            lines.cut()
        await inbox.until(lambda results: {result.notification_id for result in results} == wanted)
        await until_in_lanes(address, topology, 0)
    assert await waiting_in(address, topology) == {}
    assert served.events.of(Crashed) == []


class Cut:
    """Cuts lines when a certain answer comes by."""

    def __init__(self, lines: Lines, watched: int, moment: int, cut: tuple[int, ...]) -> None:
        self._lines = lines
        self._moment = (watched, moment)
        self._cut = cut
        self.done = asyncio.Event()

    def __call__(self, line: int, answer: int) -> None:
        if (line, answer) == self._moment:
            for number in self._cut:
                if number < len(self._lines.lines):
                    self._lines.lines[number].cut()
            self.done.set()


MOMENTS = range(1, 19)  # answer by answer until a worker with two lanes consumes, and some beyond
CUTS = {"consuming-cut": (0,), "publishing-cut": (1,), "both-cut": (0, 1)}


@pytest.mark.parametrize("watched", [0, 1], ids=["while-it-consumes", "while-it-publishes"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
async def test_line_that_is_cut_at_any_moment_of_connecting_does_not_end_the_worker(
    address: BrokerAddress, topology: Topology, watched: int, cut: tuple[int, ...]
) -> None:
    """One worker for each moment, all at once."""

    async def survives(moment: int) -> str:
        async with lines_to(address) as lines:
            lines.interfere = Cut(lines, watched, moment, cut)
            async with serving(lines.address, topology, Desk(), wait=False) as served:
                up = asyncio.create_task(served.events.until(BrokerUp))
                await asyncio.wait((up, served.running), return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
                up.cancel()
                died = served.running.exception() if served.running.done() else None
        return f"answer {moment}: {died!r}" if died else ""

    died = await asyncio.gather(*map(survives, MOMENTS))
    assert [text for text in died if text] == []


async def test_worker_that_is_cancelled_while_the_line_breaks_ends(address: BrokerAddress, topology: Topology) -> None:
    """Or whatever runs beside it waits for ever. Each is cancelled some turns of the loop after the cut."""

    async def ends(moment: int, turns: int) -> str:
        async with lines_to(address) as lines:
            cut = lines.interfere = Cut(lines, 0, moment, (0, 1))
            async with serving(lines.address, topology, Desk(), wait=False) as served:
                await asyncio.wait_for(cut.done.wait(), SOON)
                for _ in range(turns):
                    await asyncio.sleep(0)
                served.running.cancel()
                await asyncio.wait((served.running,), timeout=2)
                return "" if served.running.done() else f"{turns} turns after answer {moment}: still running"

    running = await asyncio.gather(*(ends(moment, turns) for moment in (4, 6, 9, 12) for turns in range(0, 30, 2)))
    assert [text for text in running if text] == []


async def test_consuming_line_that_breaks_while_the_other_is_opened_does_not_end_the_worker(
    lines: Lines, topology: Topology
) -> None:
    lines.interfere = Cut(lines, 1, 1, (0,))
    async with serving(lines.address, topology, Desk(), wait=False) as served:
        up = asyncio.create_task(served.events.until(BrokerUp))
        await asyncio.wait((up, served.running), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        assert not served.running.done(), served.running.exception()


async def test_line_that_is_closed_for_no_reason_is_a_broken_line(address: BrokerAddress) -> None:
    """The library then gives a bare `Exception` to whoever waits for an answer."""
    async with await open_connection(address, "test") as connection:
        assert connection.transport is not None
        underlay = connection.transport.connection
        await underlay.close(None)
        with pytest.raises(LineBroken), on_the_line():
            await underlay.create_future()


async def test_line_that_falls_silent_is_given_up(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox
) -> None:
    """No reset, no end: only heartbeats tell. Here every second, else every ten."""
    quick = BrokerAddress(str(URL(address.url).update_query(heartbeat=1)))
    async with lines_to(quick) as lines, serving(lines.address, topology, Desk()) as served:
        lines.hold()
        await post("n-1")
        await served.events.until(BrokerDown, patience=15)
        await served.events.until(BrokerUp, 2)
        await inbox.final("n-1")


async def test_waits_grow_while_the_broker_stays_away(lines: Lines, topology: Topology) -> None:
    lines.refuses = True
    async with serving(lines.address, topology, Desk(), wait=False) as served:
        await served.events.until(BrokerDown, 4)
    assert [event.retry_in for event in served.events.of(BrokerDown)] == [0.25, 0.5, 1.0, 2.0]


# ---------------------------------------------------------------- who may, and what is there


async def test_nobody_listening_is_said_so(topology: Topology, unused_tcp_port: int) -> None:
    nowhere = BrokerAddress(f"amqp://guest:{PASSWORD}@127.0.0.1:{unused_tcp_port}/")
    async with serving(nowhere, topology, Desk(), wait=False) as served:
        down = await served.events.until(BrokerDown)
        assert not served.worker.ready
    assert down.problem == f"nothing listens at amqp://guest@127.0.0.1:{unused_tcp_port}/"


async def test_host_that_does_not_exist_is_said_so(topology: Topology) -> None:
    nowhere = BrokerAddress(f"amqp://guest:{PASSWORD}@no-such-host.invalid/")
    async with serving(nowhere, topology, Desk(), wait=False) as served:
        down = await served.events.until(BrokerDown)
    assert "amqp://guest@no-such-host.invalid:5672/" in down.problem
    assert "cannot be reached" in down.problem
    assert PASSWORD not in down.problem


async def test_something_else_that_listens_there_does_not_end_the_worker(topology: Topology) -> None:
    async def http(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(http, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with serving(
            BrokerAddress(f"amqp://guest:{PASSWORD}@127.0.0.1:{port}/"), topology, Desk(), wait=False
        ) as served:
            down = asyncio.create_task(served.events.until(BrokerDown))
            await asyncio.wait((down, served.running), return_when=asyncio.FIRST_COMPLETED)
            assert not served.running.done(), served.running.exception()
    assert PASSWORD not in (await down).problem


async def test_wrong_password_is_said_so_without_it(address: BrokerAddress, topology: Topology) -> None:
    wrong = BrokerAddress(str(URL(address.url).with_password("a-wrong-password")))
    async with serving(wrong, topology, Desk(), wait=False) as served:
        down = await served.events.until(BrokerDown)
        assert not served.worker.ready
    assert "refuses the login" in down.problem
    assert "guest@127.0.0.1" in down.problem
    assert "a-wrong-password" not in repr(served.events.seen)


async def test_missing_virtual_host_is_named(address: BrokerAddress, topology: Topology) -> None:
    elsewhere = BrokerAddress(str(URL(address.url).with_path("/no-such-vhost")))
    async with serving(elsewhere, topology, Desk(), wait=False) as served:
        down = await served.events.until(BrokerDown)
    assert "/no-such-vhost" in down.problem
    assert "virtual host" in down.problem
    assert "Connection.OpenOk" not in down.problem, "that is the library's frame, not the broker's reason"


async def test_missing_topology_is_named_and_found_when_it_is_created(address: BrokerAddress, inbox: Inbox) -> None:
    del inbox
    topology = Topology("test-not-yet", lanes=1)
    async with serving(address, topology, Desk(), wait=False) as served:
        down = await served.events.until(BrokerDown)
        missing = "there is no queue 'test-not-yet.lane.00' on the broker"
        assert down.problem == f"{missing}: run `postlane topology apply` first"
        assert not served.worker.ready
        made = await topologies.apply(address, topology)
        try:
            await served.events.until(BrokerUp)
            assert served.worker.ready
        finally:
            await served.stopped()
            await topologies.remove(address, made)


@pytest.mark.parametrize(
    "rights",
    [{"read": "^$"}, {"write": "^$"}],
    ids=["may-not-read-the-lanes", "may-not-publish-results"],
)
async def test_right_that_was_taken_away_is_told_and_nothing_is_lost_until_it_is_given_back(
    address: BrokerAddress,
    topology: Topology,
    post: Post,
    inbox: Inbox,
    logins: Logins,
    rights: dict[str, str],
) -> None:
    own = logins.add("a-worker")
    async with lines_to(own) as lines, serving(lines.address, topology, Desk()) as served:
        logins.add("a-worker", **rights)
        lines.cut()  # rights are looked at again by a new connection
        await post("n-1")
        await served.events.until(BrokerDown, 2)
        problem = served.events.of(BrokerDown)[1].problem
        assert "ACCESS_REFUSED" in problem
        assert "a-worker" in problem
        assert inbox.results == []
        logins.add("a-worker")
        await inbox.final("n-1")
        await until_in_lanes(address, topology, 0)
    assert await waiting_in(address, topology) == {}


async def test_results_exchange_that_is_gone_keeps_the_message_until_it_is_back(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    async with serving(address, topology, Desk()) as served:
        async with channel_on(address) as channel:
            await channel.exchange_delete(topology.results)
        await post("n-1")
        down = await served.events.until(BrokerDown)
        assert topology.results in down.problem
        await topologies.apply(address, topology)
        await served.events.until(Concluded)
        await until_ready(address, topology.unclaimed, 1)
    assert await in_lanes(address, topology) == 0


async def test_lane_that_is_deleted_under_its_consumer_is_told_and_taken_again_when_it_is_back(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox
) -> None:
    """The others are worked on in the meantime; RabbitMQ's hash has spread the lost lane's tenants over them."""
    async with serving(address, topology, Desk(), look_every=0.2) as served:
        async with channel_on(address) as channel:
            await channel.queue_delete(topology.lane(0))
        down = await served.events.until(BrokerDown)
        assert down.problem == f"the broker cancelled a consumer of {topology.lane(0)}"
        assert await served.events.until(BrokerUp, 2) == BrokerUp(1, (topology.lane(0),))
        await post("meanwhile")
        await inbox.final("meanwhile")
        await topologies.apply(address, topology)
        assert await served.events.until(BrokerUp, 3) == BrokerUp(2)
        await post("n-1")
        await inbox.final("n-1")
    assert len(served.events.of(BrokerDown)) == 1, "a lane that is back costs no link"


async def test_lane_that_was_added_is_found_without_a_restart(address: BrokerAddress, topology: Topology) -> None:
    more = replace(topology, lanes=3)
    desk = Desk(forgotten)
    async with serving(address, topology, desk, look_every=0.02) as served:
        await topologies.apply(address, more)
        assert await served.events.until(BrokerUp, 2) == BrokerUp(3)
        async with channel_on(address) as channel:
            await channel.default_exchange.publish(Message(b"", message_id="new"), more.lane(2))
            await desk.asked()
            await channel.queue_delete(more.lane(2))


async def test_lanes_behind_a_missing_one_are_still_worked_on(address: BrokerAddress) -> None:
    """Somebody deletes one lane of many: its neighbours' mail must not lie there unseen while all looks well."""
    topology = await topologies.apply(address, Topology("test-gap", lanes=3))
    try:
        async with channel_on(address) as channel:
            await channel.queue_delete(topology.lane(1))
            desk = Desk(forgotten)
            async with serving(address, topology, desk):
                await channel.default_exchange.publish(Message(b"", message_id="first"), topology.lane(0))
                await channel.default_exchange.publish(Message(b"", message_id="behind"), topology.lane(2))
                await desk.asked()
                await desk.asked(2)
    finally:
        await topologies.remove(address, topology)


# ---------------------------------------------------------------- stopping


async def test_stop_finishes_what_is_under_way_and_gives_the_rest_back(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox
) -> None:
    desk = Desk()
    desk.close()
    async with serving(address, topology, desk, concurrency=2) as served:
        await post.many(["a", "b", "c", "d"])
        await desk.asked(2)
        await until_in_lanes(address, topology, 0)
        served.worker.stop()
        draining = await served.events.until(Draining)
        assert draining.in_flight == 2
        assert not served.worker.ready
        assert not served.running.done()
        desk.open()
        await served.stopped(SOON)
    await inbox.until(lambda results: len(results) == 2)
    assert sorted(name or "" for name in desk.ids) == ["a", "b"]
    await until_in_lanes(address, topology, 2)


async def test_stop_leaves_what_exceeds_the_grace_to_the_next_worker(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox
) -> None:
    stuck = Desk()
    stuck.close()
    async with serving(address, topology, stuck, grace=0.3) as served:
        await post("n-1")
        await stuck.asked()
        await served.stopped(SOON)
    assert stuck.finished == 0
    async with serving(address, topology, Desk()):
        await inbox.final("n-1")


async def test_stop_takes_nothing_new(address: BrokerAddress, topology: Topology, post: Post) -> None:
    desk = Desk(forgotten)
    desk.close()
    async with serving(address, topology, desk) as served:
        await post("under-way")
        await desk.asked()
        served.worker.stop()
        async with asyncio.timeout(SOON):
            while not await in_lanes(address, topology):  # until the consumers are gone, and one message stays
                await post("too-late")
        desk.open()
        await served.stopped(SOON)
    assert desk.ids == ["under-way"]


async def test_stop_while_nothing_is_under_way_is_immediate(address: BrokerAddress, topology: Topology) -> None:
    async with serving(address, topology, Desk(), grace=60) as served:
        await served.stopped(SOON)
    assert served.running.exception() is None


async def test_stop_while_the_broker_is_away_is_immediate(lines: Lines, topology: Topology) -> None:
    lines.refuses = True
    async with serving(lines.address, topology, Desk(), wait=False, grace=60) as served:
        await served.events.until(BrokerDown, 3)
        await served.stopped(0.9)


async def test_stop_while_the_line_is_silent_ends_within_the_grace(lines: Lines, topology: Topology) -> None:
    """An orchestrator kills after thirty seconds; a network that is gone must not use them up."""
    async with serving(lines.address, topology, Desk(), grace=1) as served:
        lines.hold()
        await served.stopped(SOON)


async def test_stop_while_the_line_breaks_ends_without_an_error(lines: Lines, topology: Topology, post: Post) -> None:
    """As when broker and workers are told to stop in the same moment."""
    desk = Desk(forgotten)
    desk.close()
    async with serving(lines.address, topology, desk, grace=5) as served:
        await post("n-1")
        await desk.asked()
        lines.hold()
        served.worker.stop()
        await served.events.until(Draining)
        lines.cut()
        desk.open()
        await asyncio.wait((served.running,), timeout=SOON)
        assert served.running.done()
        assert served.running.exception() is None
    assert desk.finished == 1, "the mail under way was cut off in the middle"


async def test_stop_while_connecting_does_not_wait_for_a_broker_that_does_not_answer(
    lines: Lines, topology: Topology
) -> None:
    lines.interfere = lambda line, _answer: lines.lines[line].hold()
    async with serving(lines.address, topology, Desk(), wait=False, grace=1) as served:
        async with asyncio.timeout(SOON):
            while not lines.lines:
                await asyncio.wait((served.running,), timeout=0.01)
        await served.stopped(3)


# ---------------------------------------------------------------- two workers


async def test_two_workers_share_the_lanes_by_preference_and_one_takes_over_all(address: BrokerAddress) -> None:
    topology = await topologies.apply(address, Topology("test-shared", lanes=8))
    tenants = [f"tenant-{number}" for number in range(48)]
    one, two = Desk(forgotten), Desk(forgotten)
    try:
        async with posting(address, topology) as post:
            lane_of = await _lanes_of(address, topology, post, tenants)
            assert len(set(lane_of.values())) >= 4
            async with serving(address, topology, one, worker="one"):
                async with serving(address, topology, two, worker="two") as second:
                    for tenant in tenants:
                        await post(tenant, tenant)
                    await _until_asked(48, one, two)
                    preferred = {
                        tenant: "one" if preference("one", lane) > preference("two", lane) else "two"
                        for tenant, lane in lane_of.items()
                    }
                    assert {str(name): "one" for name in one.ids} | {str(name): "two" for name in two.ids} == preferred
                    assert set(preferred.values()) == {"one", "two"}
                    await killed(second)
                for tenant in tenants:
                    await post(f"later-{tenant}", tenant)
                await _until_asked(96, one, two)
            assert len(one.calls) == 96 - len(two.calls)
            assert {str(name) for name in one.ids} >= {f"later-{tenant}" for tenant in tenants}
    finally:
        await topologies.remove(address, topology)


async def test_better_worker_that_is_full_leaves_the_rest_to_the_other(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    desks = {"one": Desk(forgotten), "two": Desk(forgotten)}
    desks["one"].close()
    desks["two"].close()
    async with (
        serving(address, topology, desks["one"], worker="one", prefetch=3),
        serving(address, topology, desks["two"], worker="two", prefetch=3),
    ):
        await post.many([f"n-{number}" for number in range(6)])
        await _until_asked(6, *desks.values())
        assert [len(desk.calls) for desk in desks.values()] == [3, 3]
        for desk in desks.values():
            desk.open()


async def test_what_a_dead_worker_held_goes_to_the_other_at_once(
    address: BrokerAddress, lines: Lines, topology: Topology, post: Post, inbox: Inbox
) -> None:
    stuck, other = Desk(), Desk()
    stuck.close()
    async with serving(lines.address, topology, stuck) as dying:
        await post.many([f"n-{number}" for number in range(5)])
        await stuck.asked(5)
        async with serving(address, topology, other):
            dying.running.cancel()
            lines.cut()
            await inbox.until(lambda results: len(results) == 5, patience=SOON)
    assert len(other.calls) == 5


async def _until_asked(count: int, *desks: Desk) -> None:
    async with asyncio.timeout(PATIENCE):
        while sum(len(desk.calls) for desk in desks) < count:
            more = [asyncio.create_task(desk.asked(len(desk.calls) + 1)) for desk in desks]
            await asyncio.wait(more, return_when=asyncio.FIRST_COMPLETED)
            for task in more:
                task.cancel()


async def _lanes_of(address: BrokerAddress, topology: Topology, post: Post, tenants: list[str]) -> dict[str, str]:
    """Where the hash puts each tenant: seen by consuming every lane."""
    found: dict[str, str] = {}
    complete = asyncio.Event()

    def into(lane: str) -> Callable[[object], object]:
        async def take(message: object) -> None:
            found[message.routing_key.removeprefix(notification_key(""))] = lane
            if len(found) == len(tenants):
                complete.set()

        return take

    async with channel_on(address) as channel:
        for number in range(topology.lanes):
            queue = await channel.get_queue(topology.lane(number), ensure=False)
            await queue.consume(into(topology.lane(number)), no_ack=True)
        for tenant in tenants:
            await post(tenant, tenant)
        await asyncio.wait_for(complete.wait(), PATIENCE)
    return found
