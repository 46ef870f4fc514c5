"""Kentico Xperience: its SMTP servers as they are taken over, and what their sessions look like afterwards."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from contracts.delivery import DeliveryStatus
from tests.acceptance.installation import Installation, notification
from tests.acceptance.kentico import PICKUP, bound, server, take_over
from tests.acceptance.server import MailServer, serving
from worker.emulator.authority import make_certificates
from worker.emulator.run import CLIENT_ID, TENANT_ID, Emulator


@pytest.mark.row("KX-S2", "KX-S3", "KX-S4", "KX-S11", "KX-S16")
async def test_names_of_servers_are_domains_and_addresses_with_or_without_a_port(
    lane: Installation, a: MailServer, c: MailServer, pickup: Path
) -> None:
    a.logins = {"somebody": "a password"}  # a login is offered, and nobody has one
    async with serving(MailServer("b"), host="::1") as b:
        rows = [
            server(1, f"127.0.0.1:{a.port}", ServerIsGlobal=0),
            server(2, f"[::1]:{b.port}", ServerIsGlobal=0),
            server(3, f"localhost:{c.port}", ServerIsGlobal=0),
            server(4, "mail.contoso.example", ServerIsGlobal=0),
            server(5, "localhost", ServerIsGlobal=0, ServerDeliveryMethod=PICKUP, ServerPickupDirectory=pickup),
        ]
        said = await take_over(lane, rows, sites=[bound(number, f"Site{number}") for number in range(1, 6)])
        assert said.status == 0, said.errors
        ports = {each["id"]: each.get("port") for each in said.json["mailboxes"]}
        assert ports == {1: a.port, 2: b.port, 3: c.port, 4: 25, 5: None}
        await lane.worker()
        for number, one in enumerate((a, b, c), 1):
            result = await lane.post.send(notification(f"n-{number}", "kx", site=f"Site{number}"))
            assert (result.status, one.ids) == (DeliveryStatus.ACCEPTED, [f"n-{number}"])
            assert (one.connections, one.said("AUTH")) == (1, [])
    assert list(pickup.iterdir()) == []


async def test_kx_s3_address_that_hides_its_port_is_refused(lane: Installation) -> None:
    said = await take_over(lane, [server(1, "2001:db8::25:26")])
    assert (said.status, said.json["verdict"]) == (2, "reject")
    finding = next(each for each in said.json["findings"] if each["code"] == "host.ipv6_ambiguous")
    assert finding["key"] == "ServerID 1.ServerName"
    assert not lane.mailboxes.exists()


@pytest.mark.row("KX-S16", "KX-S17")
async def test_user_without_a_password_is_asked_for_it_and_logs_in_once_it_is_entered(
    lane: Installation, a: MailServer, b: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    for one in (a, b):
        one.logins, one.needs_login, one.starttls = {"newsletter": "entered by hand"}, True, server_tls
    rows = [
        server(1, f"localhost:{a.port}", ServerUserName="newsletter", ServerUseSSL=1, ServerIsGlobal=0),
        server(2, f"localhost:{b.port}", ServerUseSSL=1, ServerIsGlobal=0),
    ]
    said = await take_over(lane, rows, sites=[bound(1, "With"), bound(2, "Without")])
    assert (said.status, said.json["verdict"]) == (0, "needs_secret")
    assert "secret.missing:1" in [each["code"] for each in said.json["findings"]]
    unusable = await lane.postlane("check")
    secret = lane.directory / "secrets" / "kentico-1.password"
    assert unusable.status != 0
    assert str(secret) in unusable.errors

    secret.write_text("entered by hand", encoding="utf-8")
    _trust(lane, ca)
    await lane.worker()
    assert (await lane.post.send(notification("with", "kx", site="With"))).status is DeliveryStatus.ACCEPTED
    assert [(mail.login, mail.secure) for mail in a.taken] == [("newsletter", True)]
    await lane.post.publish(notification("without", "kx", site="Without"))
    refused = await lane.inbox.first("without")
    assert refused.reason is not None
    assert (refused.status, refused.mailbox and refused.mailbox.name) == (DeliveryStatus.DEFERRED, "kentico-2")
    assert "530 5.7.0" in (refused.server_reply or ""), "the mail waits until somebody gives the server its login"
    assert (b.said("AUTH"), b.taken) == ([], [])


async def test_kx_s18_use_ssl_is_kept_to_whatever_the_server_can(
    lane: Installation, a: MailServer, b: MailServer, server_tls: ssl.SSLContext, ca: str, tmp_path: Path
) -> None:
    """Nothing is said in the open to a server that cannot do it, or cannot show who it is."""
    foreign = make_certificates(tmp_path / "foreign")
    b.starttls = foreign.server_context()
    async with serving(MailServer("c"), implicit_tls=server_tls) as c:
        rows = [
            server(1, f"localhost:{a.port}", ServerUseSSL=1, ServerIsGlobal=0),
            server(2, f"localhost:{b.port}", ServerUseSSL=1, ServerIsGlobal=0),
            server(3, "localhost:465", ServerUseSSL=1, ServerIsGlobal=0),
            server(4, f"localhost:{b.port}", ServerUseSSL=1, ServerIsGlobal=0),
        ]
        said = await take_over(lane, rows, sites=[bound(number, f"Site{number}") for number in (1, 2, 3, 4)])
        assert "tls.implicit_port_with_starttls_flag" in [each["code"] for each in said.json["findings"]]
        written = lane.mailboxes.read_text(encoding="utf-8")
        assert 'port = 465\ntls = "implicit"' in written
        lane.configure(written.replace("port = 465", f"port = {c.port}"))
        _trust(lane, ca)
        head, table, tail = lane.mailboxes.read_text(encoding="utf-8").partition("[mailboxes.kentico-4]")
        lane.configure(head + table + tail.replace(ca, f'ca_file = "{foreign.ca_file.resolve()}"'))
        await lane.worker()
        for site in ("Site1", "Site2"):
            await lane.post.publish(notification(site, "kx", site=site))
            result = await lane.inbox.first(site)
            assert result.status is DeliveryStatus.DEFERRED
        assert {command.split(" ")[0] for command in (*a.commands, *b.commands)} <= {"EHLO", "STARTTLS", "QUIT"}
        for site, one in (("Site3", c), ("Site4", b)):
            assert (await lane.post.send(notification(site, "kx", site=site))).status is DeliveryStatus.ACCEPTED
            assert [mail.secure for mail in one.taken] == [True]


@pytest.mark.row("KX-W12")
async def test_server_with_oauth_gets_a_token_and_a_new_one_when_that_is_over(
    lane: Installation, emulator: Emulator
) -> None:
    address = "notifications@contoso.example"
    row = server(
        1,
        f"localhost:{emulator.office365.port}",
        ServerUserName=address,
        ServerUseSSL=1,
        ServerAuthenticationType="OAuth 2.0",
        ServerOAuthCredentials="exchange",
    )
    said = await take_over(lane, [row], "--address", address)
    assert (said.status, said.json["verdict"]) == (0, "needs_secret")
    assert "oauth.credentials_to_bind:exchange" in [each["code"] for each in said.json["findings"]]
    lines = lane.mailboxes.read_text(encoding="utf-8").splitlines()
    bind = next(number for number, line in enumerate(lines) if line.startswith("# To do: client_id"))
    ca = f'ca_file = "{emulator.certificates.ca_file.resolve()}"'
    lines[bind] = f'authority = "{emulator.token_url}/{TENANT_ID}"\nclient_id = "{CLIENT_ID}"\n{ca}'
    lane.configure(*lines)
    _trust(lane, ca)
    (lane.directory / "secrets" / "kentico-1.client-secret").write_text("emulated-client-secret", encoding="utf-8")
    await lane.worker()
    assert (await lane.post.send(notification("before", "kx"))).status is DeliveryStatus.ACCEPTED
    emulator.expire_tokens()
    result = await lane.post.send(notification("after", "kx"))
    assert (result.status, emulator.authority.requests) == (DeliveryStatus.ACCEPTED, 2)
    log = emulator.accepted.log.read_text(encoding="utf-8")
    assert log.count('"mechanism": "XOAUTH2"') == 2


def _trust(lane: Installation, ca: str) -> None:
    """Have every mail server's certificate checked against this authority."""
    lines = lane.mailboxes.read_text(encoding="utf-8").splitlines()
    lane.configure(*(f"{line}\n{ca}" if line.startswith("tls = ") else line for line in lines))
