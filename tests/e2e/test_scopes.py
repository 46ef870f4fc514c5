"""Whose server, and what keeps mail back: whole workers with a configuration in which several products live at once."""

from __future__ import annotations

import asyncio
import email
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from contracts.delivery import Because, DeliveryStatus, Result
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import Publisher, publisher
from tests.adapters.smtp.server import Obedient, listening
from tests.neighbours import PATIENCE, Inbox, WorkerProcess, free_port, running_worker
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.emulator.run import Emulator

JANA, OMAR, EVE = "jana@people.example", "omar@people.example", "eve@people.example"


def server(emulator: Emulator, name: str, lines: str, port: int | None = None) -> str:
    """A mailbox at the emulated ordinary server, which knows it by its MAIL FROM."""
    account = emulator.plan.ordinary_mailboxes[0]
    return f"""
[mailboxes.{name}]
address = "{name}@senders.example"
host = "localhost"
port = {port or emulator.ordinary.port}
ca_file = "{emulator.certificates.ca_file.resolve()}"
{lines}
[mailboxes.{name}.login]
username = "{account.address}"
password = "{account.password}"
"""


@pytest.fixture
def closed() -> int:
    return free_port()


@pytest.fixture
def mailboxes(emulator: Emulator, pickup: Path, tmp_path: Path, closed: int) -> Path:
    """Five products, each with its own rule, and a test installation."""
    text = 'default = "platform"\n'
    text += server(emulator, "platform", "")
    text += server(emulator, "nim-server", 'tenants = ["nim"]\ncomponents = ["server"]', closed)
    text += server(emulator, "nim-agent", 'tenants = ["nim"]\ncomponents = ["agent"]')
    text += server(emulator, "kx-default", 'tenants = ["kx"]\nsites = ["shop"]\npriority = "default"', closed)
    text += server(emulator, "kx-high", 'tenants = ["kx"]\npriority = "high"')
    text += server(emulator, "kx-off", 'tenants = ["kx"]\npriority = "high"\nenabled = false', closed)
    text += server(emulator, "kx-low", 'tenants = ["kx"]\npriority = "low"')
    text += server(emulator, "dpm-a", 'tenants = ["dpm"]\npriority = "high"')
    text += server(emulator, "dpm-b", 'tenants = ["dpm"]', closed)
    text += server(emulator, "fallback", 'fallback_for = ["invite"]')
    text += server(emulator, "elx-own", 'tenants = ["elx-own"]', closed)
    text += server(emulator, "dry", 'tenants = ["dry"]\nsuppress = true')
    text += server(emulator, "sandboxed", 'tenants = ["sandboxed"]')
    text += server(emulator, "inside", 'tenants = ["inside"]\nallowed_domains = ["people.example"]')
    text += f"""
[mailboxes.sandboxed-pickup]
address = "sandboxed-pickup@senders.example"
tenants = ["sandboxed-pickup"]
catch_all = "catch@test.example"
[mailboxes.sandboxed-pickup.pickup]
directory = "{pickup.resolve()}"
flavour = "iis"

[tenants.umb]
use_default = false
[tenants.elx]
[tenants.nim.components.agent]
stop = "refuse"
[tenants.kx.sites.closed]
stop = "hold"
[tenants.sandboxed]
redirect_to = "sandbox@test.example"
purposes_off = ["password-reset"]
"""
    path = tmp_path / "mailboxes.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
async def post(worker: WorkerProcess, address: BrokerAddress, topology: Topology) -> AsyncIterator[Publisher]:
    async with publisher(address.url, prefix=topology.prefix) as publishing:
        yield publishing


def to(tenant: str, notification_id: str = "n-1", **fields: Any) -> Notification:
    given = {"to": [JANA], "subject": "Hello", "text": "Hello.", **fields}
    return Notification.model_validate(
        {"type": NOTIFICATION_TYPE, "id": notification_id, "tenant": tenant, **given}, strict=False
    )


def senders(emulator: Emulator) -> list[str]:
    """Which mailboxes the server has taken mail from."""
    lines = emulator.accepted.log.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["mail_from"].partition("@")[0] for line in lines]


def chosen(result: Result) -> tuple[str, Because] | None:
    return (result.mailbox.name, result.mailbox.because) if result.mailbox else None


# ---------------------------------------------------------------- five products, each with its rule


async def test_default_of_the_site_that_cannot_be_reached_leaves_the_mail_to_the_high_one_at_once(
    post: Publisher, emulator: Emulator
) -> None:
    result = await post.send(to("kx", site="shop"))
    assert result.status is DeliveryStatus.ACCEPTED
    assert chosen(result) == ("kx-high", Because.PRIORITY)
    assert result.mailbox is not None
    assert "Passed over 'kx-default'" in (result.mailbox.why or "")
    assert senders(emulator) == ["kx-high"]


async def test_task_that_names_a_server_waits_for_it_and_its_neighbour_gets_nothing(
    post: Publisher, inbox: Inbox, emulator: Emulator
) -> None:
    await post.publish(to("dpm", "named", mailbox="dpm-b"))
    waiting = await inbox.first("named")
    assert waiting.status is DeliveryStatus.DEFERRED
    assert chosen(waiting) == ("dpm-b", Because.NAMED)
    assert chosen(await post.send(to("dpm", "free"))) == ("dpm-a", Because.PRIORITY)
    assert senders(emulator) == ["dpm-a"]


async def test_invitation_of_a_project_without_server_takes_the_fall_back_and_nothing_else_does(
    post: Publisher, emulator: Emulator
) -> None:
    result = await post.send(to("umb", "invite", category="invite", **{"from": "editor@project.example"}))
    assert chosen(result) == ("fallback", Because.PURPOSE)
    for category in ("password-reset", "form", "mass", "notification"):
        refused = await post.send(to("umb", category, category=category))
        assert refused.status is DeliveryStatus.REJECTED
        assert refused.reason is not None
        assert refused.reason.kind == "no-mailbox"
    assert senders(emulator) == ["fallback"]


async def test_tenants_own_server_that_is_down_keeps_all_its_mail_from_the_default(
    post: Publisher, inbox: Inbox, emulator: Emulator
) -> None:
    await post.publish(to("elx-own", "own"))
    assert (await inbox.first("own")).status is DeliveryStatus.DEFERRED
    assert chosen(await post.send(to("elx", "default"))) == ("platform", Because.DEFAULT)
    assert (await post.send(to("elx", "mass", category="mass"))).status is DeliveryStatus.REJECTED
    assert senders(emulator) == ["platform"]


async def test_component_that_is_stopped_is_refused_and_the_other_waits_for_its_own_server(
    post: Publisher, inbox: Inbox, emulator: Emulator
) -> None:
    refused = await post.send(to("nim", "agent", component="agent", category="password-reset"))
    assert refused.status is DeliveryStatus.REJECTED
    assert refused.reason is not None
    assert refused.reason.kind == "stopped"
    await post.publish(to("nim", "server", component="server"))
    assert (await inbox.first("server")).status is DeliveryStatus.DEFERRED
    assert senders(emulator) == []


async def test_all_2_five_products_live_in_one_instance_without_crossing(
    post: Publisher, inbox: Inbox, emulator: Emulator
) -> None:
    sent = [
        *(to("kx", f"kx-{n}", site="shop") for n in range(4)),
        *(to("umb", f"umb-{n}", category="invite") for n in range(4)),
        *(to("elx", f"elx-{n}") for n in range(4)),
        *(to("dpm", f"dpm-{n}", mailbox="dpm-a") for n in range(4)),
        *(to("elx-own", f"elx-own-{n}") for n in range(2)),
        *(to("nim", f"nim-{n}", component="server") for n in range(2)),
    ]
    await asyncio.gather(*(post.publish(each) for each in sent))
    await inbox.until(lambda results: len({each.notification_id for each in results}) == len(sent))
    assert Counter(senders(emulator)) == {"kx-high": 4, "fallback": 4, "platform": 4, "dpm-a": 4}
    waiting = {each.notification_id for each in inbox.results if each.status is DeliveryStatus.DEFERRED}
    assert waiting == {"elx-own-0", "elx-own-1", "nim-0", "nim-1"}


async def test_kx_s8_default_that_is_busy_leaves_the_next_mail_to_the_high_one(
    address: BrokerAddress, topology: Topology, tmp_path: Path, emulator: Emulator, inbox: Inbox
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        asked.set()
        await answer.wait()
        return "250 2.0.0 Ok"

    busy = Obedient(at_dot=slow)
    async with listening(busy.serve) as listener:
        text = f"""
[mailboxes.kx-default]
address = "kx-default@senders.example"
host = "127.0.0.1"
port = {listener.port}
tls = "none"
connections = 1
tenants = ["kx"]
priority = "default"
"""
        text += server(emulator, "kx-high", 'tenants = ["kx"]\npriority = "high"')
        path = tmp_path / "mailboxes.toml"
        path.write_text(text, encoding="utf-8")
        async with (
            running_worker(address, topology, path, tmp_path),
            publisher(address.url, prefix=topology.prefix) as post,
        ):
            await post.publish(to("kx", "first"))
            async with asyncio.timeout(PATIENCE):
                await asked.wait()
            second = await post.send(to("kx", "second"))
            answer.set()
            first = await inbox.final("first")
    assert chosen(second) == ("kx-high", Because.PRIORITY)
    assert second.mailbox is not None
    assert "All of its connections are in use" in (second.mailbox.why or "")
    assert chosen(first) == ("kx-default", Because.OWN)
    assert (len(busy.mails), senders(emulator)) == (1, ["kx-high"])


async def test_kx_s12_pickup_directory_that_is_gone_leaves_the_mail_to_the_next_server(
    address: BrokerAddress, topology: Topology, pickup: Path, tmp_path: Path, emulator: Emulator
) -> None:
    text = f"""
[mailboxes.files]
address = "files@senders.example"
tenants = ["kx"]
priority = "high"
[mailboxes.files.pickup]
directory = "{pickup.resolve()}"
"""
    text += server(emulator, "smtp", 'tenants = ["kx"]')
    path = tmp_path / "mailboxes.toml"
    path.write_text(text, encoding="utf-8")
    async with (
        running_worker(address, topology, path, tmp_path),
        publisher(address.url, prefix=topology.prefix) as post,
    ):
        before = await post.send(to("kx", "before"))
        (file,) = pickup.glob("*.eml")
        file.unlink()
        pickup.rmdir()
        after = await post.send(to("kx", "after"))
    assert (before.status, chosen(before)) == (DeliveryStatus.HANDED_OVER, ("files", Because.PRIORITY))
    assert (after.status, chosen(after)) == (DeliveryStatus.ACCEPTED, ("smtp", Because.PRIORITY))
    assert senders(emulator) == ["smtp"]


# ---------------------------------------------------------------- what keeps mail back


async def test_suppressed_mail_leaves_nothing_at_the_server(post: Publisher, emulator: Emulator) -> None:
    result = await post.send(to("dry"))
    assert (result.status, result.final) == (DeliveryStatus.SUPPRESSED, True)
    assert chosen(result) == ("dry", Because.OWN)
    assert senders(emulator) == []


async def test_redirected_mail_reaches_the_sandbox_over_smtp_and_nobody_else(
    post: Publisher, emulator: Emulator
) -> None:
    result = await post.send(to("sandboxed", to=[JANA], cc=[OMAR], bcc=[EVE]))
    assert result.status is DeliveryStatus.ACCEPTED
    assert result.redirected_to == "sandbox@test.example"
    (line,) = emulator.accepted.log.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["rcpt_to"] == ["sandbox@test.example"]
    mail = email.message_from_bytes(Path(json.loads(line)["path"]).read_bytes())
    assert (mail["To"], mail["Cc"], mail["Bcc"]) == ("sandbox@test.example", None, None)
    originals = {name: value for name, value in mail.items() if name.startswith("X-Postlane-Original-")}
    assert list(originals.values()) == [JANA, OMAR, EVE]


async def test_redirected_mail_reaches_the_catch_all_in_a_pickup_directory_and_nobody_else(
    post: Publisher, pickup: Path
) -> None:
    result = await post.send(to("sandboxed-pickup", to=[JANA], bcc=[EVE]))
    assert (result.status, result.redirected_to) == (DeliveryStatus.HANDED_OVER, "catch@test.example")
    (file,) = pickup.glob("*.eml")
    mail = email.message_from_bytes(file.read_bytes())
    assert mail.get_all("X-Receiver") == ["<catch@test.example>"]
    assert (mail["To"], mail["Bcc"]) == ("catch@test.example", None)


async def test_stop_switch_of_a_site_holds_its_mail_until_it_is_lifted_and_the_other_site_flows(
    address: BrokerAddress, topology: Topology, mailboxes: Path, tmp_path: Path, emulator: Emulator, inbox: Inbox
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        async with running_worker(address, topology, mailboxes, tmp_path) as worker:
            await post.publish(to("kx", "held", site="closed"))
            held = await inbox.first("held")
            assert held.reason is not None
            assert (held.status, held.reason.kind) == (DeliveryStatus.DEFERRED, "stopped")
            assert (await post.send(to("kx", "free", site="open"))).status is DeliveryStatus.ACCEPTED
            assert len(senders(emulator)) == 1
            await worker.stop()
        mailboxes.write_text(mailboxes.read_text(encoding="utf-8").replace('stop = "hold"', ""), encoding="utf-8")
        async with running_worker(address, topology, mailboxes, tmp_path):
            assert (await inbox.final("held", patience=60)).status is DeliveryStatus.ACCEPTED
    assert len(senders(emulator)) == 2


async def test_purpose_that_is_switched_off_is_refused_at_once(post: Publisher, emulator: Emulator) -> None:
    refused = await post.send(to("sandboxed", category="password-reset"))
    assert refused.reason is not None
    assert (refused.status, refused.reason.kind) == (DeliveryStatus.REJECTED, "purpose-off")
    assert senders(emulator) == []


async def test_recipient_outside_the_allowed_domains_is_named_and_not_reached(
    post: Publisher, emulator: Emulator
) -> None:
    result = await post.send(to("inside", to=[JANA, "x@elsewhere.example"]))
    assert result.status is DeliveryStatus.PARTIALLY_ACCEPTED
    assert [each.kind for each in result.recipients] == ["", "recipient-not-allowed"]
    (line,) = emulator.accepted.log.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["rcpt_to"] == [JANA]


# ---------------------------------------------------------------- what administrators ask


async def test_command_explains_the_choice_without_sending(mailboxes: Path, tmp_path: Path, emulator: Emulator) -> None:
    path = tmp_path / "notification.json"
    path.write_text(to("kx", site="shop").model_dump_json(exclude_none=True), encoding="utf-8")

    async def asked(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "worker", "route", *arguments, str(path)),
            env={"POSTLANE_MAILBOXES__FILE": str(mailboxes), "PATH": ""},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    status, text = await asked("--explain", "--without", "kx-default")
    assert status == 0
    assert "sent  kx-high (priority)" in text
    assert "kx-off: priority high, switched off" in text
    status, text = await asked("--json", "--without", "kx-default", "--without", "kx-high", "--without", "kx-low")
    assert status == 1
    assert json.loads(text)["decided"]["fate"] == "waits"
    assert senders(emulator) == []


async def test_worker_tells_how_every_mail_server_is(
    address: BrokerAddress, topology: Topology, mailboxes: Path, tmp_path: Path, emulator: Emulator
) -> None:
    port = free_port()

    def page() -> tuple[int, dict[str, Any]]:
        try:
            with urlopen(f"http://127.0.0.1:{port}/healthz/mailboxes", timeout=15) as answer:
                return answer.status, json.loads(answer.read())
        except HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    async with running_worker(address, topology, mailboxes, tmp_path, settings={"POSTLANE_HEALTH__PORT": str(port)}):
        status, body = await asyncio.to_thread(page)
    states = {name: each["state"] for name, each in body["mailboxes"].items()}
    assert status == 503
    assert states["platform"] == states["sandboxed-pickup"] == "ok"
    assert states["kx-default"] == "port-closed"
    assert states["kx-off"] == "disabled"
    assert emulator.plan.ordinary_mailboxes[0].password not in json.dumps(body)
    assert senders(emulator) == []
