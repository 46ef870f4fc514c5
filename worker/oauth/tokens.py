"""Tokens for mailboxes: from the cache, or fetched once however many ask at the same time."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msal
import requests
from msal.authority import WELL_KNOWN_AUTHORITY_HOSTS
from requests.utils import get_environ_proxies

from worker.domain.delivery import Broken, Fault, Stage, TokenRefused
from worker.domain.mailbox import ClientSecret
from worker.events import TokenFetched
from worker.ports import Observe, Token

_THREADS = 16  # MSAL blocks; threads keep slow authorities from holding up the others
_NO_SUCH_TENANT = {400, 401, 403, 404, 410}
_MAX_DESCRIPTION = 400
_AADSTS = re.compile(r"AADSTS(\d+)")


@dataclass(frozen=True, slots=True)
class _Client:
    """An MSAL application and the line it speaks over."""

    application: msal.ConfidentialClientApplication
    http: _Http


class MsalTokens:
    """One MSAL application per client, so that its cache and its throttling work as Microsoft intends."""

    def __init__(self, observe: Observe, timeout: float = 20) -> None:
        """Nothing is fetched yet.

        Args:
            observe: told of every fetch.
            timeout: seconds for each answer of the authority; a whole fetch may take three times as long.
        """
        self._observe = observe
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="msal")
        self._clients: dict[ClientSecret, _Client] = {}
        self._single_flight: defaultdict[ClientSecret, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def token(
        self, mailbox: str, credentials: ClientSecret, *, rejected: Token | None = None
    ) -> Token | TokenRefused | Broken:
        """A token; with `rejected` one that differs from it."""
        started = time.monotonic()
        client = replace(credentials, username="")  # an app-only token is the app's, whichever mailbox it opens
        async with self._single_flight[client]:
            token, fetched = await self._fetched(client, rejected)
        if fetched:
            self._observe(TokenFetched(mailbox, isinstance(token, Token), time.monotonic() - started))
        return token

    async def _fetched(
        self, client: ClientSecret, rejected: Token | None
    ) -> tuple[Token | TokenRefused | Broken, bool]:
        """Not longer than three time-outs in all: an authority may drip an answer octet by octet."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(3 * self._timeout):
                return await loop.run_in_executor(self._threads, self._acquire, client, rejected)
        except TimeoutError:
            return Broken(Stage.TOKEN, Fault.TOKEN_ENDPOINT, f"{_host(client)} does not come to an end"), True

    def close(self) -> None:
        """Let go of threads and connections; one that still waits for an authority ends with its time-out."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for client in self._clients.values():
            client.http.close()

    def _acquire(self, credentials: ClientSecret, rejected: Token | None) -> tuple[Token | TokenRefused | Broken, bool]:
        """Runs in a thread. The second value tells whether the authority was asked."""
        client = self._clients.get(credentials)
        http = client.http if client else _Http(credentials.ca_file, self._timeout)
        try:
            client = client or self._connected(credentials, http)
            answer = client.application.acquire_token_for_client([credentials.scope])
            if rejected is not None and answer.get("access_token") == rejected.value:
                client.application.remove_tokens_for_client()
                answer = client.application.acquire_token_for_client([credentials.scope])
            if "access_token" not in answer:
                return _refused(answer, credentials), True
            fetched = answer.get("token_source") != "cache"
            return Token(str(answer["access_token"]), fresh=fetched or rejected is not None), fetched
        except Exception as error:  # noqa: BLE001 - whatever an odd authority answers, MSAL raises something else
            return _explained(error, credentials, http), True
        finally:
            if credentials not in self._clients:
                http.close()

    def _connected(self, credentials: ClientSecret, http: _Http) -> _Client:
        """Building an application asks the authority for its endpoints, so it happens here and not at start."""
        where: dict[str, Any] = (
            {"oidc_authority": credentials.authority}
            if credentials.oidc
            else {"authority": credentials.authority, "instance_discovery": _is_microsoft(credentials.authority)}
        )
        application = msal.ConfidentialClientApplication(
            credentials.client_id,
            client_credential=credentials.client_secret.get_secret_value(),
            http_client=http,
            **where,
        )
        return self._clients.setdefault(credentials, _Client(application, http))


class _Http(requests.Session):
    """Requests with a time-out always, no redirects, and with the certificates that the mailbox names.

    A redirect could carry the client secret to another place, or to plain http (RFC 6749 section 3.2 wants TLS).
    `REQUESTS_CA_BUNDLE` would override a `verify` that a session was given, so a named file takes the environment out
    of the decision and keeps only its proxies.
    """

    def __init__(self, ca_file: str | None, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout
        self.last_status = 0
        system = ssl.get_default_verify_paths().cafile
        self.verify = ca_file or (system if system and Path(system).exists() else True)
        self.trust_env = ca_file is None

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", self._timeout)
        kwargs["allow_redirects"] = False
        if not self.trust_env:
            kwargs.setdefault("proxies", get_environ_proxies(str(url)))
        self.last_status = 0
        response = super().request(method, url, *args, **kwargs)
        self.last_status = response.status_code
        return response


def _is_microsoft(authority: str) -> bool:
    """Whether MSAL may ask Microsoft about this authority; of others Microsoft knows nothing."""
    return urlsplit(authority).hostname in WELL_KNOWN_AUTHORITY_HOSTS


def _host(credentials: ClientSecret) -> str:
    return urlsplit(credentials.authority).netloc


def _refused(answer: Mapping[str, Any], credentials: ClientSecret) -> TokenRefused:
    """RFC 6749 section 5.2; some authorities repeat what they were sent."""
    description = str(answer.get("error_description") or "")
    description = description.replace(credentials.client_secret.get_secret_value(), "[removed]")
    codes = answer.get("error_codes")
    listed = [str(code) for code in codes] if isinstance(codes, list) else []
    hints = [int(code) for code in (*listed, *_AADSTS.findall(description)) if code.isdecimal()]
    return TokenRefused(
        str(answer.get("error") or "unknown"),
        description.splitlines()[0][:_MAX_DESCRIPTION] if description.strip() else "",
        tuple(dict.fromkeys(hints)),
    )


def _explained(error: Exception, credentials: ClientSecret, http: _Http) -> TokenRefused | Broken:
    host = _host(credentials)
    match error:
        case requests.exceptions.SSLError():
            return Broken(Stage.TOKEN, Fault.CERTIFICATE, f"the certificate of {host} could not be verified")
        case requests.RequestException():
            return Broken(Stage.TOKEN, Fault.TOKEN_ENDPOINT, f"{host} could not be reached")
        case OSError():  # requests says so where the file of certificates is missing
            return Broken(Stage.TOKEN, Fault.CERTIFICATE, f"ca_file {credentials.ca_file} cannot be used")
        case ValueError() if http.last_status in _NO_SUCH_TENANT:
            return TokenRefused("unknown_authority", f"{credentials.authority} is no token authority")
        case _:
            status = f" (HTTP status {http.last_status})" if http.last_status else ""
            return Broken(Stage.TOKEN, Fault.TOKEN_ENDPOINT, f"{host} does not answer as a token authority{status}")
