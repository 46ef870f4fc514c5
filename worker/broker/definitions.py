"""The topology as RabbitMQ definitions: what an operator imports, with users that can do their part and no more."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.broker.topology import Topology


@dataclass(frozen=True, slots=True)
class User:
    """A login and its rights in one vhost, as regular expressions (RabbitMQ access control).

    Attributes:
        topic: routing keys that it may publish notifications with.
    """

    name: str
    configure: str
    write: str
    read: str
    tags: tuple[str, ...] = ()
    topic: str = ".*"


def worker_user(name: str, topology: Topology) -> User:
    """May consume lanes, park, publish results and dead letters, and answer to `reply_to` (default exchange).

    It configures nothing, on no version: it finds lanes by consuming them. (From RabbitMQ 4.3 on even looking whether
    a queue exists needs the right to configure it, which is the right to delete it: not for a worker.)
    """
    prefix = re.escape(topology.prefix)
    return User(
        name,
        configure="^$",
        write=rf"^({prefix}\.(wait\.\d+|results|dead)|amq\.default)$",
        read=rf"^{prefix}\.(lane\.\d+|dead)$",
    )


def producer_user(name: str, topology: Topology, tenant: str | None = None) -> User:
    """May publish notifications, for one tenant only if one is given, and nothing else."""
    keys = rf"^t\.{re.escape(tenant)}$" if tenant else r"^t\..+"
    return User(name, configure="^$", write=f"^{re.escape(topology.notifications)}$", read="^$", topic=keys)


def reader_user(name: str, topology: Topology, queue: str) -> User:
    """May declare one results queue of its own, bind it and consume it."""
    own = re.escape(queue)
    return User(name, configure=f"^{own}$", write=f"^{own}$", read=rf"^({own}|{re.escape(topology.results)})$")


def definitions(topology: Topology, users: Mapping[User, str | None], vhost: str = "/") -> dict[str, Any]:
    """A definitions document.

    Args:
        topology: what to create.
        users: login → password; None: the user can exist but not log in until it is given one.
        vhost: where all of it lives.
    """
    return {
        "vhosts": [{"name": vhost}],
        "users": [
            {
                "name": user.name,
                "password_hash": password_hash(password) if password is not None else "",
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": list(user.tags),
            }
            for user, password in users.items()
        ],
        "permissions": [
            {"user": user.name, "vhost": vhost, "configure": user.configure, "write": user.write, "read": user.read}
            for user in users
        ],
        "topic_permissions": [
            {"user": user.name, "vhost": vhost, "exchange": topology.notifications, "write": user.topic, "read": ".*"}
            for user in users
            if user.topic != ".*"
        ],
        "exchanges": [
            {
                "name": item.name,
                "vhost": vhost,
                "type": item.kind,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": dict(item.arguments),
            }
            for item in topology.exchanges()
        ],
        "queues": [
            {
                "name": item.name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": dict(item.arguments),
            }
            for item in topology.queues()
        ],
        "bindings": [
            {
                "source": item.source,
                "vhost": vhost,
                "destination": item.destination,
                "destination_type": "exchange" if item.to_exchange else "queue",
                "routing_key": item.key,
                "arguments": {},
            }
            for item in topology.bindings()
        ],
    }


def password_hash(password: str, salt: bytes | None = None) -> str:
    """RabbitMQ's salted SHA-256 (its documentation, "Credentials and Passwords")."""
    salt = secrets.token_bytes(4) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
