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
        if not any(item.reference for item in attachments):
            return [self._content(item) for item in attachments]
        if sum(item.size or 0 for item in attachments) > self._max:
            raise FileMissing(f"The attachments are larger than {self._max} octets together.")
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
        root = self._root.resolve()
        path = (root / reference).resolve()
        if root not in path.parents:
            raise FileMissing(f"Attachment reference {reference!r} leads out of the attachment directory.")
        try:
            with path.open("rb") as file:
                return file.read(size + 1)
        except OSError as error:
            raise FileMissing(f"Attachment reference {reference!r} cannot be read: {error.strerror}.") from error
