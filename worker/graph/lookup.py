"""Whether a doubtful mail went out after all: a look into Sent Items."""

from __future__ import annotations

from worker.domain.mailbox import GraphEndpoint, Mailbox
from worker.graph.conversation import Ended
from worker.graph.transport import GraphTransport


class SentItems:
    """Looks for mails by their Message-ID. Needs the application permission Mail.ReadBasic (or Mail.Read)."""

    def __init__(self, transport: GraphTransport) -> None:
        """Shares the transport's connections."""
        self._transport = transport

    async def was_sent(self, mailbox: Mailbox, message_id: str) -> bool | None:
        """Whether Sent Items holds a mail with this Message-ID.

        True is proof. False is none: the copy comes a moment after the mail, and where Sent Items copies are switched
        off (`MessageCopyForSMTPClientSubmissionEnabled`) it never comes.

        Returns:
            None if it cannot be told: the mailbox has no Graph channel, may not be read, or gave no answer.
        """
        channel = next((each for each in mailbox.channels if isinstance(each, GraphEndpoint)), None)
        if channel is None:
            return None
        try:
            found = await self._transport.talk(mailbox.via(channel)).search("sentitems", message_id)
        except Ended:
            return None
        return bool(found) if found is not None else None
