"""The emulated Entra as other people's clients see it: what it issues, and what it says instead."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import tomllib
import uuid
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import jwt
import msal
import pytest
import requests

from tests.adapters.emulator.cloud import BOX, CLIENT_ID, GRAPH, PERSONS_SMTP, SECRET, SMTP, TENANT_ID, Cloud
from worker.emulator.entra import ERRORS
from worker.emulator.scenario import DROP, LOST, SILENT, Moment, Rule, catalogue, load

OUR_OWN = "OWN"
IMAP = "https://outlook.office.com/IMAP.AccessAsUser.All"
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def rows() -> list[dict[str, Any]]:
    """Of the verdicts about token authorities, those that an authority's answer leads to."""
    text = files("worker.domain").joinpath("verdicts", "oauth.toml").read_text(encoding="utf-8")
    return [row for row in tomllib.loads(text)["row"] if row["source"] != OUR_OWN]


def several(value: Any) -> set[Any]:
    return set(value if isinstance(value, list) else [value]) - {None}


def claims(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


# ---------------------------------------------------------------- rules


async def test_client_named_like_a_rule_meets_its_answer(cloud: Cloud) -> None:
    for rule, answer in await met(cloud):
        status, _, words = rule.reply.partition(" ")
        assert answer.status_code == int(status), rule.name
        assert answer.headers.get("Retry-After") == (str(rule.retry_after) if rule.retry_after else None)
        if words:
            error, _, text = words.partition(" ")
            assert answer.json()["error"] == error
            assert answer.json()["error_description"].startswith(text)


async def test_every_row_about_a_token_authority_can_be_met_number_by_number(cloud: Cloud) -> None:
    told = [answer.json() for rule, answer in await met(cloud) if " " in rule.reply]
    numbers = {number for each in told for number in each.get("error_codes", [])}
    errors = {each["error"] for each in told if "error_codes" not in each}
    for row in rows():
        assert several(row.get("aadsts")) <= numbers, row["id"]
        assert several(row.get("oauth_error")) <= errors, row["id"]


async def met(cloud: Cloud) -> list[tuple[Rule, httpx2.Response]]:
    """All rules that answer instead of issuing a token."""
    rules = [rule for rule in catalogue().rules.values() if rule.moment is Moment.TOKEN]
    spoken = [rule for rule in rules if rule.reply not in {DROP, LOST, SILENT, "200"}]
    answers = await asyncio.gather(*(cloud.app(client_id=rule.name) for rule in spoken))
    return list(zip(spoken, answers, strict=True))


def test_rule_of_a_number_says_what_the_endpoint_says_by_itself() -> None:
    rules = catalogue().rules
    own = {number: f"{status} {error} AADSTS{number}: {text}" for number, (status, error, text) in ERRORS.items()}
    assert {number: rules[f"aadsts-{number}"].reply for number in ERRORS} == own


async def test_scenario_of_a_number_is_met_by_everybody_and_can_be_narrowed(cloud: Cloud) -> None:
    cloud.emulator.play("aadsts-7000222")
    assert (await cloud.app()).json()["error_codes"] == [7000222]
    cloud.emulator.play("aadsts-7000222:somebody-else@*")
    assert (await cloud.app()).status_code == 200
    cloud.emulator.play(f"aadsts-7000222:{CLIENT_ID}@*")
    assert (await cloud.app()).json()["error_codes"] == [7000222]


async def test_rule_of_ones_own_waits_speaks_once_and_is_silent_then(tmp_path: Path, cloud: Cloud) -> None:
    path = tmp_path / "own.toml"
    rule = 'name = "ours"\nmoment = "token"\nreply = "400 invalid_grant Not today."\ntimes = 1\ndelay = 0.01\n'
    path.write_text(f"[[rule]]\n{rule}")
    cloud.emulator.backstage.play.now_play([load(path).find("ours")])
    refused = await cloud.app()
    assert (refused.status_code, refused.json()) == (
        400,
        {"error": "invalid_grant", "error_description": "Not today."},
    )
    assert (await cloud.app()).status_code == 200


async def test_client_named_like_a_rule_that_has_spoken_is_the_usual_app(cloud: Cloud) -> None:
    assert (await cloud.app(client_id="token-unavailable-once")).status_code == 503
    answer = await cloud.app(SMTP, client_id="token-unavailable-once")
    assert cloud.emulator.authority.check(BOX, answer.json()["access_token"]) == ""


async def test_token_that_is_lost_was_issued(cloud: Cloud) -> None:
    cloud.emulator.play("token-lost")
    with pytest.raises(httpx2.TransportError):
        await cloud.app()
    (asked,) = cloud.emulator.authority.asked
    assert asked.ok


# ---------------------------------------------------------------- what an error says


async def test_error_has_everything_that_support_asks_for(cloud: Cloud) -> None:
    correlation = str(uuid.uuid4())
    address = f"{cloud.emulator.token_url}/{TENANT_ID}/oauth2/v2.0/token"
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": "wrong", "scope": SMTP}
    answer = await cloud.http.post(address, data=form, headers={"client-request-id": correlation})
    told = answer.json()
    assert (answer.status_code, told["error"], told["error_codes"]) == (401, "invalid_client", [7000215])
    assert told["correlation_id"] == correlation
    assert told["error_uri"] == "https://login.microsoftonline.com/error?code=7000215"
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"
    assert re.fullmatch(moment, told["timestamp"])
    words = rf"AADSTS7000215: .* Trace ID: {UUID} Correlation ID: {correlation} Timestamp: {moment}"
    assert re.fullmatch(words, told["error_description"])


@pytest.mark.parametrize(
    ("changes", "status", "error", "number"),
    [
        ({"tenant": "99999999-0000-0000-0000-000000000000"}, 400, "invalid_request", 90002),
        ({"tenant": "common"}, 400, "invalid_request", 50194),
        ({"grant_type": ""}, 400, "invalid_request", 900144),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
        ({"client_id": ""}, 400, "invalid_request", 900144),
        ({"client_id": "unknown"}, 400, "unauthorized_client", 700016),
        ({"scope": ""}, 400, "invalid_request", 900144),
        ({"scope": "https://nothing.example/.default"}, 400, "invalid_resource", 500011),
        ({"scope": f"{SMTP} {GRAPH}"}, 400, "invalid_scope", 70011),
    ],
)
async def test_request_of_an_app_is_refused_by_its_number(
    cloud: Cloud, changes: dict[str, str], status: int, error: str, number: int
) -> None:
    answer = await cloud.app(**changes)
    assert (answer.status_code, answer.json()["error"], answer.json()["error_codes"]) == (status, error, [number])


@pytest.mark.parametrize("missing", ["grant_type", "client_id"])
async def test_parameter_that_is_missing_is_named(cloud: Cloud, missing: str) -> None:
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": SECRET, "scope": SMTP}
    told = (await cloud.ask(**{name: value for name, value in form.items() if name != missing})).json()
    words = f"AADSTS900144: The request body must contain the following parameter: '{missing}'."
    assert told["error_description"].startswith(words)


async def test_body_that_is_no_text_is_a_bad_request(cloud: Cloud) -> None:
    address = f"{cloud.emulator.token_url}/{TENANT_ID}/oauth2/v2.0/token"
    for endpoint in (address, address.replace("/token", "/devicecode")):
        answer = await cloud.http.post(endpoint, content=b"grant_type=\xff")
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_assertion_that_is_odd_json_is_refused_and_no_outage(cloud: Cloud) -> None:
    odd = ".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).decode() for each in ([], [1], 2))
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    answer = await cloud.app(client_assertion_type=kind, client_assertion=odd)
    assert 400 <= answer.status_code < 500


# ---------------------------------------------------------------- clients of other people


async def test_client_that_shows_itself_by_http_basic_gets_a_token(cloud: Cloud) -> None:
    address = f"{cloud.emulator.token_url}/{TENANT_ID}/oauth2/v2.0/token"
    form = {"grant_type": "client_credentials", "scope": SMTP}
    good = await cloud.http.post(address, data=form, auth=(CLIENT_ID, SECRET))
    wrong = await cloud.http.post(address, data=form, auth=(CLIENT_ID, "wrong"))
    assert good.status_code == 200
    assert wrong.json()["error_codes"] == [7000215]


async def test_msal_gets_a_token_and_tells_the_correlation_id_of_a_refusal(cloud: Cloud) -> None:
    ca_file = str(cloud.emulator.certificates.ca_file)

    def asked(secret: str) -> dict[str, Any]:
        with requests.Session() as session:
            session.trust_env, session.verify = False, ca_file
            app = msal.ConfidentialClientApplication(
                CLIENT_ID,
                client_credential=secret,
                authority=f"{cloud.emulator.token_url}/{TENANT_ID}",
                instance_discovery=False,
                http_client=session,
            )
            return dict(app.acquire_token_for_client([GRAPH]))

    good, refused = await asyncio.to_thread(asked, SECRET), await asyncio.to_thread(asked, "wrong")
    assert claims(good["access_token"])["roles"] == ["Mail.Send", "Mail.ReadWrite"]
    assert refused["error_codes"] == [7000215]
    assert re.fullmatch(UUID, refused["correlation_id"])


async def test_id_token_is_signed_by_a_key_that_the_discovery_leads_to(cloud: Cloud) -> None:
    where = f"{cloud.emulator.token_url}/{TENANT_ID}/v2.0/.well-known/openid-configuration"
    found = (await cloud.http.get(where)).json()
    keys = jwt.PyJWKSet.from_dict((await cloud.http.get(found["jwks_uri"])).json())
    token = (await cloud.person())["id_token"]
    key = keys[jwt.get_unverified_header(token)["kid"]]
    said = jwt.decode(token, key, algorithms=["RS256"], audience=CLIENT_ID, issuer=found["issuer"])
    assert (said["preferred_username"], said["tid"]) == (BOX, TENANT_ID)


async def test_whoever_asks_which_clouds_there_are_is_sent_to_this_one(cloud: Cloud) -> None:
    asked = {
        "api-version": "1.1",
        "authorization_endpoint": f"{cloud.emulator.token_url}/{TENANT_ID}/oauth2/v2.0/authorize",
    }
    address = f"{cloud.emulator.token_url}/common/discovery/instance"
    told = (await cloud.http.get(address, params=asked)).json()
    assert told["metadata"][0]["aliases"] == [httpx2.URL(cloud.emulator.token_url).netloc.decode()]
    assert (await cloud.http.get(told["tenant_discovery_endpoint"])).json()["token_endpoint"].endswith("/token")


# ---------------------------------------------------------------- persons


async def test_refresh_without_a_scope_is_for_what_was_granted(cloud: Cloud) -> None:
    """As Nodemailer does it: `refreshToken`, `clientId`, `clientSecret`, and no scope (RFC 6749 section 6)."""
    first = await cloud.person(f"{PERSONS_SMTP} {IMAP} offline_access")
    again = (await cloud.refreshed(first["refresh_token"])).json()
    assert again["scope"] == first["scope"] == f"{PERSONS_SMTP} {IMAP}"
    assert claims(again["access_token"])["scp"] == "SMTP.Send IMAP.AccessAsUser.All"
    assert cloud.emulator.authority.check(BOX, again["access_token"]) == ""
    assert again["refresh_token"] != first["refresh_token"]


async def test_refresh_that_is_refused_leaves_the_refresh_token_as_good_as_it_was(cloud: Cloud) -> None:
    token = (await cloud.person())["refresh_token"]
    assert (await cloud.refreshed(token, client_secret="wrong")).json()["error_codes"] == [7000215]
    assert (await cloud.refreshed(token, scope=f"{PERSONS_SMTP} User.Read")).json()["error_codes"] == [70011]
    assert (await cloud.refreshed(token)).status_code == 200
    assert (await cloud.refreshed(token)).json()["error_codes"] == [70000], "each is good for one use"


async def test_public_client_refreshes_without_a_secret_and_another_must_show_one(cloud: Cloud) -> None:
    token = (await cloud.person())["refresh_token"]
    form = {"grant_type": "refresh_token", "client_id": CLIENT_ID}
    token = (await cloud.ask(**form, refresh_token=token)).json()["refresh_token"]
    cloud.emulator.authority.replace_app(replace(cloud.emulator.plan.apps[0], public=False))
    assert (await cloud.ask(**form, refresh_token=token)).json()["error_codes"] == [7000218]


async def test_whoever_does_not_ask_to_stay_signed_in_gets_no_refresh_token(cloud: Cloud) -> None:
    answer = await cloud.person(PERSONS_SMTP)
    assert "refresh_token" not in answer
    assert "id_token" not in answer


async def test_sign_in_that_is_over_waits_for_nobody(cloud: Cloud) -> None:
    await cloud.person()
    assert cloud.emulator.authority.user_codes == ()


# ---------------------------------------------------------------- from outside


@pytest.mark.parametrize(
    "wish", [{"client_id": CLIENT_ID, "aadsts": 12345}, {"client_id": CLIENT_ID, "lunch": 1}, {"status": 503}, [], "no"]
)
async def test_trouble_that_does_not_exist_is_refused_and_nothing_is_troubled(cloud: Cloud, wish: object) -> None:
    answer = await cloud.http.post(f"{cloud.emulator.token_url}/_emulator/token-trouble", json=wish)
    assert (answer.status_code, "problem" in answer.json()) == (400, True)
    assert (await cloud.app()).status_code == 200
