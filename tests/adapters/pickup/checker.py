"""What the reader of a pickup directory sees, by the conventions alone: knows nothing of how Postlane writes.

IIS: X-Sender and X-Receiver lines are the envelope and stand before everything else; no Bcc. Exchange: the envelope is
From and To, Cc, Bcc; X-Sender and X-Receiver would be passed on to everybody; 100 recipients, 64 KB of header. Both:
CRLF, ASCII headers, no line that begins with a dot, Date and Message-ID present, `.eml`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import cast

from worker.domain.mailbox import PickupFlavour

_FIELD = re.compile(rb"[!-9;-~]+:[ \t]?.*", re.DOTALL)
_ONCE = ("Date", "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Message-ID", "Subject", "MIME-Version")
_MAX_LINE = 998
_EXCHANGE_RECIPIENTS = 100
_EXCHANGE_HEADER = 64 * 1024


@dataclass(frozen=True)
class Collected:
    """A file as its reader understands it.

    Attributes:
        recipients: of the envelope, in the order of the file.
        content: what goes out to every recipient.
        message: the same, parsed.
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    message: EmailMessage


def collect(path: Path, flavour: PickupFlavour) -> Collected:
    """Read a file as the mail server does, and be strict about it."""
    octets = path.read_bytes()
    assert path.suffix == ".eml"
    assert octets.endswith(b"\r\n"), "the last line is whole"
    lines = octets.split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line for line in lines), "line ends are CRLF and nothing else"
    assert not any(line.startswith(b".") for line in lines), "no line begins with a dot"
    assert max(map(len, lines)) <= _MAX_LINE
    header, blank, body = octets.partition(b"\r\n\r\n")
    assert blank, "there is an empty line behind the headers"
    assert header.isascii()
    assert body
    fields = [line for line in header.split(b"\r\n") if not line.startswith((b" ", b"\t"))]
    assert all(_FIELD.fullmatch(field) for field in fields)
    taken = _by_lines(lines) if flavour is PickupFlavour.IIS else _by_headers(octets)
    _check_message(taken.message)
    assert taken.sender
    assert taken.recipients
    assert len(set(taken.recipients)) == len(taken.recipients)
    return taken


def _by_lines(lines: list[bytes]) -> Collected:
    assert lines[0].startswith(b"X-Sender: "), "the envelope comes first"
    receivers = 1
    while lines[receivers].startswith(b"X-Receiver: "):
        receivers += 1
    content = b"\r\n".join(lines[receivers:])
    message = _parsed(content)
    for name in ("X-Sender", "X-Receiver", "Bcc"):
        assert name not in message, f"{name} would be seen by everybody"
    recipients = tuple(_path(line) for line in lines[1:receivers])
    return Collected(_path(lines[0]), recipients, content, message)


def _by_headers(octets: bytes) -> Collected:
    message = _parsed(octets)
    for name in ("X-Sender", "X-Receiver"):
        assert name not in message, f"{name} would be seen by everybody"
    named = [address.addr_spec for name in ("To", "Cc", "Bcc") for address in _addresses(message, name)]
    senders = _addresses(message, "From")
    assert len(senders) == 1
    assert len(named) <= _EXCHANGE_RECIPIENTS
    assert octets.index(b"\r\n\r\n") <= _EXCHANGE_HEADER
    without = re.sub(rb"(?im)^Bcc:.*\r\n(?:[ \t].*\r\n)*", b"", octets[: octets.index(b"\r\n\r\n") + 2])
    content = without + octets[octets.index(b"\r\n\r\n") + 2 :]
    return Collected(senders[0].addr_spec, tuple(named), content, _parsed(content))


def _check_message(message: EmailMessage) -> None:
    for name in _ONCE:
        assert len(message.get_all(name, [])) <= 1, f"{name} more than once (RFC 5322 section 3.6)"
    for name in ("Date", "From", "Message-ID", "MIME-Version"):
        assert name in message
    assert "To" in message or "Cc" in message
    assert parsedate_to_datetime(str(message["Date"]))
    assert re.fullmatch(r"<[^<>@\s]+@[^<>@\s]+>", str(message["Message-ID"]).strip())
    assert all(not part.defects for part in message.walk())


def _parsed(octets: bytes) -> EmailMessage:
    return cast("EmailMessage", message_from_bytes(octets, policy=policy.default))


def _path(line: bytes) -> str:
    found = re.fullmatch(rb"X-(?:Sender|Receiver): <([^<>\s]+@[^<>\s]+)>", line)
    assert found, line
    return found[1].decode("ascii")


def _addresses(message: EmailMessage, name: str):  # noqa: ANN202 - the library's own header type
    return message[name].addresses if name in message else ()
