"""Netwrix Identity Manager: what its settings files say, and what mail is like under them."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts.delivery import DeliveryStatus, RecipientStatus
from tests.acceptance.installation import EVE, JANA, OMAR, Installation
from tests.acceptance.netwrix import AGENT, SECRET, SERVER, agent, codes, notice, reset, server, take_over
from tests.acceptance.server import MailServer, serving
from tests.acceptance.trace import Trace

CLEAR = {"Host": "127.0.0.1"}


# ---------------------------------------------------------------- how the files are read


@pytest.mark.row("NIM-S13", "NIM-S14", "NIM-S16")
async def test_agent_that_writes_files_needs_its_directory_and_nothing_else(
    lane: Installation, pickup: Path, tmp_path: Path
) -> None:
    text = """{
      // files for the local mail server
      "PasswordResetSettings": {
        "MailSettings": {
          "FromAddress": "reset@contoso.example",
          "UseSpecifiedPickupDirectory": true,
          "PickupDirectory": "E:/Queue/Resets", /* no host, no port, no login */
        },
      },
    }"""
    said = await take_over(lane, {AGENT: text}, "--map", f"E:/Queue/Resets={pickup}")
    assert said.status == 0
    assert "json.comment_or_trailing_comma" in codes(said)
    await lane.worker()
    assert (await lane.post.send(reset("n-1"))).status is DeliveryStatus.HANDED_OVER
    assert len(list(pickup.glob("*.eml"))) == 1
    assert not [path for path in tmp_path.rglob("*") if ":" in path.name]
    lane.mailboxes.unlink()
    wrong = await take_over(lane, agent(UseSpecifiedPickupDirectory=True))
    assert (wrong.status, wrong.json["verdict"]) == (2, "reject")
    assert "key.missing:PickupDirectory" in codes(wrong)
    assert not lane.mailboxes.exists()


async def test_nim_s15_port_of_imap_is_refused_with_the_ports_of_smtp_and_connected_to_by_nobody(
    lane: Installation, tmp_path: Path
) -> None:
    trace = Trace(tmp_path / "trace")
    lane.settings.update(trace.settings)
    said = await take_over(lane, agent(**CLEAR, Port=993, Username="svc-agent", Password=SECRET))
    assert (said.status, said.json["verdict"]) == (2, "reject")
    finding = next(each for each in said.json["findings"] if each["code"] == "port.not_smtp:993")
    assert finding["key"].endswith("Port")
    assert all(port in finding["proposal"] for port in ("587", "465", "25"))
    assert trace.noticed("connect") == trace.noticed("look-up") == set()
    assert not lane.mailboxes.exists()
    lane.configure('[mailboxes.x]\naddress = "x@contoso.example"\nhost = "127.0.0.1"\nport = 993')
    checked = await lane.postlane("check")
    assert checked.status != 0
    assert "port 993 is IMAP" in checked.errors
    assert "993" not in {port for _, port in trace.noticed("connect")}


@pytest.mark.row("NIM-W8", "NIM-W10")
async def test_what_the_product_passes_over_in_silence_is_named_and_what_it_refuses_is_refused(
    lane: Installation,
) -> None:
    misspelt = await take_over(lane, {SERVER: '{"MailSettings": {"Host": "h.example", "FromAddres": "x@h.example"}}'})
    assert misspelt.status == 2
    assert {"key.unknown:FromAddres", "key.did_you_mean:FromAddress"} <= set(codes(misspelt))
    others = await lane.take_over(
        "elixeum", {"tenant.json": '{"SMTP.Hostname": "h.example", "SMTP.Port": 587}'}, "--json"
    )
    assert others.status == 2
    assert "key.did_you_mean:SMTP.Server" in codes(others)
    twice = f'{{"MailSettings": {{"Host": "h.example", "UserName": "a", "Username": "b", "Password": "{SECRET}"}}}}'
    doubled = await take_over(lane, {SERVER: twice})
    assert doubled.status == 2
    assert any(code.startswith("key.duplicate_by_case") for code in codes(doubled))
    assert SECRET not in doubled.output + doubled.errors
    assert not lane.mailboxes.exists()
    harmless = await take_over(lane, server(**CLEAR, Remark="ours"))
    assert (harmless.status, "key.unknown:Remark" in codes(harmless)) == (0, True)


async def test_nim_w9_password_that_is_kept_elsewhere_is_asked_for_and_nothing_is_sent_without_it(
    lane: Installation, a: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    a.starttls, a.needs_login, a.logins = server_tls, True, {"svc": SECRET}
    said = await take_over(lane, server(**CLEAR, Port=a.port, UserName="svc", SecureSocketOption="StartTls"))
    assert (said.status, said.json["verdict"]) == (0, "needs_secret")
    assert "password_file" in next(each["proposal"] for each in said.json["findings"] if "secret" in each["code"])
    lane.amend('tls = "starttls"', f'tls = "starttls"\n{ca}')
    file = lane.directory / "secrets" / "netwrix-server.password"
    refusing = await lane.worker(wait=False)
    assert await refusing.process.wait() != 0
    assert f"{file} is empty" in (await lane.postlane("check")).errors
    await lane.post.publish(notice("from-file"))
    assert a.connections == 0
    file.write_text(SECRET, encoding="utf-8")
    first = await lane.worker()
    assert (await lane.inbox.final("from-file")).status is DeliveryStatus.ACCEPTED
    await first.stop()
    file.unlink()
    lane.amend(f'password_file = "{file}"', 'password_env = "OURS"')
    await lane.worker(OURS=SECRET)
    assert (await lane.post.send(notice("from-variable"))).status is DeliveryStatus.ACCEPTED
    assert [mail.login for mail in a.taken] == ["svc", "svc"]


# ---------------------------------------------------------------- encryption


async def test_nim_w6_each_of_the_five_ways_of_encryption_is_kept_to(
    lane: Installation, a: MailServer, b: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    """The first server offers no STARTTLS, the second does, the third is TLS from the first octet."""
    b.starttls = server_tls
    login = {"UserName": "svc", "Password": SECRET}
    async with serving(MailServer("c"), implicit_tls=server_tls) as c:
        ways: dict[str, tuple[MailServer, dict[str, object]]] = {
            "required-a": (a, {"SecureSocketOption": "StartTls", **login}),
            "offered-login-a": (a, {"SecureSocketOption": "StartTlsWhenAvailable", **login}),
            "flag-a": (a, {"EnableSsl": True}),
            "offered-a": (a, {"SecureSocketOption": "StartTlsWhenAvailable"}),
            "auto-a": (a, {}),
            "required-b": (b, {"SecureSocketOption": "StartTls"}),
            "offered-b": (b, {"SecureSocketOption": "StartTlsWhenAvailable"}),
            "auto-b": (b, {"SecureSocketOption": "Auto"}),
            "none-b": (b, {"SecureSocketOption": "None", "EnableSsl": True}),
            "connect-c": (c, {"SecureSocketOption": "SslOnConnect"}),
        }
        for name, (one, keys) in ways.items():
            said = await take_over(lane, server(**CLEAR, Port=one.port, **keys), "--name", name, tenant=name)
            assert said.status == 0, said.output
            assert ("tls.settings_disagree" in codes(said)) == (name == "none-b")
        implicit = await take_over(lane, server(**CLEAR, SecureSocketOption="SslOnConnect"), "--dry-run")
        assert [each["port"] for each in implicit.json["mailboxes"]] == [465]
        text = lane.mailboxes.read_text(encoding="utf-8")
        lane.configure(*(f"{line}\n{ca}" if line.startswith("tls = ") else line for line in text.splitlines()))
        lane.amend(f'tls = "none"\n{ca}', 'tls = "none"')
        await lane.worker()
        for name in ("required-a", "offered-login-a", "flag-a"):
            await lane.post.publish(notice(name, tenant=name))
            assert (await lane.inbox.first(name)).status is DeliveryStatus.DEFERRED
        assert {command.split(" ")[0] for command in a.commands} <= {"EHLO", "QUIT"}
        for name in list(ways)[3:]:
            assert (await lane.post.send(notice(name, tenant=name))).status is DeliveryStatus.ACCEPTED
        assert [mail.secure for mail in a.taken] == [False, False]
        secure = {str(mail.message["X-Postlane-Id"]): mail.secure for mail in b.taken}
        assert secure == {"required-b": True, "offered-b": True, "auto-b": True, "none-b": False}
        assert [mail.secure for mail in c.taken] == [True]


# ---------------------------------------------------------------- resets, switches, languages


async def test_nim_w1_agents_section_is_read_in_both_places_and_a_stale_reset_is_not_sent(
    lane: Installation, a: MailServer
) -> None:
    mail = {"FromAddress": "reset@contoso.example", **CLEAR, "Port": a.port}
    nested = {
        "MailSettings": mail,
        "NotificationSettings": {"Cultures": ["fr", "en"]},
        "TokenBuildingSettings": {"ValidFor": "03:00:00"},
    }
    one = await take_over(lane, {AGENT: json.dumps({"PasswordResetSettings": nested})})
    text = lane.mailboxes.read_text(encoding="utf-8")
    (shown,) = one.json["mailboxes"]
    assert (shown["cultures"], shown["link_valid_for"]) == (["fr", "en"], "03:00:00")
    other = await take_over(lane, {AGENT: json.dumps({"MailSettings": mail})})
    assert "section.unexpected_place" in codes(other)
    assert lane.mailboxes.read_text(encoding="utf-8") == text
    await lane.worker()
    now = datetime.now(UTC)
    stale = await lane.post.send(reset("stale", expires_at=now - timedelta(minutes=1)))
    assert (stale.status, stale.final, a.connections) == (DeliveryStatus.EXPIRED, True, 0)
    fresh = await lane.post.send(reset("fresh", expires_at=now + timedelta(hours=3)))
    assert (fresh.status, a.ids) == (DeliveryStatus.ACCEPTED, ["fresh"])


async def test_nim_w2_program_whose_mail_is_off_keeps_it_until_it_is_switched_on(
    lane: Installation, a: MailServer, b: MailServer
) -> None:
    both = {**server(**CLEAR, Port=a.port, Enabled=False), **agent(**CLEAR, Port=b.port)}
    said = await take_over(lane, both)
    assert said.status == 0
    assert "mail.disabled" in codes(said)
    worker = await lane.worker()
    await lane.post.publish(notice("held"))
    held = await lane.inbox.first("held")
    assert (held.status, held.reason and held.reason.kind) == (DeliveryStatus.DEFERRED, "disabled")
    assert (await lane.post.send(reset("reset"))).status is DeliveryStatus.ACCEPTED
    assert a.connections == 0
    await worker.stop()
    lane.amend("enabled = false\n", "")
    await lane.worker()
    assert (await lane.post.send(notice("next"))).status is DeliveryStatus.ACCEPTED
    assert (await lane.inbox.final("held", patience=60)).status is DeliveryStatus.ACCEPTED
    assert sorted(a.ids) == ["held", "next"]


async def test_nim_w7_mail_is_in_the_wanted_language_or_else_in_the_first(lane: Installation, a: MailServer) -> None:
    templates = lane.directory / "templates"
    (templates / "review").mkdir(parents=True)
    for name, text in {
        "rules.toml": 'locales = ["en", "fr"]',
        "review/fr.subject.j2": "Accès à vérifier",
        "review/fr.html.j2": "<p>Bonjour {{ reviewer }}</p>",
        "review/en.subject.j2": "Access to review",
        "review/en.html.j2": "<p>Hello {{ reviewer }}</p>",
    }.items():
        (templates / name).write_text(text, encoding="utf-8")
    await take_over(lane, server(**CLEAR, Port=a.port))
    await lane.worker(POSTLANE_TEMPLATES__DIRECTORY=str(templates))
    for locale in ("fr", "sv"):
        mail = notice(locale, template="review", locale=locale, data={"reviewer": "Jana"}, subject=None, text=None)
        assert (await lane.post.send(mail)).status is DeliveryStatus.ACCEPTED
    french, first = (mail.message for mail in a.taken)
    assert (french["Subject"], first["Subject"]) == ("Accès à vérifier", "Access to review")
    bodies = [part.get_content() for mail in (french, first) if (part := mail.get_body(("html",)))]
    assert ["Bonjour Jana" in bodies[0], "Hello Jana" in bodies[1]] == [True, True]


# ---------------------------------------------------------------- who may get mail


async def test_nim_w3_recipient_outside_the_allowed_domains_is_taken_out_and_told(
    lane: Installation, a: MailServer
) -> None:
    await take_over(lane, server(**CLEAR, Port=a.port, AllowedDomains="people.example; contoso.example"))
    await lane.worker()
    result = await lane.post.send(notice("n-1", to=[JANA, "x@elsewhere.example"]))
    assert result.status is DeliveryStatus.PARTIALLY_ACCEPTED
    assert {each.address: (each.status, each.kind) for each in result.recipients} == {
        JANA: (RecipientStatus.ACCEPTED, ""),
        "x@elsewhere.example": (RecipientStatus.FAILED, "recipient-not-allowed"),
    }
    nobody = await lane.post.send(notice("n-2", to=["x@elsewhere.example"]))
    assert nobody.status is DeliveryStatus.REJECTED
    assert [mail.rcpt_to for mail in a.taken] == [(JANA,)]
    assert "elsewhere" not in str(a.taken[0].message["To"])


async def test_nim_w4_catch_all_gets_everything_and_the_people_nothing(lane: Installation, a: MailServer) -> None:
    keys = {"CatchAllAddress": "golive@contoso.example", "CatchAllCCAddress": "audit@contoso.example"}
    said = await take_over(lane, server(**CLEAR, Port=a.port, **keys))
    assert "recipients.catch_all_on" in codes(said)
    await lane.worker()
    result = await lane.post.send(notice("n-1", to=[JANA], cc=[OMAR], bcc=[EVE]))
    assert (result.status, result.redirected_to) == (DeliveryStatus.ACCEPTED, "golive@contoso.example")
    (mail,) = a.taken
    assert mail.rcpt_to == tuple(keys.values())
    assert (mail.message["To"], mail.message["Cc"], mail.message["Bcc"]) == (*keys.values(), None)
    originals = [value for name, value in mail.message.items() if name.startswith("X-Postlane-Original-")]
    assert originals == [JANA, OMAR, EVE]


async def test_nim_w5_more_recipients_than_the_limit_all_get_the_mail_or_it_is_refused(
    lane: Installation, a: MailServer
) -> None:
    people = [f"person{number}@people.example" for number in range(25)]
    await take_over(lane, server(**CLEAR, Port=a.port, MaxRecipients="20"))
    worker = await lane.worker()
    result = await lane.post.send(notice("split", to=people[:1], bcc=people[1:]), timeout=60)
    assert (result.status, len(result.recipients)) == (DeliveryStatus.ACCEPTED, 25)
    assert [len(mail.rcpt_to) for mail in a.taken] == [20, 5]
    assert sorted(rcpt for mail in a.taken for rcpt in mail.rcpt_to) == sorted(people)
    await worker.stop()
    lane.amend("limits = {", 'too_many_recipients = "refuse"\nlimits = {')
    await lane.worker()
    refused = await lane.post.send(notice("refused", to=people))
    assert (refused.status, len(a.taken)) == (DeliveryStatus.FAILED, 2)
    assert refused.reason is not None
    assert "recipients_per_message" in refused.reason.remedy
