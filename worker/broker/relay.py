"""Results that their publisher left behind: recorded, but never confirmed by the broker.

Whoever recorded a result publishes it at once. If it dies first, or loses the broker, any worker finds the result in
the outbox a little later and publishes it in its place.
"""

from __future__ import annotations

import asyncio

from worker.broker.link import Link
from worker.events import Relayed, ReplyFailed
from worker.ports import Observe, Outbox

EVERY = 2.0  # seconds


async def relay(link: Link, outbox: Outbox, observe: Observe, every: float = EVERY) -> None:
    """Publish what is left behind, as long as the link lasts.

    Raises:
        StoreDown: the store is out of reach.
        OSError, AMQPError: the link is over.
    """
    while link.alive:
        left = await outbox.unpublished()
        for item in left:
            await link.publish_result(item.result)
            if item.reply_to and (problem := await link.reply(item.result, item.reply_to)):
                observe(ReplyFailed(item.result.notification_id, problem))
            await outbox.published(item.key, (item.result,), disposed=False)
            observe(Relayed(item.result.notification_id, item.result.status))
        if not left:
            await asyncio.sleep(every)
