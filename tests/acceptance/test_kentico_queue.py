"""Kentico Xperience: what its e-mail queue does for a mail, from the first attempt to the archive."""

from __future__ import annotations

import asyncio
import os

from contracts.delivery import DeliveryStatus, Result
from contracts.notification import Notification
from tests.acceptance.installation import EVE, JANA, OMAR, Installation, mailbox, notification
from tests.acceptance.kentico import key, server, take_over
from tests.acceptance.server import MailServer
from worker.broker import apply as broker

KX = 'tenants = ["kx"]'
LATER = "451 4.3.0 Try again later"
BACKLOG = int(os.environ.get("POSTLANE_ACCEPTANCE_BACKLOG", "300"))  # mass mails; the row has 10,000 of them
# Kentico's own rule with seconds for minutes: once a minute, for an hour after the first attempt.
ONCE_A_SECOND = {"POSTLANE_RETRY__FACTOR": "1", "POSTLANE_RETRY__LONGEST_SECONDS": "1"}


async def test_kx_w3_failures_are_retried_for_a_time_and_then_resent_by_hand(lane: Installation, a: MailServer) -> None:
    lane.configure(mailbox("a", a, KX))
    a.replies["RCPT"] = LATER
    patient = await lane.worker(**ONCE_A_SECOND)
    await lane.post.publish(notification("recovers", "kx"))
    await lane.inbox.until(lambda _: len(lane.inbox.of("recovers")) >= 3)
    assert {each.status for each in lane.inbox.of("recovers")} == {DeliveryStatus.DEFERRED}
    del a.replies["RCPT"]
    assert (await lane.inbox.final("recovers")).status is DeliveryStatus.ACCEPTED
    await patient.stop()

    a.replies["RCPT"] = LATER
    await lane.worker(**ONCE_A_SECOND, POSTLANE_RETRY__HORIZON_HOURS=str(1.5 / 3600))
    ids = ["one", "deleted", "rest-1", "rest-2"]
    await asyncio.gather(*(lane.post.publish(notification(each, "kx")) for each in ids))
    given_up = [await lane.inbox.final(each) for each in ids]
    assert {each.status for each in given_up} == {DeliveryStatus.FAILED}
    assert {each.server_reply for each in given_up} == {LATER}
    letters = {row["id"]: row["letter"] for row in (await lane.postlane("dead", "list", "--json")).json}
    assert letters.keys() == set(ids)
    del a.replies["RCPT"]
    assert (await lane.postlane("dead", "replay", letters["one"])).status == 0
    await a.until_taken(2)
    assert (await lane.postlane("dead", "discard", letters["deleted"])).status == 0
    assert (await lane.postlane("dead", "replay", "--all")).status == 0
    await a.until_taken(4)
    assert sorted(a.ids) == ["one", "recovers", "rest-1", "rest-2"]
    assert (await lane.postlane("dead", "list", "--json")).json == []


async def test_kx_w4_nothing_of_a_sent_mail_is_kept_but_its_record_for_the_time_that_is_set(
    lane: Installation, a: MailServer
) -> None:
    lane.configure(mailbox("a", a, KX))
    mail = notification("n-1", "kx", subject="Tulip bulbs", text="Forty of them.", html="<p>Forty of them.</p>")
    long = await lane.worker()
    for _ in range(2):
        assert (await lane.post.send(mail)).status is DeliveryStatus.ACCEPTED
    assert a.ids == ["n-1"], "the record of it answers"
    await long.stop()
    stored = b"".join(path.read_bytes() for path in lane.directory.glob("postlane.sqlite3*"))
    assert b"n-1" in stored
    assert (b"Tulip" in stored, b"Forty" in stored) == (False, False)
    await lane.worker(POSTLANE_STORE__RETENTION_DAYS="0.000001")
    async with asyncio.timeout(30):
        while '"finished": 0' not in (await lane.postlane("store", "show", "--json")).output:
            pass
    await lane.post.send(mail)
    assert a.ids == ["n-1", "n-1"], "there is no record any more"


async def test_kx_w5_switch_of_a_site_stops_its_mail_and_the_global_one_everything(
    lane: Installation, a: MailServer
) -> None:
    lane.configure(
        mailbox("a", a, 'tenants = ["kx", "closed"]'),
        '[tenants.kx.sites.one]\nstop = "hold"',
        '[tenants.closed]\nstop = "refuse"',
    )
    worker = await lane.worker()
    await lane.post.publish(notification("one", "kx", site="one"))
    waiting = await lane.inbox.first("one")
    assert waiting.reason is not None
    assert (waiting.status, waiting.reason.kind, waiting.final) == (DeliveryStatus.DEFERRED, "stopped", False)
    assert (await lane.post.send(notification("two", "kx", site="two"))).status is DeliveryStatus.ACCEPTED
    assert (await lane.post.send(notification("none", "kx"))).status is DeliveryStatus.ACCEPTED
    for site in (None, "two"):
        refused = await lane.post.send(notification(f"closed-{site}", "closed", site=site))
        assert refused.reason is not None
        assert (refused.status, refused.reason.kind) == (DeliveryStatus.REJECTED, "stopped")
    assert a.ids == ["two", "none"]
    await worker.stop()
    lane.configure(mailbox("a", a, KX))
    await lane.worker()
    assert (await lane.inbox.final("one", patience=60)).status is DeliveryStatus.ACCEPTED
    assert a.ids == ["two", "none", "one"]


async def test_kx_w6_there_is_no_way_round_the_queue_so_nothing_is_lost_while_nobody_works(
    lane: Installation, a: MailServer
) -> None:
    keys = [key("CMSEmailQueueEnabled", "False"), key("CMSEmailBatchSize", "50")]
    said = await take_over(lane, [server(1, f"127.0.0.1:{a.port}")], keys=keys)
    found = {each["code"]: each["reason"] for each in said.json["findings"]}
    assert "every mail goes through RabbitMQ" in found["queue.always"]
    assert "batches of 50: here the prefetch of the workers" in found["batch.size"]
    sending = asyncio.create_task(lane.post.send(notification("now", "kx")))
    async with asyncio.timeout(30):
        while await _ready(lane) == 0:
            pass
    assert a.connections == 0
    await lane.worker()
    assert (await sending).status is DeliveryStatus.ACCEPTED


async def test_kx_w7_worker_takes_no_more_from_the_queue_than_its_batch(lane: Installation, a: MailServer) -> None:
    gate = asyncio.Event()
    a.at_dot = gate.wait
    lane.configure(mailbox("a", a, KX, "connections = 40"))
    mails = [notification(f"n-{number}", "kx") for number in range(40)]
    await asyncio.gather(*(lane.post.publish(mail) for mail in mails))
    await lane.worker(POSTLANE_BROKER__PREFETCH="5")
    await a.until(lambda: a.in_data == 5)
    assert (await _ready(lane), a.in_data) == (35, 5)
    gate.set()
    await a.until_taken(40)
    await lane.inbox.until(lambda results: len(results) == 40)
    assert (len(set(a.ids)), a.most_in_data) == (40, 5)


async def test_kx_w8_urgent_mail_overtakes_the_mass_mail_that_waits(lane: Installation, a: MailServer) -> None:
    lane.configure(mailbox("a", a, KX, f"limits = {{ per_minute = {BACKLOG // 3} }}"))
    await lane.worker()
    ids = [f"mass-{number}" for number in range(BACKLOG)]
    for begin in range(0, BACKLOG, 100):
        chunk = ids[begin : begin + 100]
        await asyncio.gather(*(lane.post.publish(_mass(each)) for each in chunk))

    def all_wait_or_are_sent(results: list[Result]) -> bool:
        return len({each.notification_id for each in results}) == BACKLOG

    await lane.inbox.until(all_wait_or_are_sent, patience=60 + BACKLOG / 20)
    before = len(a.taken)
    assert before < BACKLOG * 2 / 3, "there is a backlog"
    result = await lane.post.send(notification("urgent", "kx", priority="high"))
    assert result.status is DeliveryStatus.ACCEPTED
    assert a.ids.index("urgent") - before <= 5


async def test_kx_w9_text_and_html_in_any_script_arrive_as_they_were_written(lane: Installation, a: MailServer) -> None:
    subject, text = "Příští é, 漢字 and 🎉", "Žluťoučký kůň é\n漢字 🎉\n"
    html = "<p>Žluťoučký kůň é 漢字 🎉</p>"
    lane.configure(mailbox("a", a, KX))
    await lane.worker()
    await lane.post.send(notification("both", "kx", subject=subject, text=text, html=html))
    await lane.post.send(notification("plain", "kx", subject=subject, text=text))
    both, plain = (mail.message for mail in a.taken)
    assert (both["Subject"], plain["Subject"]) == (subject, subject)
    assert both.get_content_type() == "multipart/alternative"
    parts = list(both.iter_parts())
    assert [part.get_content_type() for part in parts] == ["text/plain", "text/html"]
    assert {part.get_content_charset() for part in (*parts, plain)} == {"utf-8"}
    assert [part.get_content().split() for part in parts] == [text.split(), html.split()]
    assert (plain.get_content_type(), plain.get_content().split()) == ("text/plain", text.split())


async def test_kx_w11_mail_that_is_only_to_be_logged_is_decided_on_and_not_sent(
    lane: Installation, a: MailServer
) -> None:
    lane.configure(mailbox("a", a, KX), "[tenants.kx.sites.debug]\nsuppress = true")
    worker = await lane.worker()
    result = await lane.post.send(notification("logged", "kx", site="debug"))
    assert (result.status, result.mailbox and result.mailbox.name) == (DeliveryStatus.SUPPRESSED, "a")
    await worker.logged("result", notification_id="logged", status="suppressed", mailbox="a")
    assert a.connections == 0
    assert (await lane.post.send(notification("sent", "kx"))).status is DeliveryStatus.ACCEPTED
    assert a.ids == ["sent"]


async def test_kx_w14_test_mail_goes_over_the_chosen_server_and_over_one_that_is_off_only_if_asked(
    lane: Installation, a: MailServer, b: MailServer
) -> None:
    lane.configure(mailbox("a", a, KX, 'priority = "high"'), mailbox("b", b, KX, "enabled = false"))
    refused = await lane.postlane("mailbox", "test", "b", "--send-to", JANA)
    assert (refused.status != 0, b.connections) == (True, 0)
    for name, more in (("a", ()), ("b", ("--even-if-disabled",))):
        said = await lane.postlane("mailbox", "test", name, "--send-to", JANA, *more)
        assert said.status == 0, said.output + said.errors
    assert [mail.rcpt_to for one in (a, b) for mail in one.taken] == [(JANA,), (JANA,)]
    assert [mail.mail_from for mail in b.taken] == ["b@senders.example"]


async def test_kx_w15_refused_recipient_fails_alone_and_nobody_gets_it_twice(lane: Installation, a: MailServer) -> None:
    lane.configure(mailbox("a", a, KX))
    a.refused = {OMAR: "550 5.1.1 No such user"}
    await lane.worker()
    result = await lane.post.send(notification("final", "kx", to=[JANA, OMAR, EVE]))
    assert result.status is DeliveryStatus.PARTIALLY_ACCEPTED
    assert {each.address: str(each.status) for each in result.recipients} == {
        JANA: "accepted", OMAR: "failed", EVE: "accepted",
    }  # fmt: skip
    assert [mail.rcpt_to for mail in a.taken] == [(JANA, EVE)]
    a.refused = {OMAR: LATER}
    await lane.post.publish(notification("later", "kx", to=[JANA, OMAR, EVE]))
    await lane.inbox.first("later")
    a.refused = {}
    assert (await lane.inbox.final("later")).status is DeliveryStatus.ACCEPTED
    assert [mail.rcpt_to for mail in a.taken] == [(JANA, EVE), (JANA, EVE), (OMAR,)]


def _mass(notification_id: str) -> Notification:
    return notification(notification_id, "kx", category="mass", priority="low")


async def _ready(lane: Installation) -> int:
    """Messages in the lanes that no worker holds."""
    found = [row async for row in broker.depths(lane.address, lane.topology)]
    return sum(ready or 0 for name, ready, _ in found if ".lane." in name)
