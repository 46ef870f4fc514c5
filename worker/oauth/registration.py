"""What Microsoft Graph knows of an app registration, if the app may read it (Application.Read.All)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import requests

from worker.domain.mailbox import OAuth, Secret
from worker.oauth.expiry import End
from worker.oauth.http import Http
from worker.ports import Token

_OK = 200
_HINT = 3  # characters of a secret that Entra keeps


def registered_end(graph: str, credentials: OAuth, token: Token, timeout: float) -> End | None:
    """When the client secret in use ends, as Graph tells it. Blocks.

    Args:
        graph: of Microsoft Graph, `https://host`.
        credentials: with a client secret.
        token: for Graph.
        timeout: seconds for the answer.

    Returns:
        None if the app may not read its registration, or Graph does not answer: it is a kindness, not a check.
    """
    if not isinstance(credentials.proof, Secret):
        return None
    hint = credentials.proof.value.get_secret_value()[:_HINT]
    url = f"{graph}/v1.0/applications(appId='{credentials.client_id}')"
    headers = {"Authorization": f"Bearer {token.value}"}
    with Http(credentials.ca_file, timeout) as http:
        try:
            answer = http.get(url, params={"$select": "passwordCredentials"}, headers=headers)
            said = answer.json() if answer.status_code == _OK else None
        except (requests.RequestException, OSError, ValueError):
            return None
    ends = sorted(_ends(said, hint))
    return End("client secret", ends[-1]) if ends else None


def _ends(said: Any, hint: str) -> Iterator[datetime]:
    """Of the secrets that begin like ours; several may."""
    listed = said.get("passwordCredentials") if isinstance(said, Mapping) else None
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, Mapping) and item.get("hint") == hint:
            try:
                end = datetime.fromisoformat(str(item.get("endDateTime")))
            except ValueError:
                continue
            if end.tzinfo is not None:
                yield end
