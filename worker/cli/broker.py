"""What several commands do with the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from worker.unusable import Unusable

T = TypeVar("T")


def with_broker(work: Awaitable[T]) -> T:
    """Run something that talks to the broker; what goes wrong there becomes a sentence.

    Raises:
        Unusable: the broker cannot be used.
    """
    from worker import bootstrap, settings
    from worker.broker.connection import BROKEN, explained

    async def run() -> T:
        return await work

    try:
        return asyncio.run(run())
    except BROKEN as error:
        raise Unusable(explained(error, bootstrap.broker_address(settings.load()))) from error
