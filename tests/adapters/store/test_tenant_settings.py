"""A tenant's own server by known keys, drafts, and mailboxes of the file with editable keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contracts.delivery import Because
from tests.factories import notification
from worker.administration import Administration, Base, Changed, Directories, Invalid, Managed, NotThere, Taken
from worker.domain.mailbox import Directory, SmtpEndpoint
from worker.domain.routing import Route, Wait, route
from worker.sealing import Keyring
from worker.store.database import Database
from worker.store.mailboxes import SqlMailboxes
from worker.tenant_settings import TenantSettings

SECRET = "correct horse battery staple"
FILE: dict[str, Any] = {
    "default": "platform",
    "mailboxes": {
        "platform": {"address": "noreply@platform.example", "host": "smtp.platform.example"},
        "relay": {
            "address": "alerts@platform.example",
            "host": "relay-a.platform.example",
            "tenants": ["fabrikam"],
            "editable": ["address", "display_name", "host", "enabled"],
        },
    },
}
FOUR: dict[str, Any] = {
    "SMTP.Server": "smtp.contoso.example",
    "SMTP.Port": 587,
    "SMTP.Username": "info@contoso.example",
    "SMTP.Password": SECRET,
}


@dataclass
class Portal:
    """A portal's settings page, and a worker that follows what happens there."""

    kept: SqlMailboxes
    desk: Administration
    settings: TenantSettings
    worker: Directories

    async def directory(self) -> Directory:
        await self.worker.look()
        return self.worker.current

    async def chosen(self, tenant: str = "contoso") -> tuple[str, Because]:
        found = route(notification(tenant=tenant), await self.directory())
        assert isinstance(found, Route)
        return found.mailbox.name, found.because


@pytest.fixture(params=["sqlite", "postgresql"])
async def portal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Portal]:
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}" if sqlite else str(request.getfixturevalue("database"))
    kept, base, keyring = SqlMailboxes(Database(url)), Base(FILE, {}), Keyring([bytes(32)])
    desk = Administration(base, kept, keyring)
    yield Portal(kept, desk, TenantSettings(desk), Directories(base, kept, keyring, lambda _event: None))
    await kept.close()


DEFAULT, OWN = ("platform", Because.DEFAULT), ("contoso", Because.OWN)


# ---------------------------------------------------------------- by known keys


@pytest.mark.parametrize("last", FOUR)
async def test_elx_s5_three_of_four_keys_keep_the_default_mailbox_and_the_fourth_takes_all_mail(
    portal: Portal, last: str
) -> None:
    three = {key: value for key, value in FOUR.items() if key != last}
    told = await portal.settings.change("contoso", {**three, "SMTP.SenderAddress": "info@contoso.example"}, "jana")
    assert (told.state, told.explanation) == ("incomplete", f"incomplete: {last}")
    assert await portal.chosen() == DEFAULT
    told = await portal.settings.change("contoso", {last: FOUR[last]}, "jana")
    assert (told.state, told.missing) == ("ok", ())
    assert await portal.chosen() == OWN
    endpoint = (await portal.directory()).mailboxes["contoso"].endpoint
    assert isinstance(endpoint, SmtpEndpoint)
    assert (endpoint.host, endpoint.port, endpoint.tls) == ("smtp.contoso.example", 587, "starttls")


async def test_elx_s8_blank_password_stays_and_deleting_it_is_an_action_of_its_own(portal: Portal) -> None:
    await portal.settings.change("contoso", FOUR, "jana")
    told = await portal.settings.change("contoso", {"SMTP.Password": "", "SMTP.SenderName": "Contoso"}, "jana")
    assert told.values["SMTP.Password"] == {"set": True}
    assert told.values["SMTP.SenderName"] == "Contoso"
    assert await portal.chosen() == OWN
    told = await portal.settings.forget("contoso", "SMTP.Password", "jana")
    assert told.explanation == "incomplete: SMTP.Password"
    assert await portal.chosen() == DEFAULT, "all four keys, or it is not used"
    with pytest.raises(NotThere):
        await portal.settings.forget("contoso", "SMTP.Password", "jana")


async def test_kept_password_is_not_taken_along_to_another_server(portal: Portal) -> None:
    await portal.settings.change("contoso", FOUR, "jana")
    with pytest.raises(Invalid, match=r"SMTP\.Password: give it again"):
        await portal.settings.change("contoso", {"SMTP.Server": "smtp.evil.example"}, "eve")
    with pytest.raises(Invalid, match=r"SMTP\.Password: give it again"):
        await portal.settings.forget("contoso", "SMTP.Server", "eve")
    await portal.settings.change("contoso", {"SMTP.Server": "smtp.new.example", "SMTP.Password": "newer"}, "jana")
    assert (await portal.settings.of("contoso")).values["SMTP.Server"] == "smtp.new.example"


async def test_elx_w1_sender_is_the_user_name_unless_another_address_is_set(portal: Portal) -> None:
    await portal.settings.change("contoso", FOUR, "jana")
    assert str((await portal.directory()).mailboxes["contoso"].address) == "info@contoso.example"
    named = {"SMTP.SenderAddress": "portal@contoso.example", "SMTP.SenderName": "Portal"}
    await portal.settings.change("contoso", named, "jana")
    mailbox = (await portal.directory()).mailboxes["contoso"]
    assert (str(mailbox.address), mailbox.display_name) == ("portal@contoso.example", "Portal")
    with pytest.raises(Invalid, match=r"SMTP\.SenderAddress: SMTP\.Username is no address"):
        await portal.settings.change("fabrikam-two", {**FOUR, "SMTP.Username": "info"}, "jana")


async def test_port_465_is_tls_from_the_first_octet(portal: Portal) -> None:
    await portal.settings.change("contoso", {**FOUR, "SMTP.Port": 465}, "jana")
    endpoint = (await portal.directory()).mailboxes["contoso"].endpoint
    assert isinstance(endpoint, SmtpEndpoint)
    assert (endpoint.port, endpoint.tls) == (465, "implicit")


async def test_mailbox_that_was_made_otherwise_is_left_alone(portal: Portal) -> None:
    own = {"address": "info@contoso.example", "tenants": ["contoso"], "host": "smtp.contoso.example"}
    await portal.desk.add("contoso", own, "jana")
    with pytest.raises(Taken, match="was not made of tenant settings"):
        await portal.settings.change("contoso", FOUR, "jana")


# ---------------------------------------------------------------- drafts


async def test_draft_is_shown_with_what_is_missing_and_never_used(portal: Portal) -> None:
    draft = {"required": ["port"], "tenants": ["contoso"], "login": {"username": "info"}}
    shown = await portal.desk.add("own", draft, "jana")
    assert (shown.state, shown.missing) == ("incomplete", ("port", "host", "address", "login.password"))
    assert await portal.chosen() == DEFAULT
    more = {"host": "smtp.contoso.example", "address": "info@contoso.example", "login": {"password": SECRET}}
    shown = await portal.desk.change("own", more, "jana")
    assert shown.missing == ("port",)
    shown = await portal.desk.change("own", {"port": 587}, "jana")
    assert (shown.state, shown.missing) == ("ok", ())
    assert await portal.chosen() == ("own", Because.OWN)


async def test_draft_is_checked_in_what_it_says(portal: Portal) -> None:
    with pytest.raises(Invalid, match="port 993 is IMAP"):
        await portal.desk.add("own", {"required": [], "port": 993, "tenants": ["contoso"]}, "jana")
    with pytest.raises(Invalid, match="hots: is not a known key"):
        await portal.desk.add("own", {"required": [], "hots": "x"}, "jana")


async def test_complete_draft_whose_secret_cannot_be_opened_keeps_its_mail(portal: Portal) -> None:
    await portal.settings.change("contoso", FOUR, "jana")
    elsewhere = Administration(Base(FILE, {}), portal.kept, Keyring([bytes(range(32))]))
    found = route(notification(), await elsewhere.directory())
    assert isinstance(found, Wait), "it was given, so the tenant has a server of its own"


# ---------------------------------------------------------------- mailboxes of the file


async def test_dpm_s4_provisioned_mailbox_is_changed_in_what_the_file_calls_editable_and_stays_so(
    portal: Portal,
) -> None:
    shown = await portal.desk.change("relay", {"host": "relay-b.platform.example"}, "jana")
    assert (shown.managed, shown.revision, shown.changed_by) == (True, 1, "jana")
    later = Directories(Base(FILE, {}), portal.kept, Keyring(), lambda _event: None)  # a worker that has restarted
    endpoint = (await later.loaded()).mailboxes["relay"].endpoint
    assert isinstance(endpoint, SmtpEndpoint)
    assert endpoint.host == "relay-b.platform.example"
    shown = await portal.desk.change("relay", {"host": None}, "jana")
    assert shown.settings["host"] == "relay-a.platform.example", "what is taken back is the file's again"


async def test_dpm_w6_sender_of_a_managed_relay_may_be_changed_and_nothing_else(portal: Portal) -> None:
    shown = await portal.desk.change("relay", {"address": "it@platform.example", "display_name": "IT"}, "jana")
    assert (shown.settings["address"], shown.settings["display_name"]) == ("it@platform.example", "IT")
    page = {**shown.settings, "display_name": "IT desk"}
    assert (await portal.desk.replace("relay", page, "jana", 1)).settings["display_name"] == "IT desk"
    for barred in ({"port": 2525}, {"tenants": ["contoso"]}, {"login": {"username": "x"}}, {"editable": ["port"]}):
        with pytest.raises(Managed, match="only address, display_name, host, enabled may be changed here"):
            await portal.desk.change("relay", barred, "jana")
    with pytest.raises(Managed, match="change it there"):
        await portal.desk.change("platform", {"display_name": "x"}, "jana")
    with pytest.raises(Invalid, match="address: "):
        await portal.desk.change("relay", {"address": "nobody"}, "jana")
    with pytest.raises(Changed):
        await portal.desk.change("relay", {"display_name": "x"}, "omar", 1)


async def test_managed_mailbox_whose_switch_is_editable_is_switched_off_and_on(portal: Portal) -> None:
    assert (await portal.desk.switch("relay", "jana", on=False)).state == "disabled"
    assert isinstance(route(notification(tenant="fabrikam"), await portal.directory()), Wait)
    assert (await portal.desk.switch("relay", "jana", on=True)).state == "ok"
    with pytest.raises(Managed):
        await portal.desk.switch("platform", "jana", on=False)


async def test_file_that_takes_a_key_back_counts_again(portal: Portal) -> None:
    await portal.desk.change("relay", {"host": "relay-b.platform.example", "display_name": "IT"}, "jana")
    relay = {**FILE["mailboxes"]["relay"], "editable": ["display_name"]}
    tree = {**FILE, "mailboxes": {**FILE["mailboxes"], "relay": relay}}
    shown = await Administration(Base(tree, {}), portal.kept, Keyring()).one("relay")
    assert (shown.settings["host"], shown.settings["display_name"]) == ("relay-a.platform.example", "IT")
