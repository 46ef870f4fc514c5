"""Netwrix Identity Manager: two programs, each with its own way out, over SMTP or into files."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx2
import pytest

from contracts.delivery import DeliveryStatus
from tests.acceptance.installation import EVE, JANA, OMAR, Installation, files
from tests.acceptance.netwrix import SECRET, agent, codes, notice, reset, server, take_over
from tests.acceptance.server import MailServer, serving
from tests.acceptance.trace import Trace
from tests.adapters.pickup.checker import collect
from tests.neighbours import free_port
from worker.domain.mailbox import PickupFlavour

IIS, EXCHANGE = "C:/inetpub/mailroot/Pickup", "D:/Exchange/TransportRoles/Pickup"


@pytest.mark.row("NIM-S1", "NIM-S6")
async def test_server_and_agent_have_their_own_servers_and_one_that_is_down_does_not_touch_the_other(
    lane: Installation, a: MailServer, b: MailServer
) -> None:
    both = {**server(Host="127.0.0.1", Port=a.port), **agent(Host="127.0.0.1", Port=b.port)}
    assert (await take_over(lane, both)).status == 0
    await lane.worker()
    assert (await lane.post.send(notice("notice"))).status is DeliveryStatus.ACCEPTED
    assert (await lane.post.send(reset("reset"))).status is DeliveryStatus.ACCEPTED
    assert (a.ids, b.ids) == (["notice"], ["reset"])
    for verb in ("GREETING", "EHLO", "MAIL"):
        b.replies[verb] = "421 4.3.2 Shutting down"
    await lane.post.publish(reset("waits"))
    waiting = await lane.inbox.first("waits")
    assert (waiting.status, waiting.mailbox and waiting.mailbox.name) == (DeliveryStatus.DEFERRED, "netwrix-agent")
    assert (await lane.post.send(notice("flows"))).status is DeliveryStatus.ACCEPTED
    assert (a.ids, b.ids) == (["notice", "flows"], ["reset"])


@pytest.mark.row("NIM-S2", "NIM-S3", "NIM-S14")
async def test_both_programs_write_files_by_the_convention_of_who_collects_them(
    lane: Installation, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    folder = {"UseSpecifiedPickupDirectory": True}
    both = {**server(**folder, PickupDirectory=IIS), **agent(**folder, PickupDirectory=EXCHANGE)}
    said = await take_over(lane, both, "--map", f"{IIS}={one}", "--map", f"{EXCHANGE}={two}")
    assert (said.status, [each["flavour"] for each in said.json["mailboxes"]]) == (0, ["iis", "exchange"])
    await lane.worker()
    people = {"to": [JANA], "cc": [OMAR], "bcc": [EVE]}
    for mail in (notice("notice", **people), reset("reset", **people)):
        result = await lane.post.send(mail)
        assert result.status is DeliveryStatus.HANDED_OVER
    (first,), (second,) = one.iterdir(), two.iterdir()
    by_lines, by_headers = collect(first, PickupFlavour.IIS), collect(second, PickupFlavour.EXCHANGE)
    assert by_lines.message["X-Postlane-Id"] == "notice"
    assert by_headers.message["X-Postlane-Id"] == "reset"
    assert by_lines.sender == "identity@contoso.example"
    assert by_lines.recipients == by_headers.recipients == (JANA, OMAR, EVE)
    assert f"Bcc: {EVE}".encode() in second.read_bytes()
    assert not [path for path in tmp_path.rglob("*") if ":" in path.name]


@pytest.mark.row("NIM-S4", "NIM-S9")
async def test_directory_as_host_gets_files_and_nothing_is_connected_to_or_looked_up(
    lane: Installation, pickup: Path, tmp_path: Path
) -> None:
    trace = Trace(tmp_path / "trace")
    lane.settings.update(trace.settings)
    folders = {"drive": r"C:\Mail\Out", "slashes": "C:/Mail/Out", "share": r"\\mail01\out", "here": str(pickup)}
    for name, folder in folders.items():
        where = () if name == "here" else ("--map", f"{folder}={pickup}")
        said = await take_over(lane, server(Host=folder), "--name", name, *where, tenant=name)
        assert said.status == 0
        assert "host.is_directory" in codes(said)
    assert trace.noticed("connect") == trace.noticed("look-up") == set(), "an import asks nobody"
    await lane.worker()
    for name in folders:
        assert (await lane.post.send(notice(name, tenant=name))).status is DeliveryStatus.HANDED_OVER
    assert len(list(pickup.glob("*.eml"))) == len(folders)
    broker = {port for _, port in trace.noticed("connect")}
    assert len(broker) == 1, "to RabbitMQ and to nobody else"
    assert {port for _, port in trace.noticed("look-up")} <= broker


async def test_nim_s9_directory_of_another_machine_is_refused_by_name_until_it_is_mapped(
    lane: Installation, pickup: Path, tmp_path: Path
) -> None:
    for folder in ("../out", r"\\mail01\out", r"C:\Mail\Out"):
        said = await take_over(lane, server(Host=folder), "--force")
        assert "path.needs_mapping" in codes(said)
    refused = await lane.postlane("check")
    assert refused.status != 0
    assert "mailboxes.netwrix-server" in refused.errors
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(("C:", "out", "\\"))]
    assert (await take_over(lane, server(Host="~/out"), "--map", f"~/out={pickup}")).status == 0
    await lane.worker()
    assert (await lane.post.send(notice("n-1"))).status is DeliveryStatus.HANDED_OVER


async def test_nim_s5_file_is_handed_over_whoever_takes_it_away_and_told_of_if_nobody_does(
    lane: Installation, pickup: Path
) -> None:
    lane.configure(files("files", pickup, 'tenants = ["contoso"]'))
    port = free_port()
    worker = await lane.worker(POSTLANE_PICKUP__COLLECT_SECONDS="0.2", POSTLANE_HEALTH__PORT=str(port))
    reading = asyncio.create_task(_collect(pickup, 30))
    sent = await asyncio.gather(*(lane.post.send(notice(f"n-{number}")) for number in range(30)))
    assert {result.status for result in sent} == {DeliveryStatus.HANDED_OVER}
    async with asyncio.timeout(30):
        assert len(await reading) == 30
    assert list(pickup.iterdir()) == []

    await lane.post.send(notice("left"))
    await worker.logged("pickup files not collected", mailbox="files", uncollected=1)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        metrics = (await client.get("/metrics")).text
    assert 'postlane_pickup_files_left{mailbox="files",why="uncollected"} 1.0' in metrics
    (left,) = pickup.iterdir()
    left.unlink()
    await worker.logged("pickup files collected", mailbox="files")


async def _collect(pickup: Path, count: int) -> set[str]:
    """Delete files as soon as they are there; their names."""
    names: set[str] = set()
    while len(names) < count:
        for path in await asyncio.to_thread(lambda: list(pickup.glob("*.eml"))):
            path.unlink()
            names.add(path.name)
    return names


@pytest.mark.row("NIM-S7", "NIM-S8", "NIM-S10")
async def test_host_and_sender_are_enough_and_the_host_is_a_name_or_an_address(
    lane: Installation, a: MailServer, c: MailServer
) -> None:
    a.logins = {"somebody": "a password"}  # a login is offered, and nobody has one
    said = await take_over(lane, server(Host="127.0.0.1"), "--name", "ipv4", tenant="ipv4")
    assert (said.status, said.json["verdict"]) == (0, "accept")
    (shown,) = said.json["mailboxes"]
    assert (shown["port"], shown["auth"]) == (25, "none")
    lane.amend("port = 25", f"port = {a.port}")
    async with serving(MailServer("b"), host="::1") as b:
        for name, host, port in (("ipv6", "::1", b.port), ("name", "localhost", c.port)):
            assert (await take_over(lane, server(Host=host, Port=port), "--name", name, tenant=name)).status == 0
        await lane.worker()
        for name, one in (("ipv4", a), ("ipv6", b), ("name", c)):
            assert (await lane.post.send(notice(name, tenant=name))).status is DeliveryStatus.ACCEPTED
            assert [mail.mail_from for mail in one.taken] == ["identity@contoso.example"]
            assert [mail.message["From"] for mail in one.taken] == ["identity@contoso.example"]
            assert one.said("AUTH") == []


@pytest.mark.row("NIM-S10", "NIM-S11", "NIM-S12")
async def test_login_is_used_if_it_is_given_and_is_not_the_sender(
    lane: Installation, a: MailServer, b: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    a.starttls, a.needs_login, a.logins = server_tls, True, {"svc-identity": SECRET}
    b.starttls, b.needs_login, b.logins = server_tls, True, {"svc-agent": SECRET}
    secure = {"Host": "127.0.0.1", "Password": SECRET, "SecureSocketOption": "StartTls"}
    both = {
        **server(**secure, Port=a.port, UserName="svc-identity"),
        **agent(**secure, Port=b.port, Username="svc-agent"),
    }
    said = await take_over(lane, both)
    assert [(each["port"], each["username"]) for each in said.json["mailboxes"]] == [
        (a.port, "svc-identity"),
        (b.port, "svc-agent"),
    ]
    swapped = {
        **server(**secure, Port=a.port, Username="svc-identity"),
        **agent(**secure, Port=b.port, UserName="svc-agent"),
    }
    assert "unchanged" in (await take_over(lane, swapped)).json["output"]
    assert SECRET not in lane.mailboxes.read_text(encoding="utf-8") + said.output + said.errors
    lane.amend('tls = "starttls"', f'tls = "starttls"\n{ca}')
    await lane.worker()
    assert (await lane.post.send(notice("notice"))).status is DeliveryStatus.ACCEPTED
    assert (await lane.post.send(reset("reset"))).status is DeliveryStatus.ACCEPTED
    assert [(mail.login, mail.mail_from) for mail in a.taken] == [("svc-identity", "identity@contoso.example")]
    assert [(mail.login, mail.mail_from) for mail in b.taken] == [("svc-agent", "reset@contoso.example")]


async def test_nim_s10_server_that_asks_for_a_login_nobody_gave_is_named_as_the_reason(
    lane: Installation, a: MailServer
) -> None:
    a.needs_login, a.logins = True, {"somebody": "a password"}
    await take_over(lane, server(Host="127.0.0.1", Port=a.port))
    await lane.worker(POSTLANE_RETRY__HORIZON_HOURS=str(1 / 3600))
    result = await lane.post.send(notice("n-1"))
    assert (result.status, result.final) == (DeliveryStatus.FAILED, True)
    assert result.reason is not None
    assert result.reason.kind.startswith("auth-config")
    assert "530 5.7.0 Authentication required" in (result.server_reply or "")
    assert (a.taken, a.said("AUTH")) == ([], [])
