"""Proving who we are: with real tokens against the emulated Office 365, and without ever telling a secret.

What is said to the server for each mechanism stands in `dialogs/auth-*.txt` and `dialogs/xoauth2-*.txt`.
"""

import base64
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from contracts.address import parse
from tests.adapters.oauth.authority import let_go
from tests.adapters.smtp.dialog import SMALL, Tokens
from tests.adapters.smtp.server import Peer, listening
from tests.factories import mailbox
from tests.fakes import Events
from worker.domain.delivery import Accepted, Refused, Stage, Submission, TokenRefused
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Credentials, Mailbox, NoLogin, OAuth, Password, Secret, SmtpEndpoint, Tls
from worker.domain.message import OutgoingMessage
from worker.emulator.run import Emulator
from worker.events import SessionOpened
from worker.mailbox_file import load
from worker.oauth.tokens import MsalTokens
from worker.ports import Token
from worker.smtp.connect import Timeouts
from worker.smtp.sasl import Login, Oauthbearer, Plain, Xoauth2
from worker.smtp.transport import SmtpTransport

TIMEOUTS = Timeouts(5, 5, 5)


async def always() -> bool:
    return True


class Worker:
    """A worker's view of the emulated world: its mailboxes, real tokens, and what observers see."""

    def __init__(self, emulator: Emulator, boxes: dict[str, Mailbox]) -> None:
        self.emulator = emulator
        self.boxes = boxes
        self.events = Events()
        self.tokens = MsalTokens(self.events, timeout=5)

    async def submit(self, name: str, **credentials: object) -> Submission:
        """One mail over a new connection, with credentials changed in these fields."""
        box = self.boxes[name]
        assert isinstance(box.endpoint, SmtpEndpoint)
        assert not isinstance(box.endpoint.credentials, NoLogin)
        login = replace(box.endpoint.credentials, **credentials)
        content = f"From: <{box.address}>\r\n".encode() + SMALL
        transport = SmtpTransport(self.tokens, TIMEOUTS, self.events)
        try:
            return await transport.submit(
                replace(box, endpoint=replace(box.endpoint, credentials=login)),
                Envelope.of(box.address, [parse("jana@fabrikam.com")]),
                OutgoingMessage("<1@contoso.com>", content),
                always,
            )
        finally:
            await transport.close()


@pytest.fixture
async def worker(emulator: Emulator, mailboxes: Path) -> AsyncIterator[Worker]:
    """The emulated world, and a worker's way into it."""
    made = Worker(emulator, dict(load(mailboxes, {}).mailboxes))
    yield made
    let_go(made.tokens)


async def test_token_opens_the_mailbox(worker: Worker) -> None:
    assert isinstance(await worker.submit("platform"), Accepted)
    (opened,) = worker.events.of(SessionOpened)
    assert isinstance(opened, SessionOpened)
    assert opened.mechanism == "xoauth2"


async def test_token_from_the_cache_opens_it_again_without_a_request(worker: Worker) -> None:
    await worker.submit("platform")
    assert isinstance(await worker.submit("platform"), Accepted)
    assert worker.emulator.authority.requests == 1


async def test_stale_token_is_replaced_once_and_the_mail_goes_out(worker: Worker) -> None:
    await worker.submit("platform")
    worker.emulator.expire_tokens()
    assert isinstance(await worker.submit("platform"), Accepted)
    assert worker.emulator.authority.requests == 2


async def test_cached_token_without_rights_is_replaced_once_and_then_given_up(worker: Worker) -> None:
    await worker.submit("platform")
    outcome = await worker.submit("platform", username="somebody-else@contoso.example")
    assert isinstance(outcome, Refused)
    assert (outcome.stage, outcome.reply.code, outcome.mechanism) == (Stage.AUTH, 535, "xoauth2")
    assert worker.emulator.authority.requests == 2


async def test_fresh_token_without_rights_is_not_replaced(worker: Worker) -> None:
    outcome = await worker.submit("platform", username="somebody-else@contoso.example")
    assert isinstance(outcome, Refused)
    assert worker.emulator.authority.requests == 1


async def test_without_a_token_nobody_connects(worker: Worker) -> None:
    assert isinstance(await worker.submit("platform", proof=Secret(SecretStr("wrong"))), TokenRefused)
    assert not worker.events.of(SessionOpened)


@pytest.mark.parametrize("mechanism", ["login", "plain", None])
async def test_password_opens_an_ordinary_mailbox(worker: Worker, mechanism: str | None) -> None:
    assert isinstance(await worker.submit("fabrikam", mechanism=mechanism), Accepted)


async def test_wrong_password_is_refused(worker: Worker) -> None:
    outcome = await worker.submit("fabrikam", password=SecretStr("wrong"))
    assert isinstance(outcome, Refused)
    assert (outcome.stage, outcome.reply.code) == (Stage.AUTH, 535)


# secrets

SECRET = "S3cret-of-Jana-and-nobody-else"
PASSWORD = Password("jana@contoso.com", SecretStr(SECRET), "plain")
CLIENT = OAuth("https://authority.example/t", "app", Secret(SecretStr(SECRET)), "scope", "jana@contoso.com")


def leaks(text: str) -> bool:
    """Whether the secret stands in a text, in clear or in base64, wherever a base64 group may begin."""
    inner = (base64.b64encode(b"\0" * shift + SECRET.encode())[4:-4].decode() for shift in range(3))
    return SECRET in text or any(each in text for each in inner)


@pytest.mark.parametrize(
    "thing",
    [
        PASSWORD,
        CLIENT,
        mailbox(endpoint=SmtpEndpoint("h", 587, Tls.STARTTLS, PASSWORD)),
        mailbox(endpoint=SmtpEndpoint("h", 587, Tls.STARTTLS, CLIENT)),
        Login("jana@contoso.com", SECRET),
        Plain("jana@contoso.com", SECRET),
        Xoauth2("jana@contoso.com", SECRET),
        Oauthbearer("jana@contoso.com", SECRET),
        Token(SECRET, fresh=True),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_secret_does_not_show_in_what_holds_it(thing: object) -> None:
    assert not leaks(repr(thing))
    assert not leaks(str(thing))
    assert not leaks(f"{thing}")


LOGINS: dict[str, tuple[Credentials, int]] = {
    "plain": (PASSWORD, 1),
    "login": (replace(PASSWORD, mechanism="login"), 3),
    "xoauth2": (CLIENT, 1),
}


@pytest.mark.parametrize(
    "said",
    ['500 5.5.1 Command unrecognized: "{}"', "535-5.7.8 no\r\n535 5.7.8 you said {}"],
    ids=["unrecognized", "refused"],
)
@pytest.mark.parametrize(("login", "lines"), LOGINS.values(), ids=LOGINS)
async def test_server_that_repeats_what_it_was_told_does_not_bring_the_secret_into_the_result(
    login: Credentials, lines: int, said: str, server_tls: ssl.SSLContext, ca_file: str
) -> None:
    """Sendmail answers so to commands that it does not know; the text of a reply goes out in results and logs."""

    async def parrot(peer: Peer) -> None:
        await peer.reply("220 mail.example")
        await peer.line()
        await peer.reply("250-mail.example", "250 AUTH LOGIN PLAIN XOAUTH2")
        for _ in range(lines - 1):
            await peer.line()
            await peer.reply("334 ")
        await peer.reply(said.format((await peer.line()).decode()))
        await peer.rest()

    transport = SmtpTransport(Tokens([SECRET]), TIMEOUTS, Events())
    async with listening(parrot, tls=server_tls) as listener:
        box = mailbox(endpoint=SmtpEndpoint("localhost", listener.port, Tls.IMPLICIT, login, ca_file=ca_file))
        envelope = Envelope.of(box.address, [parse("jana@fabrikam.com")])
        outcome = await transport.submit(box, envelope, OutgoingMessage("<1@contoso.com>", SMALL), always)
    await transport.close()
    assert leaks(listener.heard.decode()), "the server was told the secret: this is no idle test"
    assert isinstance(outcome, Refused)
    assert outcome.stage is Stage.AUTH
    assert not leaks(repr(outcome))
    assert not leaks(str(outcome.reply))
