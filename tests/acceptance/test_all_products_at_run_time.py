"""Five products in one installation that is changed while their mail flows, and what an operator sees of it."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contracts.delivery import DeliveryStatus
from contracts.notification import Notification
from tests.acceptance.installation import Installation, files, mailbox, notification
from tests.acceptance.server import MailServer
from tests.adapters.pickup.checker import collect
from tests.neighbours import WorkerProcess, free_port
from worker.api.tokens import Role, added
from worker.domain.mailbox import PickupFlavour
from worker.sealing import new_key

WAVES, OF_EACH = 10, 20  # times five products: 1,000 notifications
# Whose servers may carry a product's mail, whatever is changed meanwhile.
OWN = {
    "nim": {"nim-server", "nim-agent"},
    "kx": {"kx-high", "kx-low", "kx-new"},
    "dpm": {"dpm-named"},
    "umb": {"invitations"},
    "elx": {"platform", "elx-own"},
}


def _wave(number: int) -> list[Notification]:
    """Mail of all five products, each in its own way."""
    mails = []
    for each in range(OF_EACH):
        name = f"{number}-{each}"
        mails += [
            notification(f"nim-{name}", "nim", component=("server", "agent")[each % 2]),
            notification(f"kx-{name}", "kx", site="shop"),
            notification(f"dpm-{name}", "dpm", mailbox="dpm-named"),
            notification(f"umb-{name}", "umb", category="invite"),
            notification(f"elx-{name}", "elx"),
        ]
    return mails


class Desk:
    """Who changes the configuration: over the API and by the command, and waits until all workers go by it."""

    def __init__(self, lane: Installation, portal: httpx2.AsyncClient, workers: tuple[WorkerProcess, ...]) -> None:
        self._lane, self._portal, self._workers = lane, portal, workers
        self._changes = 0

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        answer = await self._portal.request(method, path, json=body)
        assert answer.is_success, answer.text
        await self._followed()

    async def run(self, *arguments: str) -> None:
        said = await self._lane.postlane("mailbox", *arguments)
        assert said.status == 0, said.errors
        await self._followed()

    async def add(self, name: str, server: MailServer, **fields: Any) -> None:
        where = {"address": f"{name}@senders.example", "host": "127.0.0.1", "port": server.port, "tls": "none"}
        await self.ask("POST", "/mailboxes", {"name": name, "settings": {**where, **fields}})

    async def _followed(self) -> None:
        self._changes += 1
        for worker in self._workers:
            await worker.logged("mailboxes changed", number=self._changes)


@pytest.fixture
async def desk(lane: Installation, pickup: Path) -> Desk:
    """Two workers, one of which serves the API; the file has what does not change."""
    tokens, port = lane.directory / "tokens.toml", free_port()
    token = added(tokens, "portal", frozenset({Role.READ, Role.MANAGE}))
    lane.settings["POSTLANE_SECRETS__KEY"] = new_key()
    agent = files("nim-agent", pickup, 'tenants = ["nim"]', 'components = ["agent"]')
    lane.configure(agent, "[tenants.umb]\nuse_default = false", "[tenants.elx]")
    api = {"POSTLANE_API__PORT": str(port), "POSTLANE_API__TOKENS_FILE": str(tokens)}
    workers = await lane.worker(**api), await lane.worker()
    portal = httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"}, timeout=30
    )
    return Desk(lane, await lane.stack.enter_async_context(portal), workers)


@pytest.mark.timeout(300)
@pytest.mark.row("ALL-3", "KX-S1")
async def test_thousand_mails_of_five_products_survive_every_change_once_each_and_by_their_own_servers(
    lane: Installation, desk: Desk, a: MailServer, b: MailServer, c: MailServer, pickup: Path
) -> None:
    await desk.add("platform", a, default=True)
    await desk.add("nim-server", a, tenants=["nim"], components=["server"])
    await desk.add("kx-high", b, tenants=["kx"], priority="high")
    await desk.add("kx-low", a, tenants=["kx"], priority="low")
    await desk.add("dpm-named", b, tenants=["dpm"])
    await desk.add("invitations", a, fallback_for=["invite"])
    changes: list[Callable[[], Awaitable[None]]] = [
        lambda: desk.add("kx-new", c, tenants=["kx"], priority="default"),
        lambda: desk.run("disable", "dpm-named"),
        lambda: desk.ask("PATCH", "/mailboxes/nim-server", {"port": b.port}),
        lambda: desk.run("set", "invitations", f"port={c.port}"),
        lambda: desk.ask("POST", "/mailboxes/kx-high/disable"),
        lambda: desk.add("elx-own", c, tenants=["elx"]),
        lambda: desk.run("enable", "dpm-named"),
        lambda: desk.run("pause", "platform", "--because", "nobody needs it now"),
        lambda: desk.ask("PATCH", "/mailboxes/kx-new", {"priority": "normal"}),
    ]
    sent: list[str] = []
    for number in range(WAVES):
        mails = _wave(number)
        sent += [mail.id for mail in mails]
        publishing = asyncio.gather(*(lane.post.publish(mail) for mail in mails))
        if number < len(changes):
            await changes[number]()
        await publishing

    def all_ended(_: object) -> bool:
        return {each.notification_id for each in lane.inbox.results if each.final} == set(sent)

    await lane.inbox.until(all_ended, patience=180)
    finals = [each for each in lane.inbox.results if each.final]
    assert Counter(each.notification_id for each in finals) == dict.fromkeys(sent, 1)
    assert {each.status for each in finals} == {DeliveryStatus.ACCEPTED, DeliveryStatus.HANDED_OVER}

    filed = [collect(path, PickupFlavour.IIS) for path in pickup.iterdir()]
    taken = [(mail.mail_from, str(mail.message["X-Postlane-Id"])) for one in (a, b, c) for mail in one.taken]
    taken += [(each.sender, str(each.message["X-Postlane-Id"])) for each in filed]
    assert Counter(name for _, name in taken) == dict.fromkeys(sent, 1)
    carriers = {product: {box for box, name in _carried(taken) if name.startswith(product)} for product in OWN}
    assert all(carriers[product] <= own for product, own in OWN.items()), carriers
    assert "kx-new" in carriers["kx"], "what was added takes load"
    last = {name.split("-")[0]: box for box, name in _carried(taken) if name.split("-")[1] == str(WAVES - 1)}
    assert {product: last[product] for product in ("kx", "dpm", "umb", "elx")} == {
        "kx": "kx-new", "dpm": "dpm-named", "umb": "invitations", "elx": "elx-own",
    }  # fmt: skip
    assert {name.split("-")[1] for box, name in _carried(taken) if box == "dpm-named"} == {str(n) for n in range(WAVES)}


def _carried(taken: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Mailbox and notification, by the envelope's sender."""
    return [(sender.partition("@")[0], name) for sender, name in taken]


async def test_all_10_every_server_shows_what_it_is_and_how_it_stands_and_no_secret(
    lane: Installation, a: MailServer, b: MailServer, pickup: Path, server_tls: ssl.SSLContext, ca: str
) -> None:
    gate, port, secret = asyncio.Event(), free_port(), "a password that nobody sees"
    a.at_dot, a.starttls, a.logins = gate.wait, server_tls, {"somebody": secret}
    login = ("[mailboxes.a.login]", 'username = "somebody"', f'password = "{secret}"')
    shop = ('tenants = ["kx"]', 'sites = ["shop"]', 'priority = "high"', "connections = 1", ca)
    lane.configure(
        mailbox("a", a, *shop, *login, tls="starttls"),
        mailbox("b", b, 'tenants = ["elx"]'),
        mailbox("off", b, 'tenants = ["elx"]', "enabled = false"),
        mailbox("still", b, 'tenants = ["nim"]'),
        files("p", pickup, 'tenants = ["umb"]'),
    )
    assert (await lane.postlane("mailbox", "pause", "still", "--because", "moving")).status == 0
    await lane.worker(POSTLANE_HEALTH__PORT=str(port))
    b.replies["MAIL"] = "421 4.4.2 Message submission rate for this client has exceeded the configured limit"
    await lane.post.publish(notification("throttled", "elx"))
    await lane.inbox.first("throttled")
    assert (await lane.post.send(notification("filed", "umb"))).status is DeliveryStatus.HANDED_OVER
    await lane.post.publish(notification("slow", "kx", site="shop"))
    await a.until(lambda: a.in_data == 1)

    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=15) as client:
        page = (await client.get("/healthz/mailboxes")).json()["mailboxes"]
        counted = (await client.get("/metrics")).text
        gate.set()
        await lane.inbox.final("slow")
        afterwards = (await client.get("/healthz/mailboxes")).json()["mailboxes"]["a"]
    shown = {
        name: (each["kind"], each["enabled"], each["priority"], each["availability"], each["in_flight"], each["sent"])
        for name, each in page.items()
    }
    assert shown == {
        "a": ("smtp", True, "high", "busy", 1, 0),
        "b": ("smtp", True, "normal", "resting", 0, 0),
        "off": ("smtp", False, "normal", "disabled", 0, 0),
        "still": ("smtp", True, "normal", "paused", 0, 0),
        "p": ("pickup", True, "normal", "available", 0, 1),
    }
    assert page["a"]["scope"] == {"tenants": ["kx"], "sites": ["shop"]}
    assert page["b"]["last_error"]["class"].startswith("throttled")
    assert page["b"]["rests_until"] is not None
    assert (afterwards["availability"], afterwards["in_flight"], afterwards["sent"]) == ("available", 0, 1)
    assert 'postlane_mailbox_in_flight{mailbox="a"} 1.0' in counted
    assert secret not in f"{page}{counted}{afterwards}"
