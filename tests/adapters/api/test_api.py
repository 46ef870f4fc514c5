"""The management API, as a portal's settings page uses it."""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from contracts.delivery import DeliveryStatus, Result
from tests.adapters.api.conftest import Api
from tests.factories import NOON
from worker.api.tokens import Role
from worker.domain.delivery import Key, Progress
from worker.emulator.run import Emulator
from worker.ports import Claimed, Settlement

SECRET = "correct horse battery staple"
OWN: dict[str, Any] = {
    "address": "info@contoso.example",
    "tenants": ["contoso"],
    "host": "smtp.contoso.example",
    "login": {"username": "info", "password": SECRET},
}
NEW = {"name": "contoso", "settings": OWN}


async def test_added_mailbox_is_shown_with_its_secret_set_and_never_told(api: Api) -> None:
    async with api.client(Role.MANAGE, Role.READ) as portal:
        made = await portal.post("/mailboxes", json=NEW)
        assert made.status_code == HTTPStatus.CREATED
        assert made.headers["location"] == "/mailboxes/contoso"
        shown = await portal.get("/mailboxes/contoso")
        listed = await portal.get("/mailboxes")
    assert shown.json()["settings"]["login"] == {"username": "info", "password": {"set": True}}
    assert shown.json()["changed_by"] == "manage-read"
    assert shown.headers["etag"] == '"1"'
    assert {each["name"]: each["managed"] for each in listed.json()["mailboxes"]} == {
        "platform": True,
        "contoso": False,
    }
    for answer in (made, shown, listed):
        assert SECRET not in answer.text
        assert "secret-of-the-file" not in answer.text


async def test_settings_page_that_saves_with_a_blank_password_keeps_it(api: Api) -> None:
    async with api.client(Role.MANAGE) as portal:
        await portal.post("/mailboxes", json=NEW)
        settings = {**OWN, "display_name": "Contoso", "login": {"username": "info", "password": ""}}
        saved = await portal.put("/mailboxes/contoso", json=settings, headers={"If-Match": '"1"'})
    assert saved.status_code == HTTPStatus.OK
    assert saved.json()["settings"]["login"]["password"] == {"set": True}
    assert saved.json()["state"] == "ok"
    kept = (await api.desk.directory()).mailboxes["contoso"].endpoint
    assert kept.credentials.password.get_secret_value() == SECRET  # type: ignore[union-attr]


async def test_deleting_a_secret_is_an_action_of_its_own(api: Api) -> None:
    async with api.client(Role.MANAGE) as portal:
        await portal.post("/mailboxes", json=NEW)
        forgotten = await portal.delete("/mailboxes/contoso/secrets/login.password")
        again = await portal.delete("/mailboxes/contoso/secrets/login.password")
    assert forgotten.json()["settings"]["login"]["password"] == {"set": False}
    assert forgotten.json()["state"] == "unusable"
    assert "login.password is not set" in forgotten.json()["explanation"]
    assert again.status_code == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/mailboxes", Role.READ),
        ("GET", "/mailboxes/contoso", Role.READ),
        ("POST", "/mailboxes", Role.MANAGE),
        ("PUT", "/mailboxes/contoso", Role.MANAGE),
        ("PATCH", "/mailboxes/contoso", Role.MANAGE),
        ("DELETE", "/mailboxes/contoso", Role.MANAGE),
        ("DELETE", "/mailboxes/contoso/secrets/login.password", Role.MANAGE),
        ("POST", "/mailboxes/contoso/test", Role.MANAGE),
        ("POST", "/mailboxes/contoso/enable", Role.MANAGE),
        ("POST", "/mailboxes/contoso/disable", Role.MANAGE),
        ("POST", "/mailboxes/contoso/pause", Role.MANAGE),
        ("POST", "/mailboxes/contoso/resume", Role.MANAGE),
        ("POST", "/mailboxes/contoso/test-mail", Role.MANAGE),
        ("GET", "/scopes", Role.READ),
        ("GET", "/scopes/platform", Role.READ),
        ("PATCH", "/scopes/tenants/contoso", Role.MANAGE),
        ("DELETE", "/scopes/tenants/contoso", Role.MANAGE),
        ("POST", "/scopes/tenants/contoso/sites/shop/stop", Role.MANAGE),
        ("POST", "/scopes/tenants/contoso/sites/shop/start", Role.MANAGE),
        ("GET", "/tenant-settings", Role.READ),
        ("GET", "/tenants/contoso/settings", Role.READ),
        ("PATCH", "/tenants/contoso/settings", Role.MANAGE),
        ("DELETE", "/tenants/contoso/settings/SMTP.Password", Role.MANAGE),
        ("GET", "/audit", Role.AUDIT),
        ("GET", "/doubts", Role.AUDIT),
        ("POST", "/doubts/contoso/n-1/resolve", Role.DOUBTS),
        ("GET", "/notifications/contoso/n-1", Role.AUDIT),
    ],
)
async def test_token_with_every_other_role_is_forbidden_and_written_down(
    api: Api, method: str, path: str, role: Role
) -> None:
    await api.desk.add("contoso", OWN, "jana")
    before = await api.desk.everything()
    others = [each for each in Role if each is not role]
    async with api.client(*others) as portal:
        refused = await portal.request(method, path, json={})
    assert refused.status_code == HTTPStatus.FORBIDDEN
    assert refused.headers["content-type"] == "application/problem+json"
    assert role in refused.json()["detail"]
    assert await api.desk.everything() == before
    _, line = (await api.desk.audit(limit=1))[0]
    assert (line.action, line.subject, line.detail) == ("forbidden", f"{method} {path}", role)


@pytest.mark.parametrize("token", ["", "postlane_guessed", "x" * 5000])
async def test_unknown_token_is_turned_away_without_a_word_about_what_is_there(api: Api, token: str) -> None:
    await api.desk.add("contoso", OWN, "jana")
    async with api.client(token=token) as stranger:
        answers = [await stranger.get(f"/mailboxes/{name}") for name in ("contoso", "nobody")]
    assert {answer.status_code for answer in answers} == {HTTPStatus.UNAUTHORIZED}
    assert answers[0].text == answers[1].text
    assert answers[0].headers["www-authenticate"].startswith("Bearer")


async def test_token_that_is_taken_out_of_the_file_is_good_for_nothing_at_once(api: Api) -> None:
    async with api.client(Role.READ) as portal:
        assert (await portal.get("/mailboxes")).status_code == HTTPStatus.OK
        api.tokens_file.write_text("", encoding="utf-8")
        assert (await portal.get("/mailboxes")).status_code == HTTPStatus.UNAUTHORIZED
        api.tokens_file.write_text("[tokens.x]\nsha256 = 1\n", encoding="utf-8")
        assert (await portal.get("/mailboxes")).status_code == HTTPStatus.SERVICE_UNAVAILABLE


async def test_tokens_file_holds_no_token(api: Api) -> None:
    api.client(Role.READ)
    assert api.tokens["read"].startswith("postlane_")
    assert api.tokens["read"] not in api.tokens_file.read_text(encoding="utf-8")
    assert api.tokens_file.stat().st_mode & 0o077 == 0


async def test_two_who_save_the_same_page_do_not_overwrite_each_other(api: Api) -> None:
    async with api.client(Role.MANAGE) as portal:
        await portal.post("/mailboxes", json=NEW)
        first = await portal.patch("/mailboxes/contoso", json={"display_name": "One"}, headers={"If-Match": '"1"'})
        second = await portal.patch("/mailboxes/contoso", json={"display_name": "Two"}, headers={"If-Match": '"1"'})
        blind = await portal.put("/mailboxes/contoso", json=OWN)
        removed = await portal.delete("/mailboxes/contoso", headers={"If-Match": first.headers["etag"]})
    assert (first.status_code, first.headers["etag"]) == (HTTPStatus.OK, '"2"')
    assert second.status_code == HTTPStatus.PRECONDITION_FAILED
    assert blind.status_code == HTTPStatus.PRECONDITION_REQUIRED
    assert removed.status_code == HTTPStatus.NO_CONTENT


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({**OWN, "port": 993}, ""),
        ({**OWN, "hots": "x"}, "hots"),
        ({**OWN, "login": {"username": "info", "password": {"value": SECRET}}}, "login.password"),
        ({**OWN, "login": {"username": "info", "password": "env:POSTLANE_SECRETS__KEY"}}, "login.password_env"),
        ({**OWN, "login": {"username": "info", "password_file": "/etc/shadow"}}, "login.password_file"),
        ({**OWN, "login": [SECRET]}, "login"),
    ],
)
async def test_wrong_settings_are_a_problem_that_names_the_key_and_not_the_secret(
    api: Api, settings: dict[str, Any], key: str
) -> None:
    async with api.client(Role.MANAGE) as portal:
        refused = await portal.post("/mailboxes", json={"name": "contoso", "settings": settings})
    assert refused.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert [error["key"] for error in refused.json()["errors"]] == [key] or not key
    assert SECRET not in refused.text
    assert [each.name for each in await api.desk.everything()] == ["platform"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
async def test_body_that_is_no_object_is_a_bad_request(api: Api, body: bytes) -> None:
    async with api.client(Role.MANAGE) as portal:
        assert (await portal.post("/mailboxes", content=body)).status_code == HTTPStatus.BAD_REQUEST


async def test_body_that_is_too_large_is_not_read_to_its_end(api: Api) -> None:
    async with api.client(Role.MANAGE) as portal:
        refused = await portal.post("/mailboxes", content=b" " * (1024 * 1024))
    assert refused.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


async def test_mailbox_of_the_file_cannot_be_changed_over_the_api(api: Api) -> None:
    async with api.client(Role.MANAGE) as portal:
        for answer in (
            await portal.patch("/mailboxes/platform", json={"enabled": False}),
            await portal.post("/mailboxes", json={"name": "Platform", "settings": OWN}),
            await portal.delete("/mailboxes/platform", headers={"If-Match": "*"}),
        ):
            assert answer.status_code == HTTPStatus.CONFLICT
            assert "change it there" in answer.json()["detail"]


async def test_pause_of_a_mailbox_is_seen_and_ended(api: Api) -> None:
    async with api.client(Role.MANAGE) as portal:
        paused = await portal.post("/mailboxes/platform/pause", json={"because": "moving", "seconds": 600})
        wrong = await portal.post("/mailboxes/platform/pause", json={"seconds": -1})
        resumed = await portal.post("/mailboxes/platform/resume")
    assert paused.json()["state"] == "paused"
    assert paused.json()["paused"]["because"] == "moving"
    assert wrong.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert (resumed.json()["state"], resumed.json()["paused"]) == ("ok", None)


async def test_mailbox_is_switched_off_and_on(api: Api) -> None:
    async with api.client(Role.MANAGE) as portal:
        await portal.post("/mailboxes", json=NEW)
        assert (await portal.post("/mailboxes/contoso/disable")).json()["state"] == "disabled"
        assert (await portal.post("/mailboxes/contoso/enable")).json()["state"] == "ok"


async def test_test_logs_in_with_the_stored_secret_and_sends_nothing(api: Api, emulator: Emulator) -> None:
    account = emulator.plan.ordinary_mailboxes[0]
    settings = {
        "address": account.address,
        "host": "localhost",
        "port": emulator.ordinary.port,
        "ca_file": str(emulator.certificates.ca_file.resolve()),
        "login": {"username": account.address, "password": account.password},
    }
    async with api.client(Role.MANAGE) as portal:
        await portal.post("/mailboxes", json={"name": "own", "settings": settings})
        well = await portal.post("/mailboxes/own/test")
        await portal.patch("/mailboxes/own", json={"login": {"password": "wrong"}})
        refused = await portal.post("/mailboxes/own/test")
        nobody = await portal.post("/mailboxes/nobody/test")
    assert (well.json()["well"], well.json()["state"]) == (True, "ok")
    assert (refused.json()["well"], refused.json()["state"]) == (False, "login-refused")
    assert nobody.status_code == HTTPStatus.NOT_FOUND
    assert emulator.accepted.log.read_text(encoding="utf-8") == ""


async def in_doubt(api: Api) -> Key:
    """A notification of which nobody knows whether it was accepted."""
    golden = json.loads(Path("contracts/examples/result-in-doubt.json").read_text(encoding="utf-8"))
    result = Result.model_validate(golden, strict=False)
    key = Key(result.tenant.lower(), result.notification_id)
    claimed = await api.store.claim(key, "digest", Progress(first_seen=NOON), NOON)
    assert isinstance(claimed, Claimed)
    await api.store.settle(claimed, Settlement(Progress(first_seen=NOON), (result,)))
    return key


async def test_doubt_is_listed_found_and_resolved_once(api: Api) -> None:
    key = await in_doubt(api)
    async with api.client(Role.AUDIT, Role.DOUBTS) as portal:
        listed = await portal.get("/doubts")
        assert [each["notification_id"] for each in listed.json()["doubts"]] == [key.notification_id]
        path = f"/doubts/{key.tenant}/{key.notification_id}/resolve"
        assert (await portal.post(path, json={})).status_code == HTTPStatus.UNPROCESSABLE_ENTITY
        resolved = await portal.post(path, json={"accepted": True})
        assert resolved.json()["status"] == DeliveryStatus.RESOLVED
        assert (await portal.post(path, json={"accepted": True})).status_code == HTTPStatus.NOT_FOUND
        found = await portal.get(f"/notifications/{key.tenant}/{key.notification_id}")
        assert found.json() == resolved.json()
        assert (await portal.get(f"/notifications/{key.tenant}/other")).status_code == HTTPStatus.NOT_FOUND
        lines = (await portal.get("/audit", params={"limit": 1})).json()["lines"]
    assert (lines[0]["actor"], lines[0]["action"]) == ("read-resolve", "resolve")


async def test_openapi_document_describes_every_path_without_a_token(api: Api) -> None:
    async with api.client(token="") as stranger:
        document = (await stranger.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    assert {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods} >= {
        "GET /mailboxes",
        "PATCH /mailboxes/{name}",
        "POST /mailboxes/{name}/test",
        "POST /doubts/{tenant}/{id}/resolve",
    }
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    wanted = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert wanted <= schemas.keys()
    assert schemas["_Login"]["properties"]["password"]["anyOf"][0]["writeOnly"] is True


async def test_what_is_not_there_is_a_problem_too(api: Api) -> None:
    async with api.client(Role.READ) as portal:
        for answer in (
            await portal.get("/nothing"),
            await portal.get("/mailboxes/nobody"),
            await portal.delete("/audit"),
        ):
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == answer.status_code
