"""Umbraco's old settings, imported and then used: web.config of the older ones, appsettings.json of the newer ones."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from contracts.delivery import DeliveryStatus
from tests.acceptance.installation import Installation, notification
from tests.acceptance.server import MailServer, serving

SECRET = "Umbraco-s3cret-of-the-test"
TENANT = ("--tenant", "umb")


def web_config(smtp: str) -> dict[str, str]:
    """A web.config with this inside `mailSettings`."""
    return {
        "web.config": f"""<?xml version="1.0" encoding="utf-8"?>
<configuration><system.net><mailSettings>{smtp}</mailSettings></system.net></configuration>"""
    }


def appsettings(**smtp: object) -> dict[str, str]:
    """An appsettings.json with these settings."""
    return {"appsettings.json": json.dumps({"Umbraco": {"CMS": {"Global": {"Smtp": smtp}}}})}


async def accepted(lane: Installation, notification_id: str) -> None:
    result = await lane.post.send(notification(notification_id, "umb"))
    assert result.status is DeliveryStatus.ACCEPTED, result.reason


# ---------------------------------------------------------------- web.config


@pytest.mark.row("UMB-S8", "UMB-S9", "UMB-S10", "UMB-S11")
async def test_web_config_is_taken_over_and_its_mail_arrives_with_its_login_and_sender(
    lane: Installation, a: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    a.starttls, a.needs_login, a.logins = server_tls, True, {"contoso-web": SECRET}
    smtp = f"""<smtp from="website@contoso.example">
        <network host="127.0.0.1" port="{a.port}" userName="contoso-web" password="{SECRET}" /></smtp>"""
    said = await lane.take_over("umbraco", web_config(smtp), *TENANT, "--json")
    assert (said.status, said.json["verdict"]) == (0, "accept_warn")
    (shown,) = said.json["mailboxes"]
    expected = {"host": "127.0.0.1", "port": a.port, "username": "contoso-web", "secret": "present"}
    assert shown.items() >= {**expected, "sender": "website@contoso.example"}.items()
    assert "auth.over_plain_text" in [finding["code"] for finding in said.json["findings"]]
    again = await lane.postlane("import", "umbraco", "web.config", *TENANT)
    assert "unchanged" in again.output
    assert SECRET not in said.output + said.errors + again.output + again.errors
    assert SECRET not in lane.mailboxes.read_text(encoding="utf-8")
    lane.amend('tls = "starttls"', f'tls = "starttls"\n{ca}')
    await lane.worker()
    await accepted(lane, "n-1")
    (mail,) = a.taken
    assert (mail.login, mail.secure, mail.mail_from) == ("contoso-web", True, "website@contoso.example")


async def test_umb_s10_user_name_in_wrong_case_is_refused_as_dotnet_would_pass_over_it(lane: Installation) -> None:
    smtp = f"""<smtp from="website@contoso.example">
        <network host="smtp.contoso.example" username="contoso-web" password="{SECRET}" /></smtp>"""
    said = await lane.take_over("umbraco", web_config(smtp), *TENANT)
    assert said.status == 2
    assert "userName" in said.output
    assert SECRET not in said.output + said.errors
    assert not lane.mailboxes.exists()


async def test_umb_w10_section_that_is_encrypted_or_elsewhere_is_refused_with_the_way_out(lane: Installation) -> None:
    encrypted = """<smtp configProtectionProvider="RsaProtectedConfigurationProvider"><EncryptedData>
        <CipherData><CipherValue>c2FtcGxl</CipherValue></CipherData></EncryptedData></smtp>"""
    said = await lane.take_over("umbraco", web_config(encrypted), *TENANT)
    assert said.status == 2
    assert "aspnet_regiis -pdf" in said.output
    elsewhere = '<smtp configSource="config\\mail.config" />'
    said = await lane.take_over("umbraco", web_config(elsewhere), *TENANT)
    assert said.status == 2
    assert "mail.config" in said.output
    assert not lane.mailboxes.exists()
    # The instruction followed:
    section = '<smtp from="website@contoso.example"><network host="smtp.contoso.example" /></smtp>'
    both = {**web_config(elsewhere), "mail.config": section}
    assert (await lane.take_over("umbraco", both, *TENANT)).status == 0


async def test_umb_w4_sender_that_umbraco_is_delivered_with_is_refused(lane: Installation) -> None:
    smtp = '<smtp from="noreply@example.com"><network host="smtp.contoso.example" /></smtp>'
    for files in (web_config(smtp), appsettings(From="noreply@example.com", Host="smtp.contoso.example", Port=25)):
        said = await lane.take_over("umbraco", files, *TENANT, "--json")
        assert (said.status, said.json["verdict"]) == (2, "reject")
        assert "sender.vendor_placeholder" in [finding["code"] for finding in said.json["findings"]]
        assert not lane.mailboxes.exists()


# ---------------------------------------------------------------- third-party services


async def test_umb_s7_sendgrid_as_configured_takes_the_mail_and_its_words_are_kept(
    lane: Installation, a: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    a.starttls, a.needs_login, a.logins = server_tls, True, {"apikey": SECRET}
    smtp = f"""<smtp from="website@contoso.example" deliveryMethod="Network">
        <network host="localhost" port="{a.port}" userName="apikey" password="{SECRET}" enableSsl="true" /></smtp>"""
    assert (await lane.take_over("umbraco", web_config(smtp), *TENANT)).status == 0
    lane.amend('tls = "starttls"', f'tls = "starttls"\n{ca}')
    await lane.worker()
    await accepted(lane, "n-1")
    assert [(mail.login, mail.secure) for mail in a.taken] == [("apikey", True)]
    a.replies["."] = "550 The from address does not match a verified Sender Identity (request 77a1)"
    refused = await lane.post.send(notification("refused", "umb"))
    assert (refused.status, refused.server_reply) == (DeliveryStatus.FAILED, a.replies["."])
    a.replies["."] = "451 Requested action aborted: local error in processing (request 8fk2)"
    await lane.post.publish(notification("put-off", "umb"))
    waiting = await lane.inbox.first("put-off")
    assert (waiting.status, waiting.server_reply) == (DeliveryStatus.DEFERRED, a.replies["."])


async def test_umb_s7_mailgun_over_tls_from_the_first_octet_takes_the_mail_with_exactly_its_login(
    lane: Installation, server_tls: ssl.SSLContext, ca: str
) -> None:
    user = "postmaster@mg.contoso.example"
    mailgun = MailServer("mailgun", logins={user: SECRET}, needs_login=True)
    async with serving(mailgun, implicit_tls=server_tls):
        smtp: dict[str, object] = {"Host": "localhost", "Port": mailgun.port, "SecureSocketOptions": "SslOnConnect"}
        smtp |= {"From": "Contoso Web <website@contoso.example>", "Username": user, "Password": SECRET}
        assert (await lane.take_over("umbraco", appsettings(**smtp), *TENANT)).status == 0
        lane.amend('tls = "implicit"', f'tls = "implicit"\n{ca}')
        await lane.worker()
        await accepted(lane, "n-1")
        (mail,) = mailgun.taken
    assert (mail.login, mail.secure) == (user, True)
    assert mail.message["From"] == "Contoso Web <website@contoso.example>"


# ---------------------------------------------------------------- appsettings.json


async def test_umb_w1_settings_with_the_password_from_the_environment_are_one_server(
    lane: Installation, a: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    a.starttls, a.needs_login, a.logins = server_tls, True, {"contoso-web": SECRET}
    smtp: dict[str, object] = {"Host": "localhost", "Port": a.port, "SecureSocketOptions": "StartTls"}
    smtp |= {"From": "website@contoso.example", "Username": "contoso-web", "EmailExpiration": "3.00:00:00"}
    files = {**appsettings(**smtp), "umbraco.env": f"UMBRACO__CMS__GLOBAL__SMTP__PASSWORD={SECRET}\n"}
    said = await lane.take_over("umbraco", files, *TENANT, "--json")
    assert said.status == 0
    assert SECRET not in said.output + said.errors
    assert said.json["mailboxes"][0]["expires_after"]
    lane.amend('tls = "starttls"', f'tls = "starttls"\n{ca}')
    await lane.worker()
    await accepted(lane, "n-1")
    assert [mail.login for mail in a.taken] == ["contoso-web"]


async def test_umb_w2_directory_that_is_set_wins_over_the_host_and_needs_none(
    lane: Installation, a: MailServer, pickup: Path
) -> None:
    folder = str(pickup.resolve())
    alone = appsettings(From="website@contoso.example", PickupDirectoryLocation=folder)
    assert (await lane.take_over("umbraco", alone, *TENANT)).status == 0
    both = appsettings(
        From="website@contoso.example",
        Host="127.0.0.1",
        Port=a.port,
        DeliveryMethod="Network",
        PickupDirectoryLocation=folder,
    )
    said = await lane.take_over("umbraco", both, *TENANT)
    assert said.status == 0
    assert "delivery.conflict" in said.output
    await lane.worker()
    result = await lane.post.send(notification("n-1", "umb"))
    assert result.status is DeliveryStatus.HANDED_OVER
    assert (len(list(pickup.glob("*.eml"))), a.connections) == (1, 0)


async def test_umb_w3_user_without_password_is_asked_for_and_never_becomes_a_mail_without_login(
    lane: Installation, a: MailServer, server_tls: ssl.SSLContext, ca: str
) -> None:
    a.starttls, a.logins = server_tls, {"contoso-web": SECRET}  # it would take mail without a login as well
    smtp: dict[str, object] = {"Host": "localhost", "Port": a.port, "SecureSocketOptions": "StartTls"}
    smtp |= {"From": "website@contoso.example", "Username": "contoso-web"}
    said = await lane.take_over("umbraco", appsettings(**smtp), *TENANT, "--json")
    assert (said.status, said.json["verdict"]) == (0, "needs_secret")
    lane.amend('tls = "starttls"', f'tls = "starttls"\n{ca}')
    password = lane.directory / "secrets" / "umbraco.password"
    refused = await lane.postlane("run")
    assert refused.status != 0
    assert str(password) in refused.output + refused.errors
    password.write_text(f"{SECRET}\n", encoding="utf-8")
    await lane.worker()
    await accepted(lane, "n-1")
    assert [mail.login for mail in a.taken] == ["contoso-web"]
