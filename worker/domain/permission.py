"""Which producer may say what for which tenant. RabbitMQ vouches for the login, the routing key for the tenant."""

from __future__ import annotations

from contracts.cancellation import Cancellation
from contracts.channels import tenant_of
from contracts.notification import Notification
from contracts.wire import Properties
from worker.domain.mailbox import Directory, Producer, listed
from worker.domain.routing import Refusal


def authorise(
    notification: Notification | Cancellation, properties: Properties, directory: Directory, *, by_rule: bool = False
) -> Refusal | None:
    """Refuse what its producer had no right to publish; None if all is well.

    Args:
        notification: what it published.
        properties: of the message.
        directory: with the listed producers.
        by_rule: what an event's rule gives is filled in; before that the category is not known.
    """
    keyed = tenant_of(properties.routing_key)
    if keyed is not None and keyed.lower() != notification.tenant.lower():
        return Refusal(
            "not-allowed",
            "tenant",
            f"It was published with the routing key of tenant {keyed!r} but names tenant {notification.tenant!r}.",
            "Publish with routing key t.<tenant>, the same tenant as in the message.",
        )
    if directory.producers is None:
        return None
    if refusal := _of_listed(notification, properties.user_id, directory.producers.get(properties.user_id or "")):
        return refusal if by_rule or refusal.field != "category" or not _left_to_a_rule(notification) else None
    return None


def _of_listed(
    notification: Notification | Cancellation, user_id: str | None, producer: Producer | None
) -> Refusal | None:
    if user_id is None:
        return Refusal(
            "not-allowed",
            "user_id",
            "The message does not say which producer sent it.",
            "Set the AMQP property user_id to the login of the connection; RabbitMQ then vouches for it.",
        )
    if producer is None:
        return Refusal(
            "not-allowed",
            "user_id",
            f"Producer {user_id!r} is not listed.",
            "Add it under [[producers]] in the mailboxes file.",
        )
    if producer.tenants and notification.tenant.lower() not in producer.tenants:
        return Refusal(
            "not-allowed",
            "tenant",
            f"Producer {user_id!r} may not publish for tenant {notification.tenant!r}.",
            "Add the tenant to the producer in the mailboxes file.",
        )
    if isinstance(notification, Cancellation):
        return None
    if producer.categories and notification.category not in producer.categories:
        return Refusal(
            "not-allowed",
            "category",
            f"Producer {user_id!r} may not publish category {notification.category!r}.",
            "Add the category to the producer in the mailboxes file.",
        )
    sender = notification.sender
    if producer.senders and sender is not None and not listed(sender.spec, producer.senders):
        return Refusal(
            "not-allowed",
            "from",
            f"Producer {user_id!r} may not publish mail from {sender.address}.",
            "Leave out `from`, or add the address to `senders` of the producer in the mailboxes file.",
        )
    return None


def _left_to_a_rule(notification: Notification | Cancellation) -> bool:
    """Whether the category may come from an event's rule."""
    return (
        isinstance(notification, Notification)
        and notification.event is not None
        and notification.category == Notification.model_fields["category"].default
    )
