"""Settings of Netwrix Identity Manager's two programs, and mail as they publish it."""

from __future__ import annotations

import json
from typing import Any

from contracts.notification import Notification
from tests.acceptance.installation import Installation, Said, notification

SERVER, AGENT = "appsettings.json", "appsettings.agent.json"
SECRET = "Netwrix-s3cret-of-the-test"


def server(**keys: object) -> dict[str, str]:
    """The Server's file."""
    return {SERVER: json.dumps({"MailSettings": {"FromAddress": "identity@contoso.example", **keys}})}


def agent(**keys: object) -> dict[str, str]:
    """The Agent's file."""
    section = {"FromAddress": "reset@contoso.example", **keys}
    return {AGENT: json.dumps({"PasswordResetSettings": {"MailSettings": section}})}


async def take_over(lane: Installation, files: dict[str, str], *arguments: str, tenant: str = "contoso") -> Said:
    """Import them for a tenant."""
    return await lane.take_over("netwrix", files, "--tenant", tenant, "--json", *arguments)


def notice(notification_id: str, **fields: Any) -> Notification:
    """Mail of the Server."""
    return notification(notification_id, **{"tenant": "contoso", "component": "server", **fields})


def reset(notification_id: str, **fields: Any) -> Notification:
    """Mail of the Agent."""
    given = {"tenant": "contoso", "component": "agent", "category": "password-reset", **fields}
    return notification(notification_id, **given)


def codes(said: Said) -> list[str]:
    """Of the findings of an import."""
    return [finding["code"] for finding in said.json["findings"]]
