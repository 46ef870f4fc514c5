"""Umbraco's health check, for every server: what is wrong is told apart, servers are asked seldom, nothing is sent."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httpx2

from tests.acceptance.installation import Installation, mailbox
from tests.acceptance.server import MailServer, serving
from tests.adapters.smtp.server import Peer, listening
from tests.neighbours import PATIENCE, free_port

PASSWORD = "the-password-of-the-test"
LOGIN = f'login = {{ username = "web", password = "{PASSWORD}" }}'


async def health(lane: Installation) -> httpx2.AsyncClient:
    """A worker's health endpoint."""
    port = free_port()
    await lane.worker(POSTLANE_HEALTH__PORT=str(port))
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)


async def hangs_up(peer: Peer) -> None:
    """No mail server: nobody greets."""
    peer.close()


async def test_umb_s14_every_way_in_which_a_server_fails_is_told_apart_and_no_mail_is_sent(
    lane: Installation, a: MailServer, b: MailServer, c: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    a.starttls = b.starttls = c.starttls = server_tls
    a.logins, b.logins = {"web": PASSWORD}, {"web": "another-one"}
    plain = MailServer("plain")
    async with listening(hangs_up) as silent, serving(plain):
        lane.configure(
            mailbox("well", a, ca, LOGIN, tls="starttls"),
            mailbox("login", b, ca, LOGIN, tls="starttls"),
            mailbox("certificate", c, tls="starttls"),
            mailbox("no-tls", plain, ca, tls="starttls"),
            mailbox("silent", silent.port),
            mailbox("closed", free_port()),
        )
        async with await health(lane) as client:
            answer = await client.get("/healthz/mailboxes")
        found = answer.json()["mailboxes"]
        looked = await lane.postlane("mailbox", "test", "login", "--json")
    assert answer.status_code == 503
    assert {name: each["state"] for name, each in found.items()} == {
        "well": "ok",
        "login": "login-refused",
        "certificate": "tls",
        "no-tls": "tls",
        "silent": "no-greeting",
        "closed": "port-closed",
    }
    assert all(each["explanation"] and (each["remedy"] or name == "well") for name, each in found.items())
    assert (looked.status, looked.json["state"]) == (1, "login-refused")
    assert PASSWORD not in answer.text + looked.output + looked.errors
    for server in (a, b, c, plain):
        assert [server.said(verb) for verb in ("MAIL", "RCPT", "DATA")] == [[], [], []]


async def test_umb_s14_nothing_configured_and_no_host_are_told_apart(lane: Installation) -> None:
    lane.configure("")
    async with await health(lane) as client:
        answer = await client.get("/healthz/mailboxes")
    assert answer.status_code == 503
    assert "No mailbox is configured" in answer.json()["explanation"]
    unknown = await lane.postlane("mailbox", "test", "web", "--json")
    assert unknown.status == 2
    lane.configure('[mailboxes.web]\naddress = "web@project.example"')
    without_host = await lane.postlane("check")
    assert without_host.status != 0
    assert "host" in without_host.output + without_host.errors


async def test_umb_w7_hundred_health_calls_are_one_connection_to_the_server(
    lane: Installation, a: MailServer, b: MailServer
) -> None:
    b.replies["GREETING"] = "554 5.3.2 Out of service"
    lane.configure(mailbox("up", a), mailbox("down", b))
    async with await health(lane) as client:
        answers = await asyncio.gather(*(client.get("/healthz/mailboxes") for _ in range(50)))
        answers += [await client.get("/healthz/mailboxes") for _ in range(50)]
    states: list[dict[str, Any]] = [answer.json()["mailboxes"] for answer in answers]
    assert {each["up"]["state"] for each in states} == {"ok"}
    assert {each["down"]["state"] for each in states} == {"turned-away"}
    assert (a.connections, b.connections) == (1, 1)
