"""What Microsoft Graph knows of an app registration, if the app may read it (Application.Read.All)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import requests

from worker.domain.cloud import CLOUDS, is_entras
from worker.domain.mailbox import GraphEndpoint, Mailbox, OAuth, Secret
from worker.domain.office365 import cloud_of_mailbox
from worker.oauth.expiry import End, credentials_of, end_of
from worker.oauth.http import Http
from worker.ports import Token, Tokens

_OK = 200
_HINT = 3  # characters of a secret that Entra keeps


class Registrations:
    """Ends of client secrets that nobody has written down, as Entra tells them to apps that may ask.

    Mailboxes of one app share what it says.
    """

    def __init__(self, tokens: Tokens, timeout: float) -> None:
        """Nothing is asked yet."""
        self._tokens = tokens
        self._timeout = timeout
        self._known: dict[OAuth, End | None] = {}

    def forget(self) -> None:
        """Ask anew: secrets are replaced."""
        self._known.clear()

    async def ends(self, mailboxes: Iterable[Mailbox]) -> dict[str, End]:
        """By mailbox, as far as it is known."""
        used = (each for each in mailboxes if each.enabled and (each.held is None or not each.held.unusable))
        found = {mailbox.name: await self.end(mailbox) for mailbox in used}
        return {name: end for name, end in found.items() if end is not None}

    async def end(self, mailbox: Mailbox) -> End | None:
        """None if the mailbox has no client secret, if its end is written down, or if it cannot be had."""
        secrets = (found for found in credentials_of(mailbox) if isinstance(found.proof, Secret) and not found.oidc)
        credentials = next(secrets, None)
        if credentials is None or end_of(credentials) is not None or not (graph := _graph_of(mailbox, credentials)):
            return None
        asking = replace(credentials, scope=f"{graph}/.default", username="")
        if asking not in self._known:
            token = await self._tokens.token(mailbox.name, asking)
            self._known[asking] = None
            if isinstance(token, Token):
                told = asyncio.to_thread(registered_end, graph, credentials, token, self._timeout)
                self._known[asking] = await told
        return self._known[asking]


def _graph_of(mailbox: Mailbox, credentials: OAuth) -> str:
    """Where Graph is for this mailbox: its own if it sends through it, else the one of its cloud."""
    own = next((item.url.rpartition("/")[0] for item in mailbox.channels if isinstance(item, GraphEndpoint)), "")
    cloud = cloud_of_mailbox(mailbox) if is_entras(credentials.authority) else None
    return own or (CLOUDS[cloud].graph if cloud is not None else "")


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
