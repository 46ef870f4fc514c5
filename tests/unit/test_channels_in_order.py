"""Several ways out of one mailbox: the next one is tried only while nothing of the mail has left."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from pydantic import SecretStr

from contracts.delivery import DeliveryStatus, Result
from tests.factories import directory, mailbox
from tests.fakes import FakeTransport
from tests.unit.test_courier import House, only, when
from worker.domain.delivery import Accepted, Broken, Busy, Fault, Refused, Stage, Submission, TokenRefused
from worker.domain.mailbox import GraphEndpoint, OAuth, Secret, SmtpEndpoint
from worker.domain.reply import Reply
from worker.events import ChannelRested

GRAPH = GraphEndpoint(
    "https://graph.example/v1.0", "noreply@contoso.com", OAuth("a", "c", Secret(SecretStr("s")), "scope", "u")
)
SENT = Accepted(Reply.parse("202 Accepted"))
UNREACHABLE = Broken(Stage.CONNECT, Fault.UNREACHABLE, "nobody there")
WRONG_PASSWORD = Refused(Stage.AUTH, Reply.parse("535 5.7.3 Authentication unsuccessful"), mechanism="login")
OVER_RATE = Refused(Stage.MAIL, Reply.parse("432 4.3.2 Concurrent connections limit exceeded"))


@dataclass
class TwoWays(House):
    """A mailbox with SMTP first and Graph second."""

    graph: FakeTransport = field(default_factory=FakeTransport)

    def __post_init__(self) -> None:
        self.known = directory(mailbox("platform", further=(GRAPH,)), default="platform")
        super().__post_init__()
        self.graph.journal = self.journal
        object.__setattr__(self.courier, "transports", {SmtpEndpoint: self.transport, GraphEndpoint: self.graph})

    async def result(self, **fields: object) -> Result:
        return only(await self.deliver(**fields))  # type: ignore[arg-type]


@pytest.fixture
def house() -> TwoWays:
    made = TwoWays()
    made.transport.never_asks = True
    made.graph.answer = lambda _: SENT
    return made


def transport(result: Result) -> str:
    assert result.mailbox is not None
    return result.mailbox.transport


async def test_first_channel_that_works_is_the_only_one_used(house: TwoWays) -> None:
    house.transport.never_asks = False
    result = await house.result()
    assert (result.status, transport(result), house.graph.sent) == (DeliveryStatus.ACCEPTED, "smtp", [])


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(UNREACHABLE, id="connect"),
        pytest.param(Broken(Stage.CONNECT, Fault.CERTIFICATE, "not ours"), id="tls"),
        pytest.param(WRONG_PASSWORD, id="login"),
        pytest.param(TokenRefused("invalid_client", "wrong secret"), id="token"),
        pytest.param(OVER_RATE, id="throttled"),
    ],
)
async def test_mail_goes_by_the_second_channel_when_the_first_fails_before_the_mail(
    house: TwoWays, trouble: Submission
) -> None:
    house.answers(trouble)
    result = await house.result()
    assert (result.status, transport(result)) == (DeliveryStatus.ACCEPTED, "graph")
    assert house.gate.holds == {}
    (rested,) = house.events.of(ChannelRested)
    assert isinstance(rested, ChannelRested)
    assert (rested.mailbox, rested.transport) == ("platform", "smtp")


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(Refused(Stage.MAIL, Reply.parse("550 5.7.60 no permission to send as this sender")), id="sender"),
        pytest.param(Refused(Stage.RCPT, Reply.parse("550 5.1.1 unknown")), id="recipient"),
        pytest.param(Refused(Stage.DOT, Reply.parse("554 5.6.0 Invalid message content")), id="content"),
        pytest.param(Broken(Stage.DATA, Fault.DISCONNECTED, "gone"), id="body"),
        pytest.param(Broken(Stage.DOT, Fault.DISCONNECTED, "gone"), id="doubt"),
        pytest.param(Broken(Stage.CONNECT, Fault.INTERNAL, "our bug"), id="bug"),
        pytest.param(Busy(), id="busy"),
    ],
)
async def test_second_channel_is_not_tried_for_what_is_no_fault_of_the_first(
    house: TwoWays, trouble: Submission
) -> None:
    house.answers(trouble)
    await house.deliver()
    assert house.graph.sent == []


async def test_second_channel_is_not_tried_once_the_ledger_has_been_marked(house: TwoWays) -> None:
    house.transport.never_asks = False
    house.answers(OVER_RATE)
    await house.deliver()
    assert house.graph.sent == []


async def test_last_failure_is_the_one_that_counts(house: TwoWays) -> None:
    house.answers(WRONG_PASSWORD)
    house.graph.never_asks = True
    house.graph.answer = lambda _: UNREACHABLE
    result = await house.result()
    assert (result.status, transport(result)) == (DeliveryStatus.DEFERRED, "graph")
    assert result.reason is not None
    assert "Nothing answers" in result.reason.explanation


async def test_channel_that_cannot_carry_the_mail_leaves_the_word_to_the_one_before(house: TwoWays) -> None:
    house.answers(UNREACHABLE)
    house.graph.never_asks = True
    house.graph.answer = lambda _: Broken(Stage.GRAPH, Fault.NAMED_ALREADY, "")
    decision = await house.deliver()
    assert (only(decision).status, transport(only(decision))) == (DeliveryStatus.DEFERRED, "smtp")
    assert when(decision) > house.clock.now


async def test_refused_login_is_not_tried_again_with_the_next_mail(house: TwoWays) -> None:
    house.answers(WRONG_PASSWORD)
    await house.deliver()
    await house.deliver(id="another")
    assert (len(house.transport.sent), len(house.graph.sent)) == (1, 2)


async def test_rested_channel_is_tried_again_when_its_rest_is_over(house: TwoWays) -> None:
    house.answers(WRONG_PASSWORD, UNREACHABLE)
    await house.deliver()
    house.clock.forward(timedelta(days=1))
    await house.deliver(id="another")
    assert len(house.transport.sent) == 2


async def test_server_that_wants_less_gets_less_though_the_mail_went_by_another_way(house: TwoWays) -> None:
    house.transport.answer = lambda _: OVER_RATE
    assert (await house.result()).status is DeliveryStatus.ACCEPTED
    (said,) = house.gate.said
    assert said is not None
    assert said.throttle
