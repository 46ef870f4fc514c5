"""Who asks how the servers are gets one look, shared and believed for a while."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.adapters.smtp.server import turns
from tests.factories import NOON, mailbox
from tests.fakes import Bug, Clock
from worker.domain.health import Checked, Finding, State
from worker.domain.mailbox import Mailbox, PickupDirectory, PickupFlavour
from worker.domain.verdict import Action, Scope, Verdict
from worker.ports import Hold
from worker.probe import Health
from worker.telemetry import health, http

WELL = Finding(State.WELL, "The server answers.")
CLOSED = Finding(State.PORT_CLOSED, "Nothing listens.", "Check the port.")
REFUSED = Finding(State.LOGIN_REFUSED, "No.")


class World:
    """Mailboxes, and what is found when one is looked at.

    Attributes:
        looks: at each mailbox.
        open: lets looks come to their end.
    """

    def __init__(self, *names: str) -> None:
        self.boxes: dict[str, Mailbox] = {name: mailbox(name) for name in names}
        self.finding: Finding | Exception = WELL
        self.looks: Counter[str] = Counter()
        self.open = asyncio.Event()
        self.open.set()
        self.clock = Clock()
        self.health = Health(lambda: self.boxes, self.look, self.clock, patience=0.2)

    async def look(self, box: Mailbox) -> Finding:
        self.looks[box.name] += 1
        finding = self.finding
        await self.open.wait()
        if isinstance(finding, Exception):
            raise finding
        return finding


async def test_hundred_callers_at_once_share_one_look() -> None:
    world = World("a")
    world.open.clear()
    callers = [asyncio.create_task(world.health.of("a")) for _ in range(100)]
    await turns()
    world.open.set()
    found = await asyncio.gather(*callers)
    assert {each.finding for each in found} == {WELL}
    assert world.looks == {"a": 1}


@pytest.mark.parametrize(
    ("kind", "looks"),
    [
        ("credential", 0),
        ("token-expired", 0),
        ("auth-config/login-refused", 0),
        ("throttled-mailbox/rate", 1),
        ("auth-config/send-as", 1),
    ],
)
async def test_login_that_was_refused_to_a_mail_is_not_tried_by_the_health_check_as_well(kind: str, looks: int) -> None:
    world = World("a")
    hold = Hold(NOON + timedelta(hours=1), Verdict(kind, Scope.MAILBOX, Action.PAUSE, "No.", "Mend it."))
    world.health = Health(lambda: world.boxes, world.look, world.clock, resting=lambda _box, _now: hold)
    finding = (await world.health.of("a")).finding
    assert world.looks["a"] == looks
    assert (finding == Finding(State.LOGIN_REFUSED, "No.", "Mend it.")) == (not looks)


async def test_directory_that_rests_is_looked_at(tmp_path: Path) -> None:
    world = World()
    directory = PickupDirectory(tmp_path, tmp_path, PickupFlavour.IIS)
    world.boxes["a"] = mailbox("a", endpoint=directory)
    hold = Hold(NOON + timedelta(hours=1), Verdict("auth-config", Scope.MAILBOX, Action.PAUSE, "No.", "Mend it."))
    world.health = Health(lambda: world.boxes, world.look, world.clock, resting=lambda _box, _now: hold)
    assert (await world.health.of("a")).finding == WELL


@pytest.mark.row("UMB-W7")
@pytest.mark.parametrize(("finding", "seconds"), [(WELL, 60), (CLOSED, 15), (REFUSED, 15)])
async def test_finding_is_believed_for_its_time(finding: Finding, seconds: int) -> None:
    world = World("a")
    world.finding = finding
    await world.health.of("a")
    world.clock.forward(timedelta(seconds=seconds - 1))
    assert (await world.health.of("a")).checked_at == NOON
    world.clock.forward(timedelta(seconds=1))
    assert (await world.health.of("a")).checked_at == NOON + timedelta(seconds=seconds)
    assert world.looks == {"a": 2}


@pytest.mark.row("UMB-W7")
async def test_server_that_is_up_again_is_seen_within_fifteen_seconds() -> None:
    world = World("a")
    world.finding = CLOSED
    await world.health.of("a")
    world.finding = WELL
    world.clock.forward(timedelta(seconds=15))
    assert (await world.health.of("a")).finding == WELL


async def test_login_that_stays_refused_is_tried_less_and_less_often() -> None:
    # A monitor that asks every few seconds must not be what locks the account.
    world = World("a")
    world.finding = REFUSED
    for _ in range(24 * 60 * 60 // 15):
        await world.health.of("a")
        world.clock.forward(timedelta(seconds=15))
    assert world.looks["a"] < 110


async def test_changed_mailbox_is_looked_at_anew_and_its_old_findings_are_forgotten() -> None:
    world = World("a")
    world.finding = REFUSED
    await world.health.of("a")
    world.finding = WELL
    world.boxes["a"] = replace(world.boxes["a"], display_name="Changed")
    assert (await world.health.of("a")).finding == WELL


async def test_look_at_a_mailbox_that_changes_meanwhile_is_not_believed() -> None:
    world = World("a")
    world.finding = CLOSED
    world.open.clear()
    early = asyncio.create_task(world.health.of("a"))
    await turns()
    world.finding = WELL
    world.boxes["a"] = replace(world.boxes["a"], display_name="Changed")
    late = asyncio.create_task(world.health.of("a"))
    await turns()
    world.open.set()
    assert ((await early).finding, (await late).finding) == (CLOSED, WELL)
    assert (await world.health.of("a")).finding == WELL


async def test_caller_who_goes_away_does_not_stop_the_look() -> None:
    world = World("a")
    world.open.clear()
    leaves, stays = (asyncio.create_task(world.health.of("a")) for _ in range(2))
    await turns()
    leaves.cancel()
    world.open.set()
    assert (await stays).finding == WELL
    assert world.looks == {"a": 1}


async def test_mailbox_that_does_not_exist_is_not_configured() -> None:
    world = World()
    assert (await world.health.of("nowhere")).finding.state is State.NOT_CONFIGURED
    assert {name: each.finding.state for name, each in (await world.health.all(["nowhere"])).items()} == {
        "nowhere": State.NOT_CONFIGURED
    }


async def test_slow_servers_are_told_as_being_looked_at_and_known_the_next_time() -> None:
    world = World("slow")
    world.open.clear()
    assert (await world.health.all())["slow"].finding.state is State.CHECKING
    world.open.set()
    assert (await world.health.all())["slow"].finding == WELL
    assert world.looks == {"slow": 1}


async def test_bug_in_a_look_is_not_remembered_as_a_finding() -> None:
    world = World("a")
    world.finding = Bug("oh")
    with pytest.raises(Bug):
        await world.health.of("a")
    world.finding = WELL
    assert (await world.health.of("a")).finding == WELL


async def test_closing_ends_looks_that_are_under_way() -> None:
    world = World("a")
    world.open.clear()
    asked = asyncio.create_task(world.health.of("a"))
    await turns()
    await world.health.close()
    with pytest.raises(asyncio.CancelledError):
        await asked


# ---------------------------------------------------------------- over HTTP


async def page(health_of: Mapping[str, Finding], query: str = "") -> tuple[int, dict[str, object]]:
    """What the page says, with its status."""

    async def servers(names: object) -> Mapping[str, Checked]:
        wanted = list(names) if isinstance(names, list) and names else list(health_of)
        return {name: Checked(health_of[name], NOON, 0.25) for name in wanted}

    listening = http.bound("127.0.0.1", 0)
    listening.listen()  # so that whoever is too early waits
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/healthz/mailboxes{query}"

    def read() -> tuple[int, dict[str, object]]:
        try:
            with urlopen(url, timeout=5) as answer:
                return answer.status, json.loads(answer.read())
        except HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    async with http.serving(health.application(dict, bytes, servers), listening):
        return await asyncio.to_thread(read)


async def test_page_tells_state_words_and_age_of_every_mailbox() -> None:
    status, body = await page({"a": WELL, "b": CLOSED})
    assert (status, body["well"]) == (503, False)
    assert body["mailboxes"] == {
        "a": {
            "state": "ok",
            "explanation": "The server answers.",
            "remedy": "",
            "warning": "",
            "checked_at": "2026-06-01T12:00:00.000+00:00",
            "seconds": 0.25,
        },
        "b": {
            "state": "port-closed",
            "explanation": "Nothing listens.",
            "remedy": "Check the port.",
            "warning": "",
            "checked_at": "2026-06-01T12:00:00.000+00:00",
            "seconds": 0.25,
        },
    }


async def test_page_of_one_mailbox_leaves_the_others_out() -> None:
    status, body = await page({"a": WELL, "b": CLOSED}, "?mailbox=a")
    assert (status, body["well"]) == (200, True)
    assert list(body["mailboxes"]) == ["a"]  # type: ignore[call-overload]


async def test_page_without_any_mailbox_says_that_nothing_can_be_sent() -> None:
    status, body = await page({})
    assert (status, body["well"]) == (503, False)
    assert "nothing can be sent" in str(body["explanation"])
