"""Kentico Xperience: which of its many servers carries a mail, at the time when it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from contracts.delivery import Because, DeliveryStatus
from tests.acceptance.installation import Installation, mailbox, notification
from tests.acceptance.kentico import bound, key, server, take_over
from tests.acceptance.server import MailServer, serving
from tests.adapters.smtp.server import turns
from tests.neighbours import WorkerProcess

KX = 'tenants = ["kx"]'
ONE_AT_A_TIME = "connections = 1"


@pytest.fixture
async def d() -> AsyncIterator[MailServer]:
    async with serving(MailServer("d")) as server:
        yield server


@pytest.fixture
def gate() -> asyncio.Event:
    """What a slow server waits for."""
    return asyncio.Event()


async def test_kx_s5_free_servers_are_taken_by_priority(lane: Installation, a: MailServer, b: MailServer) -> None:
    lane.configure(mailbox("a", a, KX, 'priority = "high"'), mailbox("b", b, KX, 'priority = "normal"'))
    await lane.worker()
    for number in range(3):
        result = await lane.post.send(notification(f"n-{number}", "kx"))
        assert result.status is DeliveryStatus.ACCEPTED
    assert (len(a.taken), b.connections) == (3, 0)


async def test_kx_s6_higher_priority_carries_what_it_can_and_leaves_the_rest(
    lane: Installation, a: MailServer, b: MailServer, gate: asyncio.Event
) -> None:
    a.at_dot = gate.wait
    lane.configure(mailbox("a", a, KX, ONE_AT_A_TIME, 'priority = "high"'), mailbox("b", b, KX))
    await lane.worker()
    await lane.post.publish(notification("slow-0", "kx"))
    await a.until(lambda: a.in_data == 1)
    for number in range(1, 6):
        result = await lane.post.send(notification(f"slow-{number}", "kx"))
        assert result.mailbox is not None
        assert (result.mailbox.name, result.mailbox.because) == ("b", Because.PRIORITY)
    assert (a.in_data, len(a.taken), len(b.taken)) == (1, 0, 5)
    gate.set()
    await lane.inbox.final("slow-0")
    for number in range(6):
        await lane.post.send(notification(f"quick-{number}", "kx"))
    assert (len(a.taken), len(b.taken)) == (7, 5)


async def test_kx_s7_every_site_has_its_default_before_the_high_ones(
    lane: Installation, a: MailServer, b: MailServer, c: MailServer
) -> None:
    keys = [
        key("CMSSMTPServer", f"127.0.0.1:{a.port}", "Shop"),
        key("CMSSMTPServer", f"127.0.0.1:{b.port}", "Blog"),
        key("CMSEmailsEnabled", "True"),
    ]
    said = await take_over(lane, [server(1, f"127.0.0.1:{c.port}", ServerPriority=1)], keys=keys)
    assert said.status == 0, said.errors
    await lane.worker()
    for site in ("Shop", "Blog"):
        result = await lane.post.send(notification(f"n-{site}", "kx", site=site))
        assert result.mailbox is not None
        assert result.mailbox.because is Because.OWN
    assert (a.ids, b.ids, c.connections) == (["n-Shop"], ["n-Blog"], 0)


@pytest.mark.row("KX-S8", "KX-S10")
async def test_chain_goes_down_from_the_default_past_the_busy_and_the_disabled(
    lane: Installation, a: MailServer, b: MailServer, c: MailServer, d: MailServer, gate: asyncio.Event
) -> None:
    a.at_dot = gate.wait
    worker = await _at_run_time(
        lane,
        mailbox_a=(a, "priority=default", 'sites=["shop"]', "connections=1"),
        mailbox_b=(b, "priority=high"),
        mailbox_c=(c,),
        mailbox_d=(d, "priority=low"),
    )
    await lane.post.publish(notification("busy", "kx", site="shop"))
    await a.until(lambda: a.in_data == 1)
    assert await _carrier(lane, "default-is-busy", site="shop") == "mailbox_b"
    gate.set()
    await lane.inbox.final("busy")
    assert await _carrier(lane, "no-default", site="blog") == "mailbox_b"
    for number, (off, carrier) in enumerate((("mailbox_b", "mailbox_c"), ("mailbox_c", "mailbox_d")), 5):
        await _switched(lane, worker, "disable", off, number)
        assert await _carrier(lane, f"{off}-is-off", site="blog") == carrier
    await _switched(lane, worker, "disable", "mailbox_d", 7)
    connections = [one.connections for one in (b, c, d)]
    await lane.post.publish(notification("all-are-off", "kx", site="blog"))
    waiting = await lane.inbox.first("all-are-off")
    assert waiting.reason is not None
    assert (waiting.status, waiting.reason.kind) == (DeliveryStatus.DEFERRED, "disabled")
    await _switched(lane, worker, "enable", "mailbox_d", 8)
    assert (await lane.inbox.final("all-are-off", patience=60)).status is DeliveryStatus.ACCEPTED
    assert [one.connections for one in (b, c)] == connections[:2], "who is switched off is not even asked"
    assert "all-are-off" in d.ids
    ids = [*a.ids, *b.ids, *c.ids, *d.ids]
    assert sorted(ids) == sorted({each.notification_id or "" for each in lane.inbox.results})


async def test_kx_s9_server_switched_off_under_load_gets_no_new_session_until_it_is_on(
    lane: Installation, a: MailServer, b: MailServer
) -> None:
    worker = await _at_run_time(lane, mailbox_a=(a, "priority=high"), mailbox_b=(b,))
    ids = [f"n-{number}" for number in range(150)]
    publishing = asyncio.create_task(_published(lane, ids))
    await a.until_taken(20)
    await _switched(lane, worker, "disable", "mailbox_a", 3)
    await publishing
    await lane.inbox.until(lambda _: all(any(each.final for each in lane.inbox.of(one)) for one in ids), patience=60)
    before = a.connections, len(a.taken)
    later = [f"later-{number}" for number in range(20)]
    for one in later:
        assert await _carrier(lane, one) == "mailbox_b"
    assert (a.connections, len(a.taken)) == before
    assert sorted([*a.ids, *b.ids]) == sorted([*ids, *later])
    await _switched(lane, worker, "enable", "mailbox_a", 4)
    assert await _carrier(lane, "again") == "mailbox_a"


async def test_kx_w1_server_of_a_site_carries_nobody_elses_mail(
    lane: Installation, a: MailServer, b: MailServer, c: MailServer
) -> None:
    rows = [
        server(1, f"127.0.0.1:{a.port}", ServerIsGlobal=0, ServerPriority=1),
        server(2, f"127.0.0.1:{b.port}", ServerPriority=-1),
        server(3, f"127.0.0.1:{c.port}", ServerIsGlobal=0, ServerPriority=1),
    ]
    said = await take_over(lane, rows, sites=[bound(1, "Shop")])
    assert [each["key"] for each in said.json["findings"] if each["code"] == "scope.empty"] == [
        "ServerID 3.ServerIsGlobal"
    ]
    await lane.worker()
    assert await _carrier(lane, "shop", site="Shop") == "kentico-1"
    assert await _carrier(lane, "blog", site="Blog") == "kentico-2"
    assert await _carrier(lane, "no-site") == "kentico-2"
    assert (a.ids, b.ids, c.connections) == (["shop"], ["blog", "no-site"], 0)


async def test_kx_w2_server_with_a_limit_of_one_never_has_two_mails_in_flight(
    lane: Installation, a: MailServer
) -> None:
    a.at_dot = lambda: turns(50)
    said = await take_over(lane, [server(1, f"127.0.0.1:{a.port}")])
    assert said.status == 0, said.errors
    await lane.worker()
    await lane.worker()
    ids = [f"n-{number}" for number in range(20)]
    await _published(lane, ids)
    await lane.inbox.until(lambda _: all(lane.inbox.of(one) for one in ids), patience=90)
    assert (sorted(a.ids), a.most_in_data) == (sorted(ids), 1)


async def _at_run_time(lane: Installation, **servers: tuple[MailServer | str, ...]) -> WorkerProcess:
    """A worker, and servers that are kept in the store."""
    lane.configure()
    worker = await lane.worker()
    for number, (name, (one, *pairs)) in enumerate(servers.items(), 1):
        assert isinstance(one, MailServer)
        given = [f"address={name}@senders.example", "host=127.0.0.1", f"port={one.port}", "tls=none", *map(str, pairs)]
        said = await lane.postlane("mailbox", "add", name, *given, 'tenants=["kx"]')
        assert said.status == 0, said.errors
        await worker.logged("mailboxes changed", number=number)
    return worker


async def _switched(lane: Installation, worker: WorkerProcess, verb: str, name: str, number: int) -> None:
    """Switch a server off or on, and wait until the worker goes by it."""
    said = await lane.postlane("mailbox", verb, name)
    assert said.status == 0, said.errors
    await worker.logged("mailboxes changed", number=number)


async def _carrier(lane: Installation, notification_id: str, **fields: str) -> str | None:
    """Which server has accepted it."""
    result = await lane.post.send(notification(notification_id, "kx", **fields))
    assert result.status is DeliveryStatus.ACCEPTED, result.reason
    return result.mailbox and result.mailbox.name


async def _published(lane: Installation, ids: list[str]) -> None:
    for one in ids:
        await lane.post.publish(notification(one, "kx"))
