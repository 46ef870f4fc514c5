"""Files that come in pieces: upload sessions of Graph."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from worker.emulator.graph_errors import Refused, unreadable
from worker.emulator.graph_fields import Fields

SMALLEST = 3 * 1024 * 1024  # octets from which a file needs an upload session
LARGEST = 150 * 1024 * 1024
_PIECE = 4 * 1024 * 1024  # octets that one PUT stays below
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_LASTS = timedelta(days=1)


@dataclass(slots=True)
class Upload:
    """A session.

    Attributes:
        draft: name of the draft that the file is for.
        described: the file.
    """

    mailbox: str
    draft: str
    described: Fields
    size: int
    expires: datetime
    content: bytearray = field(default_factory=bytearray)

    @property
    def complete(self) -> bool:
        """Whether all octets are there."""
        return len(self.content) == self.size

    @property
    def opening(self) -> dict[str, object]:
        """What its client is told at first."""
        return {"expirationDateTime": self._end, "nextExpectedRanges": ["0-"]}

    @property
    def progress(self) -> dict[str, object]:
        """What its client is told after a piece, in both spellings: Microsoft's clouds do not agree on one."""
        outlook = {"ExpirationDateTime": self._end, "NextExpectedRanges": [f"{len(self.content)}"]}
        return {
            **outlook,
            "expirationDateTime": self._end,
            "nextExpectedRanges": [f"{len(self.content)}-{self.size - 1}"],
        }

    @property
    def _end(self) -> str:
        return self.expires.isoformat(timespec="seconds").replace("+00:00", "Z")

    @property
    def location(self) -> str:
        """Path of the attachment that it becomes."""
        return f"/v1.0/users/{self.mailbox}/messages/{self.draft}/attachments/{uuid.uuid4().hex}"

    def take(self, span: str, piece: bytes) -> None:
        """Add the next piece.

        Args:
            span: Content-Range.
            piece: its octets.

        Raises:
            Refused: it is not the next one, or not as long as it says.
        """
        found = _RANGE.fullmatch(span)
        if found is None:
            raise Refused(416, "ErrorInvalidRange", "The Content-Range header is missing or malformed.")
        first, last, total = map(int, found.groups())
        if len(piece) > _PIECE or (first, total) != (len(self.content), self.size):
            raise Refused(416, "ErrorInvalidRange", "The range is not the expected one.")
        if last >= total or last - first + 1 != len(piece):
            raise Refused(416, "ErrorInvalidRange", "The range is not as long as the body.")
        self.content += piece


def opened(mailbox: str, draft: str, asked: Fields) -> Upload:
    """A session for the file that a client describes.

    Raises:
        Refused: a file of this size is not uploaded.
    """
    item = asked.inner("AttachmentItem")
    size = item.number("size")
    if item.text("attachmentType") not in ("", "file"):
        raise unreadable("Only attachments of type 'file' are emulated.")
    if size < SMALLEST:
        what = "Attachment size must be greater than the minimum size."
        raise Refused(400, "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize", what)
    if size > LARGEST:
        what = "Attachment size must not be greater than the maximum size."
        raise Refused(400, "ErrorAttachmentSizeLimitExceeded", what)
    return Upload(mailbox, draft, item, size, datetime.now(UTC) + _LASTS)
