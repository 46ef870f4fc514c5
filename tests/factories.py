"""Valid values for tests. Each function takes the fields that the test is about and fills in the rest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from contracts.address import AddrSpec, parse
from contracts.delivery import Because, DeliveryStatus, RecipientStatus, Result
from contracts.notification import Notification
from contracts.wire import Properties
from worker.domain.decision import Trial
from worker.domain.delivery import Outcome, Progress
from worker.domain.mailbox import Directory, Mailbox, Producer, Restraint, SmtpEndpoint, Tenant, Tls
from worker.domain.reply import Reply
from worker.domain.report import Case
from worker.domain.retry import RetryPolicy
from worker.domain.routing import Route
from worker.domain.verdict import Action, Scope, Verdict

NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
JANA = parse("jana@fabrikam.com")
OMAR = parse("omar@fabrikam.com")


def document(**fields: Any) -> dict[str, Any]:
    """The JSON of a notification, as a producer writes it."""
    return {
        "type": "postlane.notification.v1",
        "id": "reset-7f3a",
        "tenant": "contoso",
        "to": [str(JANA)],
        "subject": "Your new password",
        "text": "Follow the link.",
        **fields,
    }


def notification(**fields: Any) -> Notification:
    """A notification to Jana; `sender` stands for the field `from`. Plain strings do for enumerations."""
    return Notification.model_validate(document(**fields), strict=False)


def mailbox(name: str = "contoso-mail", address: str = "noreply@contoso.com", **fields: Any) -> Mailbox:
    """An SMTP mailbox that is nobody's own."""
    return Mailbox(
        **{
            "name": name,
            "address": parse(address),
            "display_name": "Contoso",
            "endpoint": SmtpEndpoint("smtp.contoso.com", 587, Tls.STARTTLS),
            **fields,
        }
    )


def directory(
    *mailboxes: Mailbox,
    default: str | None = None,
    tenants: Mapping[str, Tenant | bool] | None = None,
    producers: list[Producer] | None = None,
    restraint: Restraint = Restraint(),  # noqa: B008 - it is frozen
) -> Directory:
    """A directory of these mailboxes; of a tenant it is enough to say whether it may use the default one."""
    return Directory(
        mailboxes={each.name: each for each in mailboxes},
        default=default,
        tenants=None
        if tenants is None
        else {name: each if isinstance(each, Tenant) else Tenant(use_default=each) for name, each in tenants.items()},
        restraint=restraint,
        producers=None if producers is None else {each.user: each for each in producers},
    )


def progress(**fields: Any) -> Progress:
    """Nothing tried yet, first seen at noon."""
    return Progress(**{"first_seen": NOON, **fields})


def outcome(status: RecipientStatus, said: str = "", kind: str = "") -> Outcome:
    """What is known of a recipient, with the server's words if it said any."""
    return Outcome(status, Reply.parse(said) if said else None, kind)


def case(sent: Notification | None = None, **fields: Any) -> Case:
    """A notification in work at noon."""
    return Case(
        **{
            "notification": sent or notification(),
            "properties": Properties(),
            "progress": progress(),
            "now": NOON,
            **fields,
        }
    )


def route(chosen: Mailbox | None = None, because: Because = Because.DEFAULT) -> Route:
    """A route through the usual mailbox."""
    return Route(chosen or mailbox(), because)


def trial(of: Case | None = None, *, tried: tuple[AddrSpec, ...] = (JANA,), **fields: Any) -> Trial:
    """An attempt at noon with the usual policy and the dice in the middle."""
    return Trial(
        **{
            "case": of or case(),
            "route": route(),
            "policy": RetryPolicy(),
            "tried": tried,
            "message_id": "<1@contoso.com>",
            "now": NOON,
            "dice": 0.5,
            **fields,
        }
    )


def verdict(action: Action, kind: str = "some-class", scope: Scope = Scope.MAILBOX, **fields: Any) -> Verdict:
    """A verdict that asks for the given action."""
    return Verdict(kind, scope, action, "It is so.", **fields)


def result(status: DeliveryStatus = DeliveryStatus.ACCEPTED, **fields: Any) -> Result:
    """A recorded result."""
    return Result(
        **{
            "event_id": "event-1",
            "notification_id": "reset-7f3a",
            "tenant": "contoso",
            "status": status,
            "final": status.final,
            "received_at": NOON,
            "occurred_at": NOON,
            **fields,
        }
    )
