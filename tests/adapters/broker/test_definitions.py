"""The generated definitions, imported into a broker: each login can do its part, and the broker refuses the rest."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPConnectionError, AMQPError, ChannelPreconditionFailed, ProbableAuthenticationError
from aiormq.exceptions import ChannelAccessRefused
from yarl import URL

from contracts.channels import notification_key
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import NotPublished, publisher
from tests.adapters.broker.stage import (
    SOON,
    Desk,
    Script,
    buried,
    channel_on,
    done,
    forgotten,
    posting,
    serving,
    taken,
    until_ready,
)
from tests.neighbours import inbox_on
from worker.broker import apply as topologies
from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.definitions import (
    definitions,
    password_hash,
    producer_user,
    reader_user,
    worker_user,
)
from worker.broker.topology import Topology
from worker.domain.decision import Decision, WaitUntil
from worker.events import BrokerDown, Concluded, ReplyFailed
from worker.sandbox.rabbitmq import Origin, RunningBroker

TOPOLOGY = Topology("postlane", lanes=3)
RESULTS = "contoso-portal.results"


@dataclass(frozen=True)
class Installation:
    """A virtual host as an operator gets it from `postlane topology definitions`."""

    admin: BrokerAddress
    worker: BrokerAddress
    contoso: BrokerAddress
    anybody: BrokerAddress
    reader: BrokerAddress
    nobody: BrokerAddress


def imported(broker: RunningBroker, document: dict[str, object]) -> None:
    """`rabbitmqctl import_definitions`, from a file that the broker's user may read."""
    text = json.dumps(document)
    if broker.origin is Origin.DOCKER:  # its rabbitmqctl does not see our files
        broker.control("eval", f"rabbit_definitions:import_raw(<<{','.join(map(str, text.encode()))}>>).")
        return
    with tempfile.TemporaryDirectory(prefix="postlane-test-") as name:
        Path(name).chmod(0o755)
        file = Path(name, "definitions.json")
        file.write_text(text, encoding="utf-8")
        broker.control("import_definitions", str(file))


@pytest.fixture(scope="module")
def installation(our_broker: RunningBroker) -> Iterator[Installation]:
    """Imported once: a topology in a virtual host of its own, five logins with passwords and one without."""
    vhost = f"postlane-{uuid.uuid4().hex[:8]}"
    names = ("worker", "contoso", "anybody", "reader", "nobody")
    logins = {name: f"{vhost}-{name}" for name in names}
    users = {
        worker_user(logins["worker"], TOPOLOGY): "pass word/@:%",
        producer_user(logins["contoso"], TOPOLOGY, "contoso"): "c-password",
        producer_user(logins["anybody"], TOPOLOGY): "a-password",
        reader_user(logins["reader"], TOPOLOGY, RESULTS): "r-password",
        producer_user(logins["nobody"], TOPOLOGY): None,
    }
    imported(our_broker, definitions(TOPOLOGY, users, vhost))
    there = URL(our_broker.amqp_url).with_path(f"/{vhost}")
    guest = f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{vhost}">>, <<".*">>, <<".*">>, <<".*">>'
    our_broker.control("eval", f'{guest}, <<"test">>).')

    def address(name: str) -> BrokerAddress:
        password = next(password for user, password in users.items() if user.name == logins[name])
        return BrokerAddress(str(there.with_user(logins[name]).with_password(password or "")))

    yield Installation(BrokerAddress(str(there)), *map(address, names))
    gone = [f'rabbit_auth_backend_internal:delete_user(<<"{login}">>, <<"test">>)' for login in logins.values()]
    our_broker.control("eval", ", ".join([f'rabbit_vhost:delete(<<"{vhost}">>, <<"test">>)', *gone]) + ".")


@pytest.fixture
async def clean(installation: Installation) -> AsyncIterator[Installation]:
    """With nothing left in any queue by the test before."""
    yield installation
    async with channel_on(installation.admin) as channel:
        for queue in TOPOLOGY.queues():
            await (await channel.get_queue(queue.name, ensure=False)).purge()


def note(tenant: str = "contoso") -> Notification:
    fields = {"to": ["jana@contoso.example"], "subject": "Hello", "text": "Hello."}
    return Notification.model_validate({"type": NOTIFICATION_TYPE, "id": "n-1", "tenant": tenant, **fields})


async def test_imported_topology_is_the_applied_one(installation: Installation) -> None:
    assert await topologies.apply(installation.admin, TOPOLOGY) == TOPOLOGY


# ---------------------------------------------------------------- the worker


async def test_worker_does_its_whole_job_with_its_own_login(clean: Installation) -> None:
    def parked(_intake: object) -> Decision:
        return Decision((), WaitUntil(datetime.now(UTC)), "the carry")

    desk = Desk(Script(parked, done, buried))
    async with (
        serving(clean.worker, TOPOLOGY, desk) as served,
        inbox_on(clean.admin, TOPOLOGY) as inbox,
        posting(clean.contoso, TOPOLOGY) as post,
        channel_on(clean.admin) as channel,
    ):
        replies = await channel.declare_queue(exclusive=True)
        await post("n-1", reply_to=replies.name, user_id=clean.contoso.login)
        await desk.asked(2)
        await inbox.final("n-1")
        await served.events.until(Concluded)
        assert await replies.get(timeout=SOON) is not None
        await post("n-2")
        await until_ready(clean.admin, TOPOLOGY.dead, 1)
        assert served.events.of(BrokerDown) == []
        assert served.events.of(ReplyFailed) == []
        assert served.events.seen[0].lanes == 3
    assert desk.calls[1].intake.properties.user_id == clean.contoso.login


async def test_worker_reads_the_depths_that_the_doctor_shows(installation: Installation) -> None:
    rows = [row async for row in topologies.depths(installation.worker, TOPOLOGY)]
    assert [name for name, ready, _ in rows if ready is None] == []


Deed = Callable[[AbstractChannel], Awaitable[object]]


async def _publish(channel: AbstractChannel, exchange: str, key: str = "") -> object:
    target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
    return await target.publish(Message(b"", message_id="m"), key)


async def _consume(channel: AbstractChannel, queue: str) -> object:
    return await (await channel.get_queue(queue, ensure=False)).consume(asyncio.Queue().put)


WORKER_MAY_NOT: dict[str, Deed] = {
    "declare-a-queue": lambda channel: channel.declare_queue("a.queue", durable=True),
    "declare-a-queue-of-our-prefix": lambda channel: channel.declare_queue("postlane.another", durable=True),
    "declare-another-lane": lambda channel: channel.declare_queue("postlane.lane.99", durable=True),
    "declare-an-exchange": lambda channel: channel.declare_exchange("an.exchange"),
    "delete-a-lane": lambda channel: channel.queue_delete(TOPOLOGY.lane(0)),
    "delete-the-dead-letters": lambda channel: channel.queue_delete(TOPOLOGY.dead),
    "delete-an-exchange": lambda channel: channel.exchange_delete(TOPOLOGY.notifications),
    "publish-notifications": lambda channel: _publish(channel, TOPOLOGY.notifications, "t.contoso"),
    "publish-to-the-lanes": lambda channel: _publish(channel, TOPOLOGY.lane_exchange, "t.contoso"),
    "consume-a-producers-queue": lambda channel: _consume(channel, RESULTS),
    "consume-a-wait-queue": lambda channel: _consume(channel, TOPOLOGY.wait(1)),
    "consume-unclaimed-results": lambda channel: _consume(channel, TOPOLOGY.unclaimed),
}


@pytest.mark.parametrize("deed", WORKER_MAY_NOT.values(), ids=WORKER_MAY_NOT.keys())
async def test_worker_is_refused_whatever_is_not_its_part(
    installation: Installation, results_queue: str, deed: Deed
) -> None:
    assert results_queue == RESULTS
    async with channel_on(installation.worker) as channel:
        try:
            with pytest.raises(ChannelAccessRefused):
                await deed(channel)
        finally:
            await restore(installation.admin)


async def restore(admin: BrokerAddress) -> None:
    """For the next test, if this one has shown a right too many."""
    await topologies.apply(admin, TOPOLOGY)
    async with channel_on(admin) as channel:
        await channel.queue_delete("postlane.lane.99")


async def test_worker_binds_nothing(installation: Installation) -> None:
    async with channel_on(installation.worker) as channel:
        underlay = await channel.get_underlay_channel()
        with pytest.raises(ChannelAccessRefused):
            await underlay.queue_bind(TOPOLOGY.lane(0), TOPOLOGY.results, "r.#")


# ---------------------------------------------------------------- producers


async def test_producer_of_one_tenant_publishes_for_it_and_gets_the_answer(clean: Installation) -> None:
    """Direct reply-to needs no right of its own."""
    async with serving(clean.worker, TOPOLOGY, Desk()) as served, publisher(clean.contoso.url) as post:
        result = await post.send(note(), SOON)
    assert result.notification_id == "n-1"
    assert served.events.of(BrokerDown) == []


@pytest.mark.parametrize("tenant", ["fabrikam", "contoso2", "contos", "xcontoso", "contoso.eu"])
async def test_producer_of_one_tenant_is_refused_for_another(installation: Installation, tenant: str) -> None:
    async with publisher(installation.contoso.url) as post:
        with pytest.raises(NotPublished, match=r"may not publish to 'postlane\.notifications' for this tenant"):
            await post.publish(note(tenant))


async def test_producer_without_a_tenant_publishes_for_all(clean: Installation) -> None:
    async with publisher(clean.anybody.url) as post:
        for tenant in ("contoso", "fabrikam"):
            await post.publish(note(tenant))


@pytest.mark.parametrize("key", ["", "t.", "r.contoso.accepted", "contoso", "x.t.contoso"])
async def test_producer_is_refused_a_key_that_names_no_tenant(installation: Installation, key: str) -> None:
    async with channel_on(installation.anybody) as channel:
        with pytest.raises(ChannelAccessRefused):
            await _publish(channel, TOPOLOGY.notifications, key)


PRODUCER_MAY_NOT: dict[str, Deed] = {
    "publish-to-the-lanes": lambda channel: _publish(channel, TOPOLOGY.lane_exchange, "t.contoso"),
    "publish-results": lambda channel: _publish(channel, TOPOLOGY.results, "r.contoso.accepted"),
    "publish-to-a-wait-queue": lambda channel: _publish(channel, TOPOLOGY.wait(1), "t.contoso"),
    "publish-dead-letters": lambda channel: _publish(channel, TOPOLOGY.dead),
    "publish-to-the-unroutable": lambda channel: _publish(channel, TOPOLOGY.unroutable),
    "publish-to-a-lane-by-name": lambda channel: _publish(channel, "", TOPOLOGY.lane(0)),
    "publish-to-another-exchange": lambda channel: _publish(channel, "amq.topic", "t.contoso"),
    "consume-a-lane": lambda channel: _consume(channel, TOPOLOGY.lane(0)),
    "consume-the-dead-letters": lambda channel: _consume(channel, TOPOLOGY.dead),
    "consume-unclaimed-results": lambda channel: _consume(channel, TOPOLOGY.unclaimed),
    "consume-another-readers-results": lambda channel: _consume(channel, RESULTS),
    "declare-a-queue": lambda channel: channel.declare_queue("a.queue", durable=True),
    "declare-an-exchange": lambda channel: channel.declare_exchange("an.exchange"),
    "delete-a-lane": lambda channel: channel.queue_delete(TOPOLOGY.lane(0)),
    "delete-the-exchange": lambda channel: channel.exchange_delete(TOPOLOGY.notifications),
}


@pytest.mark.parametrize("deed", PRODUCER_MAY_NOT.values(), ids=PRODUCER_MAY_NOT.keys())
async def test_producer_is_refused_whatever_is_not_its_part(
    installation: Installation, results_queue: str, deed: Deed
) -> None:
    assert results_queue == RESULTS
    async with channel_on(installation.contoso) as channel:
        with pytest.raises(ChannelAccessRefused):
            await deed(channel)


async def test_login_of_another_is_refused_by_the_broker(installation: Installation) -> None:
    async with posting(installation.contoso, TOPOLOGY) as post:
        with pytest.raises(ChannelPreconditionFailed, match="user_id"):
            await post("n-1", user_id=installation.worker.login)


async def test_own_headers_of_a_producer_are_never_the_workers(clean: Installation) -> None:
    """To be believed they would need the worker's login, which the broker does not let through."""
    desk = Desk(forgotten)
    headers = {"x-postlane-carry": "forged", "x-postlane-producer": clean.anybody.login}
    async with serving(clean.worker, TOPOLOGY, desk), posting(clean.contoso, TOPOLOGY) as post:
        await post("n-1", user_id=clean.contoso.login, headers=headers)
        intake = (await desk.asked()).intake
    assert intake.reserved == ("x-postlane-carry", "x-postlane-producer")
    assert intake.properties.user_id == clean.contoso.login


async def test_copy_ordered_by_a_header_makes_no_second_delivery(clean: Installation) -> None:
    """3.10 lets CC past topic permissions; the lanes get one message all the same, under the key that was checked."""
    desk = Desk(forgotten)
    async with serving(clean.worker, TOPOLOGY, desk), posting(clean.contoso, TOPOLOGY) as post:
        try:
            await post("n-1", headers={"CC": [notification_key("fabrikam")]})
        except ChannelAccessRefused:
            return  # 4.0 and later refuse it
        await desk.asked()
    assert [call.intake.properties.routing_key for call in desk.calls] == ["t.contoso"]


async def test_login_without_a_password_cannot_be_used(installation: Installation) -> None:
    with pytest.raises((ProbableAuthenticationError, AMQPConnectionError)):
        async with await open_connection(installation.nobody, "test"):
            pytest.fail("it cannot have been let in")


async def test_login_is_of_no_use_in_another_virtual_host(installation: Installation) -> None:
    elsewhere = BrokerAddress(str(URL(installation.worker.url).with_path("/")))
    with pytest.raises(AMQPError):
        async with await open_connection(elsewhere, "test"):
            pytest.fail("it cannot have been let in")


# ---------------------------------------------------------------- readers of results


@pytest.fixture
async def results_queue(installation: Installation) -> str:
    """A reader's queue, made and bound with the reader's own rights."""
    async with channel_on(installation.reader) as channel:
        queue = await channel.declare_queue(RESULTS, durable=True)
        await queue.bind(TOPOLOGY.results, "r.contoso.#")
    return RESULTS


async def test_reader_has_its_own_queue_of_results(clean: Installation, results_queue: str) -> None:
    async with serving(clean.worker, TOPOLOGY, Desk()), posting(clean.contoso, TOPOLOGY) as post:
        await post("n-1")
        (message,) = await taken(clean.reader, results_queue)
    assert json.loads(message.body)["notification_id"] == "n-1"


READER_MAY_NOT: dict[str, Deed] = {
    "consume-a-lane": lambda channel: _consume(channel, TOPOLOGY.lane(0)),
    "consume-the-dead-letters": lambda channel: _consume(channel, TOPOLOGY.dead),
    "consume-unclaimed-results": lambda channel: _consume(channel, TOPOLOGY.unclaimed),
    "declare-another-queue": lambda channel: channel.declare_queue("another.queue", durable=True),
    "publish-results": lambda channel: _publish(channel, TOPOLOGY.results, "r.contoso.accepted"),
    "publish-notifications": lambda channel: _publish(channel, TOPOLOGY.notifications, "t.contoso"),
    "publish-to-a-lane-by-name": lambda channel: _publish(channel, "", TOPOLOGY.lane(0)),
}


@pytest.mark.parametrize("deed", READER_MAY_NOT.values(), ids=READER_MAY_NOT.keys())
async def test_reader_is_refused_whatever_is_not_its_part(installation: Installation, deed: Deed) -> None:
    async with channel_on(installation.reader) as channel:
        with pytest.raises(ChannelAccessRefused):
            await deed(channel)


# ---------------------------------------------------------------- the document


def test_password_is_hashed_as_rabbitmq_says() -> None:
    """The example of its documentation, "Credentials and Passwords"."""
    assert password_hash("test12", bytes.fromhex("908DC60A")) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"


def test_two_hashes_of_a_password_differ() -> None:
    assert password_hash("secret") != password_hash("secret")


def test_no_password_stands_in_the_document() -> None:
    text = json.dumps(definitions(TOPOLOGY, {worker_user("w", TOPOLOGY): "a-password-in-clear"}))
    assert "a-password-in-clear" not in text


def test_rights_of_a_prefix_are_not_those_of_a_longer_one() -> None:
    mine = worker_user("w", Topology("mail"))
    for pattern in (mine.configure, mine.write, mine.read):
        assert not re.search(pattern, "mail-2.lane.00")
        assert not re.search(pattern, "mailXlane.00")
        assert not re.search(pattern, "my.mail.lane.00")
