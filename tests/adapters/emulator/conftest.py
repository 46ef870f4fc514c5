"""What the tests of the emulated cloud begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.adapters.emulator.cloud import Cloud, cloud_of
from worker.emulator.run import Emulator


@pytest.fixture
async def cloud(emulator: Emulator) -> AsyncIterator[Cloud]:
    """A client of the emulator."""
    async with cloud_of(emulator) as made:
        yield made
