"""A test mail over one mailbox: an attempt like every other, but a single one, of which nothing is left behind.

It goes the courier's way, with the mailbox's limits and pauses and with all that keeps its scope's mail back: a test
must neither hammer a mailbox that rests nor get past a redirect.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import product

from contracts.address import AddrSpec
from contracts.delivery import DeliveryStatus
from contracts.notification import NOTIFICATION_TYPE
from contracts.wire import Properties
from worker.courier import Courier, Intake
from worker.domain.mailbox import Directory, Mailbox, MailScope, Restraint
from worker.store.memory import MemoryLedger
from worker.unusable import Unusable

_SENT = (DeliveryStatus.ACCEPTED, DeliveryStatus.HANDED_OVER)
_BUSY = "All of its connections are in use; try again in a moment."


class NotTried(Unusable):
    """No attempt was made. The text says why."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a test mail.

    Attributes:
        status: as in a result; `deferred` here means that it was not sent, and is not sent later.
        redirected_to: who got it in place of the recipient.
    """

    status: str
    well: bool
    explanation: str = ""
    remedy: str = ""
    message_id: str | None = None
    server_reply: str | None = None
    redirected_to: str | None = None


async def tried_out(
    courier: Courier, directory: Directory, name: str, to: AddrSpec, mark: str, *, even_disabled: bool = False
) -> Tried:
    """Send one.

    Args:
        courier: with the real gate and transports.
        directory: with the mailbox.
        name: of the mailbox.
        to: who gets the mail.
        mark: makes its Message-ID one of its own.
        even_disabled: also if it is switched off.

    Raises:
        NotTried: there is no such mailbox, or it is switched off.
        StoreDown: limits and pauses cannot be asked; nothing was sent.
    """
    mailbox = directory.mailboxes.get(name)
    if mailbox is None:
        raise NotTried(f"There is no mailbox {name!r} that could be used: postlane mailbox show {name}")
    if not mailbox.enabled and not even_disabled:
        raise NotTried(f"Mailbox {name!r} is switched off. Say that it is to be tested all the same, or switch it on.")
    ledger = MemoryLedger()
    alone = replace(courier, directory=_alone(mailbox, directory), ledger=ledger, register=ledger)
    decision = await alone.deliver(Intake(_mail(mailbox, to, mark), Properties()))
    if not decision.results:
        return Tried(DeliveryStatus.DEFERRED, well=False, explanation=_BUSY)
    result = decision.results[-1]
    return Tried(
        result.status,
        result.status in _SENT,
        result.reason.explanation if result.reason else "",
        result.reason.remedy if result.reason else "",
        result.message_id,
        result.server_reply,
        result.redirected_to,
    )


def _alone(mailbox: Mailbox, directory: Directory) -> Directory:
    """A world in which there is no other mailbox, and this one takes whatever comes."""
    box = replace(
        mailbox, enabled=True, tenants=frozenset(), sites=None, components=None, purposes=None, fallback_for=frozenset()
    )
    return Directory({box.name: box}, restraint=_restraint(mailbox, directory))


def _restraint(mailbox: Mailbox, directory: Directory) -> Restraint:
    """What keeps back the mail of those whose mailbox it is, wherever it could belong to."""
    found = directory.restraint
    sites: list[str | None] = [*sorted(mailbox.sites or ())] or [None]
    components: list[str | None] = [*sorted(mailbox.components or ())] or [None]
    for parts in product(sorted(mailbox.tenants), sites, components):
        found = directory.restraint_of(MailScope(*parts)).within(found)
    return found


def _mail(mailbox: Mailbox, to: AddrSpec, mark: str) -> bytes:
    mail = {
        "type": NOTIFICATION_TYPE,
        "id": f"test-{mark}",
        "tenant": min(mailbox.tenants, default="postlane"),
        "category": "test",
        "mailbox": mailbox.name,
        "to": [{"address": str(to)}],
        "subject": f"Test of mailbox {mailbox.name}",
        "text": f"This is a test mail, sent through mailbox {mailbox.name} of Postlane. It needs no answer.\n",
    }
    return json.dumps(mail).encode()
