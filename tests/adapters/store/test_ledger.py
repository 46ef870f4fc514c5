"""What a ledger, an outbox and a register are, whatever they are made of: one suite for all stores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from contracts.delivery import DeliveryStatus, RecipientStatus, Result
from tests.adapters.store.conftest import Backend
from tests.factories import JANA, NOON, OMAR, outcome, progress, result
from worker.domain.delivery import Key, Progress
from worker.domain.reply import Reply
from worker.ports import (
    Claimed,
    Contradicted,
    Doubtful,
    Finished,
    Recalled,
    Settlement,
    Store,
    Underway,
    Waiting,
)

KEY = Key("contoso", "reset-7f3a")
FIRST = progress()
FURTHER = progress(attempts=2, settled={JANA: outcome(RecipientStatus.ACCEPTED, "250 2.6.0 OK", "")})
LATER = NOON + timedelta(hours=1)

ACCEPTED = result(event_id="e-accepted")
DEFERRED = result(DeliveryStatus.DEFERRED, event_id="e-deferred")
REJECTED = result(DeliveryStatus.REJECTED, event_id="e-rejected")
IN_DOUBT = result(DeliveryStatus.IN_DOUBT, event_id="e-doubt")
RESOLVED = result(DeliveryStatus.RESOLVED, event_id="e-resolved")


async def claimed(store: Store, key: Key = KEY, now_progress: Progress = FIRST) -> Claimed:
    answer = await store.claim(key, "d", now_progress, NOON)
    assert isinstance(answer, Claimed)
    return answer


async def in_state(store: Store, state: str) -> Claimed | None:
    """Bring KEY into a state; the claim by which it got there."""
    if state == "unknown":
        return None
    if state == "cancelled unseen":
        recalled = await store.recall(KEY, NOON)
        assert isinstance(recalled, Recalled)
        return recalled.claimed
    claim = await claimed(store)
    match state:
        case "unwanted":
            await store.recall(KEY, NOON)
        case "marked":
            assert await store.handing_over(claim)
        case "waiting":
            await store.settle(claim, Settlement(FURTHER, (DEFERRED,), LATER))
        case "due":
            await store.settle(claim, Settlement(FURTHER, (DEFERRED,), NOON))
        case "given back":
            await store.settle(claim, Settlement(FURTHER))
        case "claimed again":
            await store.settle(claim, Settlement(FURTHER))
            return await claimed(store)
        case "finished":
            await store.settle(claim, Settlement(FURTHER, (DEFERRED, ACCEPTED)))
        case "told":
            await store.settle(claim, Settlement(FURTHER, (DEFERRED, ACCEPTED)))
            await store.published(KEY, (DEFERRED, ACCEPTED), disposed=True)
        case "in doubt":
            await store.handing_over(claim)
            await store.settle(claim, Settlement(FURTHER, (IN_DOUBT,)))
        case "resolved":
            await store.settle(claim, Settlement(FURTHER, (IN_DOUBT,)))
            assert await store.resolve(KEY, RESOLVED, None, "somebody")
        case "rejected":
            await store.settle(claim, Settlement(FURTHER, (REJECTED,)))
        case "reopened":
            await store.settle(claim, Settlement(FURTHER, (ACCEPTED,)))
            await store.published(KEY, (ACCEPTED,), disposed=True)
            assert await store.reopen(KEY, "d", FURTHER, "somebody")
    return claim


def shown(answer: object) -> str:  # noqa: PLR0911 - a table
    """An answer in a word or two."""
    match answer:
        case Claimed(progress=knows):
            return f"claimed {knows.attempts}"
        case Doubtful():
            return "doubtful"
        case Finished(results, _, told):
            return f"finished {statuses(results)}{' told' if told else ''}"
        case Underway():
            return "underway"
        case Waiting(until):
            return f"waiting {until - NOON}"
        case Contradicted():
            return "contradicted"
        case Recalled(_, last):
            return f"recalled {last.status if last else '-'}"
        case tuple():
            return statuses(answer)
        case Result(status=status):
            return status
        case _:
            return str(answer)


def statuses(results: Sequence[Result]) -> str:
    return "+".join(each.status for each in results)


# state → claim, claim of other content, mark, settle (by the claim that led there), recall, resolve, reopen, find
TABLE = {
    "unknown": ("claimed 0", "claimed 0", "", "", "recalled -", "False", "True", "None"),
    "claimed": ("underway", "contradicted", "True", "accepted", "underway", "False", "False", "None"),
    "unwanted": ("underway", "contradicted", "False", "accepted", "underway", "False", "False", "None"),
    "marked": ("underway", "contradicted", "True", "accepted", "underway", "False", "False", "None"),
    "waiting": ("waiting 1:00:00", "contradicted", "False", "None", "recalled deferred", "False", "True", "deferred"),
    "due": ("claimed 2", "contradicted", "False", "None", "recalled deferred", "False", "True", "deferred"),
    "given back": ("claimed 2", "contradicted", "False", "None", "recalled -", "False", "True", "None"),
    "claimed again": ("underway", "contradicted", "True", "accepted", "underway", "False", "False", "None"),
    "finished": (
        "finished deferred+accepted", "contradicted", "False", "None", "finished deferred+accepted", "False", "True",
        "accepted",
    ),
    "told": (
        "finished accepted told", "contradicted", "False", "None", "finished accepted told", "False", "True",
        "accepted",
    ),
    "in doubt": (
        "finished in_doubt", "contradicted", "False", "None", "finished in_doubt", "True", "True", "in_doubt",
    ),
    "resolved": (
        "finished in_doubt+resolved", "contradicted", "False", "None", "finished in_doubt+resolved", "False", "True",
        "resolved",
    ),
    "rejected": ("claimed 0", "claimed 0", "False", "None", "recalled -", "False", "True", "None"),
    "reopened": ("claimed 2", "contradicted", "False", "None", "recalled -", "False", "True", "None"),
    "cancelled unseen": ("underway", "underway", "True", "accepted", "underway", "False", "False", "None"),
}  # fmt: skip
OPERATIONS = ("claim", "other", "mark", "settle", "recall", "resolve", "reopen", "find")
CASES = [
    pytest.param(state, operation, row[number], id=f"{operation}-{state}".replace(" ", "-"))
    for state, row in TABLE.items()
    for number, operation in enumerate(OPERATIONS)
    if row[number]
]


@pytest.mark.parametrize(("state", "operation", "expected"), CASES)
async def test_every_operation_in_every_state_answers_as_the_table_says(
    backend: Backend, state: str, operation: str, expected: str
) -> None:
    store = await backend.worker()
    claim = await in_state(store, state)
    answer: object = None
    match operation:
        case "claim":
            answer = await store.claim(KEY, "d", FIRST, NOON)
        case "other":
            answer = await store.claim(KEY, "other", FIRST, NOON)
        case "mark":
            assert claim is not None
            answer = await store.handing_over(claim)
        case "settle":
            assert claim is not None
            answer = await store.settle(claim, Settlement(FURTHER, (ACCEPTED,)))
        case "recall":
            answer = await store.recall(KEY, NOON)
        case "resolve":
            answer = await store.resolve(KEY, RESOLVED, None, "somebody")
        case "reopen":
            answer = await store.reopen(KEY, "d", FURTHER, "somebody")
        case "find":
            answer = await store.find(KEY)
    assert shown(answer) == expected


@pytest.mark.parametrize("state", [state for state in TABLE if state not in {"unknown", "rejected", "reopened"}])
async def test_final_state_is_left_by_no_claim_mark_or_settlement(backend: Backend, state: str) -> None:
    store = await backend.worker()
    claim = await in_state(store, state)
    before = await store.find(KEY)
    final = before is not None and before.final
    for _ in range(3):
        await store.claim(KEY, "d", FURTHER, LATER)
        if claim is not None and final:
            assert not await store.handing_over(claim)
            assert await store.settle(claim, Settlement(FIRST, (REJECTED,))) is None
        if final:
            assert await store.find(KEY) == before


async def test_claim_is_given_to_one_of_many_in_one_worker(backend: Backend) -> None:
    store = await backend.worker()
    answers = await asyncio.gather(*(store.claim(KEY, "d", FIRST, NOON) for _ in range(100)))
    assert sorted(map(shown, answers)) == ["claimed 0", *["underway"] * 99]


@pytest.mark.parametrize("other", [Key("contoso", "x"), Key("fabrikam", KEY.notification_id)], ids=["id", "tenant"])
async def test_notifications_are_told_apart_by_tenant_and_id(backend: Backend, other: Key) -> None:
    store = await backend.worker()
    await in_state(store, "finished")
    assert shown(await store.claim(other, "d", FIRST, NOON)) == "claimed 0"


async def test_everything_that_is_written_is_read_back_as_it_was(backend: Backend) -> None:
    store = await backend.worker()
    full = progress(
        attempts=3,
        settled={JANA: outcome(RecipientStatus.FAILED, "550 5.1.1 žádný takový uživatel", "recipient-unknown")},
        doubted=frozenset({OMAR}),
        waits=2,
        told="mailbox-paused",
        slot=NOON + timedelta(microseconds=1),
        replays=1,
    )
    claim = await claimed(store)
    await store.settle(claim, Settlement(full, (DEFERRED,), NOON, "amq.rabbitmq.reply-to.x"))
    again = await store.claim(KEY, "d", full, NOON)
    assert isinstance(again, Claimed)
    assert again.progress == full
    assert isinstance(again.progress.settled[JANA].reply, Reply)
    assert await store.find(KEY) == DEFERRED


def settled(attempts: int, *people: object) -> Progress:
    return progress(attempts=attempts, settled={person: outcome(RecipientStatus.ACCEPTED) for person in people})


@pytest.mark.parametrize(
    ("stored", "carried"),
    [
        (settled(1, JANA), settled(0)),
        (settled(1, JANA), settled(2)),
        (settled(0), settled(1, JANA)),
        (settled(1, JANA), settled(2, OMAR)),
        (settled(1, JANA, OMAR), settled(3, OMAR)),
    ],
    ids=["copy-knows-nothing", "copy-tried-more", "copy-knows-more", "each-knows-another", "copy-knows-a-part"],
)
async def test_recipient_that_is_settled_is_never_open_again(
    backend: Backend, stored: Progress, carried: Progress
) -> None:
    """Whoever has it already must not get it a second time."""
    store = await backend.worker()
    await store.settle(await claimed(store), Settlement(stored))
    answer = await claimed(store, now_progress=carried)
    assert set(answer.progress.settled) == {*stored.settled, *carried.settled}


async def test_first_seen_is_kept_from_attempt_to_attempt(backend: Backend) -> None:
    """The Date header and the retry horizon hang on it."""
    store = await backend.worker()
    await store.settle(await claimed(store), Settlement(progress(attempts=1)))
    answer = await claimed(store, now_progress=progress(first_seen=LATER))
    assert answer.progress.first_seen == NOON


async def test_copy_that_comes_a_moment_too_early_is_the_message_itself(backend: Backend) -> None:
    store = await backend.worker()
    await in_state(store, "waiting")
    assert shown(await store.claim(KEY, "d", FIRST, LATER - timedelta(seconds=1))) == "claimed 2"


async def test_claim_from_before_is_no_longer_ours(backend: Backend) -> None:
    store = await backend.worker()
    old = await claimed(store)
    await store.settle(old, Settlement(FURTHER))
    new = await claimed(store)
    assert not await store.handing_over(old)
    assert await store.settle(old, Settlement(FURTHER, (ACCEPTED,))) is None
    assert await store.handing_over(new)
    assert shown(await store.settle(new, Settlement(FURTHER, (ACCEPTED,)))) == "accepted"


async def test_results_that_were_not_confirmed_are_given_out_again_in_order(backend: Backend) -> None:
    store = await backend.worker()
    await store.settle(await claimed(store), Settlement(FURTHER, (DEFERRED,), NOON))
    second = await claimed(store)
    assert shown(await store.settle(second, Settlement(FURTHER, (ACCEPTED,)))) == "deferred+accepted"
    await store.published(KEY, (DEFERRED,), disposed=False)
    assert shown(await store.claim(KEY, "d", FIRST, NOON)) == "finished accepted"
    await store.published(KEY, (ACCEPTED,), disposed=True)
    assert shown(await store.claim(KEY, "d", FIRST, NOON)) == "finished accepted told"


async def test_recall_keeps_what_is_claimed_from_being_handed_over(backend: Backend) -> None:
    store = await backend.worker()
    claim = await claimed(store)
    assert shown(await store.recall(KEY, NOON)) == "underway"
    assert not await store.handing_over(claim)
    await store.settle(claim, Settlement(FURTHER))
    recalled = await store.recall(KEY, NOON)
    assert isinstance(recalled, Recalled)
    cancelled = result(DeliveryStatus.CANCELLED, event_id="e-cancelled")
    assert await store.settle(recalled.claimed, Settlement(FURTHER, (cancelled,))) == (cancelled,)
    assert shown(await store.claim(KEY, "d", FIRST, NOON)) == "finished cancelled"


async def test_recall_of_what_was_never_seen_keeps_it_from_coming_later(backend: Backend) -> None:
    store = await backend.worker()
    recalled = await store.recall(KEY, NOON)
    assert isinstance(recalled, Recalled)
    cancelled = result(DeliveryStatus.CANCELLED, event_id="e-cancelled")
    await store.settle(recalled.claimed, Settlement(recalled.claimed.progress, (cancelled,)))
    assert shown(await store.claim(KEY, "whatever", FIRST, NOON)) == "finished cancelled"


async def test_open_doubts_are_listed_until_they_are_resolved(backend: Backend) -> None:
    store = await backend.worker()
    keys = [Key("contoso", f"n-{number}") for number in range(3)]
    for key in keys:
        await store.settle(await claimed(store, key), Settlement(FURTHER, (IN_DOUBT,)))
    await in_state(store, "finished")
    assert [doubt.key for doubt in await store.doubts()] == keys
    assert [doubt.result for doubt in await store.doubts()] == [IN_DOUBT] * 3
    assert await store.resolve(keys[1], RESOLVED, None, "somebody")
    assert not await store.resolve(keys[1], RESOLVED, None, "somebody")
    assert [doubt.key for doubt in await store.doubts()] == [keys[0], keys[2]]


async def test_store_is_ready(backend: Backend) -> None:
    store = await backend.worker()
    await store.ready()


async def test_concurrent_operations_on_many_keys_each_get_their_own_answer(backend: Backend) -> None:
    store = await backend.worker()

    async def one(number: int) -> str:
        key = Key("contoso", f"n-{number}")
        mine = result(event_id=f"e-{number}", notification_id=f"n-{number}")
        claim = await claimed(store, key)
        assert await store.handing_over(claim)
        (told,) = await store.settle(claim, Settlement(FURTHER, (mine,))) or ()
        await store.published(key, (told,), disposed=True)
        return told.event_id

    assert await asyncio.gather(*(one(number) for number in range(300))) == [f"e-{n}" for n in range(300)]
