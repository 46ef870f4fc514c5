"""Whatever happens in whatever order: what the ledger promises holds (Hypothesis looks for the order in which not)."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from contracts.delivery import DeliveryStatus
from tests.adapters.store.conftest import Backend
from tests.factories import NOON, progress, result
from worker.domain.delivery import Key
from worker.ports import Claimed, Doubtful, Recalled, Settlement, Store

KEYS = [Key("contoso", name) for name in "ab"]
FINALS = [DeliveryStatus.ACCEPTED, DeliveryStatus.FAILED, DeliveryStatus.IN_DOUBT, DeliveryStatus.EXPIRED]
events = itertools.count()


class AnyOrder(RuleBasedStateMachine):
    """Three workers on a SQLite file; one dies or sleeps at any moment."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.directory = tempfile.TemporaryDirectory()
        self.backend = Backend("sqlite", f"sqlite:///{Path(self.directory.name) / 'store.sqlite3'}", self.stack)
        self.finals: dict[Key, str] = {}
        self.marks: dict[Key, int] = dict.fromkeys(KEYS, 0)
        self.settled: dict[Key, list[str]] = {key: [] for key in KEYS}

    @initialize()
    def workers(self) -> None:
        for _ in range(3):
            store = self.runner.run(self.backend.worker())
            self.runner.run(store.ready())

    @rule(target=claims, who=st.integers(0, 2), key=st.sampled_from(KEYS), recalled=st.booleans())
    def take(self, who: int, key: Key, *, recalled: bool) -> object:
        store = self.backend.opened[who]
        asked = store.recall(key, NOON) if recalled else store.claim(key, "d", progress(), NOON)
        match self.runner.run(asked):
            case Claimed() as claimed:
                assert self.marks[key] == 0, "claimed as if nothing had been handed over"
                return (store, claimed)
            case Doubtful(claimed):
                assert self.marks[key], "doubted although nothing was handed over"
                return (store, claimed)
            case Recalled(claimed):
                assert self.marks[key] == 0, "cancelled although it may have been handed over"
                return (store, claimed)
        return multiple()

    @rule(claim=claims)
    def hand_over(self, claim: tuple[Store, Claimed]) -> None:
        store, claimed = claim
        if self.runner.run(store.handing_over(claimed)):
            assert claimed.key not in self.finals, "handed over after its end"
            self.marks[claimed.key] += 1

    @rule(claim=claims, final=st.sampled_from([*FINALS, None]))
    def settle(self, claim: tuple[Store, Claimed], final: DeliveryStatus | None) -> None:
        store, claimed = claim
        told = (result(final, event_id=f"e-{next(events)}"),) if final else ()
        due = None if final else NOON - timedelta(seconds=1)
        answer = self.runner.run(store.settle(claimed, Settlement(progress(), told, due)))
        if answer is None:
            return
        assert claimed.key not in self.finals, "settled after its end"
        self.marks[claimed.key] = 0
        if final:
            self.finals[claimed.key] = told[0].event_id

    @rule(who=st.integers(0, 2))
    def fall_silent(self, who: int) -> None:
        self.runner.run(self.backend.fall_silent(self.backend.opened[who]))

    @rule(who=st.integers(0, 2))
    def wake_up(self, who: int) -> None:
        self.runner.run(self.backend.wake_up(self.backend.opened[who]))

    @rule(who=st.integers(0, 2), key=st.sampled_from(KEYS))
    def resolve(self, who: int, key: Key) -> None:
        resolved = result(DeliveryStatus.RESOLVED, event_id=f"e-{next(events)}")
        if self.runner.run(self.backend.opened[who].resolve(key, resolved, None, "somebody")):
            assert key in self.finals
            self.finals[key] = resolved.event_id

    @rule(who=st.integers(0, 2), key=st.sampled_from(KEYS))
    def reopen(self, who: int, key: Key) -> None:
        if self.runner.run(self.backend.opened[who].reopen(key, "d", progress(), "somebody")):
            assert self.marks[key] == 0 or key in self.finals
            self.marks[key] = 0
            self.finals.pop(key, None)

    @invariant()
    def what_is_final_stays(self) -> None:
        if not self.backend.opened:
            return
        for key in KEYS:
            found = self.runner.run(self.backend.opened[0].find(key))
            assert (found.event_id if found and found.final else None) == self.finals.get(key)

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.directory.cleanup()


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestAnyOrder = AnyOrder.TestCase
