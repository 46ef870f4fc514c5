"""What Microsoft Graph knows of an app registration, if the app may read it (Application.Read.All)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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
_APPS = 100  # that are asked in a day: a platform of thousands writes the ends down
_HINT = 3  # characters of a secret that Entra keeps


@dataclass(frozen=True, slots=True)
class _Question:
    """Which app is asked after, and where."""

    graph: str
    client: OAuth


class Registrations:
    """Ends of client secrets that nobody has written down, as Entra tells them to apps that may ask.

    Mailboxes of one app share what it says.
    """

    def __init__(self, tokens: Tokens, timeout: float) -> None:
        """Nothing is asked yet."""
        self._tokens = tokens
        self._timeout = timeout
        self._known: dict[_Question, End | None] = {}

    def forget(self) -> None:
        """Ask anew: secrets are replaced."""
        self._known.clear()

    async def ends(self, mailboxes: Iterable[Mailbox]) -> dict[str, End]:
        """By mailbox, as far as it is known."""
        asking = await asyncio.to_thread(lambda: {each.name: _asking(each) for each in mailboxes})
        for name, question in asking.items():
            if question is not None and question not in self._known and len(self._known) < _APPS:
                self._known[question] = await self._asked(name, question)
        found = {name: self._known.get(question) for name, question in asking.items() if question is not None}
        return {name: end for name, end in found.items() if end is not None}

    async def _asked(self, mailbox: str, question: _Question) -> End | None:
        token = await self._tokens.token(mailbox, question.client)
        if not isinstance(token, Token):
            return None
        return await asyncio.to_thread(registered_end, question.graph, question.client, token, self._timeout)


def _asking(mailbox: Mailbox) -> _Question | None:
    """None if it has no client secret, if the end of that is written down, or if Graph is nowhere."""
    secrets = (found for found in credentials_of(mailbox) if isinstance(found.proof, Secret) and not found.oidc)
    client = next(secrets, None)
    if client is None or end_of(client) is not None:
        return None
    if (own := next((way for way in mailbox.channels if isinstance(way, GraphEndpoint)), None)) is not None:
        return _Question(own.url.rpartition("/")[0], replace(own.credentials, username=""))
    cloud = cloud_of_mailbox(mailbox) if is_entras(client.authority) else None
    if cloud is None:
        return None
    graph = CLOUDS[cloud].graph
    return _Question(graph, replace(client, scope=f"{graph}/.default", username=""))


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
