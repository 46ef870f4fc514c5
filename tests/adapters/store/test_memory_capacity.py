"""The ledger in memory forgets, but never what is being sent."""

from tests.factories import progress, result
from worker.domain.delivery import Key
from worker.ports import Claimed, Finished, Settlement, Underway
from worker.store.memory import MemoryLedger

FIRST = progress()
ACCEPTED = Settlement(FIRST, (result(),))


async def finish(ledger: MemoryLedger, key: Key) -> None:
    claimed = await ledger.claim(key, "d", FIRST, FIRST.first_seen)
    assert isinstance(claimed, Claimed)
    await ledger.settle(claimed, ACCEPTED)


async def test_oldest_finished_ones_are_forgotten_first() -> None:
    ledger = MemoryLedger(capacity=3)
    keys = [Key("contoso", str(number)) for number in range(5)]
    for key in keys:
        await finish(ledger, key)
    answers = {
        key: isinstance(await ledger.claim(key, "d", FIRST, FIRST.first_seen), Finished) for key in reversed(keys)
    }
    assert [answers[key] for key in keys] == [False, False, True, True, True]


async def test_what_is_being_sent_is_never_forgotten() -> None:
    ledger = MemoryLedger(capacity=2)
    keys = [Key("contoso", str(number)) for number in range(10)]
    claims = [await ledger.claim(key, "d", FIRST, FIRST.first_seen) for key in keys]
    assert [await ledger.claim(key, "d", FIRST, FIRST.first_seen) for key in keys] == [Underway()] * 10
    assert all([isinstance(claimed, Claimed) and await ledger.handing_over(claimed) for claimed in claims])


async def test_settling_makes_it_young_again() -> None:
    ledger = MemoryLedger(capacity=2)
    first, other = Key("contoso", "first"), Key("contoso", "other")
    claimed = await ledger.claim(first, "d", FIRST, FIRST.first_seen)
    assert isinstance(claimed, Claimed)
    await finish(ledger, other)
    await ledger.settle(claimed, ACCEPTED)
    await ledger.claim(Key("contoso", "third"), "d", FIRST, FIRST.first_seen)
    assert isinstance(await ledger.claim(first, "d", FIRST, FIRST.first_seen), Finished)
