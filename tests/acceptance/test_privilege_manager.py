"""Delinea Privilege Manager: named servers, tasks that name theirs, and a cloud where nobody may."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contracts.delivery import Because, DeliveryStatus, Result
from contracts.notification import Notification
from tests.acceptance.installation import JANA, Installation, Said, mailbox, notification
from tests.acceptance.server import MailServer
from tests.acceptance.trace import Trace
from tests.neighbours import free_port

TENANT = "adatum"
SECRET = "Delinea-s3cret-of-the-test"
APPROVALS = "Manual Approval Process with E-mail Alerts"
VALID = {
    "smtp://relay.adatum.example:25": ("relay.adatum.example", 25),
    "smtp://mail.adatum.example": ("mail.adatum.example", 25),
    "smtp://192.0.2.7:2525": ("192.0.2.7", 2525),
    "smtp://[2001:db8::7]:2525": ("2001:db8::7", 2525),
    "SMTP://Post.Adatum.example:587": ("post.adatum.example", 587),
    "smtp://out.adatum.example:2526/": ("out.adatum.example", 2526),
}
WRONG = {
    "smtp://relay.adatum.example;25": "uri.semicolon_port",
    "smtp://[relay.adatum.example]:[25]": "uri.placeholder_brackets",
    "relay.adatum.example:25": "uri.no_scheme",
    "smtp:relay.adatum.example:25": "uri.no_authority",
    "https://relay.adatum.example:25": "uri.wrong_scheme",
    "smtp://relay.adatum.example:995": "port.not_smtp:995",
    "smtp://relay.adatum.example:0": "port.out_of_range",
    "smtp://relay.adatum.example:70000": "port.out_of_range",
    "smtp://relay.adatum.example:mail": "port.not_a_number",
    f"smtp://pm:{SECRET}@relay.adatum.example:25": "uri.secret_in_uri",
    "smtp://relay.adatum.example:25/out?x=1": "uri.path_or_query",
    "smtp://": "uri.no_host",
    "smtp:// relay.adatum.example:25": "uri.whitespace",
}


def system(name: str, server: MailServer | str, **more: object) -> dict[str, object]:
    """A connected server."""
    uri = server if isinstance(server, str) else f"smtp://127.0.0.1:{server.port}"
    return {"type": "SMTP Server", "name": name, "baseUri": uri, **more}


def task(name: str, server: str, sender: str = "pm@adatum.example", to: str = JANA) -> dict[str, object]:
    """An e-mail task."""
    parameters = {"reportToRun": "Events", "fromAddress": sender, "toAddress": to}
    return {"name": name, **({"smtpServer": server} if server else {}), "parameters": parameters}


async def take_over(lane: Installation, *arguments: str, edition: str = "on-premises", **export: object) -> Said:
    """Import an export, with its rules and templates."""
    files = {"export.json": json.dumps({"edition": edition, **export})}
    rules = ("--templates", str(lane.directory / "templates"))
    return await lane.take_over("privilege-manager", files, "--tenant", TENANT, "--json", *rules, *arguments)


def event(notification_id: str, name: str, **fields: Any) -> Notification:
    """Something happened; what is sent to whom is a rule's."""
    return notification(notification_id, TENANT, **{"event": name, "to": None, "subject": None, "text": None, **fields})


def alert(notification_id: str, **fields: Any) -> Notification:
    """Mail as a producer writes it."""
    return notification(notification_id, TENANT, category="approval", **fields)


def findings(said: Said) -> dict[str, str]:
    """Code → proposal."""
    return {each["code"]: each["proposal"] for each in said.json["findings"]}


def refused(result: Result) -> str:
    assert result.status is DeliveryStatus.REJECTED
    assert result.reason is not None
    return result.reason.kind


async def working(lane: Installation, **settings: str) -> None:
    """Start a worker with the templates of the import."""
    await lane.worker(POSTLANE_TEMPLATES__DIRECTORY=str(lane.directory / "templates"), **settings)


# ---------------------------------------------------------------- servers


@pytest.mark.row("DPM-S1", "DPM-S5", "DPM-W1")
async def test_uris_are_taken_as_they_are_meant_or_refused_with_what_to_write(
    lane: Installation, tmp_path: Path
) -> None:
    trace = Trace(tmp_path / "trace")
    lane.settings.update(trace.settings)
    wrong = await lane.take_over("privilege-manager", {"wrong.txt": "\n".join(WRONG)}, "--json")
    assert (wrong.status, wrong.json["verdict"], wrong.json["mailboxes"]) == (2, "reject", [])
    told = {(each["line"], each["code"]) for each in wrong.json["findings"]}
    assert set(enumerate(WRONG.values(), 1)) <= told
    assert "smtp://relay.adatum.example:25" in findings(wrong)["uri.semicolon_port"]
    assert SECRET not in wrong.output + wrong.errors
    assert not lane.mailboxes.exists()
    said = await lane.take_over("privilege-manager", {"servers.txt": "\n".join(VALID)}, "--json", "--tenant", TENANT)
    assert said.status == 0
    assert [(each["host"], each["port"]) for each in said.json["mailboxes"]] == list(VALID.values())
    assert trace.noticed("look-up") == trace.noticed("connect") == set()


@pytest.mark.row("DPM-S2", "DPM-S6")
async def test_without_a_server_or_a_rule_nothing_is_sent_and_nothing_is_lost(
    lane: Installation, a: MailServer
) -> None:
    lane.configure(f"[tenants.{TENANT}]")
    port = free_port()
    (lane.directory / "templates").mkdir()
    (lane.directory / "templates" / "rules.toml").write_text('locales = ["en"]', encoding="utf-8")
    await working(lane, POSTLANE_HEALTH__PORT=str(port))
    assert refused(await lane.post.send(alert("alert"))) == "no-mailbox"
    assert refused(await lane.post.send(event("unruled", "policy.broken"))) == "no-rule"
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        health = await client.get("/healthz/mailboxes")
        metrics = (await client.get("/metrics")).text
    assert health.status_code == 503
    assert "No mailbox is configured" in health.json()["explanation"]
    assert 'reason="no-rule",status="rejected"} 1.0' in metrics
    letters = {row["id"]: row["letter"] for row in (await lane.postlane("dead", "list", "--json")).json}
    assert letters.keys() == {"alert", "unruled"}
    keys = ["address=pm@adatum.example", f'tenants=["{TENANT}"]', "host=127.0.0.1", f"port={a.port}", "tls=none"]
    assert (await lane.postlane("mailbox", "add", "relay", *keys)).status == 0
    assert (await lane.postlane("dead", "replay", letters["alert"])).status == 0
    await a.until_taken(1)
    assert a.ids == ["alert"]


async def test_dpm_s3_what_was_given_at_set_up_is_enough_for_mail_to_flow(
    lane: Installation, a: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    a.starttls, a.needs_login, a.logins = server_tls, True, {"tenant-7": SECRET}
    login = 'login = { username = "tenant-7", password_env = "MAIL_PASSWORD" }'
    lane.configure(mailbox("cloud", a, ca, f'tenants = ["{TENANT}"]', login, tls="starttls"))
    await lane.worker(MAIL_PASSWORD=SECRET)
    assert (await lane.post.send(alert("n-1"))).status is DeliveryStatus.ACCEPTED
    assert [mail.login for mail in a.taken] == ["tenant-7"]


@pytest.mark.row("DPM-S4", "DPM-W6")
async def test_managed_server_is_changed_at_run_time_where_it_may_be_and_stays_so_after_a_restart(
    lane: Installation, a: MailServer, b: MailServer
) -> None:
    own = f'tenants = ["{TENANT}"]'
    lane.configure(
        mailbox("cloud", a, own, 'editable = ["address", "display_name", "port"]'),
        mailbox("strict", a, 'tenants = ["other"]', 'editable = ["address", "display_name"]'),
    )
    worker = await lane.worker()
    await lane.post.send(alert("before"))
    assert (await lane.postlane("mailbox", "set", "cloud", f"port={b.port}")).status == 0
    await worker.logged("mailboxes changed", number=1)
    await lane.post.send(alert("after"))
    sender = ["address=alerts@adatum.example", "display_name=Alerts"]
    assert (await lane.postlane("mailbox", "set", "strict", *sender)).status == 0
    await worker.logged("mailboxes changed", number=2)
    denied = await lane.postlane("mailbox", "set", "strict", "host=evil.example")
    assert denied.status != 0
    assert "host" in denied.errors
    shown = (await lane.postlane("mailbox", "show", "strict", "--json")).json
    assert (shown["managed"], shown["settings"]["host"]) == (True, "127.0.0.1")
    await lane.post.send(notification("sender", "other"))
    await worker.stop()
    await lane.worker()
    await lane.post.send(alert("restarted"))
    assert (a.ids, b.ids) == (["before", "sender"], ["after", "restarted"])
    assert str(a.taken[1].message["From"]) == "Alerts <alerts@adatum.example>"


async def test_dpm_w4_data_of_the_installers_page_with_a_domain_login_and_a_test_mail(
    lane: Installation, a: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    skipped = await take_over(lane, foreignSystems=[])
    assert (skipped.status, skipped.json["verdict"]) == (0, "inactive")
    a.starttls, a.needs_login, a.logins = server_tls, True, {"ADATUM\\svc-pm": SECRET}
    page = {
        "emailServer": "127.0.0.1",
        "fromAddress": "pm@adatum.example",
        "useSsl": True,
        "useCustomPort": True,
        "port": a.port,
        "authenticationRequired": True,
        "userName": "svc-pm",
        "domain": "ADATUM",
        "password": SECRET,
    }
    said = await take_over(lane, installerEmailServer=page)
    assert said.status == 0
    assert "auth.domain_login" in findings(said)
    assert SECRET not in said.output + said.errors + lane.mailboxes.read_text(encoding="utf-8")
    lane.amend('tls = "starttls"', f'tls = "starttls"\n{ca}')
    tested = await lane.postlane("mailbox", "test", "privilege-manager-installer", "--send-to", JANA)
    assert tested.status == 0, tested.output + tested.errors
    (mail,) = a.taken
    assert (mail.login, mail.mail_from, mail.rcpt_to) == ("ADATUM\\svc-pm", "pm@adatum.example", (JANA,))


async def test_dpm_w5_server_with_an_empty_uri_is_shown_as_broken_and_can_be_mended(
    lane: Installation, a: MailServer
) -> None:
    broken = await take_over(lane, "--address", "pm@adatum.example", foreignSystems=[system("Relay A", "")])
    assert (broken.status, "uri.empty" in findings(broken)) == (0, True)
    (shown,) = broken.json["mailboxes"]
    assert (shown["server"], shown["in_effect"]) == ("Relay A", False)
    checked = await lane.postlane("check")
    assert checked.status != 0
    assert "mailboxes.privilege-manager-relay-a" in checked.errors
    mended = await take_over(lane, "--address", "pm@adatum.example", foreignSystems=[system("Relay A", a)])
    assert mended.status == 0
    await working(lane)
    assert (await lane.post.send(alert("n-1"))).status is DeliveryStatus.ACCEPTED
    assert a.ids == ["n-1"]


async def test_dpm_w7_unknown_and_doubled_names_of_servers_are_refused_whatever_their_case(lane: Installation) -> None:
    relay = system("Relay A", "smtp://relay.adatum.example")
    unknown = await take_over(lane, foreignSystems=[relay], emailTasks=[task("Weekly", "Relay B")])
    assert (unknown.status, "server.unknown:Relay B" in findings(unknown)) == (2, True)
    twice = await take_over(lane, foreignSystems=[relay, system("RELAY a", "smtp://other.adatum.example")])
    assert (twice.status, "server.duplicate_name:RELAY a" in findings(twice)) == (2, True)
    assert not lane.mailboxes.exists()


# ---------------------------------------------------------------- tasks


@pytest.mark.row("DPM-S7", "DPM-S10", "DPM-W2")
async def test_each_run_of_a_task_is_one_mail_by_the_server_that_the_task_names_in_the_tasks_name(
    lane: Installation, a: MailServer, b: MailServer
) -> None:
    tasks = [
        task("Weekly", "relay a", "weekly@adatum.example", '"It, all" <it@adatum.example>, soc@adatum.example'),
        task("Nightly", "Relay A", "nightly@adatum.example"),
        task("Audit", "Relay B", "audit@adatum.example"),
    ]
    servers = [system("Relay A", a), system("Relay B", b)]
    said = await take_over(lane, foreignSystems=servers, emailTasks=tasks)
    assert said.status == 0, said.output
    lane.amend("[mailboxes.privilege-manager-relay-b]", '[mailboxes.privilege-manager-relay-b]\npriority = "high"')
    await working(lane)
    for name, run in (("weekly", 1), ("weekly", 2), ("weekly", 1), ("nightly", 1), ("audit", 1)):
        result = await lane.post.send(event(f"{name}-{run}", f"task.{name}", data={"text": "All is well."}))
        assert result.status is DeliveryStatus.ACCEPTED
        assert result.mailbox is not None
        assert result.mailbox.because is Because.NAMED
    assert (a.ids, b.ids) == (["weekly-1", "weekly-2", "nightly-1"], ["audit-1"])
    assert a.taken[0].rcpt_to == ("it@adatum.example", "soc@adatum.example")
    senders = [mail.mail_from for mail in (*a.taken, *b.taken)]
    assert senders == [f"{name}@adatum.example" for name in ("weekly", "weekly", "nightly", "audit")]
    for verb in ("GREETING", "EHLO", "MAIL"):
        a.replies[verb] = "421 4.3.2 Shutting down"
    await lane.post.publish(event("weekly-3", "task.weekly"))
    waiting = await lane.inbox.first("weekly-3")
    assert waiting.status is DeliveryStatus.DEFERRED
    assert waiting.mailbox is not None
    assert waiting.mailbox.name == "privilege-manager-relay-a"
    assert (await lane.post.send(event("audit-2", "task.audit"))).status is DeliveryStatus.ACCEPTED
    assert b.ids == ["audit-1", "audit-2"]


async def test_dpm_w2_task_without_a_sender_or_with_the_wrong_separator_is_refused(lane: Installation) -> None:
    wrong = [task("Weekly", "Relay A", "", f"{JANA};soc@adatum.example")]
    said = await take_over(lane, foreignSystems=[system("Relay A", "smtp://relay.example")], emailTasks=wrong)
    assert said.status == 2
    assert {"key.missing:fromAddress", "recipients.semicolon_in_comma_list"} <= findings(said).keys()


async def test_dpm_w3_run_of_a_day_is_one_mail_however_often_its_scheduler_publishes_it(
    lane: Installation, a: MailServer
) -> None:
    """The schedule is the caller's (docs/importing.md); the day in the id is what keeps a run from being doubled."""
    lane.configure(mailbox("relay", a, f'tenants = ["{TENANT}"]'))
    first = await lane.worker()
    days = [f"inventory-2026-11-{day}" for day in (23, 24, 25)]
    for day in (days[0], days[0], days[1]):
        assert (await lane.post.send(alert(day))).status is DeliveryStatus.ACCEPTED
    await first.stop()
    await lane.worker()
    for day in (days[1], days[2], days[0]):
        assert (await lane.post.send(alert(day))).status is DeliveryStatus.ACCEPTED
    assert a.ids == days


# ---------------------------------------------------------------- approvals, and the cloud


@pytest.mark.row("DPM-S8", "DPM-S9")
async def test_approval_process_that_is_missing_is_added_and_its_request_reaches_the_approvers(
    lane: Installation, a: MailServer
) -> None:
    said = await take_over(lane, foreignSystems=[system("Relay A", a)], emailTasks=[task("Weekly", "Relay A")])
    assert said.status == 0
    assert "process.missing" in findings(said)
    rules = (lane.directory / "templates" / "rules.toml").read_text(encoding="utf-8")
    assert f"# process {APPROVALS}; it was missing there" in rules
    await working(lane)
    link = "https://pm.adatum.example/approvals/88"
    approvers = ["one@adatum.example", "two@adatum.example"]
    request = event("request-88", "approval.requested", to=approvers, data={"requester": "Eve", "link": link})
    assert (await lane.post.send(request)).status is DeliveryStatus.ACCEPTED
    (mail,) = a.taken
    assert mail.rcpt_to == tuple(approvers)
    body = mail.message.get_body(("plain",))
    assert body is not None
    assert link in body.get_content()
    there = await take_over(
        lane,
        "--dry-run",
        foreignSystems=[system("Relay A", a)],
        approvalProcesses=[{"name": APPROVALS, "smtpServer": "Relay A"}],
    )
    assert "process.missing" not in findings(there)


async def test_dpm_s11_in_the_cloud_no_task_and_no_message_chooses_the_server(
    lane: Installation, a: MailServer
) -> None:
    cloud = system("Cloud SMTP", a, origin="instance-setup")
    chosen = await take_over(lane, edition="cloud", foreignSystems=[cloud], emailTasks=[task("Weekly", "Cloud SMTP")])
    assert (chosen.status, "server.read_only:Cloud SMTP" in findings(chosen)) == (2, True)
    said = await take_over(lane, edition="cloud", foreignSystems=[cloud], emailTasks=[task("Weekly", "")])
    assert said.status == 0, said.output
    assert "choose_mailbox = false" in findings(said)["edition.cloud"]
    name = "privilege-manager-cloud-smtp"
    text = lane.mailboxes.read_text(encoding="utf-8")
    lane.configure(text, f"[tenants.{TENANT}]\nchoose_mailbox = false")
    await working(lane)
    assert refused(await lane.post.send(alert("chooses", mailbox=name))) == "not-allowed"
    rules = lane.directory / "templates" / "rules.toml"
    own = f'\n[[rules]]\nevent = "ours"\ntemplate = "email-task"\nmailbox = "{name}"\nto = "{JANA}"\n'
    rules.write_text(rules.read_text(encoding="utf-8") + own, encoding="utf-8")
    assert refused(await lane.post.send(event("ruled", "ours", data={"task": "x"}))) == "not-allowed"
    assert (await lane.post.send(event("weekly-1", "task.weekly"))).status is DeliveryStatus.ACCEPTED
    assert a.ids == ["weekly-1"]
    assert (await lane.postlane("mailbox", "show", name, "--json")).json["managed"] is True
