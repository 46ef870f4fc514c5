"""A message that becomes many: all of them are in the broker before the one is forgotten."""

from __future__ import annotations

from contracts.cancellation import Cancellation
from contracts.notification import Notification
from contracts.wire import CLOUDEVENT, JSON, Properties, decode
from tests.adapters.broker.stage import Desk, Lines, Post, Script, done, forgotten, serving, waiting_in
from tests.factories import notification
from tests.neighbours import Inbox
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.courier import Intake
from worker.domain.decision import Decision, Split

PEOPLE = 120  # more than are published together


def parts() -> tuple[Notification, ...]:
    return tuple(notification(id=f"news/{n}", to=[f"reader{n}@x.de"]) for n in range(1, PEOPLE + 1))


def split(_intake: Intake) -> Decision:
    return Decision((), Split(parts()))


async def test_every_part_comes_back_as_its_producers_word_under_an_id_of_its_own(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    desk = Desk(Script(split, forgotten))
    login = address.login
    async with serving(address, topology, desk) as served:
        await post("news", user_id=login, correlation_id="c-1", reply_to="", content_type=CLOUDEVENT, priority=7)
        await desk.asked(1 + PEOPLE)
        await served.stopped()
    came = [call.intake for call in desk.calls[1:]]
    assert {intake.properties.message_id for intake in came} == {part.id for part in parts()}
    assert {(intake.carry, intake.reserved, intake.properties.user_id) for intake in came} == {("", (), login)}
    assert {(intake.properties.correlation_id, intake.properties.content_type) for intake in came} == {("c-1", JSON)}
    read = [decode(intake.body, Properties(), max_octets=1 << 20) for intake in came]
    assert sorted(read, key=str) == sorted(parts(), key=str)
    assert await waiting_in(address, topology) == {}


async def test_cancellations_of_parts_are_published_as_such(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    wishes = tuple(Cancellation(type="postlane.cancel.v1", id=f"news/{n}", tenant="contoso") for n in (1, 2))
    desk = Desk(Script(lambda _: Decision((), Split(wishes)), forgotten))
    async with serving(address, topology, desk):
        await post("news")
        await desk.asked(3)
    read = {decode(call.intake.body, Properties(), max_octets=1 << 20) for call in desk.calls[1:]}
    assert {item.id for item in read if isinstance(item, Cancellation)} == {"news/1", "news/2"}


async def test_whole_comes_again_if_the_line_breaks_before_its_parts_are_confirmed(
    lines: Lines, topology: Topology, post: Post, inbox: Inbox
) -> None:
    def cut(intake: Intake) -> Decision:
        lines.lines[1].hold(up=False)  # the broker takes the parts, its confirmations stay away
        lines.lines[0].cut()
        return split(intake)

    desk = Desk(Script(cut, split, done))
    async with serving(lines.address, topology, desk):
        await post("news")
        await desk.asked(2)
        await inbox.until(lambda found: {item.notification_id for item in found} >= {part.id for part in parts()})
    assert desk.ids[:2] == ["news", "news"]
