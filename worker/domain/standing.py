"""How a mailbox stands with this worker: whether it would be taken now, how much is under way, what went wrong last."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from worker.domain.mailbox import Mailbox, SmtpEndpoint


class Availability(StrEnum):
    """Whether routing would take it; the names of what keeps it from that."""

    AVAILABLE = "available"
    BUSY = "busy"
    RESTING = "resting"
    PAUSED = "paused"
    UNUSABLE = "unusable"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault of the mailbox's own, or of its server's.

    Attributes:
        kind: reason class, as in results.
    """

    kind: str
    explanation: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Tally:
    """What this worker has done with a mailbox since it started.

    Attributes:
        in_flight: mails.
        sent: mails that were accepted, for at least one recipient, or handed over.
        trouble: the last.
    """

    in_flight: int = 0
    sent: int = 0
    trouble: Trouble | None = None


def availability(mailbox: Mailbox, tally: Tally, *, resting: bool) -> Availability:
    """What routing would find.

    Args:
        mailbox: as it is configured now.
        tally: of this worker.
        resting: because of a fault that any worker has met.
    """
    if not mailbox.enabled:
        return Availability.DISABLED
    if (held := mailbox.held) is not None:
        return Availability.UNUSABLE if held.unusable else Availability.PAUSED
    if resting:
        return Availability.RESTING
    most = _at_once(mailbox)
    return Availability.BUSY if most is not None and tally.in_flight >= most else Availability.AVAILABLE


def _at_once(mailbox: Mailbox) -> int | None:
    """Mails that this worker may have in flight; None: as many as there are, for there is another way out."""
    if len(mailbox.channels) > 1 or not isinstance(mailbox.endpoint, SmtpEndpoint):
        return None
    return min(filter(None, (mailbox.endpoint.limits.connections, mailbox.limits.connections)))
