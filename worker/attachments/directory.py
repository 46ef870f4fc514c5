"""The port `Files` over a directory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from contracts.notification import Attachment
from worker.ports import FileMissing


class AttachmentDirectory:
    """Inline attachments are decoded; references are read below one root and checked against what was announced."""

    def __init__(self, root: Path | None, max_octets: int) -> None:
        """Read from one place only.

        Args:
            root: the shared directory; None: references are refused.
            max_octets: all attachments of one notification together.
        """
        self._root = root
        self._max = max_octets

    async def fetch(self, attachments: Sequence[Attachment]) -> Sequence[bytes]:
        """The content of each attachment, in order."""
        if sum(map(_octets, attachments)) > self._max:
            raise FileMissing(f"The attachments are larger than {self._max} octets together.")
        if not any(item.reference for item in attachments):
            return [self._content(item) for item in attachments]
        return await asyncio.to_thread(lambda: [self._content(item) for item in attachments])

    def _content(self, item: Attachment) -> bytes:
        content = item.inline_bytes() if item.reference is None else self._read(item.reference, item.size or 0)
        if item.size not in (None, len(content)):
            raise FileMissing(f"Attachment {item.filename!r} does not have the announced size.")
        if item.sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise FileMissing(f"Attachment {item.filename!r} does not have the announced sha256.")
        return content

    def _read(self, reference: str, size: int) -> bytes:
        if self._root is None:
            raise FileMissing("References are not set up here: POSTLANE_ATTACHMENTS__DIRECTORY is not set.")
        try:
            root = self._root.resolve()
            path = (root / reference).resolve()
            if root not in path.parents:
                raise FileMissing(f"Attachment reference {reference!r} leads out of the attachment directory.")
            if path.exists() and not path.is_file():
                raise FileMissing(f"Attachment reference {reference!r} is no file.")
            with path.open("rb") as file:
                return file.read(size + 1)
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
            why = error.strerror if isinstance(error, OSError) else "its links go round in a circle"
            raise FileMissing(f"Attachment reference {reference!r} cannot be read: {why}.") from error


def _octets(item: Attachment) -> int:
    """What is announced, or what the base64 text will come to."""
    return (item.size or 0) if item.content is None else len(item.content) * 3 // 4
