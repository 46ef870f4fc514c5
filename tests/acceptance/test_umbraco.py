"""Umbraco: nothing leaves before the project has a server; then everything does, in the project's name."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest

from contracts.delivery import Because, DeliveryStatus, RecipientStatus, Result
from tests.acceptance.installation import EVE, JANA, OMAR, Installation, mailbox, notification
from tests.acceptance.server import MailServer
from tests.neighbours import free_port

OWN = 'tenants = ["umb"]'
EDITOR = "editor@project.example"
EVERYTHING_ELSE = ("password-reset", "form", "mass", "health-check", "notification")


def fall_back(server: MailServer) -> str:
    """The platform's own server for invitations."""
    return mailbox("fall-back", server, 'fallback_for = ["invite"]', address="invitations@cloud.example")


def refused(result: Result) -> tuple[str, int]:
    """Why a notification was refused, and with how many attempts."""
    assert (result.status, result.final) == (DeliveryStatus.REJECTED, True)
    assert result.reason is not None
    return result.reason.kind, result.attempt


# ---------------------------------------------------------------- before and after there is a server


@pytest.mark.row("UMB-S1", "UMB-S2", "UMB-S5", "UMB-S13")
async def test_fresh_project_is_refused_at_once_and_sends_without_restart_when_it_has_a_server(
    lane: Installation, a: MailServer
) -> None:
    lane.configure("")
    worker = await lane.worker()
    for category in ("notification", "form", "password-reset"):
        result = await lane.post.send(notification(f"early-{category}", "umb", category=category))
        assert refused(result) == ("no-mailbox", 0)
        assert result.reason is not None
        assert "No server is configured" in result.reason.explanation
    settings = ["address=web@project.example", OWN.replace(" ", ""), "host=127.0.0.1", f"port={a.port}", "tls=none"]
    assert (await lane.postlane("mailbox", "add", "umb", *settings)).status == 0
    await worker.logged("mailboxes changed")
    for category in ("form", "password-reset"):
        result = await lane.post.send(notification(f"late-{category}", "umb", category=category))
        assert result.status is DeliveryStatus.ACCEPTED
    # The link of the early reset is stale by now: nothing has kept it for later.
    assert a.ids == ["late-form", "late-password-reset"]


async def test_umb_s3_invitation_of_a_project_without_server_leaves_by_the_fall_back_in_its_own_name(
    lane: Installation, c: MailServer
) -> None:
    lane.configure("[tenants.umb]\nuse_default = false", fall_back(c))
    await lane.worker()
    result = await lane.post.send(notification("n-1", "umb", category="invite", from_=EDITOR))
    assert result.status is DeliveryStatus.ACCEPTED
    assert result.mailbox is not None
    assert (result.mailbox.name, result.mailbox.because) == ("fall-back", Because.PURPOSE)
    (mail,) = c.taken
    assert (mail.mail_from, mail.message["From"]) == ("invitations@cloud.example", "invitations@cloud.example")
    assert mail.message["Reply-To"] == EDITOR


async def test_umb_s4_fall_back_carries_no_other_purpose_nor_one_that_its_producer_may_not_claim(
    lane: Installation, c: MailServer
) -> None:
    categories = ", ".join(f'"{category}"' for category in EVERYTHING_ELSE)
    lane.configure(
        "[tenants.umb]\nuse_default = false",
        fall_back(c),
        f'[[producers]]\nuser = "{lane.address.login}"\ncategories = [{categories}]',
    )
    await lane.worker()
    for category in EVERYTHING_ELSE:
        kind, _ = refused(await lane.post.send(notification(category, "umb", category=category)))
        assert kind == "no-mailbox"
    kind, _ = refused(await lane.post.send(notification("form-called-invite", "umb", category="invite")))
    assert kind == "not-allowed"
    assert c.connections == 0


async def test_umb_s6_password_reset_stays_off_although_a_server_is_configured(
    lane: Installation, a: MailServer
) -> None:
    settings = f"""{{"Umbraco": {{"CMS": {{"Global": {{"Smtp": {{
        "From": "web@project.example", "Host": "127.0.0.1", "Port": {a.port}, "SecureSocketOptions": "None"}}}}}}}}}}"""
    said = await lane.take_over("umbraco", {"appsettings.json": settings}, "--tenant", "umb")
    assert said.status == 0
    off = 'purposes_off=["password-reset"]'
    assert f"# postlane scope set tenants/NAME '{off}'" in lane.mailboxes.read_text(encoding="utf-8")
    worker = await lane.worker()
    assert (await lane.postlane("scope", "set", "tenants/umb", off)).status == 0
    await worker.logged("mailboxes changed")
    reset = await lane.post.send(notification("reset", "umb", category="password-reset"))
    assert refused(reset) == ("purpose-off", 0)
    for category in ("form", "invite"):
        result = await lane.post.send(notification(category, "umb", category=category))
        assert result.status is DeliveryStatus.ACCEPTED
    assert a.ids == ["form", "invite"]


async def test_umb_w6_invitation_waits_for_the_projects_own_server_and_never_takes_the_fall_back(
    lane: Installation, c: MailServer
) -> None:
    lane.configure(mailbox("own", free_port(), OWN), fall_back(c))
    await lane.worker()
    for name in ("finds-out", "knows"):
        await lane.post.publish(notification(name, "umb", category="invite"))
        waiting = await lane.inbox.first(name)
        assert (waiting.status, waiting.mailbox and waiting.mailbox.name) == (DeliveryStatus.DEFERRED, "own")
    assert c.connections == 0


# ---------------------------------------------------------------- who speaks


async def test_umb_s12_mail_without_a_sender_has_the_configured_one_and_with_one_its_own_if_allowed(
    lane: Installation, a: MailServer
) -> None:
    lane.configure(mailbox("own", a, OWN, 'senders = ["*@project.example"]', address="web@project.example"))
    await lane.worker()
    await lane.post.send(notification("without", "umb"))
    await lane.post.send(notification("with", "umb", from_=EDITOR))
    foreign = await lane.post.send(notification("foreign", "umb", from_="ceo@elsewhere.example"))
    assert refused(foreign) == ("sender-not-allowed", 0)
    senders = [(mail.mail_from, mail.message["From"]) for mail in a.taken]
    assert senders == [("web@project.example", "web@project.example"), (EDITOR, EDITOR)]


async def test_umb_w5_sender_that_office_365_denies_fails_at_once_with_the_advice_and_is_not_tried_again(
    lane: Installation, a: MailServer
) -> None:
    denial = "550 5.2.252 SendAsDenied; web@project.example not allowed to send as editor@project.example"
    a.replies["."] = denial
    lane.configure(mailbox("own", a, OWN, f'senders = ["{EDITOR}"]', address="web@project.example"))
    await lane.worker()
    result = await lane.post.send(notification("denied", "umb", from_=EDITOR))
    assert (result.status, result.attempt) == (DeliveryStatus.FAILED, 1)
    assert result.reason is not None
    assert result.reason.kind == "auth-config/send-as"
    assert "Add-RecipientPermission" in result.reason.remedy
    assert result.server_reply is not None
    assert denial in result.server_reply
    unlisted = await lane.post.send(notification("unlisted", "umb", from_="ceo@elsewhere.example"))
    assert refused(unlisted) == ("sender-not-allowed", 0)
    del a.replies["."]
    afterwards = await lane.post.send(notification("afterwards", "umb"))
    assert afterwards.status is DeliveryStatus.ACCEPTED
    assert (len(a.said("DATA")), a.ids) == (2, ["afterwards"])


# ---------------------------------------------------------------- the mail itself


async def test_umb_w8_mail_says_when_it_expires_and_is_not_sent_after_that(lane: Installation, a: MailServer) -> None:
    lane.configure(mailbox("own", a, OWN))
    now = datetime.now(UTC).replace(microsecond=0)
    valid, over = now + timedelta(hours=72), now - timedelta(seconds=1)
    await lane.worker()
    await lane.post.send(notification("in-time", "umb", category="invite", expires_at=valid))
    overdue = await lane.post.send(notification("overdue", "umb", category="password-reset", expires_at=over))
    assert (overdue.status, overdue.attempt) == (DeliveryStatus.EXPIRED, 0)
    (mail,) = a.taken
    assert parsedate_to_datetime(mail.message["Expires"]) == valid
    assert mail.message["X-Postlane-Id"] == "in-time"


async def test_umb_w9_recipient_that_is_refused_is_reported_and_the_others_get_their_mail(
    lane: Installation, a: MailServer
) -> None:
    a.refused["nobody@people.example"] = "550 5.1.1 No such user"
    lane.configure(mailbox("own", a, OWN))
    await lane.worker()
    mixed = await lane.post.send(notification("mixed", "umb", to=[JANA, "nobody@people.example", OMAR]))
    assert mixed.status is DeliveryStatus.PARTIALLY_ACCEPTED
    fates = {each.address: each.status for each in mixed.recipients}
    gone = {JANA: RecipientStatus.ACCEPTED, OMAR: RecipientStatus.ACCEPTED}
    assert fates == {**gone, "nobody@people.example": RecipientStatus.FAILED}
    none = await lane.post.send(notification("none", "umb", to=["nobody@people.example"]))
    assert none.status is DeliveryStatus.FAILED
    assert [mail.rcpt_to for mail in a.taken] == [(JANA, OMAR)]


async def test_umb_w12_form_mail_has_its_lists_reply_to_and_files_and_hides_the_hidden_ones(
    lane: Installation, a: MailServer
) -> None:
    lane.configure(mailbox("own", a, OWN))
    await lane.worker()
    form = {
        "to": f"{JANA}; second@people.example",
        "cc": f"{OMAR}, fourth@people.example",
        "bcc": EVE,
        "reply_to": "visitor@elsewhere.example",
        "attachments": [{"filename": "cv.pdf", "content_type": "application/pdf", "content": "JVBERi0="}],
    }
    result = await lane.post.send(notification("form", "umb", category="form", **form))
    assert result.status is DeliveryStatus.ACCEPTED
    (mail,) = a.taken
    everybody = {JANA, "second@people.example", OMAR, "fourth@people.example", EVE}
    assert (set(mail.rcpt_to), len(mail.rcpt_to)) == (everybody, 5)
    assert mail.message["To"] == f"{JANA}, second@people.example"
    assert mail.message["Cc"] == f"{OMAR}, fourth@people.example"
    assert mail.message["Reply-To"] == "visitor@elsewhere.example"
    assert (mail.message["Bcc"], EVE.encode() in mail.content) == (None, False)
    (file,) = mail.message.iter_attachments()
    assert (file.get_filename(), file.get_content()) == ("cv.pdf", b"%PDF-")


async def test_umb_w11_mail_server_that_hangs_holds_no_producer_up(lane: Installation, a: MailServer) -> None:
    go_on = asyncio.Event()
    a.at_dot = go_on.wait
    lane.configure(mailbox("own", a, OWN, "connections = 1"))
    await lane.worker()
    await lane.post.publish(notification("hangs", "umb"))
    await a.until(lambda: a.in_data == 1)
    for number in range(100):
        await lane.post.publish(notification(f"n-{number}", "umb"))  # returns when the broker has confirmed it
    assert (a.taken, lane.inbox.of("hangs")) == ([], [])
    go_on.set()
    assert (await lane.inbox.final("hangs")).status is DeliveryStatus.ACCEPTED
