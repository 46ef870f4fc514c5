"""What makes one service of the five products: taking over, living together, files that are whole, what can be seen."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts.delivery import DeliveryStatus
from tests.acceptance.installation import EVE, JANA, Installation, files, mailbox, notification
from tests.acceptance.server import MailServer
from tests.adapters.pickup.checker import collect
from worker.cli import app
from worker.domain.mailbox import PickupFlavour
from worker.importers import PRODUCTS

SAMPLES = Path(__file__).parents[1] / "unit" / "importers" / "samples"
INDEX = tomllib.loads((SAMPLES / "expected.toml").read_text(encoding="utf-8"))["sample"]
T = 'tenants = ["t"]'
JOBS = int(os.environ.get("POSTLANE_ACCEPTANCE_FILES", "600"))  # the row has 10,000 of them
KILLS = 4


# ---------------------------------------------------------------- taking over


@pytest.mark.row("ALL-1")
@pytest.mark.parametrize("product", PRODUCTS)
def test_every_sample_gets_its_verdict_and_the_second_import_changes_nothing(
    product: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, sample in enumerate(each for each in INDEX if each["product"] == product):
        place = tmp_path / str(number)
        place.mkdir()
        for name in sample["files"]:
            shutil.copy(SAMPLES / name, place)
        monkeypatch.chdir(place)
        before = _tree(place)
        command = ["import", product, *sample["files"], "--json"]
        dry, first = _run(*command, "--dry-run"), _tree(place)
        done, second = _run(*command), _tree(place)
        again = _run(*command)
        assert first == before, f"{sample['files']}: a dry run writes nothing"
        assert {each["verdict"] for each in (dry, done, again)} == {sample["verdict"]}, sample["files"]
        assert _tree(place) == second, f"{sample['files']}: a second import changes nothing"
        if sample["verdict"] == "reject":
            assert second == before, f"{sample['files']}: what is refused writes nothing"


def _run(*command: str) -> Mapping[str, Any]:
    """The command's object; neither it nor anything else that is said holds a secret of the samples."""
    result = CliRunner().invoke(app, command)
    assert "Made-up-secret" not in result.output + result.stderr
    assert result.exit_code in (0, 2), result.output
    found: Mapping[str, Any] = json.loads(result.stdout)
    return found


def _tree(place: Path) -> Mapping[str, bytes]:
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- pickup directories


async def test_all_4_killed_workers_leave_no_half_file_and_lose_no_mail(lane: Installation, pickup: Path) -> None:
    lane.configure(files("p", pickup, T))
    lane.settings["POSTLANE_STORE__LEASE_SECONDS"] = "2"
    large = "0123456789" * 7 + "\n"
    ids = [f"n-{number}" for number in range(120)]
    publishing = asyncio.gather(*(lane.post.publish(notification(each, "t", text=large * 3000)) for each in ids))
    for kill in range(1, KILLS + 1):
        worker = await lane.worker()
        await lane.inbox.until(lambda results, kill=kill: len(results) >= 12 * kill)
        await worker.stop(signal.SIGKILL)
    await publishing
    await lane.worker()

    def all_ended(_: object) -> bool:
        return all(any(each.final for each in lane.inbox.of(one)) for one in ids)

    await lane.inbox.until(all_ended, patience=120)
    found = [collect(path, PickupFlavour.IIS) for path in pickup.iterdir()]
    assert all(len(each.content) > len(large) * 3000 for each in found)
    there = [str(each.message["X-Postlane-Id"]) for each in found]
    assert len(there) == len(set(there))
    ends = {one: next(each.status for each in lane.inbox.of(one) if each.final) for one in ids}
    handed_over = {one for one, status in ends.items() if status is DeliveryStatus.HANDED_OVER}
    assert set(ends.values()) <= {DeliveryStatus.HANDED_OVER, DeliveryStatus.IN_DOUBT}
    assert handed_over <= set(there) <= set(ids)


async def test_all_5_exchange_gets_no_file_that_it_would_refuse(lane: Installation, pickup: Path) -> None:
    lane.configure(files("p", pickup, T, flavour="exchange"))
    await lane.worker()
    people = [f"person-{number}@people.example" for number in range(250)]
    many = await lane.post.send(notification("many", "t", to=[JANA], bcc=people))
    found = [collect(path, PickupFlavour.EXCHANGE) for path in pickup.iterdir()]
    served = [person for each in found for person in each.recipients if person != JANA]
    assert (many.status, sorted(served)) == (DeliveryStatus.HANDED_OVER, sorted(people))
    wide = [{"address": f"person-{number}@people.example", "name": "漢" * 190} for number in range(95)]
    refused = await lane.post.send(notification("wide", "t", to=wide))
    assert refused.status is DeliveryStatus.FAILED
    assert refused.reason is not None
    assert len(list(pickup.iterdir())) == len(found)


async def test_all_6_same_mail_goes_over_smtp_and_into_files_and_no_line_begins_with_a_dot(
    lane: Installation, a: MailServer, pickup: Path
) -> None:
    fields: dict[str, Any] = {
        "subject": "Žádost č. 1",
        "text": ".\n..\n.leading\nŽluťoučký kůň\n" + "." * 200 + "\n",
        "html": "<p>\n.<br>\n.b</p>",
        "bcc": [EVE],
        "attachments": [{"filename": "dots.txt", "content": "Li4uLi4uLi4NCi4NCi4NCg==", "content_type": "text/plain"}],
    }
    for store, server in (("files", files("p", pickup, T)), ("smtp", mailbox("p", a, T))):
        lane.configure(server)
        worker = await lane.worker(POSTLANE_STORE__URL=f"sqlite:///{lane.directory / store}.sqlite3")
        assert (await lane.post.send(notification("same", "t", **fields))).final
        await worker.stop()
    (path,) = pickup.iterdir()
    filed = collect(path, PickupFlavour.IIS)  # line ends, dots, Date and Message-ID are looked at there
    (mail,) = a.taken
    assert _undated(mail.content) == _undated(filed.content)
    assert (mail.mail_from, mail.rcpt_to) == (filed.sender, filed.recipients) == ("p@senders.example", (JANA, EVE))


def _undated(content: bytes) -> bytes:
    """Without the moment from which it was due, which is another one for each of the two."""
    without, dates = re.subn(rb"(?m)^Date: .*\r\n", b"", content)
    assert dates == 1
    return without


async def test_all_7_two_workers_in_one_directory_overwrite_nothing(lane: Installation, pickup: Path) -> None:
    lane.configure(files("p", pickup, T))
    workers = await asyncio.gather(lane.worker(), lane.worker())
    ids = [f"n-{number}" for number in range(JOBS)]
    for begin in range(0, JOBS, 200):
        await asyncio.gather(*(lane.post.publish(notification(each, "t")) for each in ids[begin : begin + 200]))
    await lane.inbox.until(lambda results: len(results) >= JOBS, patience=60 + JOBS / 20)
    assert {each.status for each in lane.inbox.results} == {DeliveryStatus.HANDED_OVER}
    found = [str(collect(path, PickupFlavour.IIS).message["X-Postlane-Id"]) for path in pickup.iterdir()]
    assert sorted(found) == sorted(ids)
    await asyncio.gather(*(worker.stop() for worker in workers))
    shares = [sum(line.get("status") == "handed_over" for line in worker.lines) for worker in workers]
    assert sum(shares) == JOBS
    assert all(shares), f"both have worked: {shares}"


async def test_all_8_staging_on_another_file_system_is_told_at_start(
    lane: Installation, pickup: Path, elsewhere: Path
) -> None:
    lane.configure(files("p", pickup, T) + f'\nstaging = "{elsewhere}"')
    told = f"mailboxes.p: {elsewhere} and {pickup.resolve()} are on different file systems"
    worker = await lane.worker(wait=False)
    async with asyncio.timeout(30):
        assert await worker.process.wait() != 0
    await worker.stop()
    assert told in "".join(worker.raw)
    checked = await lane.postlane("check", "--mailbox", "p")
    assert checked.status != 0
    assert "different file systems" in checked.output


# ---------------------------------------------------------------- who may send, and as whom


async def test_all_9_sender_that_the_scope_may_not_use_is_refused_before_anybody_is_asked(
    lane: Installation, a: MailServer
) -> None:
    lane.configure(mailbox("a", a, T, 'senders = ["*@shop.example", "ceo@senders.example"]'))
    await lane.worker()
    for sender in ("ceo@elsewhere.example", "x@sub.shop.example", "hr@senders.example"):
        refused = await lane.post.send(notification(f"n-{sender}", "t", from_=sender))
        assert refused.reason is not None
        assert (refused.status, refused.reason.kind) == (DeliveryStatus.REJECTED, "sender-not-allowed")
        assert sender in refused.reason.explanation
    assert a.connections == 0
    for sender in ("orders@shop.example", "ceo@senders.example", "a@senders.example"):
        assert (await lane.post.send(notification(f"n-{sender}", "t", from_=sender))).status is DeliveryStatus.ACCEPTED
    assert [mail.message["From"] for mail in a.taken] == [
        "orders@shop.example",
        "ceo@senders.example",
        "a@senders.example",
    ]
