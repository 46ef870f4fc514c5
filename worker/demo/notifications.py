"""What the demo publishes, and what must come of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contracts.delivery import Because, DeliveryStatus, Result

_LOGO = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAYAAAAf8/9hAAAAJ0lEQVR42mNk+M9Qz0AEYBxVSF+FjKMKRxWOKhxVOKpwVOGowlGFAG3TAhGq1f4BAAAA"
    "AElFTkSuQmCC"
)


@dataclass(frozen=True, slots=True)
class Scene:
    """One notification of the demo.

    Attributes:
        title: for people.
        body: the octets that are published.
        notification_id: by which its result is known.
        tenant: for the routing key.
        status: the expected one.
        because: why the expected mailbox is chosen; None if none is.
        code: expected reply code of the first recipient, if a server is to have said one.
    """

    title: str
    body: bytes
    notification_id: str
    tenant: str
    status: DeliveryStatus
    because: Because | None = None
    code: int | None = None

    def fulfilled_by(self, result: Result) -> bool:
        """Whether the result is the expected one."""
        said = next((item.code for item in result.recipients), None)
        because = result.mailbox.because if result.mailbox else None
        return result.status is self.status and because is self.because and said == self.code


def scenes() -> tuple[Scene, ...]:
    """The six, in the order in which they are published."""
    return (
        _scene("Password reset, default Office 365 mailbox", DeliveryStatus.ACCEPTED, Because.DEFAULT, 250, _RESET),
        _scene("Approval with attachment, tenant's own mailbox", DeliveryStatus.ACCEPTED, Because.OWN, 250, _APPROVAL),
        _scene("Invitation in Czech, pickup directory", DeliveryStatus.HANDED_OVER, Because.OWN, None, _INVITATION),
        _scene("To an unknown recipient", DeliveryStatus.FAILED, Because.OWN, 550, _UNKNOWN),
        _scene("Malformed: a line break in the subject", DeliveryStatus.REJECTED, None, None, _MALFORMED),
        _scene("Tenant without any mailbox", DeliveryStatus.REJECTED, None, None, _HOMELESS),
    )


def _scene(
    title: str, status: DeliveryStatus, because: Because | None, code: int | None, fields: Mapping[str, Any]
) -> Scene:
    body = json.dumps({"type": "postlane.notification.v1", **fields}, ensure_ascii=False).encode()
    return Scene(title, body, fields["id"], fields["tenant"], status, because, code)


_RESET: Mapping[str, Any] = {
    "id": "demo-1-password-reset",
    "tenant": "contoso",
    "category": "password-reset",
    "priority": "high",
    "to": [{"address": "jana.novak@contoso.example", "name": "Jana Novak"}],
    "subject": "Reset your password",
    "text": "Hello Jana,\n\nuse this link within 30 minutes:\nhttps://portal.contoso.example/reset?code=9F3K-77QX\n",
    "html": "<p>Hello Jana,</p>"
    "<p><a href='https://portal.contoso.example/reset?code=9F3K-77QX'>Reset your password</a> within 30 minutes.</p>",
}

_APPROVAL: Mapping[str, Any] = {
    "id": "demo-2-approval",
    "tenant": "fabrikam",
    "category": "approval",
    "to": ["manager@fabrikam.example"],
    "cc": ["audit@fabrikam.example"],
    "bcc": ["archive@fabrikam.example"],
    "subject": "Approval requested: access to Finance for A. Smith",
    "text": "A. Smith requests access to Finance. Approve: https://idm.fabrikam.example/a/42",
    "html": "<img src='cid:logo' alt=''><p>A. Smith requests access to <b>Finance</b>.</p>"
    "<p><a href='https://idm.fabrikam.example/a/42'>Approve</a></p>",
    "attachments": [
        {
            "filename": "request.csv",
            "content_type": "text/csv",
            "content": base64.b64encode(b"user,right,until\r\nasmith,Finance,2027-03-31\r\n").decode(),
        },
        {"filename": "logo.png", "content_type": "image/png", "content": _LOGO, "content_id": "logo"},
    ],
}

_INVITATION: Mapping[str, Any] = {
    "id": "demo-3-pozvanka",
    "tenant": "zlin",
    "category": "invite",
    "to": [{"address": "zofie.dvorakova@zlin.example", "name": "Žofie Dvořáková"}],
    "reply_to": [{"address": "podpora@zlin.example", "name": "Technická podpora"}],
    "subject": "Pozvánka do portálu města – příhlášení do 30. listopadu",
    "text": "Dobrý den, paní Dvořáková,\n\nzveme Vás do portálu města. Účet si založíte zde:\n"
    "https://portal.zlin.example/pozvanka/8c1f\n\nS pozdravem\nMěsto Zlín\n",
}

_UNKNOWN: Mapping[str, Any] = {
    "id": "demo-4-unknown-recipient",
    "tenant": "fabrikam",
    "to": ["unknown@fabrikam.example"],
    "subject": "Your report is ready",
    "text": "It is.",
}

_MALFORMED: Mapping[str, Any] = {
    "id": "demo-5-malformed",
    "tenant": "contoso",
    "to": ["jana.novak@contoso.example"],
    "subject": "Hello\r\nBcc: everybody@contoso.example",
    "text": "An attempt to smuggle a header in.",
}

_HOMELESS: Mapping[str, Any] = {
    "id": "demo-6-no-mailbox",
    "tenant": "tailspin",
    "to": ["pilot@tailspin.example"],
    "subject": "Flight plan",
    "text": "This tenant has no mailbox and may not use the default one.",
}
