"""Stop switches and a tenant's own server, changed over the API while two workers run."""

from __future__ import annotations

from collections import Counter

from contracts.delivery import Because, DeliveryStatus
from contracts.publisher import Publisher
from tests.e2e import test_mailboxes_at_run_time as running
from tests.e2e.test_mailboxes_at_run_time import NEW, OLD, Fleet, postlane, settings, taken, to_jana
from tests.neighbours import Inbox, free_port
from worker.emulator.run import Emulator

emulator, mailboxes, fleet, post = running.emulator, running.mailboxes, running.fleet, running.post


async def test_stopped_site_keeps_its_mail_on_both_workers_and_its_neighbour_flows_until_it_is_started(
    fleet: Fleet, post: Publisher, inbox: Inbox, emulator: Emulator
) -> None:
    await fleet.ask("POST", "/mailboxes", {"name": "contoso", "settings": settings(emulator, OLD)})
    await fleet.ask("POST", "/scopes/tenants/contoso/sites/shop/stop")
    await fleet.followed(2)
    shop = [to_jana(f"shop-{number}").model_copy(update={"site": "Shop"}) for number in range(6)]
    blog = [to_jana(f"blog-{number}").model_copy(update={"site": "Blog"}) for number in range(6)]
    for each in (*shop, *blog):
        await post.publish(each)
    for each in blog:
        assert (await inbox.final(each.id)).status is DeliveryStatus.ACCEPTED
    for each in shop:
        waiting = await inbox.first(each.id)
        assert (waiting.status, waiting.reason and waiting.reason.kind) == (DeliveryStatus.DEFERRED, "stopped")
    await postlane(fleet.environment, "scope", "start", "tenants/contoso/sites/shop")
    await fleet.followed(3)
    for each in shop:
        assert (await inbox.final(each.id, patience=90)).status is DeliveryStatus.ACCEPTED
    assert Counter(mail["notification_id"] for mail in taken(emulator)) == {each.id: 1 for each in (*shop, *blog)}


async def test_suppressed_scope_and_purpose_that_is_off_send_nothing_on_either_worker(
    fleet: Fleet, post: Publisher, inbox: Inbox, emulator: Emulator
) -> None:
    await fleet.ask("POST", "/mailboxes", {"name": "contoso", "settings": settings(emulator, OLD)})
    await fleet.ask("PATCH", "/scopes/tenants/contoso", {"suppress": True, "purposes_off": ["password-reset"]})
    await fleet.followed(2)
    for number in range(4):
        await post.publish(to_jana(f"dry-{number}"))
        await post.publish(to_jana(f"reset-{number}").model_copy(update={"category": "password-reset"}))
    for number in range(4):
        assert (await inbox.final(f"dry-{number}")).status is DeliveryStatus.SUPPRESSED
        refused = await inbox.final(f"reset-{number}")
        assert (refused.status, refused.reason and refused.reason.kind) == (DeliveryStatus.REJECTED, "purpose-off")
    assert taken(emulator) == []


async def test_elx_s5_last_key_of_a_tenant_takes_its_next_mail_to_its_own_server(
    fleet: Fleet, post: Publisher, inbox: Inbox, emulator: Emulator
) -> None:
    platform = {**settings(emulator, OLD), "default": True}
    del platform["tenants"]
    await fleet.ask("POST", "/mailboxes", {"name": "platform", "settings": platform})
    page = "/tenants/tailspin/settings"
    # A certificate that only the test trusts cannot be set by known keys, so the server is one that nobody listens on.
    keys = {"SMTP.Server": "127.0.0.1", "SMTP.Port": free_port(), "SMTP.Username": NEW.address}
    assert (await fleet.ask("PATCH", page, keys))["explanation"] == "incomplete: SMTP.Password"
    await fleet.followed(2)
    await post.publish(to_jana("before", "tailspin"))
    before = await inbox.final("before")
    assert before.mailbox is not None
    assert (before.status, before.mailbox.because) == (DeliveryStatus.ACCEPTED, Because.DEFAULT)
    assert (await fleet.ask("PATCH", page, {"SMTP.Password": NEW.password}))["state"] == "ok"
    await fleet.followed(3)
    await post.publish(to_jana("after", "tailspin"))
    after = await inbox.first("after")
    assert after.mailbox is not None
    assert (after.status, after.mailbox.name) == (DeliveryStatus.DEFERRED, "tailspin")
    assert [mail["notification_id"] for mail in taken(emulator)] == ["before"], "its own server is down: it waits"
