"""What the emulated servers accepted: a file for each mail and a line for each in `accepted.jsonl`."""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

_FOLD = re.compile(rb"\r\n(?=[ \t])")


@dataclass(frozen=True, slots=True)
class AcceptedMail:
    """One mail that a server said 250 to.

    Attributes:
        server: host name of the server.
        login: who submitted it, empty without login.
        path: where its octets lie, empty if they are not kept.
    """

    time: float
    server: str
    login: str
    mechanism: str
    tls: str
    mail_from: str
    rcpt_to: tuple[str, ...]
    message_id: str
    notification_id: str
    octets: int
    path: str


class AcceptedMails:
    """Keeps them. The log is written before the 250 is said, so that it never knows less than a client does."""

    def __init__(self, directory: Path, *, keep_content: bool = True) -> None:
        """Append to what is in the directory."""
        self.directory = directory
        self.log = directory / "accepted.jsonl"
        directory.mkdir(parents=True, exist_ok=True)
        self._keep = keep_content
        self._sent: set[tuple[str, str]] = set()
        self._file = self.log.open("a", encoding="utf-8", buffering=1)

    def keep(
        self, content: bytes, *, server: str, login: str, mechanism: str, tls: str, mail_from: str, rcpt_to: list[str]
    ) -> AcceptedMail:
        """Write a mail down."""
        path = self.directory / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.eml"
        if self._keep:
            path.write_bytes(content)
        mail = AcceptedMail(
            time=time.time(),
            server=server,
            login=login,
            mechanism=mechanism,
            tls=tls,
            mail_from=mail_from,
            rcpt_to=tuple(rcpt_to),
            message_id=field_of(content, b"Message-ID"),
            notification_id=field_of(content, b"X-Postlane-Id"),
            octets=len(content),
            path=str(path) if self._keep else "",
        )
        self._file.write(json.dumps(asdict(mail), ensure_ascii=False) + "\n")
        self._sent.add((login.lower(), mail.message_id))
        return mail

    def holds(self, login: str, message_id: str) -> bool:
        """Whether this login has sent a mail with this Message-ID: what its Sent Items would show."""
        return (login.lower(), message_id) in self._sent

    def close(self) -> None:
        """Close the log."""
        self._file.close()


def field_of(content: bytes, name: bytes) -> str:
    """The value of a header field, unfolded; of the first if there are several, empty if there is none."""
    return next(iter(fields_of(content, name)), "")


def fields_of(content: bytes, name: bytes) -> list[str]:
    """The values of all header fields of this name, unfolded."""
    head = (b"\r\n" + content).partition(b"\r\n\r\n")[0]
    prefix = name.lower() + b":"
    lines = _FOLD.sub(b"", head).split(b"\r\n")
    return [_text(line[len(prefix) :]) for line in lines if line.lower().startswith(prefix)]


def _text(value: bytes) -> str:
    return " ".join(value.decode("utf-8", "replace").split())
