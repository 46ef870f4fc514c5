"""Postfix, with Dovecot as its judge of passwords."""

from __future__ import annotations

import base64
from pathlib import Path

from contracts.delivery import DeliveryStatus
from tests.field.conftest import Opening
from tests.field.dovecot import PASSWORD, USER
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
