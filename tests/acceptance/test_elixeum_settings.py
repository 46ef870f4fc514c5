"""A tenant's own server by the keys of Elixeum's settings page, filled in over the API while a worker runs."""

from __future__ import annotations

import base64
import json
import ssl
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from contracts.delivery import Because, DeliveryStatus
from tests.acceptance.installation import Installation, mailbox, notification
from tests.acceptance.server import MailServer
from tests.neighbours import PATIENCE, WorkerProcess, free_port
from worker.emulator.authority import Certificates
from worker.sealing import new_key

PASSWORD = "the-password-of-the-tenant"
PAGE = "/tenants/one/settings"
KEYS = {
    "SMTP.Server": "Text",
    "SMTP.Port": "Number",
    "SMTP.Username": "Text",
    "SMTP.Password": "Password",
    "SMTP.SenderName": "Text",
    "SMTP.SenderAddress": "Email",
}


ROLES = {
    "read": "mail.settings.read",
    "manage": "mail.settings.manage",
    "doubts": "mail.doubts.resolve",
    "audit": "mail.audit.read",
}


@dataclass
class Portal:
    """A portal's settings page before a worker with the default mailbox.

    Attributes:
        answers: everything that the API has said.
    """

    lane: Installation
    worker: WorkerProcess
    url: str
    tokens: dict[str, str] = field(default_factory=dict)
    answers: list[httpx2.Response] = field(default_factory=list)

    async def ask(self, method: str, path: str, body: object = None, *, role: str = "manage") -> httpx2.Response:
        """With a token that has this role and no other."""
        if role not in self.tokens:
            said = await self.lane.postlane("api", "token", role, "--role", ROLES[role])
            assert said.status == 0, said.errors
            self.tokens[role] = said.output.split()[-1]
        async with httpx2.AsyncClient(base_url=self.url, timeout=PATIENCE) as client:
            headers = {"Authorization": f"Bearer {self.tokens[role]}"}
            answer = await client.request(method, path, json=body, headers=headers)
        self.answers.append(answer)
        return answer

    async def save(self, **keys: str | int) -> Any:
        """Save the page; Server=… stands for SMTP.Server."""
        answer = await self.ask("PATCH", PAGE, {f"SMTP.{key}": value for key, value in keys.items()})
        assert answer.is_success, answer.text
        return answer.json()

    async def followed(self, changes: int) -> None:
        """Wait until the worker has taken up so many changes."""
        await self.worker.logged("mailboxes changed", number=changes)

    async def sends(self, notification_id: str) -> tuple[str, Because]:
        """Through which mailbox a notification of the tenant is accepted."""
        result = await self.lane.post.send(notification(notification_id, "one"))
        assert result.status is DeliveryStatus.ACCEPTED, result.reason
        assert result.mailbox is not None
        return result.mailbox.name, result.mailbox.because


@pytest.fixture
async def portal(lane: Installation, c: MailServer, certificates: Certificates) -> Portal:
    """With C behind the platform's default mailbox; the machine trusts the servers' certificates."""
    port = free_port()
    lane.settings |= {
        "SSL_CERT_FILE": str(certificates.ca_file.resolve()),
        "POSTLANE_SECRETS__KEY": new_key(),
        "POSTLANE_API__TOKENS_FILE": str(lane.directory / "tokens.toml"),
        "POSTLANE_LOG__LEVEL": "debug",
    }
    (lane.directory / "tokens.toml").touch(mode=0o600)
    lane.configure('default = "no-reply"', mailbox("no-reply", c, address="no-reply@platform.example"))
    worker = await lane.worker(POSTLANE_API__PORT=str(port))
    return Portal(lane, worker, f"http://127.0.0.1:{port}")


async def test_elx_s4_keys_are_listed_with_their_types_and_what_is_none_of_them_is_refused(portal: Portal) -> None:
    listed = await portal.ask("GET", "/tenant-settings", role="read")
    assert {each["key"]: each["type"] for each in listed.json()["keys"]} == KEYS
    told = await portal.lane.postlane("tenant", "keys", "--json")
    assert {each["key"]: each["kind"] for each in told.json} == KEYS
    for key, value in (("SMTP.Host", "smtp.tenant.example"), ("SMTP.Port", "587"), ("SMTP.SenderAddress", "nobody")):
        refused = await portal.ask("PATCH", PAGE, {key: value})
        assert refused.status_code == 422
        assert key in refused.text
    assert (await portal.ask("GET", PAGE, role="read")).json()["state"] == "default"


@pytest.mark.row("ELX-S5", "ELX-S8")
async def test_own_server_is_used_with_the_fourth_key_and_its_password_is_nowhere_to_be_read(
    portal: Portal, a: MailServer, c: MailServer, server_tls: ssl.SSLContext
) -> None:
    a.starttls, a.needs_login, a.logins = server_tls, True, {"portal@tenant.example": PASSWORD}
    default, own = ("no-reply", Because.DEFAULT), ("one", Because.OWN)
    three = await portal.save(Server="localhost", Port=a.port, Username="portal@tenant.example")
    assert (three["state"], three["explanation"]) == ("incomplete", "incomplete: SMTP.Password")
    await portal.followed(1)
    assert await portal.sends("with-three") == default
    assert (await portal.save(Password=PASSWORD))["state"] == "ok"
    await portal.followed(2)
    assert await portal.sends("with-four") == own
    # The page shows the password blank, and is saved so.
    blank = await portal.save(Password="", SenderName="Tenant Portal")
    assert blank["values"]["SMTP.Password"] == {"set": True}
    await portal.followed(3)
    assert await portal.sends("saved-blank") == own
    assert [(mail.login, mail.secure, mail.message["From"]) for mail in a.taken] == [
        ("portal@tenant.example", True, "portal@tenant.example"),
        ("portal@tenant.example", True, "Tenant Portal <portal@tenant.example>"),
    ]
    # Deleting it is an action of its own.
    assert (await portal.ask("DELETE", f"{PAGE}/SMTP.Password")).json()["explanation"] == "incomplete: SMTP.Password"
    await portal.followed(4)
    assert await portal.sends("deleted") == default
    assert c.ids == ["with-three", "deleted"]
    await portal.save(Password=PASSWORD)
    await assert_nowhere(portal)


async def assert_nowhere(portal: Portal) -> None:
    """The password is in no place where somebody could read it."""
    lane = portal.lane
    for path in (PAGE, "/mailboxes", "/mailboxes/one"):
        await portal.ask("GET", path, role="read")
    await portal.ask("GET", "/audit", role="audit")
    told = [await lane.postlane(*words.split()) for words in ("tenant show one", "mailbox show one", "config show")]
    await portal.worker.stop()
    places = {
        "volume": b"".join(each.read_bytes() for each in lane.directory.rglob("*") if each.is_file()),
        "logs": "".join(portal.worker.raw).encode(),
        "results": "".join(result.model_dump_json() for result in lane.inbox.results).encode(),
        "answers": "".join(answer.text for answer in portal.answers).encode(),
        "commands": "".join(said.output + said.errors for said in told).encode(),
    }
    assert all(places.values()), "every place was looked into"
    for coded in (PASSWORD.encode(), base64.b64encode(PASSWORD.encode())):
        assert [place for place, content in places.items() if coded in content] == []


async def test_elx_s9_settings_are_changed_with_the_right_to_and_who_tried_without_is_written_down(
    portal: Portal, a: MailServer
) -> None:
    whole = {"SMTP.Server": "localhost", "SMTP.Port": a.port, "SMTP.Username": "portal@tenant.example"}
    whole["SMTP.Password"] = PASSWORD
    for role in ("read", "doubts", "audit"):
        refused = await portal.ask("PATCH", PAGE, whole, role=role)
        assert refused.status_code == 403
    assert (await portal.ask("GET", PAGE, role="read")).json()["state"] == "default"
    assert (await portal.ask("PATCH", PAGE, whole)).status_code == 200
    assert (await portal.ask("GET", PAGE, role="read")).json()["state"] == "ok"
    audit = (await portal.ask("GET", "/audit", role="audit")).json()["lines"]
    forbidden = {line["actor"] for line in audit if line["action"] == "forbidden"}
    assert forbidden == {"read", "doubts", "audit"}
    (changed,) = (line for line in audit if line["actor"] == "manage")
    assert changed["subject"] == "one"
    assert PASSWORD not in json.dumps(audit)
