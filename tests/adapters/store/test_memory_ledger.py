"""The ledger of one worker: who may send, who must not, and what is remembered."""

import asyncio
from datetime import timedelta

import pytest

from contracts.delivery import DeliveryStatus, RecipientStatus
from tests.factories import JANA, NOON, OMAR, outcome, progress, result
from worker.domain.delivery import Progress
from worker.ports import Claimed, Contradicted, Finished, Key, Underway
from worker.store.memory import MemoryLedger

KEY = Key("contoso", "reset-7f3a")
OTHER = Key("contoso", "reset-0000")
FIRST = progress()
FURTHER = progress(attempts=2, settled={JANA: outcome(RecipientStatus.ACCEPTED)})
ACCEPTED = result()
REJECTED = result(DeliveryStatus.REJECTED)
DEFERRED_CARRY = progress(attempts=1)


async def in_state(state: str) -> MemoryLedger:
    """A ledger in which KEY has come to this state, with digest `d`."""
    ledger = MemoryLedger()
    if state == "unknown":
        return ledger
    await ledger.claim(KEY, "d", FIRST)
    if state in {"handing-over", "in-doubt-open"}:
        assert await ledger.handing_over(KEY)
    match state:
        case "open" | "in-doubt-open":
            await ledger.settle(KEY, FURTHER, None)
        case "finished":
            await ledger.settle(KEY, FURTHER, ACCEPTED)
        case "rejected":
            await ledger.settle(KEY, FURTHER, REJECTED)
        case "claimed-again":
            await ledger.settle(KEY, FURTHER, None)
            await ledger.claim(KEY, "d", FIRST)
    return ledger


# state, digest of the claim → answer to the claim, answer to handing_over without a claim
TABLE = [
    ("unknown", "d", Claimed(FIRST), False),
    ("unknown", "other", Claimed(FIRST), False),
    ("claimed", "d", Underway(), True),
    ("claimed", "other", Contradicted(), True),
    ("handing-over", "d", Underway(), True),
    ("handing-over", "other", Contradicted(), True),
    ("open", "d", Claimed(FURTHER), False),
    ("open", "other", Contradicted(), False),
    ("in-doubt-open", "d", Claimed(FURTHER), False),
    ("claimed-again", "d", Underway(), True),
    ("finished", "d", Finished(ACCEPTED), False),
    ("finished", "other", Contradicted(), False),
    ("rejected", "d", Claimed(FIRST), False),
    ("rejected", "other", Claimed(FIRST), False),
]
IDS = [f"{state}-{digest}" for state, digest, _, _ in TABLE]


@pytest.mark.parametrize(("state", "digest", "expected", "_ours"), TABLE, ids=IDS)
async def test_claim_in_a_state_is_answered_by_the_table(
    state: str, digest: str, expected: object, _ours: object
) -> None:
    ledger = await in_state(state)
    assert await ledger.claim(KEY, digest, FIRST) == expected


@pytest.mark.parametrize(("state", "_digest", "_expected", "ours"), TABLE, ids=IDS)
async def test_handing_over_is_allowed_only_to_who_has_claimed(
    state: str, _digest: object, _expected: object, ours: object
) -> None:
    ledger = await in_state(state)
    assert await ledger.handing_over(KEY) is ours


async def test_claim_is_given_to_one_of_many() -> None:
    ledger = MemoryLedger()
    answers = await asyncio.gather(*(ledger.claim(KEY, "d", FIRST) for _ in range(20)))
    assert sorted(type(answer).__name__ for answer in answers) == ["Claimed", *["Underway"] * 19]


@pytest.mark.parametrize("other", [Key("contoso", "x"), Key("fabrikam", KEY.notification_id)], ids=["id", "tenant"])
async def test_notifications_are_told_apart_by_tenant_and_id(other: Key) -> None:
    ledger = await in_state("finished")
    assert await ledger.claim(other, "d", FIRST) == Claimed(FIRST)


async def test_finished_stays_finished_however_often_it_comes() -> None:
    ledger = await in_state("finished")
    answers = [await ledger.claim(KEY, "d", FURTHER) for _ in range(3)]
    assert answers == [Finished(ACCEPTED)] * 3
    assert not await ledger.handing_over(KEY)


async def test_claim_that_was_refused_changes_nothing() -> None:
    ledger = await in_state("open")
    assert await ledger.claim(KEY, "other", FIRST) == Contradicted()
    assert await ledger.claim(KEY, "d", FIRST) == Claimed(FURTHER)


# which progress wins


def settled(attempts: int, *people: object) -> Progress:
    return progress(attempts=attempts, settled={person: outcome(RecipientStatus.ACCEPTED) for person in people})


@pytest.mark.parametrize(
    ("stored", "carried"),
    [
        (settled(1, JANA), settled(0)),
        (settled(1, JANA), settled(1)),
        (settled(1, JANA), settled(2)),
        (settled(0), settled(1, JANA)),
        (settled(2), settled(1, JANA)),
        (settled(1, JANA), settled(1, OMAR)),
        (settled(1, JANA), settled(2, OMAR)),
        (settled(1, JANA, OMAR), settled(3, OMAR)),
    ],
    ids=[
        "copy-knows-nothing",
        "copy-knows-less",
        "copy-tried-more-and-knows-less",
        "copy-knows-more",
        "copy-tried-less-and-knows-more",
        "each-knows-another",
        "each-knows-another-copy-tried-more",
        "copy-tried-more-and-knows-a-part",
    ],
)
async def test_recipient_that_is_settled_is_never_open_again(stored: Progress, carried: Progress) -> None:
    """Whoever has it already must not get it a second time."""
    ledger = MemoryLedger()
    await ledger.claim(KEY, "d", FIRST)
    await ledger.settle(KEY, stored, None)
    answer = await ledger.claim(KEY, "d", carried)
    assert isinstance(answer, Claimed)
    assert set(answer.progress.settled) == {*stored.settled, *carried.settled}


# memory


async def test_oldest_finished_ones_are_forgotten_first() -> None:
    ledger = MemoryLedger(capacity=3)
    keys = [Key("contoso", str(number)) for number in range(5)]
    for key in keys:
        await ledger.claim(key, "d", FIRST)
        await ledger.settle(key, FIRST, ACCEPTED)
    answers = {key: isinstance(await ledger.claim(key, "d", FIRST), Finished) for key in reversed(keys)}
    assert [answers[key] for key in keys] == [False, False, True, True, True]


async def test_what_is_being_sent_is_never_forgotten() -> None:
    ledger = MemoryLedger(capacity=2)
    keys = [Key("contoso", str(number)) for number in range(10)]
    for key in keys:
        await ledger.claim(key, "d", FIRST)
    assert [await ledger.claim(key, "d", FIRST) for key in keys] == [Underway()] * 10
    assert all([await ledger.handing_over(key) for key in keys])
    for key in keys:
        await ledger.settle(key, FIRST, ACCEPTED)


async def test_settling_makes_it_young_again() -> None:
    ledger = MemoryLedger(capacity=2)
    await ledger.claim(KEY, "d", FIRST)
    await ledger.claim(OTHER, "d", FIRST)
    await ledger.settle(OTHER, FIRST, ACCEPTED)
    await ledger.settle(KEY, FIRST, ACCEPTED)
    await ledger.claim(Key("contoso", "third"), "d", FIRST)
    assert isinstance(await ledger.claim(KEY, "d", FIRST), Finished)


async def test_many_waiting_claims_forget_down_to_the_capacity() -> None:
    ledger = MemoryLedger(capacity=3)
    keys = [Key("contoso", str(number)) for number in range(8)]
    for key in keys:
        await ledger.claim(key, "d", FIRST)
    for key in keys:
        await ledger.settle(key, FIRST, ACCEPTED)
    await ledger.claim(KEY, "d", FIRST)
    remembered = [isinstance(await ledger.claim(key, "d", FIRST), Finished) for key in reversed(keys)]
    assert sum(remembered) <= 3


async def test_first_seen_is_kept_from_attempt_to_attempt() -> None:
    """The Date header and the retry horizon hang on it."""
    ledger = MemoryLedger()
    await ledger.claim(KEY, "d", FIRST)
    await ledger.settle(KEY, progress(attempts=1), None)
    answer = await ledger.claim(KEY, "d", progress(first_seen=NOON + timedelta(hours=1)))
    assert isinstance(answer, Claimed)
    assert answer.progress.first_seen == NOON
