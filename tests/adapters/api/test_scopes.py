"""Scopes and a tenant's own settings over the management API, and a test mail over a chosen mailbox."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest

from tests.adapters.api.conftest import Api
from worker.api.tokens import Role
from worker.emulator.run import Emulator

SECRET = "correct horse battery staple"
FOUR = {
    "SMTP.Server": "smtp.contoso.example",
    "SMTP.Port": 587,
    "SMTP.Username": "info@contoso.example",
    "SMTP.Password": SECRET,
}


async def test_scope_is_set_stopped_started_and_removed(api: Api) -> None:
    shop = "/scopes/tenants/contoso/sites/shop"
    async with api.client(Role.MANAGE, Role.READ) as portal:
        assert (await portal.get(shop)).status_code == HTTPStatus.NOT_FOUND
        made = await portal.patch(shop, json={"purposes_off": ["form"]}, headers={"If-Match": '"0"'})
        assert (made.status_code, made.headers["etag"]) == (HTTPStatus.OK, '"1"')
        assert (await portal.post(f"{shop}/stop")).json()["state"] == "held"
        assert (await portal.post(f"{shop}/stop", json={"how": "refuse"})).json()["state"] == "refused"
        assert (await portal.post(f"{shop}/stop", json={"how": "x"})).status_code == HTTPStatus.UNPROCESSABLE_ENTITY
        listed = (await portal.get("/scopes")).json()["scopes"]
        assert [(each["name"], each["settings"]) for each in listed] == [
            ("tenants/contoso/sites/shop", {"purposes_off": ["form"], "stop": "refuse"})
        ]
        assert (await portal.post(f"{shop}/start")).json()["state"] == "flowing"
        assert (await portal.delete(shop)).status_code == HTTPStatus.PRECONDITION_REQUIRED
        stale = await portal.delete(shop, headers={"If-Match": '"1"'})
        assert stale.status_code == HTTPStatus.PRECONDITION_FAILED
        assert (await portal.delete(shop, headers={"If-Match": "*"})).status_code == HTTPStatus.NO_CONTENT
    assert [line.action for _, line in await api.desk.audit(limit=2)] == ["scope remove", "scope start"]


async def test_scope_that_would_be_wrong_is_a_problem_that_names_the_key(api: Api) -> None:
    async with api.client(Role.MANAGE) as portal:
        refused = await portal.patch("/scopes/tenants/contoso", json={"stopp": "hold"})
        nowhere = await portal.patch("/scopes/contoso", json={"stop": "hold"})
    assert refused.status_code == nowhere.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert [error["key"] for error in refused.json()["errors"]] == ["stopp"]
    assert "tenants/NAME" in nowhere.text


async def test_keys_of_a_tenant_are_published_with_their_types(api: Api) -> None:
    async with api.client(Role.READ) as portal:
        keys = (await portal.get("/tenant-settings")).json()["keys"]
    assert {each["key"]: (each["type"], each["required"]) for each in keys} == {
        "SMTP.Server": ("Text", True),
        "SMTP.Port": ("Number", True),
        "SMTP.Username": ("Text", True),
        "SMTP.Password": ("Password", True),
        "SMTP.SenderName": ("Text", False),
        "SMTP.SenderAddress": ("Email", False),
    }


async def test_settings_page_of_a_tenant_fills_in_keys_until_none_is_missing(api: Api) -> None:
    page = "/tenants/contoso/settings"
    async with api.client(Role.MANAGE, Role.READ) as portal:
        assert (await portal.get(page)).json()["state"] == "default"
        three = {key: value for key, value in FOUR.items() if key != "SMTP.Password"}
        first = await portal.patch(page, json=three)
        assert (first.json()["state"], first.json()["explanation"]) == ("incomplete", "incomplete: SMTP.Password")
        whole = await portal.patch(page, json={"SMTP.Password": SECRET})
        assert (whole.json()["state"], whole.json()["missing"]) == ("ok", [])
        assert whole.json()["values"]["SMTP.Password"] == {"set": True}
        blank = await portal.patch(page, json={"SMTP.Password": "", "SMTP.SenderName": "Contoso"})
        assert blank.json()["values"]["SMTP.Password"] == {"set": True}
        gone = await portal.delete(f"{page}/SMTP.Password")
        assert gone.json()["explanation"] == "incomplete: SMTP.Password"
        again = await portal.delete(f"{page}/SMTP.Password")
        assert again.status_code == HTTPStatus.NOT_FOUND
        for answer in (first, whole, blank, gone, await portal.get(page), await portal.get("/mailboxes")):
            assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"SMTP.Port": "587"}, "SMTP.Port"),
        ({"SMTP.Port": True}, "SMTP.Port"),
        ({"SMTP.Port": 70000}, "SMTP.Port"),
        ({"SMTP.Hots": "smtp.example"}, "SMTP.Hots"),
        ({"SMTP.Server": "smtp.example:587"}, "SMTP.Server"),
        ({"SMTP.Server": ""}, "SMTP.Server"),
        ({"SMTP.SenderAddress": "nobody"}, "SMTP.SenderAddress"),
        ({"SMTP.Password": {"value": SECRET}}, "SMTP.Password"),
        ({"SMTP.Password": "env:POSTLANE_SECRETS__KEY"}, "SMTP.Password"),
        ({**FOUR, "SMTP.Username": "info"}, "SMTP.SenderAddress"),
    ],
)
async def test_wrong_value_is_refused_by_its_key_and_nothing_is_kept(
    api: Api, values: dict[str, Any], key: str
) -> None:
    async with api.client(Role.MANAGE) as portal:
        refused = await portal.patch("/tenants/contoso/settings", json=values)
    assert refused.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert [error["key"].removesuffix("_env") for error in refused.json()["errors"]] == [key]
    assert SECRET not in refused.text
    assert [each.name for each in await api.desk.everything()] == ["platform"]


def own(emulator: Emulator, **fields: Any) -> dict[str, Any]:
    account = emulator.plan.ordinary_mailboxes[0]
    return {
        "address": account.address,
        "tenants": ["contoso"],
        "host": "localhost",
        "port": emulator.ordinary.port,
        "ca_file": str(emulator.certificates.ca_file.resolve()),
        "login": {"username": account.address, "password": account.password},
        **fields,
    }


def taken(emulator: Emulator) -> list[dict[str, Any]]:
    return [json.loads(line) for line in emulator.accepted.log.read_text(encoding="utf-8").splitlines()]


async def test_test_mail_goes_over_the_chosen_mailbox_and_over_a_disabled_one_only_if_asked(
    api: Api, emulator: Emulator
) -> None:
    await api.desk.add("own", own(emulator, enabled=False), "jana")
    async with api.client(Role.MANAGE) as portal:
        refused = await portal.post("/mailboxes/own/test-mail", json={"to": "jana@people.example"})
        assert refused.status_code == HTTPStatus.CONFLICT
        assert "switched off" in refused.json()["detail"]
        assert taken(emulator) == []
        sent = await portal.post("/mailboxes/own/test-mail", json={"to": "jana@people.example", "even_disabled": True})
        for wrong in ({}, {"to": "jana"}, {"to": "jana@people.example", "cc": "x"}):
            answer = await portal.post("/mailboxes/own/test-mail", json=wrong)
            assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
        nobody = await portal.post("/mailboxes/nobody/test-mail", json={"to": "jana@people.example"})
    assert (sent.json()["status"], sent.json()["well"]) == ("accepted", True)
    assert [mail["rcpt_to"] for mail in taken(emulator)] == [["jana@people.example"]]
    assert nobody.status_code == HTTPStatus.NOT_FOUND
    _, line = (await api.desk.audit(limit=1))[0]
    assert (line.action, line.subject, line.detail) == ("mailbox test mail", "own", "to jana@people.example: accepted")


async def test_test_mail_gets_past_no_redirect_and_a_refused_login_is_told_and_not_tried_again(
    api: Api, emulator: Emulator
) -> None:
    await api.desk.add("own", own(emulator), "jana")
    to = {"to": "jana@people.example"}
    async with api.client(Role.MANAGE) as portal:
        await portal.patch("/scopes/tenants/contoso", json={"redirect_to": "sandbox@test.example"})
        sent = await portal.post("/mailboxes/own/test-mail", json=to)
        assert (sent.json()["status"], sent.json()["redirected_to"]) == ("accepted", "sandbox@test.example")
        await portal.post("/scopes/platform/stop")
        assert (await portal.post("/mailboxes/own/test-mail", json=to)).json()["status"] == "deferred"
        await portal.post("/scopes/platform/start")
        await portal.patch("/mailboxes/own", json={"login": {"password": SECRET}})
        refused = (await portal.post("/mailboxes/own/test-mail", json=to)).json()
        resting = (await portal.post("/mailboxes/own/test-mail", json=to)).json()
    assert [mail["rcpt_to"] for mail in taken(emulator)] == [["sandbox@test.example"]]
    assert (refused["status"], refused["well"]) == ("deferred", False)
    assert refused["server_reply"].startswith("535")
    assert resting["status"] == "deferred"
    assert resting["server_reply"] is None, "a mailbox that rests is not asked again"
    assert SECRET not in json.dumps([refused, resting])
