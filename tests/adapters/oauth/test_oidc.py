"""A plain OpenID Connect issuer (RFC 6749), and everything that can be wrong with one."""

import asyncio
import base64
import json
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_plus

import pytest
import trustme
from pydantic import SecretStr

from tests.adapters.oauth.authority import DISCOVERY, Answer, Authority, Request, error, issuing, let_go, token
from tests.adapters.oauth.conftest import SECRET, Client
from tests.adapters.oauth.test_proofs import made
from worker.domain.delivery import Broken, Fault, Stage, TokenRefused
from worker.domain.mailbox import Certificate, OAuth, Secret
from worker.events import TokenFetched
from worker.ports import Token

PACKED = base64.b64encode(f"the-app:{SECRET}".encode()).decode()
HTML = Answer(200, "<html>Please log in to the hotel's network</html>", {"Content-Type": "text/html"})


async def refuse_to_answer(_request: Request) -> None:
    return None


def assert_broken(answer: object, fault: Fault) -> None:
    assert isinstance(answer, Broken), answer
    assert (answer.stage, answer.fault) == (Stage.TOKEN, fault)


# how it is meant to be


def methods(authority: Authority, *supported: str) -> None:
    told = authority.configuration(token_endpoint_auth_methods_supported=supported)
    authority.answers[authority.discovery_path] = Answer(body=json.dumps(told))


def in_header(request: Request) -> tuple[str, ...]:
    """Client and secret, as RFC 6749 section 2.3.1 has them."""
    pair = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
    return tuple(map(unquote_plus, pair.split(":")))


async def test_client_is_authenticated_in_the_header(client: Client, issuer: OAuth, authority: Authority) -> None:
    """client_secret_basic: what every issuer must support (RFC 6749 section 2.3.1)."""
    answer = await client.tokens.token("box", issuer)
    assert answer == Token("token-1", fresh=True)
    (request,) = authority.token_requests
    assert request.method == "POST"
    assert request.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert request.form == {"grant_type": "client_credentials", "scope": "api://mail/.default"}
    assert in_header(request) == ("the-app", SECRET)


async def test_client_is_authenticated_in_the_form_where_the_issuer_knows_only_that(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    methods(authority, "client_secret_post")
    assert await client.tokens.token("box", issuer) == Token("token-1", fresh=True)
    (request,) = authority.token_requests
    assert (request.form["client_id"], request.form["client_secret"]) == ("the-app", SECRET)
    assert "authorization" not in request.headers


async def test_way_that_this_client_is_not_registered_for_is_tried_once(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    """An issuer lists what it knows; which of them a client was registered with only the client's owner knows."""

    async def form_only(request: Request) -> Answer:
        if "client_secret" not in request.form:
            return error(401, "invalid_client")
        return token(f"token-{len(authority.token_requests)}", lifetime=0)

    methods(authority, "client_secret_basic", "client_secret_post")
    authority.answers[authority.token_path] = form_only
    assert await client.tokens.token("box", issuer) == Token("token-2", fresh=True)
    assert await client.tokens.token("box", issuer) == Token("token-3", fresh=True)


async def test_wrong_secret_is_tried_in_both_ways_and_no_more(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    authority.answers[authority.token_path] = error(401, "invalid_client")
    answer = await client.tokens.token("box", issuer)
    assert isinstance(answer, TokenRefused)
    assert answer.error == "invalid_client"
    assert len(authority.token_requests) == 2


async def test_issuer_without_a_path_is_asked_at_its_root(
    client: Client, issuer: OAuth, server_tls: ssl.SSLContext
) -> None:
    """Most issuers are a host alone."""
    async with issuing(server_tls, tenant="") as root:
        answer = await client.tokens.token("box", replace(issuer, authority=root.url))
        client.tokens.close()
    assert answer == Token("token-1", fresh=True)
    assert [request.path for request in root.requests] == ["/.well-known/openid-configuration", "/token"]


async def test_scope_that_nobody_has_named_is_left_out(client: Client, issuer: OAuth, authority: Authority) -> None:
    assert isinstance(await client.tokens.token("box", replace(issuer, scope="")), Token)
    assert authority.token_requests[0].form == {"grant_type": "client_credentials"}


async def test_nobody_but_the_issuer_is_asked(client: Client, issuer: OAuth, authority: Authority) -> None:
    """Of an issuer that is not Microsoft's, Microsoft is told nothing."""
    await client.tokens.token("box", issuer)
    assert [request.path for request in authority.requests] == [authority.discovery_path, authority.token_path]


async def test_secret_with_letters_of_any_kind_arrives(client: Client, issuer: OAuth, authority: Authority) -> None:
    odd = "ž&=+% \"'\\"
    assert isinstance(await client.tokens.token("box", replace(issuer, proof=Secret(SecretStr(odd)))), Token)
    assert in_header(authority.token_requests[0]) == ("the-app", odd)


async def test_short_lived_token_is_used_for_half_its_life(client: Client, issuer: OAuth, authority: Authority) -> None:
    authority.answers[authority.token_path] = token("short", lifetime=40)
    await client.tokens.token("box", issuer)
    assert await client.tokens.token("box", issuer) == Token("short", fresh=False)
    client.now += 21
    assert await client.tokens.token("box", issuer) == Token("short", fresh=True)
    assert len(authority.token_requests) == 2


async def test_token_without_a_lifetime_is_not_kept(client: Client, issuer: OAuth, authority: Authority) -> None:
    authority.answers[authority.token_path] = token("spent", lifetime=0)
    await client.tokens.token("box", issuer)
    assert await client.tokens.token("box", issuer) == Token("spent", fresh=True)


def unsaid(value: str, **more: object) -> Answer:
    """A token whose life is not told, or told oddly."""
    return Answer(body=json.dumps({"token_type": "Bearer", "access_token": value, **more}))


def ending(seconds: float) -> str:
    """A token that says itself when it ends (RFC 7519 section 4.1.4)."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": int(time.time() + seconds)}).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJub25lIn0.{claims}.x"


@pytest.mark.parametrize("more", [{}, {"expires_in": None}, {"expires_in": "soon"}], ids=["none", "null", "no-number"])
@pytest.mark.parametrize("value", ["opaque", ending(3600)], ids=["opaque", "with-its-end"])
@pytest.mark.parametrize("microsofts", [False, True], ids=["issuer", "by-msal"])
async def test_token_whose_life_is_not_told_is_kept_all_the_same(
    client: Client,
    issuer: OAuth,
    authority: Authority,
    value: str,
    more: dict[str, object],
    microsofts: bool,  # noqa: FBT001 - of a table
) -> None:
    authority.answers[authority.token_path] = unsaid(value, **more)
    credentials = by_msal(issuer, authority) if microsofts else issuer
    await client.tokens.token("box", credentials)
    assert await client.tokens.token("box", credentials) == Token(value, fresh=False)
    client.now = 3600 - 599
    assert await client.tokens.token("box", credentials) == Token(value, fresh=True)
    assert len(authority.token_requests) == 2


async def test_token_that_ends_soon_by_its_own_word_is_not_kept_longer(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    authority.answers[authority.token_path] = unsaid(ending(120))
    await client.tokens.token("box", issuer)
    client.now = 90
    answer = await client.tokens.token("box", issuer)
    assert isinstance(answer, Token)
    assert answer.fresh


def by_msal(issuer: OAuth, authority: Authority) -> OAuth:
    """The same authority as if it were a Microsoft's."""
    authority.answers[f"{authority.tenant}/v2.0{DISCOVERY}"] = Answer(body=json.dumps(authority.configuration()))
    return replace(issuer, oidc=False)


async def test_numbers_as_text_are_understood(client: Client, issuer: OAuth, authority: Authority) -> None:
    said = {"expires_in": "3599", "refresh_in": "1799", "ext_expires_in": "3599"}
    authority.answers[authority.token_path] = unsaid("good", **said)
    credentials = by_msal(issuer, authority)
    assert await client.tokens.token("box", credentials) == Token("good", fresh=True)
    assert await client.tokens.token("box", credentials) == Token("good", fresh=False)


@pytest.mark.parametrize("microsofts", [False, True], ids=["issuer", "by-msal"])
async def test_empty_token_is_none(
    client: Client,
    issuer: OAuth,
    authority: Authority,
    microsofts: bool,  # noqa: FBT001 - of a table
) -> None:
    authority.answers[authority.token_path] = token("")
    credentials = by_msal(issuer, authority) if microsofts else issuer
    assert_broken(await client.tokens.token("box", credentials), Fault.TOKEN_ENDPOINT)


async def test_mended_refusal_is_seen_at_the_next_attempt(client: Client, issuer: OAuth, authority: Authority) -> None:
    """A consent that was given, or `mailbox resume`, must not be answered from a minute ago."""
    credentials = by_msal(issuer, authority)
    authority.answers[authority.token_path] = error(400, "invalid_grant", error_description="AADSTS65001: no consent")
    assert isinstance(await client.tokens.token("box", credentials), TokenRefused)
    del authority.answers[authority.token_path]
    assert isinstance(await client.tokens.token("box", credentials), Token)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("microsofts", [False, True], ids=["issuer", "by-msal"])
async def test_what_an_authority_says_of_its_trouble_is_told(
    client: Client,
    issuer: OAuth,
    authority: Authority,
    status: int,
    microsofts: bool,  # noqa: FBT001 - of a table
) -> None:
    said = {"error_description": "AADSTS90033: A transient error has occurred."}
    authority.answers[authority.token_path] = error(status, "temporarily_unavailable", **said)
    credentials = by_msal(issuer, authority) if microsofts else issuer
    answer = await client.tokens.token("box", credentials)
    assert_broken(answer, Fault.TOKEN_ENDPOINT)
    assert isinstance(answer, Broken)
    assert "AADSTS90033: A transient error" in answer.detail
    assert f"HTTP status {status}" in answer.detail


async def test_assertion_names_its_certificate_as_the_standard_writes_it(
    client: Client, issuer: OAuth, authority: Authority, tmp_path: Path
) -> None:
    """RFC 7515 section 4.1.8: base64url, which has no padding."""
    (tmp_path / "app.pem").write_bytes(made().pem())
    credentials = replace(issuer, proof=Certificate(tmp_path / "app.pem"))
    assert isinstance(await client.tokens.token("box", credentials), Token)
    head = authority.token_requests[0].form["client_assertion"].partition(".")[0]
    named = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["x5t#S256"]
    assert len(named) == 43


async def test_token_is_renewed_in_the_background_while_the_old_one_is_used(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    """High Volume Email wants ten minutes left; the renewal begins before that, and no mail waits for it."""
    await client.tokens.token("box", issuer)
    client.now = 3600 - 600 - 299
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> Answer:
        asked.set()
        await go_on.wait()
        return token("token-2")

    authority.answers[authority.token_path] = slow
    async with asyncio.timeout(5):
        assert await client.tokens.token("box", issuer) == Token("token-1", fresh=False)
        await asked.wait()
        assert await client.tokens.token("box", issuer) == Token("token-1", fresh=False)
        go_on.set()
        await asyncio.wait(client.tokens._flights.values())
    assert await client.tokens.token("box", issuer) == Token("token-2", fresh=False)
    assert len(authority.token_requests) == 2


async def test_token_with_less_than_ten_minutes_left_is_not_handed_over(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    await client.tokens.token("box", issuer)
    client.now = 3600 - 599
    assert await client.tokens.token("box", issuer) == Token("token-2", fresh=True)


async def test_token_is_used_to_its_end_while_the_authority_is_out_of_reach(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    await client.tokens.token("box", issuer)
    authority.answers[authority.token_path] = Answer(503, "")
    client.now = 3600 - 300
    assert await client.tokens.token("box", issuer) == Token("token-1", fresh=False)
    client.now = 3600 - 10
    assert_broken(await client.tokens.token("box", issuer), Fault.TOKEN_ENDPOINT)


async def test_authority_that_asks_to_be_left_alone_is(client: Client, issuer: OAuth, authority: Authority) -> None:
    authority.answers[authority.token_path] = Answer(429, json.dumps({"error": "slow_down"}), {"Retry-After": "300"})
    first = await client.tokens.token("box", issuer)
    assert_broken(first, Fault.TOKEN_ENDPOINT)
    assert isinstance(first, Broken)
    assert "300 s" in first.detail
    authority.answers.clear()
    client.now = 299
    assert await client.tokens.token("box", issuer) == first
    assert len(authority.token_requests) == 1


async def test_fifty_mails_share_even_a_token_that_is_not_kept(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    authority.answers[authority.token_path] = token("spent", lifetime=0)
    answers = await asyncio.gather(*(client.tokens.token("box", issuer) for _ in range(50)))
    assert {answer.value for answer in answers if isinstance(answer, Token)} == {"spent"}
    assert len(authority.token_requests) == 1


async def test_apps_scopes_and_secrets_have_tokens_of_their_own(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    others = [
        issuer,
        replace(issuer, client_id="another-app"),
        replace(issuer, scope="another/.default"),
        replace(issuer, proof=Secret(SecretStr("another"))),
    ]
    answers = [await client.tokens.token("box", each) for each in others]
    assert [answer.value for answer in answers if isinstance(answer, Token)] == [
        "token-1",
        "token-2",
        "token-3",
        "token-4",
    ]
    assert len(authority.token_requests) == 4


async def test_slow_issuer_of_one_mailbox_does_not_hold_up_another(
    client: Client, issuer: OAuth, server_tls: ssl.SSLContext
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> Answer:
        asked.set()
        await go_on.wait()
        return token("late")

    async with issuing(server_tls) as other, asyncio.timeout(5):
        other.answers[other.token_path] = slow
        waiting = asyncio.create_task(client.tokens.token("slow", replace(issuer, authority=other.url)))
        await asked.wait()
        assert isinstance(await client.tokens.token("box", issuer), Token)
        go_on.set()
        assert await waiting == Token("late", fresh=True)


async def test_caller_that_gives_up_leaves_the_others_a_token(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> Answer:
        asked.set()
        await go_on.wait()
        return token("late")

    authority.answers[authority.token_path] = slow
    async with asyncio.timeout(5):
        first = asyncio.create_task(client.tokens.token("box", issuer))
        await asked.wait()
        second = asyncio.create_task(client.tokens.token("box", issuer))
        first.cancel()
        await asyncio.wait({first})
        go_on.set()
        answer = await second
    assert isinstance(answer, Token)
    assert answer.value == "late"


async def test_close_closes_the_connections_to_the_authority(issuer: OAuth, authority: Authority) -> None:
    opened = Client()
    await opened.tokens.token("box", issuer)
    assert authority.open == 1
    opened.tokens.close()
    await authority.until_open(0, patience=2)


async def test_discovery_that_failed_leaves_no_connection_behind(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    """It is tried again every few minutes for as long as a tenant id is wrong."""
    authority.answers[authority.discovery_path] = Answer(400, "no such tenant")
    assert isinstance(await client.tokens.token("box", issuer), TokenRefused)
    await authority.until_open(0, patience=2)


# certificates


async def test_environment_does_not_override_the_mailboxes_own_ca_file(
    client: Client, issuer: OAuth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "company.pem"
    trustme.CA().cert_pem.write_to_path(bundle)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(bundle))
    assert isinstance(await client.tokens.token("box", issuer), Token)


async def test_environment_does_not_make_another_authority_trusted(
    client: Client, issuer: OAuth, ca_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mailbox that names its authorities trusts no other, whatever the environment says."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca_file)
    assert_broken(await client.tokens.token("box", replace(issuer, ca_file=str(other))), Fault.CERTIFICATE)


async def test_environment_names_the_authorities_where_the_mailbox_does_not(
    client: Client, issuer: OAuth, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca_file)
    assert isinstance(await client.tokens.token("box", replace(issuer, ca_file=None)), Token)


async def test_unknown_authority_is_told_no_secret(client: Client, issuer: OAuth, authority: Authority) -> None:
    assert_broken(await client.tokens.token("box", replace(issuer, ca_file=None)), Fault.CERTIFICATE)
    assert authority.requests == []


async def test_wrong_host_name_is_told_no_secret(client: Client, issuer: OAuth, tmp_path: Path) -> None:
    ca = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(ca_file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("login.example").configure_cert(context)
    async with issuing(context) as other:
        answer = await client.tokens.token("box", replace(issuer, authority=other.url, ca_file=str(ca_file)))
        assert_broken(answer, Fault.CERTIFICATE)
        assert other.requests == []


@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["missing", "empty", "rubbish"])
async def test_unusable_ca_file_is_a_fault_and_no_bug(
    client: Client, issuer: OAuth, authority: Authority, content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    assert_broken(await client.tokens.token("box", replace(issuer, ca_file=str(path))), Fault.CERTIFICATE)
    assert authority.requests == []


# trouble


async def test_nobody_listening_is_an_endpoint_out_of_reach(
    client: Client, issuer: OAuth, server_tls: ssl.SSLContext
) -> None:
    async with issuing(server_tls) as gone:
        url = gone.url
    assert_broken(await client.tokens.token("box", replace(issuer, authority=url)), Fault.TOKEN_ENDPOINT)


async def test_host_that_does_not_resolve_is_an_endpoint_out_of_reach(client: Client, issuer: OAuth) -> None:
    answer = await client.tokens.token("box", replace(issuer, authority="https://no-such-host.invalid/tenant"))
    assert_broken(answer, Fault.TOKEN_ENDPOINT)


async def test_host_out_of_reach_costs_no_other_app_an_attempt_for_a_while(
    client: Client, issuer: OAuth, server_tls: ssl.SSLContext
) -> None:
    """Fifty thousand mailboxes would each wait for a time-out, and the tokens of other authorities for them."""
    authority = Authority()
    authority.tls = server_tls
    await authority.listen()
    one = replace(issuer, authority=authority.url)
    other, port = replace(one, client_id="another-app"), int(authority.netloc.partition(":")[2])
    await authority.close()
    assert_broken(await client.tokens.token("box", one), Fault.TOKEN_ENDPOINT)
    await authority.listen(port)
    try:
        assert_broken(await client.tokens.token("other", other), Fault.TOKEN_ENDPOINT)
        assert authority.requests == []
        client.now += 10
        assert isinstance(await client.tokens.token("other", other), Token)
        assert isinstance(await client.tokens.token("box", one), Token)
    finally:
        let_go(client.tokens)
        await authority.close()


ENDPOINTS: dict[str, Callable[[Authority], str]] = {
    "discovery": lambda authority: authority.discovery_path,
    "token": lambda authority: authority.token_path,
}


@pytest.mark.parametrize("where", ENDPOINTS.values(), ids=ENDPOINTS)
@pytest.mark.parametrize(
    "said",
    [
        Answer(500, "oops"),
        Answer(502, "<html>bad gateway</html>"),
        Answer(503, "", {"Retry-After": "1"}),
        Answer(504, json.dumps({"error": "server_error"})),
        Answer(429, "slow down", {"Retry-After": "1"}),
        HTML,
        Answer(200, ""),
        Answer(200, "null"),
        Answer(200, "[]"),
        Answer(200, '"token"'),
        Answer(204, ""),
        refuse_to_answer,
    ],
    ids=[
        "500",
        "502-html",
        "503",
        "504-json",
        "429",
        "200-html",
        "200-empty",
        "200-null",
        "200-list",
        "200-string",
        "204",
        "hanging",
    ],
)
async def test_endpoint_in_trouble_is_no_refusal(
    hasty: Client, issuer: OAuth, authority: Authority, where: Callable[[Authority], str], said: Answer
) -> None:
    authority.answers[where(authority)] = said
    async with asyncio.timeout(5):
        answer = await hasty.tokens.token("box", issuer)
    assert_broken(answer, Fault.TOKEN_ENDPOINT)
    (event,) = hasty.events.of(TokenFetched)
    assert isinstance(event, TokenFetched)
    assert not event.ok


async def test_endpoint_that_has_recovered_is_believed(client: Client, issuer: OAuth, authority: Authority) -> None:
    authority.answers[authority.discovery_path] = Answer(503, "")
    assert_broken(await client.tokens.token("box", issuer), Fault.TOKEN_ENDPOINT)
    del authority.answers[authority.discovery_path]
    assert isinstance(await client.tokens.token("box", issuer), Token)


async def test_endpoint_that_answers_drop_by_drop_ends_by_the_time_out(
    hasty: Client, issuer: OAuth, server_tls: ssl.SSLContext
) -> None:
    """Each octet comes in time, the answer never does: a thread must not be held for ever."""
    stop = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.is_set():
            writer.write(b" ")
            await writer.drain()
            try:
                async with asyncio.timeout(0.1):
                    await stop.wait()
            except TimeoutError:
                continue
        writer.transport.abort()

    server = await asyncio.start_server(drip, "127.0.0.1", 0, ssl=server_tls)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/tenant"
    asking = asyncio.create_task(hasty.tokens.token("box", replace(issuer, authority=url)))
    try:
        done, _ = await asyncio.wait({asking}, timeout=3)
    finally:
        stop.set()
        server.close()
        answer = await asking
    assert done, "ten times the time-out have passed"
    assert_broken(answer, Fault.TOKEN_ENDPOINT)


# refusals


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (error(400, "invalid_client"), TokenRefused("invalid_client", "")),
        (error(401, "invalid_client", error_description="no"), TokenRefused("invalid_client", "no")),
        (error(400, "invalid_scope", error_description="two\nlines"), TokenRefused("invalid_scope", "two")),
        (error(403, "access_denied", error_codes=[1, 2]), TokenRefused("access_denied", "", (1, 2))),
        (error(400, "invalid_request", error_codes=["x", None]), TokenRefused("invalid_request", "")),
        (error(400, "invalid_request", error_codes=7), TokenRefused("invalid_request", "")),
        (
            error(400, "invalid_grant", error_description="AADSTS50034: a. AADSTS50034: b. AADSTS7000215: c"),
            TokenRefused("invalid_grant", "AADSTS50034: a. AADSTS50034: b. AADSTS7000215: c", (50034, 7000215)),
        ),
        (error(200, "temporarily_unavailable"), TokenRefused("temporarily_unavailable", "")),
    ],
    ids=[
        "400",
        "401",
        "two-lines",
        "codes",
        "codes-that-are-no-numbers",
        "codes-that-are-no-list",
        "numbers-in-the-text",
        "200",
    ],
)
async def test_refusal_is_told_as_the_authority_told_it(
    client: Client, issuer: OAuth, authority: Authority, said: Answer, expected: TokenRefused
) -> None:
    authority.answers[authority.token_path] = said
    assert await client.tokens.token("box", issuer) == expected


@pytest.mark.parametrize("status", [400, 404])
async def test_address_that_is_no_authority_is_said_to_be_none(
    client: Client, issuer: OAuth, authority: Authority, status: int
) -> None:
    authority.answers[authority.discovery_path] = Answer(status, "no such thing")
    answer = await client.tokens.token("box", issuer)
    assert isinstance(answer, TokenRefused)
    assert answer.error == "unknown_authority"


async def test_issuer_that_calls_itself_otherwise_is_not_trusted_with_the_secret(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    """OpenID Connect Discovery section 4.3: the issuer must be the one that was asked."""
    said = authority.configuration(issuer="https://evil.example/tenant")
    authority.answers[authority.discovery_path] = Answer(body=json.dumps(said))
    assert isinstance(await client.tokens.token("box", issuer), TokenRefused)
    assert authority.token_requests == []


async def test_token_endpoint_without_tls_is_not_used(client: Client, issuer: OAuth, authority: Authority) -> None:
    async with issuing(None) as plain:
        said = authority.configuration(token_endpoint=f"http://{plain.netloc}/tenant/token")
        authority.answers[authority.discovery_path] = Answer(body=json.dumps(said))
        assert isinstance(await client.tokens.token("box", issuer), TokenRefused)
        assert plain.requests == []


@pytest.mark.parametrize("status", [307, 308])
async def test_redirection_does_not_carry_the_secret_into_the_open(
    client: Client, issuer: OAuth, authority: Authority, status: int
) -> None:
    """RFC 6749 section 3.2: the token endpoint requires TLS, because the secret is sent to it in clear text."""
    async with issuing(None) as plain:
        authority.answers[authority.token_path] = Answer(
            status, "", {"Location": f"http://{plain.netloc}/tenant/token"}
        )
        await client.tokens.token("box", issuer)
        assert [request.form for request in plain.requests] == []


# secrets


@pytest.mark.parametrize(
    "said",
    [
        token(f"token-{SECRET}"),
        error(400, "invalid_client", error_description="no"),
        Answer(500, f"you sent {SECRET}"),
        Answer(200, f"access_token={SECRET}&token_type=bearer", {"Content-Type": "application/x-www-form-urlencoded"}),
        error(400, "invalid_request", error_description=f"cannot read client_id=the-app&client_secret={SECRET}"),
        error(400, "invalid_request", error_description=f"cannot read Authorization: Basic {PACKED}"),
    ],
    ids=["token", "refused", "500", "token-in-a-form", "repeated-in-the-description", "repeated-as-it-was-sent"],
)
async def test_secret_and_token_show_in_nothing_that_comes_back(
    client: Client, issuer: OAuth, authority: Authority, said: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    authority.answers[authority.token_path] = said
    answer = await client.tokens.token("box", issuer)
    assert in_header(authority.token_requests[0]) == ("the-app", SECRET)
    for text in (repr(answer), str(answer), repr(issuer), repr(client.events.seen), caplog.text):
        assert SECRET not in text
        assert PACKED not in text


async def test_secret_that_an_authority_repeats_as_a_form_has_it_is_taken_out(
    client: Client, issuer: OAuth, authority: Authority
) -> None:
    async def parrot(request: Request) -> Answer:
        return error(400, "invalid_request", error_description=f"you sent {request.body}")

    methods(authority, "client_secret_post")
    authority.answers[authority.token_path] = parrot
    odd = replace(issuer, proof=Secret(SecretStr("S3cr3t~Va+lue/8Q")))
    answer = await client.tokens.token("box", odd)
    assert isinstance(answer, TokenRefused)
    assert "you sent" in answer.description
    assert "S3cr3t" not in repr(answer)
