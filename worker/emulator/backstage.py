"""What the servers of one emulator share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.emulator.bounces import Bounces
from worker.emulator.governor import Governor
from worker.emulator.journal import Journal
from worker.emulator.scenario import Moment, Play


@dataclass(frozen=True, slots=True)
class Backstage:
    """Rules, limits, journal, non-delivery reports."""

    play: Play
    governor: Governor
    journal: Journal
    bounces: Bounces

    def bounce(self, content: bytes, *, sender: str, login: str, recipients: Sequence[str], host: str) -> None:
        """Report to the sender about the recipients that an accepted mail does not reach.

        The mail has been accepted: a report that cannot be written is no reason to take that back.
        """
        for recipient in recipients:
            rule = self.play.answer(Moment.BOUNCE, login, [recipient])
            if rule is None:
                continue
            told = {"login": login, "recipient": recipient, "reply": rule.reply}
            try:
                self.bounces.bounce(content, sender=sender, recipient=recipient, reply=rule.reply, host=host)
            except Exception as error:  # noqa: BLE001 - of whatever email.message makes of a sender's words
                self.journal.write("no report", **told, problem=repr(error))
            else:
                self.journal.write("bounced", **told)
