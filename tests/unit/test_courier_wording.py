"""The use case where the producer left it to us what is said, to whom, or to how many."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.cancellation import Cancellation
from contracts.delivery import DeliveryStatus
from contracts.notification import Address
from contracts.wire import Properties, encode
from tests.factories import JANA, NOON, OMAR, directory, mailbox
from tests.unit.test_courier import DIRECTORY, GREYLISTED, OK, PLATFORM, THROTTLED, House, only, when
from worker.courier import Intake
from worker.domain.decision import Acknowledge, DeadLetter, Decision, Split, WaitUntil
from worker.domain.delivery import Accepted
from worker.domain.mailbox import Producer
from worker.domain.reply import Reply
from worker.domain.wording import Rule, Unreadable, Unrenderable
from worker.ports import Hold

BOSS, EVE = Address(address="boss@contoso.com"), Address(address="eve@contoso.com")
RULE = Rule("approval.requested", template="approval", to=(BOSS,), category="approval", data={"base": "https://pm"})
TEMPLATE = {"subject": None, "text": None, "template": "approval", "locale": "cs-CZ", "data": {"id": 7}}
EVENT = {"subject": None, "text": None, "to": [], "event": "approval.requested", "data": {"id": 7}}
LEAST = {"type": "postlane.notification.v1", "id": "n-1", "tenant": "contoso", "to": [str(JANA)]}
AWAY = Unreadable("The template directory cannot be read: gone.", "Mount it.")


async def delivered(house: House, fields: dict[str, Any], carry: str = "", of: Properties | None = None) -> Decision:
    """What is decided on a notification with these fields; None stands for a field that is left out."""
    document = {name: value for name, value in {**LEAST, **fields}.items() if value is not None}
    return await house.courier.deliver(Intake(json.dumps(document).encode(), of or Properties(), carry))


def reason(decision: Decision) -> str:
    why = only(decision).reason
    return why.kind if why else ""


@pytest.fixture
def house() -> House:
    house = House()
    house.templates.rules = [RULE]
    return house


async def test_template_is_sent_in_the_words_that_it_came_to(house: House) -> None:
    decision = await delivered(house, TEMPLATE)
    assert only(decision).status is DeliveryStatus.ACCEPTED
    ((_, _, message),) = house.transport.sent
    assert b"Subject: A subject" in message.content
    assert b"<p>A text.</p>" in message.content
    (order,) = house.templates.orders
    assert (order.template, order.locale, order.data) == ("approval", "cs-CZ", {"id": 7})


async def test_template_that_does_not_work_is_set_aside_before_any_mailbox_is_asked(house: House) -> None:
    house.templates.answer = Unrenderable("'id' is undefined in line 3.", "Give it.")
    decision = await delivered(house, TEMPLATE)
    assert (only(decision).status, reason(decision)) == (DeliveryStatus.REJECTED, "template")
    assert "line 3" in str(only(decision).reason)
    assert isinstance(decision.disposition, DeadLetter)
    assert (house.transport.sent, house.gate.demands) == ([], [])


async def test_templates_out_of_reach_keep_the_mail_waiting_and_the_producer_is_told_once(house: House) -> None:
    house.templates.answer = AWAY
    first = await delivered(house, TEMPLATE)
    assert (only(first).status, reason(first)) == (DeliveryStatus.DEFERRED, "templates-unavailable")
    assert when(first) > NOON
    house.clock.now = when(first)
    second = await delivered(house, TEMPLATE, carry=first.carry)
    assert second.results == ()
    house.clock.now = when(second) + timedelta(days=30)
    house.templates.answer = House().templates.answer
    third = await delivered(house, TEMPLATE, carry=second.carry)
    assert only(third).status is DeliveryStatus.ACCEPTED


async def test_event_goes_to_whom_its_rule_says_with_the_rules_data(house: House) -> None:
    decision = await delivered(house, EVENT)
    assert [item.address for item in only(decision).recipients] == ["boss@contoso.com"]
    assert only(decision).category == "approval"
    assert house.recipients == [(BOSS.spec,)]
    assert house.templates.orders[0].data == {"id": 7, "base": "https://pm"}


async def test_event_without_a_rule_sends_nothing_and_is_told_and_set_aside(house: House) -> None:
    house.templates.rules = []
    decision = await delivered(house, EVENT)
    assert (only(decision).status, reason(decision)) == (DeliveryStatus.REJECTED, "no-rule")
    assert isinstance(decision.disposition, DeadLetter)
    assert house.transport.sent == []


async def test_event_waits_while_the_rules_cannot_be_read_even_if_it_says_everything_itself(house: House) -> None:
    house.templates.away = AWAY
    decision = await delivered(house, {"event": "approval.requested", "subject": "S", "text": "T"})
    assert only(decision).status is DeliveryStatus.DEFERRED
    assert isinstance(decision.disposition, WaitUntil)


async def test_rule_that_changes_between_attempts_neither_doubles_nor_loses_a_mail(house: House) -> None:
    house.templates.rules = [replace(RULE, to=(BOSS, Address(address=str(JANA))))]
    house.answers(GREYLISTED, GREYLISTED)
    first = await delivered(house, EVENT)
    house.ledger.pages.clear()  # another worker: what it knows is what travels with the message
    house.clock.now = when(first)
    house.templates.rules = [replace(RULE, to=(EVE, BOSS))]
    second = await delivered(house, EVENT, carry=first.carry)
    assert house.recipients == [(BOSS.spec, JANA), (EVE.spec, BOSS.spec)]
    assert {item.address for item in only(second).recipients} == {"eve@contoso.com", "boss@contoso.com"}


async def test_who_has_the_mail_does_not_get_it_again_when_the_rule_changes(house: House) -> None:
    house.answers(Accepted(OK, {EVE.spec: Reply.parse("450 4.2.0 Greylisted")}), Accepted(OK))
    house.templates.rules = [replace(RULE, to=(BOSS, EVE))]
    first = await delivered(house, EVENT)
    house.ledger.pages.clear()
    house.clock.now = when(first)
    house.templates.rules = [replace(RULE, to=(EVE, BOSS))]
    second = await delivered(house, EVENT, carry=first.carry)
    assert house.recipients == [(BOSS.spec, EVE.spec), (EVE.spec,)]
    assert {item.status for item in only(second).recipients} == {"accepted"}


async def test_event_that_a_dead_worker_left_in_doubt_stays_in_doubt_when_its_rule_is_gone(house: House) -> None:
    house.answers(GREYLISTED)
    first = await delivered(house, EVENT)
    house.ledger.page.doubtful = True
    house.templates.rules = []
    house.clock.now = when(first)
    decision = await delivered(house, EVENT, carry=first.carry)
    assert (only(decision).status, reason(decision)) == (DeliveryStatus.IN_DOUBT, "worker-crash")


@pytest.mark.parametrize(("categories", "sent"), [(["approval"], 1), (["notification"], 0)])
async def test_producer_is_held_to_the_category_that_the_rule_gives(categories: list[str], sent: int) -> None:
    portal = Producer("portal", frozenset(), frozenset(categories))
    house = House(directory(PLATFORM, default="platform", producers=[portal]))
    house.templates.rules = [RULE]
    await delivered(house, EVENT, of=Properties(user_id="portal"))
    assert len(house.transport.sent) == sent


async def test_rule_cannot_use_a_mailbox_that_the_tenant_may_not() -> None:
    theirs = mailbox("theirs", tenants=frozenset({"fabrikam"}))
    house = House(directory(PLATFORM, theirs, default="platform"))
    house.templates.rules = [replace(RULE, mailbox="theirs")]
    decision = await delivered(house, EVENT)
    assert reason(decision) == "unknown-mailbox"


# ---------------------------------------------------------------- mass mail

OWN = directory(mailbox("own", tenants=frozenset({"contoso"})))
NEWS = {"category": "mass", "subject": "News", "text": "T", "to": [str(JANA), str(OMAR), str(JANA)]}


async def test_mass_mail_becomes_one_mail_a_person_and_says_so() -> None:
    house = House(OWN)
    decision = await delivered(house, NEWS)
    result = only(decision)
    assert (result.status, result.final, result.expanded_into) == (DeliveryStatus.EXPANDED, True, 3)
    assert isinstance(decision.disposition, Split)
    assert [(part.id, part.to[0].spec) for part in decision.disposition.parts] == [("n-1/1", JANA), ("n-1/2", OMAR)]
    assert house.transport.sent == []


async def test_part_of_a_mass_mail_is_sent_as_it_is() -> None:
    house = House(OWN)
    decision = await delivered(house, {**NEWS, "id": "n-1/1", "to": [str(JANA)]})
    assert only(decision).status is DeliveryStatus.ACCEPTED


async def test_mass_mail_that_was_told_but_not_split_before_a_crash_is_split_then() -> None:
    house = House(OWN)
    first = await delivered(house, NEWS)
    house.ledger.page.told = False
    second = await delivered(house, NEWS)
    assert second == first
    house.ledger.page.told = True
    third = await delivered(house, NEWS)
    assert (third.results, third.disposition) == (first.results, Acknowledge())


@given(st.lists(st.integers(0, 2), max_size=4))
def test_crashes_in_the_middle_of_splitting_neither_lose_a_mail_nor_double_one(published: list[int]) -> None:
    """Each time so many parts get out before the worker dies; the broker delivers the whole again."""

    async def through_all() -> House:
        house, out = House(OWN), []
        for count in [*published, 2]:
            decision = await delivered(house, NEWS)
            assert isinstance(decision.disposition, Split)
            out += decision.disposition.parts[:count]
            house.ledger.page.told = False
        for part in out:
            await house.courier.deliver(Intake(encode(part), Properties()))
        return house

    assert sorted(asyncio.run(through_all()).recipients, key=str) == [(JANA,), (OMAR,)]


async def test_mass_mail_that_no_mailbox_may_carry_is_refused_once() -> None:
    decision = await delivered(House(DIRECTORY), NEWS)
    assert only(decision).status is DeliveryStatus.REJECTED
    foreign = await delivered(House(OWN), {**NEWS, "from": "ceo@elsewhere.org"})
    assert reason(foreign) == "sender-not-allowed"


async def test_mass_mail_waits_as_one_for_its_time_and_expires_as_one() -> None:
    house = House(OWN)
    early = await delivered(house, {**NEWS, "not_before": "2026-06-01T13:00:00Z"})
    assert isinstance(early.disposition, WaitUntil)
    late = await delivered(House(OWN), {**NEWS, "expires_at": "2026-06-01T11:00:00Z"})
    assert only(late).status is DeliveryStatus.EXPIRED


async def test_cancelling_a_mass_mail_that_was_split_cancels_every_part() -> None:
    house = House(OWN)
    await delivered(house, NEWS)
    wish = {"type": "postlane.cancel.v1", "id": "n-1", "tenant": "contoso"}
    decision = await house.courier.deliver(Intake(json.dumps(wish).encode(), Properties()))
    assert isinstance(decision.disposition, Split)
    parts = decision.disposition.parts
    assert all(isinstance(part, Cancellation) for part in parts)
    assert [part.id for part in parts] == ["n-1/1", "n-1/2", "n-1/3"]
    (part,) = [part for part in parts if part.id == "n-1/2"]
    await house.courier.deliver(Intake(part.model_dump_json().encode(), Properties()))
    stopped = await delivered(house, {**NEWS, "id": "n-1/2", "to": [str(OMAR)]})
    assert (only(stopped).status, house.transport.sent) == (DeliveryStatus.CANCELLED, [])


async def test_templates_are_not_rendered_again_and_again_for_a_mass_mail_that_is_split() -> None:
    house = House(OWN)
    await delivered(house, {**TEMPLATE, "category": "mass", "to": [str(JANA), str(OMAR)]})
    assert house.templates.orders == []


async def test_held_mailbox_keeps_a_rendered_mail_waiting_too(house: House) -> None:
    house.gate.holds["platform"] = Hold(NOON + timedelta(minutes=5), THROTTLED)
    decision = await delivered(house, TEMPLATE)
    assert only(decision).status is DeliveryStatus.DEFERRED
