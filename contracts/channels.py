"""Where messages travel: the names of exchanges and routing keys that producers may rely on."""

from __future__ import annotations

DEFAULT_PREFIX = "postlane"


def notifications_exchange(prefix: str = DEFAULT_PREFIX) -> str:
    """Topic exchange that producers publish to, and the only thing they may write to."""
    return f"{prefix}.notifications"


def results_exchange(prefix: str = DEFAULT_PREFIX) -> str:
    """Topic exchange to which consumers bind a queue of their own."""
    return f"{prefix}.results"


def notification_key(tenant: str) -> str:
    """Routing key of a notification: one tenant, one key, so that a topic permission can hold a producer to it."""
    return f"t.{tenant}"


def result_key(tenant: str | None, status: str) -> str:
    """Routing key of a result; bind `r.<tenant>.#` for one tenant, `r.#` for all."""
    return f"r.{tenant or '-'}.{status}"


def tenant_of(routing_key: str) -> str | None:
    """The tenant that the broker allowed the producer to write for, if the key names one."""
    return routing_key[2:] if routing_key.startswith("t.") and len(routing_key) > len("t.") else None
