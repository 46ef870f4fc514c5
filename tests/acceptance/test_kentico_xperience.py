"""Kentico Xperience: many servers with priorities, one for each message at the time of sending."""

from __future__ import annotations

from contracts.delivery import DeliveryStatus
from tests.acceptance.installation import Installation, mailbox, notification
from tests.acceptance.server import MailServer


async def test_kx_s5_free_servers_are_taken_by_priority(lane: Installation, a: MailServer, b: MailServer) -> None:
    lane.configure(
        mailbox("a", a, 'tenants = ["kx"]', 'priority = "high"'),
        mailbox("b", b, 'tenants = ["kx"]', 'priority = "normal"'),
    )
    await lane.worker()
    for number in range(3):
        result = await lane.post.send(notification(f"n-{number}", "kx"))
        assert result.status is DeliveryStatus.ACCEPTED
    assert (len(a.taken), b.connections) == (3, 0)
