"""Non-delivery reports (RFC 3464): what Exchange puts into the sender's Inbox after it has said 250."""

from __future__ import annotations

import json
import time
import uuid
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import SMTP
from email.utils import formatdate
from pathlib import Path

from worker.emulator.accepted import field_of


class Bounces:
    """Keeps a report in a file for each bounced recipient, and a line in `bounces.jsonl`."""

    def __init__(self, directory: Path) -> None:
        """Append to what is in the directory."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.log = directory / "bounces.jsonl"

    def bounce(self, original: bytes, *, sender: str, recipient: str, reply: str, host: str) -> Path:
        """Report that a mail that was accepted did not reach one recipient."""
        reply = " ".join(reply.split())
        code = next((word for word in reply.split() if word.count(".") == 2), "5.0.0")  # noqa: PLR2004 - RFC 3463
        report = MIMEMultipart("report", report_type="delivery-status", policy=SMTP)
        report["From"] = f"Microsoft Outlook <postmaster@{host}>"
        report["To"] = sender
        report["Subject"] = f"Undeliverable: {field_of(original, b'Subject')}"
        report["Date"] = formatdate()
        report["Message-ID"] = f"<{uuid.uuid4()}@{host}>"
        report["Auto-Submitted"] = "auto-replied"
        report["In-Reply-To"] = field_of(original, b"Message-ID")
        words = f"Your message to {recipient} couldn't be delivered.\n\nRemote server returned '{reply}'\n"
        report.attach(MIMEText(words, policy=SMTP))
        report.attach(_status(host, recipient, code, reply))
        report.attach(_head(original))
        path = self.directory / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.eml"
        path.write_bytes(report.as_bytes())
        told = {
            "time": time.time(),
            "sender": sender,
            "recipient": recipient,
            "reply": reply,
            "message_id": field_of(original, b"Message-ID"),
            "path": str(path),
        }
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told, ensure_ascii=False) + "\n")
        return path


def _status(host: str, recipient: str, code: str, reply: str) -> Message:
    whole, each = Message(policy=SMTP), Message(policy=SMTP)
    whole["Reporting-MTA"] = f"dns;{host}"
    each["Final-Recipient"] = f"rfc822;{recipient}"
    each["Action"] = "failed"
    each["Status"] = code
    each["Diagnostic-Code"] = f"smtp;{reply}"
    status = Message(policy=SMTP)
    status["Content-Type"] = "message/delivery-status"
    status.set_payload([whole, each])
    return status


def _head(original: bytes) -> Message:
    """The header as it came: whatever a sender wrote into it, nothing is read or written anew."""
    headers = Message(policy=SMTP)
    headers["Content-Type"] = "text/rfc822-headers"
    headers["Content-Transfer-Encoding"] = "8bit"
    headers.set_payload(original.partition(b"\r\n\r\n")[0].decode("ascii", "surrogateescape") + "\r\n")
    return headers
