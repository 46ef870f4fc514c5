"""Scopes and producers in the store: stopped, redirected and switched at run time, and seen by every worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from worker.administration import Administration, Base, Changed, Directories, Invalid, Managed, NotThere
from worker.domain.mailbox import Directory, MailScope, Producer, Restraint, Stop
from worker.events import MailboxesChanged
from worker.sealing import Keyring
from worker.store.database import Database
from worker.store.mailboxes import SqlMailboxes
from worker.switchboard import Switchboard

SHOP = MailScope("contoso", "shop")
FILE: dict[str, Any] = {
    "default": "platform",
    "mailboxes": {"platform": {"address": "noreply@platform.example", "host": "smtp.platform.example"}},
}
CLOSED: dict[str, Any] = {**FILE, "tenants": {"Fabrikam": {"purposes_off": ["form"], "stop": "hold"}}, "producers": []}


@dataclass
class Board:
    """Somebody's switchboard, and a worker that follows what happens there."""

    kept: SqlMailboxes
    switches: Switchboard
    worker: Directories
    events: list[Any]

    async def directory(self) -> Directory:
        await self.worker.look()
        return self.worker.current

    async def restraint(self, scope: MailScope = SHOP) -> Restraint:
        return (await self.directory()).restraint_of(scope)

    async def audit(self) -> list[tuple[str, str, str, str]]:
        desk = Administration(Base(FILE, {}), self.kept, Keyring())
        return [(line.actor, line.action, line.subject, line.detail) for _, line in reversed(await desk.audit())]


async def board_of(url: str, tree: dict[str, Any]) -> AsyncIterator[Board]:
    kept, watched, events = SqlMailboxes(Database(url)), SqlMailboxes(Database(url)), []
    base = Base(tree, {})
    worker = Directories(base, watched, Keyring(), events.append)
    await worker.loaded()
    yield Board(kept, Switchboard(base, kept), worker, events)
    await kept.close()
    await watched.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    sqlite = request.param == "sqlite"
    return f"sqlite:///{tmp_path / 'store.sqlite3'}" if sqlite else str(request.getfixturevalue("database"))


@pytest.fixture
async def board(url: str) -> AsyncIterator[Board]:
    """The file lists neither tenants nor producers."""
    async for made in board_of(url, FILE):
        yield made


@pytest.fixture
async def closed(url: str) -> AsyncIterator[Board]:
    """It lists one tenant and no producer, so only those are known."""
    async for made in board_of(url, CLOSED):
        yield made


async def test_stopped_site_is_held_on_the_worker_and_flows_again_when_started(board: Board) -> None:
    shown = await board.switches.stop("tenants/Contoso/sites/Shop", "jana")
    assert (shown.name, shown.state, shown.revision, shown.changed_by) == (
        "tenants/contoso/sites/shop",
        "held",
        1,
        "jana",
    )
    assert (await board.restraint()).stop is Stop.HOLD
    assert board.events == [MailboxesChanged(1, ("tenants/contoso",))]
    for other in (MailScope("contoso"), MailScope("contoso", "blog"), MailScope("fabrikam", "shop")):
        assert (await board.restraint(other)).stop is None
    await board.switches.start("tenants/contoso/sites/shop", "jana")
    assert (await board.restraint()).stop is None


@pytest.mark.parametrize(
    "scope", ["platform", "tenants/contoso", "tenants/contoso/sites/shop", "tenants/contoso/components/agent"]
)
async def test_every_kind_of_scope_is_set_and_holds_for_its_mail_alone(board: Board, scope: str) -> None:
    settings = {"suppress": True, "redirect_to": "test@contoso.example", "purposes_off": ["password-reset"]}
    assert (await board.switches.change(scope, settings, "jana")).state == "suppressed"
    restraint = await board.restraint(MailScope("contoso", "shop", "agent"))
    assert restraint.suppress
    assert restraint.redirect is not None
    assert str(restraint.redirect.to) == "test@contoso.example"
    assert restraint.purposes_off == {"password-reset"}
    elsewhere = await board.restraint(MailScope("fabrikam"))
    assert elsewhere.suppress is (scope == "platform")


async def test_setting_one_tenant_leaves_the_others_known(board: Board) -> None:
    await board.switches.change("tenants/contoso", {"use_default": False}, "jana")
    directory = await board.directory()
    assert directory.knows("contoso")
    assert directory.knows("somebody-else")
    assert directory.tenant("contoso").use_default is False


async def test_tenant_that_is_set_where_the_file_lists_tenants_becomes_known_and_its_sites_only_then(
    closed: Board,
) -> None:
    assert not (await closed.directory()).knows("contoso")
    with pytest.raises(Invalid, match="tenants/contoso is not one of them"):
        await closed.switches.stop("tenants/contoso/sites/shop", "jana")
    await closed.switches.change("tenants/contoso", {}, "jana")
    await closed.switches.stop("tenants/contoso/sites/shop", "jana")
    directory = await closed.directory()
    assert directory.knows("contoso")
    assert not directory.knows("somebody-else")
    with pytest.raises(Invalid, match="has parts: remove tenants/contoso/sites/shop first"):
        await closed.switches.remove("tenants/contoso", "jana")
    await closed.switches.remove("tenants/contoso/sites/shop", "jana")
    await closed.switches.remove("tenants/contoso", "jana")
    assert not (await closed.directory()).knows("contoso")


async def test_scope_of_the_file_is_read_only_but_for_its_stop_switch(closed: Board) -> None:
    shown = await closed.switches.one("tenants/fabrikam")
    assert (shown.managed, shown.state, shown.settings["purposes_off"]) == (True, "held", ["form"])
    for attempt in (
        closed.switches.change("tenants/fabrikam", {"suppress": True}, "jana"),
        closed.switches.remove("tenants/fabrikam", "jana"),
    ):
        with pytest.raises(Managed, match="managed in the mailboxes file"):
            await attempt
    await closed.switches.stop("tenants/fabrikam", "jana", Stop.REFUSE)
    restraint = await closed.restraint(MailScope("fabrikam"))
    assert (restraint.stop, restraint.purposes_off) == (Stop.REFUSE, {"form"})
    with pytest.raises(Managed, match="The mailboxes file stops tenants/fabrikam"):
        await closed.switches.start("tenants/fabrikam", "jana")
    assert (await closed.restraint(MailScope("fabrikam"))).stop is Stop.HOLD, "the file's own switch is on still"


@pytest.mark.parametrize(
    ("scope", "patch", "said"),
    [
        ("contoso", {}, "is no scope; write platform, tenants/NAME"),
        ("tenants/contoso/mailboxes/x", {}, "is no scope"),
        ("tenants/contoso", {"stop": "perhaps"}, "stop: Input should be 'hold' or 'refuse'"),
        ("tenants/contoso", {"stopp": "hold"}, "stopp: is not a known key"),
        ("tenants/contoso", {"sites": {"x": {}}}, "scopes of their own"),
        ("tenants/contoso/sites/shop", {"use_default": True}, "use_default: is not a known key"),
        ("tenants/con toso", {"stop": "hold"}, "should match pattern"),
        ("producers/web", {"tenants": ["contoso"]}, "everybody who may publish is trusted"),
        ("platform", {"redirect_to": "nobody"}, "redirect_to: "),
    ],
)
async def test_what_would_be_wrong_is_refused_by_name_and_changes_nothing(
    board: Board, scope: str, patch: dict[str, Any], said: str
) -> None:
    with pytest.raises(Invalid, match=said):
        await board.switches.change(scope, patch, "jana")
    assert await board.switches.everything() == []


async def test_producer_is_listed_and_removed_where_the_file_lists_producers(closed: Board) -> None:
    await closed.switches.change("producers/web/shop", {"tenants": ["Contoso"], "categories": ["form"]}, "jana")
    expected = Producer("web/shop", frozenset({"contoso"}), frozenset({"form"}))
    assert (await closed.directory()).producers == {"web/shop": expected}
    assert (await closed.switches.one("producers/web/shop")).state == "listed"
    await closed.switches.remove("producers/web/shop", "jana")
    assert (await closed.directory()).producers == {}


async def test_change_of_what_somebody_else_has_changed_is_refused(board: Board) -> None:
    await board.switches.change("platform", {"suppress": True}, "jana", 0)
    for expected in (0, 2):
        with pytest.raises(Changed):
            await board.switches.change("platform", {"suppress": False}, "omar", expected)
    with pytest.raises(Changed):
        await board.switches.remove("platform", "omar", 7)
    assert (await board.restraint()).suppress


async def test_scope_that_has_gone_wrong_holds_its_mail_and_no_other(board: Board) -> None:
    await board.switches.change("tenants/contoso", {"redirect_to": "test@contoso.example"}, "jana")
    await board.switches.change("tenants/fabrikam", {"suppress": True}, "jana")
    spoil = """UPDATE kept_part SET document = '{"redirect": "x"}' WHERE name = 'tenants/contoso'"""
    await board.kept._database.run(lambda each: each.exec_driver_sql(spoil))
    board.worker._number = None  # as a worker that starts now
    assert (await board.restraint()).stop is Stop.HOLD, "nobody knows any more where its mail was not to go"
    fabrikam = await board.restraint(MailScope("fabrikam"))
    assert (fabrikam.suppress, fabrikam.stop) == (True, None)
    shown = await board.switches.one("tenants/contoso")
    assert shown.state == "unusable"
    assert "redirect" in shown.explanation


async def test_every_change_is_in_the_audit_trail_with_its_author(board: Board) -> None:
    await board.switches.change("tenants/contoso", {"suppress": True}, "jana")
    await board.switches.stop("tenants/contoso", "omar", Stop.REFUSE)
    await board.switches.start("tenants/contoso", "omar")
    await board.switches.remove("tenants/contoso", "jana")
    assert await board.audit() == [
        ("jana", "scope set", "tenants/contoso", "suppress=True"),
        ("omar", "scope stop", "tenants/contoso", "stop=refuse"),
        ("omar", "scope start", "tenants/contoso", "stop="),
        ("jana", "scope remove", "tenants/contoso", ""),
    ]


async def test_nothing_is_found_where_nothing_is_set(board: Board) -> None:
    for attempt in (board.switches.one("platform"), board.switches.start("platform", "jana")):
        with pytest.raises(NotThere):
            await attempt
    with pytest.raises(NotThere):
        await board.switches.remove("platform", "jana")
