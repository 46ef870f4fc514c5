"""Every way in which a mail server can fail an administrator, told apart; real sockets, and never a mail."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from tests.adapters.smtp.server import Obedient, Peer, listening, turns
from tests.factories import mailbox
from tests.fakes import Clock
from tests.neighbours import free_port
from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.health import Finding, State, found, warned
from worker.domain.mailbox import NoLogin, OAuth, Password, PickupDirectory, Secret, SmtpEndpoint, Tls
from worker.domain.reply import Reply
from worker.ports import Token
from worker.probe import Health, look

SECRET = "S3cret-of-Jana"
LOGIN = Password("jana@contoso.com", SecretStr(SECRET), "plain")
CLIENT = OAuth("https://authority.example/t", "app", Secret(SecretStr(SECRET)), "scope", "jana@contoso.com")
SOON = 0.5  # seconds that a look at a server that says nothing takes


class Authority:
    """Gives out what it was told to."""

    def __init__(self, answer: Token | TokenRefused | Broken | None = None) -> None:
        self.answer = answer or Token("T0ken", fresh=True)
        self.asked = 0

    async def token(
        self, _mailbox: str, _credentials: OAuth, *, rejected: Token | None = None
    ) -> Token | TokenRefused | Broken:
        self.asked += 1
        return Token("new", fresh=True) if rejected is not None else self.answer


async def looked(port: int, *, total: float = 5, authority: Authority | None = None, **endpoint: Any) -> Finding:
    fields = {"host": "localhost", "port": port, "tls": Tls.NONE, "helo": "client.example", **endpoint}
    return await look(mailbox(endpoint=SmtpEndpoint(**fields)), authority or Authority(), total)


class Unwilling(Obedient):
    """Refuses every login, or whatever it is told to."""

    def __init__(self, *offers: str, says: str = "535 5.7.8 Authentication credentials invalid", **rest: Any) -> None:
        super().__init__(*offers, **rest)
        self.says = says

    async def _converse(self, peer: Peer) -> None:
        await peer.reply("220 mail.example ESMTP")
        while True:
            command = await peer.line()
            self.commands.append(command)
            match command[:4].upper():
                case b"EHLO":
                    await peer.reply(*(f"250-{line}" for line in ["mail.example", *self.offers]), "250 HELP")
                case b"AUTH":
                    await peer.reply(self.says)
                case b"QUIT":
                    await peer.reply("221 2.0.0 Bye")
                    return


def assert_no_mail(commands: Sequence[bytes]) -> None:
    assert not [command for command in commands if command[:4].upper() in (b"MAIL", b"RCPT", b"DATA")]


# ---------------------------------------------------------------- all well


@pytest.mark.parametrize(
    ("credentials", "offers"),
    [(NoLogin(), ()), (LOGIN, ("AUTH PLAIN",)), (CLIENT, ("AUTH XOAUTH2",))],
    ids=["no-login", "password", "token"],
)
@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.IMPLICIT])
async def test_server_that_answers_and_lets_us_in_is_well_and_gets_no_mail(
    server_tls: ssl.SSLContext, ca_file: str, tls: Tls, credentials: Any, offers: tuple[str, ...]
) -> None:
    server = Obedient(*offers, tls=server_tls if tls is Tls.STARTTLS else None)
    async with listening(server.serve, tls=server_tls if tls is Tls.IMPLICIT else None) as listener:
        found = await looked(listener.port, tls=tls, ca_file=ca_file, credentials=credentials)
        await listener.until(lambda: listener.open == 0)
        assert len(listener.peers) == 1
    assert found.state is State.WELL, found
    assert "TLSv1" in found.explanation
    assert server.commands[-1] == b"QUIT"
    assert_no_mail(server.commands)


# ---------------------------------------------------------------- one state for each way to fail


async def test_mailbox_without_host_is_told_before_anything_is_looked_up() -> None:
    assert (await looked(25, host="")).state is State.NO_HOST


@pytest.mark.parametrize("host", ["nowhere.invalid", "two..dots.example"])
async def test_name_that_does_not_resolve_is_dns(host: str) -> None:
    found = await looked(25, host=host)
    assert found.state is State.DNS
    assert host in found.explanation


async def test_port_where_nobody_listens_is_closed() -> None:
    port = free_port()
    found = await looked(port, host="127.0.0.1")
    assert found.state is State.PORT_CLOSED
    assert f"127.0.0.1:{port}" in found.explanation


async def test_port_that_is_open_but_silent_has_no_greeting() -> None:
    async def silent(peer: Peer) -> None:
        await peer.rest()

    async with listening(silent) as listener:
        found = await looked(listener.port, total=SOON)
    assert found.state is State.NO_GREETING


async def test_server_that_hangs_up_at_once_has_no_greeting() -> None:
    async def closing(peer: Peer) -> None:
        peer.close()

    async with listening(closing) as listener:
        assert (await looked(listener.port)).state is State.NO_GREETING


async def test_silent_port_behind_tls_has_no_greeting(server_tls: ssl.SSLContext, ca_file: str) -> None:
    async def closing(peer: Peer) -> None:
        peer.close()

    async with listening(closing, tls=server_tls) as listener:
        found = await looked(listener.port, tls=Tls.IMPLICIT, ca_file=ca_file)
    assert found.state is State.NO_GREETING


async def test_what_answers_in_another_protocol_is_not_smtp() -> None:
    async def http(peer: Peer) -> None:
        await peer.reply("HTTP/1.1 400 Bad Request", "")
        await peer.rest()

    async with listening(http) as listener:
        assert (await looked(listener.port)).state is State.NOT_SMTP


async def test_server_that_greets_with_a_refusal_turns_us_away() -> None:
    async def refusing(peer: Peer) -> None:
        await peer.reply("554 5.7.1 Your address is listed")
        await peer.rest()

    async with listening(refusing) as listener:
        found = await looked(listener.port)
    assert found.state is State.TURNED_AWAY
    assert "Your address is listed" in found.explanation


@pytest.mark.parametrize("credentials", [LOGIN, CLIENT], ids=["password", "token"])
async def test_server_without_starttls_is_a_tls_failure_and_hears_no_login(credentials: Any) -> None:
    server = Obedient("AUTH PLAIN XOAUTH2")
    async with listening(server.serve) as listener:
        found = await looked(listener.port, tls=Tls.STARTTLS, credentials=credentials)
    assert found.state is State.TLS
    assert not server.count(b"AUTH")


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.IMPLICIT])
async def test_certificate_of_an_unknown_authority_is_a_tls_failure(ca_file: str, tls: Tls) -> None:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(theirs)
    server = Obedient("AUTH PLAIN", tls=theirs if tls is Tls.STARTTLS else None)
    async with listening(server.serve, tls=theirs if tls is Tls.IMPLICIT else None) as listener:
        found = await looked(listener.port, tls=tls, ca_file=ca_file, credentials=LOGIN)
    assert found.state is State.TLS
    assert not server.count(b"AUTH")


async def test_server_that_leaves_the_handshake_hanging_is_a_tls_failure() -> None:
    async def silent(peer: Peer) -> None:
        await peer.rest()

    async with listening(silent) as listener:
        assert (await looked(listener.port, total=SOON, tls=Tls.IMPLICIT)).state is State.TLS


async def test_plain_server_at_a_port_for_implicit_tls_is_a_tls_failure() -> None:
    async def plain(peer: Peer) -> None:
        await peer.reply("220 mail.example ESMTP")
        await peer.rest()

    async with listening(plain) as listener:
        assert (await looked(listener.port, tls=Tls.IMPLICIT)).state is State.TLS


@pytest.mark.parametrize("command", ["EHLO", "AUTH"])
async def test_server_that_greets_and_then_says_nothing_does_not_answer(
    server_tls: ssl.SSLContext, ca_file: str, command: str
) -> None:
    server = Obedient("AUTH LOGIN PLAIN", tls=server_tls)
    server.stall_at = command
    async with listening(server.serve) as listener:
        found = await looked(listener.port, total=SOON, tls=Tls.STARTTLS, ca_file=ca_file, credentials=LOGIN)
    assert found.state is State.NO_ANSWER


async def test_refused_login_is_told_with_the_servers_words_and_without_the_secret() -> None:
    server = Unwilling("AUTH PLAIN")
    async with listening(server.serve) as listener:
        found = await looked(listener.port, credentials=LOGIN)
    assert found.state is State.LOGIN_REFUSED
    assert "535 5.7.8 Authentication credentials invalid" in found.explanation
    assert SECRET not in repr(found)
    assert server.count(b"AUTH") == 1
    assert_no_mail(server.commands)


async def test_login_that_the_server_does_not_offer_is_a_refused_login() -> None:
    server = Obedient("AUTH GSSAPI")
    async with listening(server.serve) as listener:
        found = await looked(listener.port, credentials=LOGIN)
    assert found.state is State.LOGIN_REFUSED
    assert "GSSAPI" in found.explanation
    assert not server.count(b"AUTH")


async def test_token_from_the_cache_that_is_not_taken_any_more_is_replaced_once() -> None:
    server = Unwilling("AUTH XOAUTH2")
    authority = Authority(Token("old", fresh=False))
    async with listening(server.serve) as listener:
        found = await looked(listener.port, credentials=CLIENT, authority=authority)
    assert found.state is State.LOGIN_REFUSED
    assert (authority.asked, server.count(b"AUTH")) == (2, 2)


@pytest.mark.parametrize(
    "answer",
    [
        TokenRefused("invalid_client", "AADSTS7000215: Invalid client secret provided.", (7000215,)),
        Broken(Stage.TOKEN, Fault.TOKEN_ENDPOINT, "no connection"),
    ],
    ids=["refused", "unreachable"],
)
async def test_token_that_is_not_given_is_told_apart_from_a_refused_login(answer: TokenRefused | Broken) -> None:
    server = Obedient("AUTH XOAUTH2")
    async with listening(server.serve) as listener:
        found = await looked(listener.port, credentials=CLIENT, authority=Authority(answer))
    assert found.state is State.TOKEN_REFUSED
    assert not server.count(b"AUTH")


async def test_first_dead_address_of_a_name_does_not_hide_the_living_one() -> None:
    # localhost is ::1 and 127.0.0.1 on most machines, and the server listens on the second only.
    server = Obedient()
    async with listening(server.serve) as listener:
        assert (await looked(listener.port, host="localhost")).state is State.WELL


async def test_hundred_health_calls_are_one_connection() -> None:
    server = Obedient()
    async with listening(server.serve) as listener:
        boxes = {"a": mailbox("a", endpoint=SmtpEndpoint("127.0.0.1", listener.port, Tls.NONE))}
        health = Health(lambda: boxes, partial(look, tokens=Authority()), Clock())
        pages = await asyncio.gather(*(health.all() for _ in range(50)))
        pages += [await health.all() for _ in range(50)]
        await listener.until(lambda: listener.open == 0)
        assert len(listener.peers) == 1
    assert {page["a"].finding.state for page in pages} == {State.WELL}


async def test_mailbox_that_is_switched_off_is_left_in_peace() -> None:
    server = Obedient()
    async with listening(server.serve) as listener:
        box = mailbox(endpoint=SmtpEndpoint("127.0.0.1", listener.port, Tls.NONE), enabled=False)
        found = await look(box, Authority())
        await turns()
        assert listener.peers == []
    assert found.state is State.DISABLED
    assert found.well


# ---------------------------------------------------------------- Office 365


@pytest.mark.row("ELX-S13", "ELX-W3")
def test_office_365_basic_login_is_warned_about_and_its_refusal_has_the_check_list() -> None:
    endpoint = SmtpEndpoint("smtp.office365.com", 587, Tls.STARTTLS, LOGIN)
    said = Reply.parse("535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled")
    finding = warned(found(Refused(Stage.AUTH, said), endpoint), mailbox(endpoint=endpoint))
    assert finding.state is State.LOGIN_REFUSED
    for hint in ("sign in", "licence", "Authenticated SMTP", "security defaults", "tenant"):
        assert hint in finding.remedy
    assert "December 2026" in finding.warning


def test_other_servers_are_not_warned_about() -> None:
    box = mailbox(endpoint=SmtpEndpoint("smtp.contoso.com", 587, Tls.STARTTLS, LOGIN))
    assert warned(Finding(State.WELL, ""), box).warning == ""


# ---------------------------------------------------------------- pickup


async def test_pickup_directory_that_can_be_written_to_is_well(tmp_path: Path) -> None:
    (tmp_path / "pickup").mkdir()
    box = mailbox(endpoint=PickupDirectory(tmp_path / "pickup", tmp_path / "staging"))
    assert (await look(box, Authority())).state is State.WELL
    assert list((tmp_path / "pickup").iterdir()) == []


async def test_pickup_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    box = mailbox(endpoint=PickupDirectory(tmp_path / "gone", tmp_path / "staging"))
    found = await look(box, Authority())
    assert found.state is State.DIRECTORY
    assert str(tmp_path / "gone") in found.explanation


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_pickup_directory_without_the_right_to_write_is_told(tmp_path: Path) -> None:
    (tmp_path / "pickup").mkdir(mode=0o555)
    box = mailbox(endpoint=PickupDirectory(tmp_path / "pickup", tmp_path / "staging"))
    assert (await look(box, Authority())).state is State.DIRECTORY
