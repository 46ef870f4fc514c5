"""Doubts that end by themselves: a copy in Sent Items is proof, its absence is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from contracts.delivery import DeliveryStatus, MailboxUsed, RecipientResult, RecipientStatus, Result
from tests.factories import JANA, NOON, mailbox, progress, result
from tests.fakes import Events
from worker.domain.delivery import Key
from worker.domain.mailbox import Mailbox
from worker.doubts import look_into
from worker.events import DoubtEnded
from worker.ports import Claimed, Settlement
from worker.store.memory import MemoryLedger

KEY = Key("contoso", "reset-7f3a")
PLATFORM = mailbox("platform")


@dataclass
class Shelf:
    """Sent Items.

    Attributes:
        answer: whether the mail lies there.
        asked: mailboxes and Message-IDs.
    """

    answer: bool | None
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def was_sent(self, mailbox: Mailbox, message_id: str) -> bool | None:
        self.asked.append((mailbox.name, message_id))
        return self.answer


async def with_a_doubt(**fields: object) -> MemoryLedger:
    ledger = MemoryLedger()
    claim = await ledger.claim(KEY, "d", progress(), NOON)
    assert isinstance(claim, Claimed)
    used = MailboxUsed.model_validate(
        {"name": "platform", "address": "a@b.example", "transport": "smtp", "because": "default"}, strict=False
    )
    people = (RecipientResult(address=str(JANA), status=RecipientStatus.IN_DOUBT),)
    given = {"mailbox": used, "message_id": "<1@contoso.com>", "recipients": people, **fields}
    doubt = result(DeliveryStatus.IN_DOUBT, **given)
    await ledger.settle(claim, Settlement(progress(), (doubt,)))
    return ledger


async def looked(ledger: MemoryLedger, shelf: Shelf, age: timedelta = timedelta(minutes=5)) -> tuple[Result, Events]:
    (doubt,) = await ledger.doubts()
    events = Events()
    await look_into(ledger, shelf, {"platform": PLATFORM}, doubt.result.occurred_at + age, events)
    found = await ledger.find(KEY)
    assert found is not None
    return found, events


async def test_mail_that_lies_in_sent_items_was_accepted() -> None:
    shelf = Shelf(answer=True)
    ledger = await with_a_doubt()
    found, events = await looked(ledger, shelf)
    assert (found.status, [each.status for each in found.recipients]) == (DeliveryStatus.RESOLVED, ["accepted"])
    assert shelf.asked == [("platform", "<1@contoso.com>")]
    assert list(events.of(DoubtEnded)) == [DoubtEnded("reset-7f3a")]
    assert await ledger.doubts() == []


@pytest.mark.parametrize("answer", [False, None])
async def test_mail_that_does_not_lie_there_stays_in_doubt(answer: bool | None) -> None:  # noqa: FBT001
    found, events = await looked(await with_a_doubt(), Shelf(answer=answer))
    assert found.status is DeliveryStatus.IN_DOUBT
    assert events.seen == []


@pytest.mark.parametrize("age", [timedelta(seconds=3), timedelta(days=3)], ids=["too-young", "too-old"])
async def test_doubt_outside_the_time_in_which_a_look_is_worth_it_is_left_alone(age: timedelta) -> None:
    shelf = Shelf(answer=True)
    await looked(await with_a_doubt(), shelf, age)
    assert shelf.asked == []


@pytest.mark.parametrize("fields", [{"mailbox": None}, {"message_id": None}])
async def test_doubt_that_does_not_say_where_to_look_is_left_alone(fields: dict[str, None]) -> None:
    shelf = Shelf(answer=True)
    await looked(await with_a_doubt(**fields), shelf)
    assert shelf.asked == []
