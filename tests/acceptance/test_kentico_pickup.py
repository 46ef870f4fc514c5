"""Kentico Xperience: mails as files for an SMTP server that collects them, in the two ways that the product has."""

from __future__ import annotations

import asyncio
import grp
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
import pytest

from contracts.delivery import DeliveryStatus
from tests.acceptance.installation import Installation, bound_by_rights, files, notification
from tests.acceptance.kentico import IIS, PICKUP, server, take_over
from tests.acceptance.server import MailServer
from tests.adapters.pickup.checker import collect
from tests.neighbours import free_port
from worker.domain.mailbox import PickupFlavour

THERE = r"D:\Kentico\Pickup"
_NOBODY = 65534


@pytest.fixture
def public_place() -> Iterator[Path]:
    """A directory that other users can get to, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="postlane-pickup-") as base:
        Path(base).chmod(0o755)
        made = Path(base) / "pickup"
        made.mkdir()
        yield made


async def test_kx_s12_pickup_directory_has_its_place_in_the_chain(
    lane: Installation, a: MailServer, pickup: Path
) -> None:
    rows = [
        server(1, "localhost", ServerPriority=1, ServerDeliveryMethod=PICKUP, ServerPickupDirectory=THERE),
        server(2, f"127.0.0.1:{a.port}"),
    ]
    said = await take_over(lane, rows, "--map", f"{THERE}={pickup.resolve()}")
    assert said.status == 0, said.errors
    port = free_port()
    await lane.worker(through=bound_by_rights(), POSTLANE_HEALTH__PORT=str(port))
    for number in range(3):
        result = await lane.post.send(notification(f"n-{number}", "kx"))
        assert (result.status, result.mailbox and result.mailbox.name) == (DeliveryStatus.HANDED_OVER, "kentico-1")
    assert {collect(path, PickupFlavour.IIS).message["X-Postlane-Id"] for path in pickup.iterdir()} == {
        "n-0", "n-1", "n-2",
    }  # fmt: skip
    assert a.connections == 0
    pickup.chmod(0o555)
    result = await lane.post.send(notification("read-only", "kx"))
    state = await _state(port, "kentico-1")
    pickup.chmod(0o755)
    assert (result.status, a.ids) == (DeliveryStatus.ACCEPTED, ["read-only"])
    assert (state["state"], str(pickup.resolve()) in str(state["explanation"])) == ("directory", True)
    assert len(list(pickup.iterdir())) == 3


@pytest.mark.row("KX-S13")
async def test_directory_that_only_iis_knows_is_asked_for_and_used_once_it_is_named(
    lane: Installation, pickup: Path
) -> None:
    row = server(6, "localhost", ServerDeliveryMethod=IIS)
    asked = await take_over(lane, [row], "--dry-run")
    (finding,) = [each for each in asked.json["findings"] if each["code"].startswith("iis.path_unknown")]
    assert (asked.json["verdict"], "--map iis=" in finding["proposal"]) == ("needs_secret", True)
    assert "NETWORK SERVICE" in finding["reason"]
    said = await take_over(lane, [row], "--map", f"iis={pickup.resolve()}")
    assert (said.status, said.json["verdict"]) == (0, "accept")
    await lane.worker()
    assert (await lane.post.send(notification("n-1", "kx", bcc=["eve@people.example"]))).status == "handed_over"
    (path,) = pickup.glob("*.eml")
    assert collect(path, PickupFlavour.IIS).recipients == ("jana@people.example", "eve@people.example")


async def test_kx_s14_right_to_write_that_is_missing_is_told_before_the_first_mail_and_loses_none(
    lane: Installation, pickup: Path
) -> None:
    row = server(6, "localhost", ServerDeliveryMethod=IIS)
    await take_over(lane, [row], "--map", f"iis={pickup.resolve()}")
    pickup.chmod(0o555)
    await lane.post.publish(notification("n-1", "kx"))
    refused = await lane.worker(through=bound_by_rights(), wait=False)
    async with asyncio.timeout(30):
        assert await refused.process.wait() != 0
    await refused.stop()
    assert f"mailboxes.kentico-6: {pickup.resolve()} may not be written to by this user" in "".join(refused.raw)

    pickup.chmod(0o755)
    port = free_port()
    await lane.worker(through=bound_by_rights(), POSTLANE_HEALTH__PORT=str(port))
    assert (await lane.inbox.final("n-1")).status is DeliveryStatus.HANDED_OVER
    pickup.chmod(0o555)
    state = await _state(port, "kentico-6")
    assert (state["state"], state["remedy"] != "") == ("directory", True)
    await lane.post.publish(notification("n-2", "kx"))
    waiting = await lane.inbox.first("n-2")
    pickup.chmod(0o755)
    assert (waiting.status, waiting.final) == (DeliveryStatus.DEFERRED, False)
    assert len(list(pickup.glob("*.eml"))) == 1


async def test_kx_s15_collector_of_the_configured_group_may_take_the_file_away(
    lane: Installation, public_place: Path
) -> None:
    row = server(5, "localhost", ServerDeliveryMethod=PICKUP, ServerPickupDirectory=THERE)
    said = await take_over(lane, [row], "--dry-run")
    assert any("IIS_IUSRS" in each["proposal"] and "pickup.group" in each["proposal"] for each in said.json["findings"])
    group = _another_group()
    os.chown(public_place, -1, group.gr_gid)
    public_place.chmod(0o2770)
    lane.configure(files("p", public_place, 'tenants = ["kx"]') + f'\nmode = "640"\ngroup = "{group.gr_name}"')
    await lane.worker()
    assert (await lane.post.send(notification("n-1", "kx"))).status is DeliveryStatus.HANDED_OVER
    (path,) = public_place.iterdir()
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid, found.st_uid) == (0o640, group.gr_gid, os.geteuid())
    other = {"user": _NOBODY, "group": group.gr_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", 'cat "$1" && rm -f "$1"', "collector", str(path)),
        **other,
        cwd="/",
        stdout=asyncio.subprocess.PIPE,
    )
    content, _ = await process.communicate()
    assert (process.returncode, path.exists()) == (0, False)
    assert b"X-Receiver: <jana@people.example>" in content


async def test_kx_s19_files_that_nobody_has_collected_are_left_alone(lane: Installation, pickup: Path) -> None:
    lane.configure(files("p", pickup, 'tenants = ["kx"]'))
    mails = [notification(f"n-{number}", "kx") for number in range(100)]
    first = await lane.worker()
    await asyncio.gather(*(lane.post.publish(mail) for mail in mails))
    await lane.inbox.until(lambda results: len({each.notification_id for each in results}) == len(mails))
    before = _listing(pickup)
    assert len(before) == len(mails)
    await first.stop()
    await lane.worker()
    again = await asyncio.gather(
        *(lane.post.send(mail) for mail in mails[:10]), lane.post.send(notification("new", "kx"))
    )
    assert {each.status for each in again} == {DeliveryStatus.HANDED_OVER}
    after = _listing(pickup)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1


def _listing(directory: Path) -> Mapping[str, tuple[int, int, bytes]]:
    """Names, and what changes when somebody touches a file."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in directory.iterdir()}


def _another_group() -> grp.struct_group:
    """One that files may be given to; if there is no other, the process's own."""
    root, own = os.geteuid() == 0, os.getegid()
    others = [each for each in grp.getgrall() if each.gr_gid != own and (root or each.gr_gid in os.getgroups())]
    return others[0] if others else grp.getgrgid(os.getegid())


async def _state(port: int, name: str) -> Mapping[str, object]:
    """What the worker says of a server's health."""
    async with httpx2.AsyncClient(timeout=15) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/healthz/mailboxes", params={"mailbox": name})
    found: Mapping[str, object] = answer.json()["mailboxes"][name]
    return found
