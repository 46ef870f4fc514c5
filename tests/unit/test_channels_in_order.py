"""Several ways out of one mailbox: the next one is tried only while nothing of the mail has left."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from pydantic import SecretStr

from contracts.delivery import DeliveryStatus, Result
from tests.factories import directory, mailbox
from tests.fakes import FakeTransport
from tests.unit.test_courier import House, only, when
from worker.domain.delivery import Accepted, Broken, Busy, Fault, Refused, Stage, Submission, TokenRefused
from worker.domain.mailbox import GraphEndpoint, Mailbox, OAuth, Secret, SmtpEndpoint
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
        self.known = directory(self.box(), default="platform")
        super().__post_init__()
        self.graph.journal = self.journal
        object.__setattr__(self.courier, "transports", {SmtpEndpoint: self.transport, GraphEndpoint: self.graph})

    def box(self) -> Mailbox:
        return mailbox("platform", further=(GRAPH,))

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


@dataclass
class GraphFirst(TwoWays):
    """The same mailbox the other way round."""

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = {SmtpEndpoint: self.graph, GraphEndpoint: self.transport}
        object.__setattr__(self.courier, "transports", channels)

    def box(self) -> Mailbox:
        both = super().box()
        return replace(both, endpoint=GRAPH, further=(both.endpoint,))


def of_graph(said: str, stage: Stage = Stage.GRAPH) -> Refused:
    reply = Reply.parse(said)
    return Refused(stage, reply, retry_after=timedelta(seconds=40) if reply.code == 429 else None)


NOT_LET_IN = [
    pytest.param("401 InvalidAuthenticationToken: Invalid audience.", 15 * 60, id="token"),
    pytest.param("403 ErrorAccessDenied: Access to OData is disabled.", 15 * 60, id="permission"),
    pytest.param("403 Forbidden", 15 * 60, id="proxy"),
    pytest.param("429 TooManyRequests: Too many requests.", 60, id="throttled"),
]
"""What Graph says to a whole mail without having looked at it, and for how many seconds it is left alone then."""


@pytest.mark.parametrize("stage", [Stage.DRAFT, Stage.GRAPH])
@pytest.mark.parametrize(("said", "rests"), NOT_LET_IN)
async def test_mail_goes_by_smtp_when_graph_lets_nobody_in(said: str, rests: int, stage: Stage) -> None:
    house = GraphFirst()
    house.answers(of_graph(said, stage))
    result = await house.result()
    assert (result.status, transport(result)) == (DeliveryStatus.ACCEPTED, "smtp")
    assert house.journal == ["claim", "submit", "handing over", "dot", "submit", "handing over", "dot", "settle"]
    (rested,) = house.events.of(ChannelRested)
    assert isinstance(rested, ChannelRested)
    assert (rested.transport, rested.until) == ("graph", house.clock.now + timedelta(seconds=rests))


async def test_token_that_cannot_be_replaced_leaves_the_mail_to_smtp() -> None:
    house = GraphFirst()
    house.answers(TokenRefused("invalid_client", "the secret has expired"))
    result = await house.result()
    assert (result.status, transport(result)) == (DeliveryStatus.ACCEPTED, "smtp")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(of_graph("403 ErrorSendAsDenied: Not as this sender."), id="sender"),
        pytest.param(of_graph("403 ErrorMessageSubmissionBlocked: Suspended."), id="suspended"),
        pytest.param(of_graph("400 ErrorInvalidRecipients: Not valid."), id="recipient"),
        pytest.param(of_graph("429 ErrorSubmissionQuotaExceeded: Too many today."), id="day"),
        pytest.param(of_graph("429 UnknownError: Who knows."), id="doubtful"),
        pytest.param(of_graph("404 ErrorItemNotFound: No such draft."), id="draft"),
        pytest.param(Broken(Stage.DOT, Fault.SERVER_ERROR, "504"), id="unanswered"),
        pytest.param(Broken(Stage.CONNECT, Fault.INTERNAL, "our bug"), id="bug"),
    ],
)
async def test_smtp_is_not_tried_for_what_is_no_matter_of_graphs_own(answer: Submission) -> None:
    house = GraphFirst()
    house.answers(answer)
    await house.deliver()
    assert house.graph.sent == []


async def test_mail_that_graph_gave_back_is_not_in_doubt_when_smtp_fails_before_it() -> None:
    house = GraphFirst()
    house.answers(of_graph("403 ErrorAccessDenied: Access is denied."))
    house.graph.bug_before = RuntimeError("our bug")
    assert (await house.result()).status is DeliveryStatus.FAILED
