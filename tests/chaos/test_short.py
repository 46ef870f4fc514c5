"""The chaos suite in short: a few faults of the kinds that matter most, on both stores. The rest: make chaos."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import one
from tests.chaos.scenarios import SCENARIOS
from tests.postgres import Cluster
from worker.sandbox.rabbitmq import RunningBroker

NAMES = ("kill-marked", "kill-settled", "server-lost", "broker-cut", "sigterm")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", NAMES)
async def test_nothing_is_lost_or_doubled_with_sqlite(name: str, broker: RunningBroker, tmp_path: Path) -> None:
    found = await one(broker, None, name, SCENARIOS[name], 2, tmp_path)
    assert found.kept, found
    assert found.injected >= 2


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", [*NAMES, "freeze-marking", "store-kill"])
async def test_nothing_is_lost_or_doubled_with_postgresql(
    name: str, broker: RunningBroker, postgres: Cluster, tmp_path: Path
) -> None:
    found = await one(broker, postgres, name, SCENARIOS[name], 2, tmp_path)
    assert found.kept, found
    assert found.injected >= 2
