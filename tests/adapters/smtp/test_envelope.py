"""Envelopes with many recipients: each reply belongs to its own recipient, in groups and one by one."""

import re

import pytest

from contracts.address import AddrSpec, parse
from tests.adapters.smtp.dialog import SMALL, Tokens
from tests.adapters.smtp.server import PATIENCE, Obedient, listening
from tests.factories import mailbox
from tests.fakes import Events
from worker.domain.delivery import Accepted, Refused, Stage, Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import NoLogin, SmtpEndpoint, Tls
from worker.domain.message import OutgoingMessage
from worker.domain.reply import Reply
from worker.smtp.connect import Timeouts
from worker.smtp.transport import SmtpTransport

OFFERS = pytest.mark.parametrize("offers", [("PIPELINING",), ()], ids=["pipelined", "one-by-one"])
COUNTS = pytest.mark.parametrize("count", [1, 2, 98, 99, 100, 101, 199, 200, 350])


async def always() -> bool:
    return True


class Picky(Obedient):
    """Refuses every seventh recipient for good and every eleventh for now, each in words of its own.

    Attributes:
        leaves_at: the recipient at which it says goodbye.
    """

    leaves_at = -1

    def answer(self, command: bytes) -> str:
        found = re.fullmatch(rb"RCPT TO:<person-(\d+)@fabrikam\.com>", command)
        return said_to(int(found[1]), self.leaves_at) if found else super().answer(command)


def said_to(number: int, leaves_at: int = -1) -> str:
    if number == leaves_at:
        return "421 4.7.0 too many recipients"
    if number % 7 == 3:
        return f"550 5.1.1 no person {number}"
    return f"452 4.2.2 person {number} is full" if number % 11 == 5 else "250 2.1.5 Ok"


def person(number: int) -> AddrSpec:
    return parse(f"person-{number}@fabrikam.com")


async def submit(server: Picky, count: int) -> Submission:
    transport = SmtpTransport(Tokens([]), Timeouts(PATIENCE, PATIENCE, PATIENCE), Events())
    async with listening(server.serve) as listener:
        box = mailbox(endpoint=SmtpEndpoint("127.0.0.1", listener.port, Tls.NONE, NoLogin()))
        envelope = Envelope.of(box.address, map(person, range(count)))
        outcome = await transport.submit(box, envelope, OutgoingMessage("<1@contoso.com>", SMALL), always)
        await transport.close()
        await listener.until(lambda: listener.open == 0)
    return outcome


@OFFERS
@COUNTS
async def test_every_recipient_gets_its_own_reply(offers: tuple[str, ...], count: int) -> None:
    server = Picky(*offers)
    outcome = await submit(server, count)
    assert isinstance(outcome, Accepted)
    expected = {person(n): Reply.parse(said_to(n)) for n in range(count) if not said_to(n).startswith("250")}
    assert outcome.refused == expected
    assert server.count(b"RCPT") == count
    assert len(server.mails) == 1


@OFFERS
@pytest.mark.parametrize("at", [0, 50, 98, 99, 100, 150])
async def test_goodbye_in_the_middle_accepts_nobody_and_keeps_what_is_final(offers: tuple[str, ...], at: int) -> None:
    server = Picky(*offers)
    server.leaves_at = at
    outcome = await submit(server, 151)
    assert isinstance(outcome, Refused)
    assert (outcome.stage, outcome.reply) == (Stage.RCPT, Reply.parse(said_to(at, at)))
    final = {person(n): Reply.parse(said_to(n)) for n in range(151) if n != at and said_to(n).startswith("550")}
    assert final.keys() >= outcome.refused.keys()
    assert outcome.refused.keys() >= {recipient for recipient in final if recipient in map(person, range(at))}
    assert all(outcome.refused[recipient] == final[recipient] for recipient in outcome.refused)
    assert server.mails == []
