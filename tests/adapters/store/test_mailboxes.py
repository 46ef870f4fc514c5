"""Mailboxes in the store: added, changed and removed at run time, with secrets that are kept sealed."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.delivery import Because
from contracts.notification import Priority
from tests.factories import NOON, notification
from worker.administration import (
    Administration,
    Base,
    Changed,
    Directories,
    Invalid,
    Managed,
    NotThere,
    Taken,
    effective,
)
from worker.domain.delivery import Stage
from worker.domain.mailbox import Directory, Password, SmtpEndpoint
from worker.domain.routing import Refusal, Route, Wait, route
from worker.domain.sharing import whose
from worker.domain.verdict import Action, Scope, Verdict
from worker.events import MailboxesChanged, MailboxUnusable
from worker.ports import Admission, Demand, Hold
from worker.resting import SharedGate
from worker.sealing import Keyring
from worker.store.database import Database
from worker.store.mailboxes import SqlMailboxes
from worker.store.opening import opened

SECRET, NEWER = "correct horse battery staple", "another horse altogether"
OLD_KEY, NEW_KEY = bytes(range(32)), bytes(range(32, 64))
FILE: dict[str, Any] = {
    "default": "platform",
    "mailboxes": {"platform": {"address": "noreply@platform.example", "host": "smtp.platform.example"}},
}
OWN: dict[str, Any] = {
    "address": "info@contoso.example",
    "tenants": ["contoso"],
    "host": "smtp.contoso.example",
    "login": {"username": "info", "password": SECRET},
}


@dataclass
class Office:
    """Somebody's desk, and a worker that follows what happens there."""

    url: str
    kept: SqlMailboxes
    desk: Administration
    worker: Directories
    events: list[Any]

    def desk_with(self, *keys: bytes, tree: dict[str, Any] | None = None) -> Administration:
        return Administration(Base(tree or FILE, {}), self.kept, Keyring(keys))

    async def directory(self) -> Directory:
        await self.worker.look()
        return self.worker.current

    async def everything_kept(self) -> bytes:
        """Every octet of the database."""
        if self.url.startswith("sqlite"):
            path = Path(self.url.removeprefix("sqlite:///"))
            return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))

        def rows(connection: Any) -> bytes:
            tables = ("kept_mailbox", "kept_secret", "mailbox_pause", "audit")
            found = [connection.exec_driver_sql(f"SELECT * FROM {table}").all() for table in tables]
            return b"".join(
                value if isinstance(value, bytes) else str(value).encode()
                for row in found
                for each in row
                for value in each
            )

        return await self.kept._database.run(rows)


@pytest.fixture(params=["sqlite", "postgresql"])
async def office(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Office]:
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}" if sqlite else request.getfixturevalue("database")
    kept, watched, events = SqlMailboxes(Database(url)), SqlMailboxes(Database(url)), []
    base, keyring = Base(FILE, {}), Keyring([OLD_KEY])
    worker = Directories(base, watched, keyring, events.append)
    yield Office(url, kept, Administration(base, kept, keyring), worker, events)
    await kept.close()
    await watched.close()


def password(directory: Directory, name: str) -> str:
    endpoint = directory.mailboxes[name].endpoint
    assert isinstance(endpoint, SmtpEndpoint)
    assert isinstance(endpoint.credentials, Password)
    return endpoint.credentials.password.get_secret_value()


async def test_added_mailbox_is_in_the_workers_directory_at_its_next_look(office: Office) -> None:
    assert set((await office.worker.loaded()).mailboxes) == {"platform"}
    shown = await office.desk.add("contoso", OWN, "jana")
    assert (shown.state, shown.revision, shown.changed_by) == ("ok", 1, "jana")
    directory = await office.directory()
    assert password(directory, "contoso") == SECRET
    assert office.events == [MailboxesChanged(1, ("contoso",))]
    chosen = route(notification(), directory)
    assert isinstance(chosen, Route)
    assert (chosen.mailbox.name, chosen.because) == ("contoso", Because.OWN)


async def test_look_without_a_change_makes_no_new_directory(office: Office) -> None:
    before = await office.directory()
    assert await office.directory() is before


async def test_secret_is_nowhere_in_the_database_nor_in_anything_shown(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    await office.desk.change("contoso", {"login": {"password": NEWER}}, "jana")
    shown = [
        await office.desk.one("contoso"),
        await office.desk.audit(),
        await office.kept.contents(),
        await office.directory(),
    ]
    assert shown[0].settings["login"] == {"username": "info", "password": {"set": True}}  # type: ignore[union-attr]
    for secret in (SECRET, NEWER):
        assert secret not in repr(shown)
        for coded in (secret.encode(), base64.b64encode(secret.encode()), secret.encode("utf-16-le")):
            assert coded not in await office.everything_kept()


async def test_blank_password_keeps_the_one_that_is_there(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    settings = {**OWN, "display_name": "Contoso", "login": {"username": "info", "password": ""}}
    await office.desk.replace("contoso", settings, "jana", 1)
    directory = await office.directory()
    assert password(directory, "contoso") == SECRET
    assert directory.mailboxes["contoso"].display_name == "Contoso"


async def test_what_is_read_may_be_written_back(office: Office) -> None:
    before = await office.desk.add("contoso", OWN, "jana")
    after = await office.desk.replace("contoso", before.settings, "jana", before.revision)
    assert after.settings == before.settings
    assert password(await office.directory(), "contoso") == SECRET


async def test_kept_password_is_not_taken_along_to_another_server(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    with pytest.raises(Invalid, match=r"login\.password: give it again"):
        await office.desk.change("contoso", {"host": "smtp.elsewhere.example"}, "jana")
    await office.desk.change("contoso", {"host": "smtp.elsewhere.example", "login": {"password": NEWER}}, "jana")
    assert password(await office.directory(), "contoso") == NEWER


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"port": 993}, "port 993 is IMAP"),
        ({"hots": "smtp"}, "hots: is not a known key"),
        ({"address": None}, "address: is missing"),
        ({"priority": "default", "tenants": None}, 'priority = "default" is for one server of a tenant'),
        ({"default": True}, "default: the platform's default mailbox is 'platform' already"),
        ({"login": {"password": 7}}, r"login\.password: must be text"),
    ],
)
async def test_wrong_settings_are_refused_in_the_words_of_the_mailboxes_file(
    office: Office, change: dict[str, Any], said: str
) -> None:
    await office.desk.add("contoso", OWN, "jana")
    with pytest.raises(Invalid, match=said) as refused:
        await office.desk.change("contoso", change, "jana")
    assert SECRET not in str(refused.value)
    assert (await office.desk.one("contoso")).revision == 1


async def test_two_defaults_for_the_same_mail_are_refused(office: Office) -> None:
    await office.desk.add("one", {**OWN, "priority": "default"}, "jana")
    with pytest.raises(Invalid, match="two defaults for the same mail"):
        await office.desk.add("two", {**OWN, "priority": "default"}, "jana")


async def test_mailbox_of_the_file_is_shown_and_cannot_be_changed(office: Office) -> None:
    shown = await office.desk.one("platform")
    assert (shown.managed, shown.revision) == (True, None)
    for name in ("platform", "PLATFORM"):
        with pytest.raises(Managed, match="change it there"):
            await office.desk.add(name, OWN, "jana")
    with pytest.raises(Managed):
        await office.desk.change("platform", {"enabled": False}, "jana")
    with pytest.raises(Managed):
        await office.desk.remove("platform", "jana")


async def test_name_that_is_there_in_other_capitals_is_taken(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    with pytest.raises(Taken):
        await office.desk.add("Contoso", OWN, "jana")


async def test_file_that_gets_a_mailbox_of_the_same_name_wins_and_the_other_is_flagged(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    other = {"address": "file@contoso.example", "host": "smtp.file.example", "tenants": ["contoso"]}
    tree = {**FILE, "mailboxes": {**FILE["mailboxes"], "Contoso": other}}
    desk = office.desk_with(OLD_KEY, tree=tree)
    assert set((await desk.directory()).mailboxes) == {"platform", "Contoso"}
    assert {each.name: each.state for each in await desk.everything()} == {
        "platform": "ok",
        "Contoso": "ok",
        "contoso": "shadowed",
    }


async def test_change_of_what_somebody_else_has_changed_is_refused(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    await office.desk.change("contoso", {"display_name": "One"}, "jana", 1)
    for expected in (1, 3):
        with pytest.raises(Changed):
            await office.desk.change("contoso", {"display_name": "Two"}, "omar", expected)
    with pytest.raises(Changed):
        await office.desk.remove("contoso", "omar", 1)
    assert (await office.desk.one("contoso")).settings["display_name"] == "One"


async def test_removed_mailbox_leaves_the_directory_and_its_secret_the_database(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    await office.desk.remove("contoso", "jana", 1)
    assert set((await office.directory()).mailboxes) == {"platform"}
    assert not (await office.kept.contents()).entries
    with pytest.raises(NotThere):
        await office.desk.one("contoso")


async def test_mailbox_that_is_switched_off_and_on_again(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    await office.desk.switch("contoso", "jana", on=False)
    assert isinstance(route(notification(), await office.directory()), Wait)
    await office.desk.switch("contoso", "jana", on=True)
    assert isinstance(route(notification(), await office.directory()), Route)


async def test_paused_mailbox_keeps_its_mail_until_it_is_resumed(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    shown = await office.desk.pause("contoso", "moving house", "jana")
    assert (shown.state, shown.paused and shown.paused.until) == ("paused", None)
    found = route(notification(), await office.directory())
    assert isinstance(found, Wait)
    assert found.unavailable.verdict.kind == "mailbox-paused"
    assert "was paused by jana: moving house" in found.unavailable.verdict.explanation
    await office.desk.resume("contoso", "jana")
    assert isinstance(route(notification(), await office.directory()), Route)


async def test_mailbox_of_the_file_can_be_paused_too(office: Office) -> None:
    await office.desk.pause("platform", "", "jana")
    assert isinstance(route(notification(tenant="tailspin"), await office.directory()), Wait)


async def test_pause_for_a_time_ends_by_itself(office: Office) -> None:
    await office.desk.pause("platform", "", "jana", timedelta(hours=1))
    directory = await office.directory()
    held = directory.mailboxes["platform"].held
    assert held is not None
    assert held.until is not None
    await office.kept._database.run(lambda each: each.exec_driver_sql("UPDATE mailbox_pause SET until = 1"))
    office.worker._until = held.until - timedelta(days=1)  # as if that hour were over
    assert (await office.directory()).mailboxes["platform"].held is None
    with pytest.raises(NotThere):
        await office.desk.pause("nobody", "", "jana")


async def test_secret_without_a_key_is_refused_with_the_remedy(office: Office) -> None:
    with pytest.raises(Invalid, match=r"login\.password: POSTLANE_SECRETS__KEY is not set.*postlane secret key"):
        await office.desk_with().add("contoso", OWN, "jana")
    assert not (await office.kept.contents()).entries


async def test_reference_needs_no_key_and_is_followed_by_the_worker(office: Office, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n", encoding="utf-8")
    login = {"username": "info", "password": f"file:{file}"}
    await office.desk_with().add("contoso", {**OWN, "login": login}, "jana")
    assert password(await office.directory(), "contoso") == SECRET


async def test_references_may_be_forbidden(office: Office) -> None:
    login = {"username": "info", "password": "env:POSTLANE_SECRETS__KEY"}
    with pytest.raises(Invalid, match=r"login\.password_env: .*POSTLANE_API__REFERENCES"):
        await office.desk.add("contoso", {**OWN, "login": login}, "portal", references=False)


@pytest.mark.parametrize("trouble", ["forgotten", "never given", "other key", "moved"])
async def test_mailbox_whose_secret_cannot_be_had_keeps_its_mail_from_other_servers(
    office: Office, trouble: str
) -> None:
    await office.desk.add(
        "contoso", OWN if trouble != "never given" else {**OWN, "login": {"username": "info"}}, "jana"
    )
    keyring = Keyring([NEW_KEY if trouble == "other key" else OLD_KEY])
    if trouble == "forgotten":
        assert (await office.desk.forget("contoso", "login.password", "jana")).state == "unusable"
    if trouble == "moved":
        await office.desk.add("fabrikam", {**OWN, "login": {"username": "info", "password": NEWER}}, "jana")
        move = (
            "UPDATE kept_secret SET nonce = (SELECT nonce FROM kept_secret WHERE mailbox = 'fabrikam'), "
            "ciphertext = (SELECT ciphertext FROM kept_secret WHERE mailbox = 'fabrikam') WHERE mailbox = 'contoso'"
        )
        await office.kept._database.run(lambda each: each.exec_driver_sql(move))
    directory = effective(Base(FILE, {}), await office.kept.contents(), keyring)
    held = directory.mailboxes["contoso"].held
    assert held is not None
    assert held.unusable
    assert "login.password" in held.why
    if trouble != "moved":
        found = route(notification(), directory)
        assert isinstance(found, Wait), "the platform's default must not get it"
        assert found.unavailable.verdict.kind == "mailbox-unusable"


async def test_mailbox_that_has_gone_wrong_keeps_its_mail_and_does_not_stop_the_others(office: Office) -> None:
    await office.worker.loaded()
    await office.desk.add("contoso", OWN, "jana")
    await office.desk.add("fabrikam", {**OWN, "tenants": ["fabrikam"]}, "jana")
    spoil = """UPDATE kept_mailbox SET document = '{"tenants": ["contoso"], "hots": 1}' WHERE name = 'contoso'"""
    await office.kept._database.run(lambda each: each.exec_driver_sql(spoil))
    directory = await office.directory()
    assert isinstance(route(notification(), directory), Wait)
    assert isinstance(route(notification(tenant="fabrikam"), directory), Route)
    assert [event.mailbox for event in office.events if isinstance(event, MailboxUnusable)] == ["contoso"]
    assert (await office.desk.one("contoso")).state == "unusable"


async def test_broken_default_of_the_platform_keeps_mail_instead_of_refusing_it(office: Office) -> None:
    tree = {"mailboxes": {}}
    desk = office.desk_with(OLD_KEY, tree=tree)
    document = {key: value for key, value in OWN.items() if key != "tenants"}
    assert isinstance(route(notification(), await desk.directory()), Refusal)
    await desk.add("main", {**document, "default": True}, "jana")
    assert isinstance(route(notification(), await desk.directory()), Route)
    spoil = """UPDATE kept_mailbox SET document = '{"default": true, "hots": 1}'"""
    await office.kept._database.run(lambda each: each.exec_driver_sql(spoil))
    assert isinstance(route(notification(), await desk.directory()), Wait)


async def test_rotation_seals_everything_under_the_new_key_and_the_old_one_may_go(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    both = office.desk_with(NEW_KEY, OLD_KEY)
    assert await both.rotate("jana") == (1, 0)
    assert await both.rotate("jana") == (0, 0)
    assert password(await office.desk_with(NEW_KEY).directory(), "contoso") == SECRET
    assert await office.desk_with(OLD_KEY).rotate("jana") == (0, 1), "what cannot be opened is told, and left as it is"


async def test_every_change_is_in_the_audit_trail_with_its_author(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    await office.desk.change("contoso", {"display_name": "Contoso", "login": {"password": NEWER}}, "omar")
    await office.desk.switch("contoso", "omar", on=False)
    await office.desk.pause("contoso", "moving house", "omar", timedelta(minutes=5))
    await office.desk.resume("contoso", "omar")
    await office.desk.remove("contoso", "jana")
    lines = [line for _, line in await office.desk.audit()]
    assert [(line.actor, line.action, line.subject) for line in reversed(lines)] == [
        ("jana", "mailbox add", "contoso"),
        ("omar", "mailbox set", "contoso"),
        ("omar", "mailbox disable", "contoso"),
        ("omar", "mailbox pause", "contoso"),
        ("omar", "mailbox resume", "contoso"),
        ("jana", "mailbox remove", "contoso"),
    ]
    assert lines[4].detail == "display_name, login.password"
    first = (await office.desk.audit(limit=1))[0][0]
    assert [line.action for _, line in await office.desk.audit(limit=1, before=first)] == ["mailbox resume"]


@pytest.mark.parametrize("how", ["new password", "resumed", "renamed"])
async def test_mailbox_that_rests_for_a_wrong_password_is_tried_at_once_when_it_has_a_new_one(
    office: Office, how: str
) -> None:
    await office.desk.add("contoso", OWN, "jana")
    box = (await office.directory()).mailboxes["contoso"]
    demand, verdict = (
        Demand("contoso", Priority.NORMAL, 1, 0),
        Verdict("auth-config", Scope.MAILBOX, Action.PAUSE, "Wrong password.", pause=timedelta(hours=1)),
    )
    async with opened(office.url) as store:
        admission = await store.gate.admit(box, demand, NOON)
        assert isinstance(admission, Admission)
        await store.gate.paused(admission, verdict, NOON)
    match how:
        case "new password":
            await office.desk.change("contoso", {"login": {"password": NEWER}}, "jana")
        case "resumed":
            await office.desk.resume("contoso", "jana")
        case "renamed":
            await office.desk.change("contoso", {"display_name": "Contoso"}, "jana")
    async with opened(office.url) as store:
        first = await store.gate.admit(box, demand, NOON)
        second = await store.gate.admit(box, demand, NOON)
    if how == "renamed":
        assert isinstance(first, Hold), "a new display name mends no password"
    else:
        assert isinstance(first, Admission)
        assert first.probe
    assert isinstance(second, Hold), "one attempt goes ahead of the others"


async def test_resumed_mailbox_looks_at_once_whether_its_server_and_its_senders_are_well_again(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    box = (await office.directory()).mailboxes["contoso"]
    demand = Demand("contoso", Priority.NORMAL, 1, 0, sender=box.address)
    down = Verdict("transient", Scope.SERVER, Action.PAUSE, "Down.", pause=timedelta(hours=1))
    refused = Verdict("auth-config/send-as", Scope.SENDER, Action.FAIL, "No.", pause=timedelta(hours=1), punished=True)
    async with opened(office.url) as store:
        gate = SharedGate(store.gate)
        for verdict in (down, refused):
            shared = whose(verdict, box, box.address, Stage.CONNECT)
            await gate.paused(Admission(box.name), verdict, NOON, shared=shared)
        assert isinstance(await gate.admit(box, demand, NOON), Hold)
    await office.desk.resume("contoso", "jana")
    assert (await office.desk.one("contoso")).state == "ok"
    async with opened(office.url) as store:
        gate = SharedGate(store.gate)
        probe = await gate.admit(box, demand, NOON)
        assert isinstance(probe, Admission)
        assert len(await gate.cleared(probe, tried=True, by=box)) == 2


async def test_rest_of_a_server_is_shown_with_its_reason_at_each_of_its_mailboxes(office: Office) -> None:
    await office.desk.add("contoso", OWN, "jana")
    await office.desk.add("elsewhere", {**OWN, "host": "smtp.elsewhere.example"}, "jana")
    box = (await office.directory()).mailboxes["contoso"]
    down = Verdict("transient", Scope.SERVER, Action.PAUSE, "Nobody is there.", "Wait.", pause=timedelta(hours=1))
    async with opened(office.url) as store:
        shared = whose(down, box, box.address, Stage.CONNECT)
        await SharedGate(store.gate).paused(Admission("other"), down, datetime.now(UTC), shared=shared)
    found = await office.desk.one("contoso")
    assert (found.state, found.remedy) == ("resting", "Wait.")
    assert found.explanation.startswith("server ")
    assert found.explanation.endswith("Nobody is there.")
    assert (await office.desk.one("elsewhere")).state == "ok"
