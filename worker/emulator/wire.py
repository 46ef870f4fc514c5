"""What comes over one SMTP connection: command lines, mails that end with a dot, and chunks that are counted."""

from __future__ import annotations

import asyncio
import contextlib

_LINE = 64 * 1024  # octets of a command line that are kept; tokens are a few thousand
_READ = 64 * 1024
_END = b"\r\n.\r\n"


class Wire:
    """Reads. Mails of any size pass through it, and no more is kept of them than is wanted.

    Raises:
        ConnectionError: from every method: the client has hung up.
    """

    def __init__(self, reader: asyncio.StreamReader) -> None:
        """Nothing was read."""
        self._reader = reader
        self._arrived = bytearray()

    async def line(self) -> bytes:
        """The next line without its end; what is too long for a line is cut off."""
        kept = bytearray()
        while (end := self._arrived.find(b"\r\n")) < 0:
            kept += self._taken(len(self._arrived) - 1)[: _LINE - len(kept)]
            await self._more()
        kept += self._taken(end)[: _LINE - len(kept)]
        self._taken(2)
        return bytes(kept)

    async def mail(self, most: int) -> bytes | None:
        """What comes before the final dot, without the doubling of dots; None if it is more than `most` octets."""
        self._arrived[:0] = b"\r\n"  # the end of the line DATA may be the beginning of the end
        pieces, size = [], 0
        while (end := self._arrived.find(_END)) < 0:
            piece = self._taken(len(self._arrived) - len(_END) + 1)
            size += len(piece)
            pieces.append(piece if size - 2 <= most else b"")
            await self._more()
        pieces.append(self._taken(end + 2))
        self._taken(len(_END) - 2)
        if size + len(pieces[-1]) - 2 > most:
            return None
        return b"".join(pieces).replace(b"\r\n..", b"\r\n.")[2:]

    async def chunk(self, size: int, most: int) -> bytes | None:
        """So many octets; None if they are more than `most`, but they have come all the same."""
        pieces, missing = [], size
        while missing:
            if not self._arrived:
                await self._more()
            piece = self._taken(min(missing, len(self._arrived)))
            missing -= len(piece)
            pieces.append(piece if size <= most else b"")
        return b"".join(pieces) if size <= most else None

    async def forget(self) -> None:
        """What was sent before TLS is not read within it: it came from nobody knows whom (RFC 3207)."""
        self._arrived.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                while await self._reader.read(_READ):
                    pass

    async def hung_up(self) -> None:
        """Read on until the client has had enough."""
        while await self._reader.read(_READ):
            pass

    def _taken(self, octets: int) -> bytes:
        octets = max(octets, 0)
        piece = bytes(self._arrived[:octets])
        del self._arrived[:octets]
        return piece

    async def _more(self) -> None:
        arrived = await self._reader.read(_READ)
        if not arrived:
            raise ConnectionResetError
        self._arrived += arrived
