"""Postfix, with Dovecot as its judge of passwords."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from contracts.delivery import DeliveryStatus, RecipientStatus
from tests.field.conftest import Opening
from tests.field.dovecot import PASSWORD, USER
from tests.field.ground import until
from tests.field.office import login, mailbox
from tests.field.postfix import Postfix


async def test_mail_goes_through_submission_with_starttls_and_a_password(
    mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    box = mailbox(mail_server.submission, ca_file=ca_file, more=login(USER, PASSWORD))
    async with opened(box) as postlane:
        status, said = await postlane.command("check")
        assert status == 0, said
        result = await postlane.send(
            "jana@contoso.example",
            cc=["petr@contoso.example"],
            bcc=["audit@fabrikam.example"],
            subject="P\u0159\u00edli\u0161 \u017elu\u0165ou\u010dk\u00fd k\u016f\u0148",
            text=".\n.. leading dots\nFrom here\n" + "\u017e" * 3000 + "\nend",
            attachments=[{"filename": "every octet.bin", "content": base64.b64encode(bytes(range(256)) * 20).decode()}],
        )
    assert result.status is DeliveryStatus.ACCEPTED, result
    kept = mail_server.inbox.wait(3)
    assert len(kept) == 3
    assert len({mail.content for mail in kept}) == 1
    mail = kept[0].mail
    assert mail["Message-ID"] == result.message_id
    assert not mail["Bcc"]
    assert b"audit@" not in kept[0].content
    assert mail["Subject"] == "P\u0159\u00edli\u0161 \u017elu\u0165ou\u010dk\u00fd k\u016f\u0148"
    text = mail.get_body(("plain",))
    assert text is not None
    assert text.get_content().splitlines()[:3] == [".", ".. leading dots", "From here"]
    assert "\u017e" * 3000 in text.get_content()
    (attached,) = mail.iter_attachments()
    assert attached.get_content() == bytes(range(256)) * 20
    assert mail_server.logged(r"submission/smtpd.*sasl_method=(LOGIN|PLAIN), sasl_username=" + USER)
    assert mail_server.logged("TLS connection established.*TLSv1.3")


def by_password(server: Postfix, ca_file: Path | None, **keys: object) -> str:
    return mailbox(server.submission, ca_file=ca_file, more=login(USER, PASSWORD), **keys)


async def test_each_recipient_is_told_for_itself(mail_server: Postfix, opened: Opening, ca_file: Path) -> None:
    async with opened(by_password(mail_server, ca_file)) as postlane:
        mixed = await postlane.send("jana@contoso.example", "unknown@contoso.example", "moved@contoso.example")
        nobody = await postlane.send("unknown@contoso.example")
    told = {item.address: (item.status, item.code, item.enhanced) for item in mixed.recipients}
    assert told == {
        "jana@contoso.example": (RecipientStatus.ACCEPTED, 250, "2.0.0"),
        "unknown@contoso.example": (RecipientStatus.FAILED, 550, "5.1.1"),
        "moved@contoso.example": (RecipientStatus.FAILED, 551, "5.1.6"),
    }
    assert (mixed.status, nobody.status) == (DeliveryStatus.PARTIALLY_ACCEPTED, DeliveryStatus.FAILED)
    assert len(mail_server.inbox.wait()) == 1


async def test_greylisted_recipient_is_given_the_time_that_greylisting_takes(
    mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    async with opened(by_password(mail_server, ca_file)) as postlane:
        await postlane.publish("grey@contoso.example", id="grey")
        result = await postlane.inbox.first("grey")
    assert result.status is DeliveryStatus.DEFERRED
    assert result.next_attempt_at is not None
    assert result.next_attempt_at - result.occurred_at > timedelta(minutes=4)


async def test_deferred_recipient_is_tried_again_and_the_others_have_their_mail_once(
    mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    async with opened(by_password(mail_server, ca_file, messages_per_connection=1)) as postlane:
        await postlane.publish("jana@contoso.example", "later@contoso.example", id="later")
        first = await postlane.inbox.first("later")
        mail_server.set(smtpd_recipient_restrictions="permit_sasl_authenticated, reject")
        final = await postlane.inbox.final("later")
    told = {item.address: item.status for item in first.recipients}
    assert told == {"jana@contoso.example": RecipientStatus.ACCEPTED, "later@contoso.example": RecipientStatus.DEFERRED}
    assert final.status is DeliveryStatus.ACCEPTED
    kept = mail_server.inbox.wait(2)
    assert sorted(str(mail.mail["Delivered-To"]) for mail in kept) == ["jana@contoso.example", "later@contoso.example"]
    assert {str(mail.mail["Message-ID"]) for mail in kept} == {final.message_id}


async def test_server_that_hangs_up_in_the_middle_of_an_envelope_gets_the_mail_later(
    mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    async with opened(by_password(mail_server, ca_file)) as postlane:
        await postlane.publish("jana@contoso.example", "busy@contoso.example", id="busy")
        first = await postlane.inbox.first("busy")
        mail_server.set(smtpd_recipient_restrictions="permit_sasl_authenticated, reject")
        final = await postlane.inbox.final("busy", 90)
    assert first.status is DeliveryStatus.DEFERRED, first
    assert final.status is DeliveryStatus.ACCEPTED
    assert len(mail_server.inbox.wait(2)) == 2


async def test_refusals_at_data_and_after_the_data_are_final(
    mail_server: Postfix, opened: Opening, ca_file: Path, tmp_path: Path
) -> None:
    mail_server.set(header_checks="regexp:{{/^Subject: Forbidden/ REJECT 5.7.1 Not this}}")
    async with opened(by_password(mail_server, ca_file)) as postlane:
        at_data = await postlane.send("data@contoso.example")
        after = await postlane.send(subject="Forbidden")
        good = await postlane.send()
    assert (at_data.status, after.status, good.status) == (
        DeliveryStatus.FAILED,
        DeliveryStatus.FAILED,
        DeliveryStatus.ACCEPTED,
    )
    assert at_data.recipients[0].enhanced == after.recipients[0].enhanced == "5.7.1"
    assert len(mail_server.inbox.wait()) == 1


async def test_mail_that_is_too_large_is_not_even_tried(mail_server: Postfix, opened: Opening, ca_file: Path) -> None:
    mail_server.set(message_size_limit="20000")
    attached = {"filename": "large.bin", "content": base64.b64encode(bytes(40_000)).decode()}
    async with opened(by_password(mail_server, ca_file)) as postlane:
        large = await postlane.send(attachments=[attached])
        small = await postlane.send()
    assert (large.status, small.status) == (DeliveryStatus.FAILED, DeliveryStatus.ACCEPTED)
    assert large.reason is not None
    assert "20000" in large.reason.explanation + str(large.server_reply) + large.reason.remedy, large


async def test_recipient_beyond_ascii_is_refused_where_the_server_has_no_smtputf8(
    mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    async with opened(by_password(mail_server, ca_file, messages_per_connection=1)) as postlane:
        with_it = await postlane.send("ji\u0159\u00ed@contoso.example")
        mail_server.set(smtputf8_enable="no")
        without = await postlane.send("ji\u0159\u00ed@contoso.example", id="utf8-2")
        domain = await postlane.send("jana@p\u0159\u00edklad.example", id="idn")
    assert with_it.status is DeliveryStatus.ACCEPTED
    assert without.status is DeliveryStatus.FAILED, without
    assert domain.recipients[0].address == "jana@p\u0159\u00edklad.example", domain


async def test_wrong_password_is_tried_once_however_many_mails_wait(
    mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    box = mailbox(mail_server.submission, ca_file=ca_file, more=login(USER, "wrong"))
    async with opened(box) as postlane:
        for number in range(20):
            await postlane.publish(id=f"n-{number}")
        await postlane.inbox.until(lambda results: len({result.notification_id for result in results}) == 20)
        results = postlane.inbox.results
    assert {result.status for result in results} == {DeliveryStatus.DEFERRED}
    assert len(mail_server.logged("authentication failed")) == 1


@pytest.mark.parametrize(("host", "more"), [("127.0.0.1", {}), ("::1", {}), ("[::1]", {})])
async def test_server_is_found_by_address_too(
    host: str, more: dict[str, str], mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    async with opened(by_password(mail_server, ca_file, host=host)) as postlane:
        assert (await postlane.send()).status is DeliveryStatus.ACCEPTED
    assert len(mail_server.inbox.wait()) == 1


async def test_implicit_tls_and_either_mechanism(mail_server: Postfix, opened: Opening, ca_file: Path) -> None:
    for mechanism in ("login", "plain"):
        box = mailbox(mail_server.smtps, ca_file=ca_file, tls="implicit", more=login(USER, PASSWORD, mechanism))
        async with opened(box) as postlane:
            assert (await postlane.send()).status is DeliveryStatus.ACCEPTED
        assert mail_server.logged(f"smtps/smtpd.*sasl_method={mechanism.upper()}")


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_server_that_knows_only_one_version_of_tls(
    version: str, mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    mail_server.set(smtpd_tls_mandatory_protocols=f">={version}, <={version}")
    async with opened(by_password(mail_server, ca_file)) as postlane:
        assert (await postlane.send()).status is DeliveryStatus.ACCEPTED
    assert mail_server.logged(f"TLS connection established from .*: {version} with")


async def test_server_with_an_old_tls_is_sent_nothing(mail_server: Postfix, opened: Opening, ca_file: Path) -> None:
    mail_server.set(smtpd_tls_mandatory_protocols=">=TLSv1, <=TLSv1.1", tls_high_cipherlist="ALL:@SECLEVEL=0")
    async with opened(by_password(mail_server, ca_file)) as postlane:
        await postlane.publish(id="waits")
        result = await postlane.inbox.first("waits")
        status, said = await postlane.command("check")
    assert result.status is DeliveryStatus.DEFERRED
    assert status == 1
    assert "TLS" in said
    assert not mail_server.inbox.mails()


@pytest.mark.parametrize("which", ["unknown authority", "another host", "expired"])
async def test_certificate_that_cannot_be_trusted_is_told_no_password(
    which: str, mail_server: Postfix, opened: Opening, ca_file: Path, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "trusted.pem")
    ends = datetime.now(UTC) - timedelta(days=1) if which == "expired" else None
    shown = authority.issue_cert("mail.fabrikam.example" if which == "another host" else "localhost", not_after=ends)
    file = mail_server.home / "shown.pem"
    shown.private_key_and_cert_chain_pem.write_to_path(file)
    mail_server.set(smtpd_tls_cert_file=str(file), smtpd_tls_key_file=str(file))
    trusted = ca_file if which == "unknown authority" else tmp_path / "trusted.pem"
    async with opened(by_password(mail_server, trusted)) as postlane:
        await postlane.publish(id="waits")
        result = await postlane.inbox.first("waits")
        status, said = await postlane.command("check")
    assert result.status is DeliveryStatus.DEFERRED
    assert result.reason is not None
    assert "certificate" in result.reason.explanation
    assert (status, "certificate" in said) == (1, True), said
    assert not mail_server.logged("sasl_|AUTH")


async def test_relay_without_login_takes_tls_where_it_is_offered(
    mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    box = mailbox(mail_server.relay, ca_file=ca_file, tls="starttls-if-offered", messages_per_connection=1)
    async with opened(box) as postlane:
        assert (await postlane.send()).status is DeliveryStatus.ACCEPTED
        assert len(mail_server.logged("relay/smtpd.*TLS connection established")) == 1
        mail_server.set(relay_tls="none")
        assert (await postlane.send()).status is DeliveryStatus.ACCEPTED
    assert len(mail_server.inbox.wait(2)) == 2


async def test_server_that_lets_in_few_connections_gets_every_mail_once(
    mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    mail_server.set(
        smtpd_client_connection_count_limit="2", smtpd_client_event_limit_exceptions="", anvil_status_update_time="5s"
    )
    async with opened(by_password(mail_server, ca_file, connections=6)) as postlane:
        results = await postlane.flood(60)
    assert mail_server.logged("Connection concurrency limit exceeded"), "this is no idle test"
    assert {result.status for result in results} == {DeliveryStatus.ACCEPTED}
    assert once(mail_server, 60)


@pytest.mark.parametrize(
    ("limit", "kind"),
    [
        ("smtpd_client_message_rate_limit", "throttled-mailbox/rate"),
        ("smtpd_client_recipient_rate_limit", "throttled-mailbox/rate"),
        ("smtpd_client_auth_rate_limit", "throttled-mailbox/logins"),
        ("smtpd_client_new_tls_session_rate_limit", "transient"),  # it hangs up; what it says is lost on the way
        ("smtpd_client_connection_rate_limit", "transient/connections"),
    ],
)
async def test_mailbox_that_is_too_quick_for_the_server_rests(
    limit: str, kind: str, mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    mail_server.set(**{limit: "3"}, smtpd_client_event_limit_exceptions="")
    async with opened(by_password(mail_server, ca_file, connections=1, messages_per_connection=1)) as postlane:
        for number in range(12):
            await postlane.publish(id=f"n-{number}")
        results = await postlane.inbox.until(lambda results: len({item.notification_id for item in results}) == 12)
    accepted = [item for item in results if item.status is DeliveryStatus.ACCEPTED]
    put_off = {item.reason.kind for item in results if item.status is DeliveryStatus.DEFERRED and item.reason}
    assert len(accepted) == 3
    assert kind in put_off
    assert len(mail_server.logged("limit exceeded")) <= 2, "it is not asked again by every mail that waits"


async def test_server_that_restarts_under_load_loses_nothing_and_doubles_nothing(
    mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    """What it is ended over between the final dot and its reply is in doubt: nobody can know."""
    async with opened(by_password(mail_server, ca_file)) as postlane:

        async def outages() -> None:
            for number in (20, 60, 100):
                await postlane.inbox.until(lambda results, number=number: len(results) >= number, 90)
                await asyncio.to_thread(mail_server.stop, at_once=True)
                await asyncio.to_thread(mail_server.start)

        trouble = asyncio.create_task(outages())
        results = await postlane.flood(200)
        await trouble
    accepted = {str(result.message_id) for result in results if result.status is DeliveryStatus.ACCEPTED}
    doubtful = {str(result.message_id) for result in results if result.status is DeliveryStatus.IN_DOUBT}
    assert len(accepted) + len(doubtful) == 200
    assert len(doubtful) <= 3 * 4, "three outages, four connections"
    taken = Counter(str(mail.mail["Message-ID"]) for mail in mail_server.inbox.wait(len(accepted)))
    assert accepted <= taken.keys() <= accepted | doubtful
    assert set(taken.values()) == {1}


async def test_idle_sessions_that_the_server_closes_cost_nothing(
    mail_server: Postfix, opened: Opening, ca_file: Path
) -> None:
    mail_server.set(smtpd_timeout="2s")
    async with opened(by_password(mail_server, ca_file, idle_seconds=200)) as postlane:
        assert (await postlane.send()).attempt == 1
        await asyncio.to_thread(until, lambda: mail_server.logged("timeout after"))
        again = await postlane.send()
    assert (again.status, again.attempt) == (DeliveryStatus.ACCEPTED, 1)


def once(server: Postfix, count: int) -> bool:
    """Whether the inbox has so many mails, none of them twice."""
    subjects = Counter(str(mail.mail["Subject"]) for mail in server.inbox.wait(count))
    return len(subjects) == count and set(subjects.values()) == {1}
