"""Tokens for mailboxes: from the cache, or fetched once however many ask at the same time."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msal
import requests
from msal.authority import WELL_KNOWN_AUTHORITY_HOSTS
from msal.exceptions import MsalServiceError
from requests.utils import get_environ_proxies

from worker.domain.delivery import Broken, Fault, Stage, TokenRefused
from worker.domain.mailbox import ClientSecret
from worker.events import TokenFetched
from worker.ports import Observe, Token

_THREADS = 4  # MSAL blocks; a few threads keep one slow authority from holding up the others
_MAX_DESCRIPTION = 400
_AADSTS = re.compile(r"AADSTS(\d+)")


class MsalTokens:
    """One MSAL application per client, so that its cache and its throttling work as Microsoft intends."""

    def __init__(self, observe: Observe, timeout: float = 20) -> None:
        """Nothing is fetched yet.

        Args:
            observe: told of every fetch.
            timeout: seconds for each request to the authority.
        """
        self._observe = observe
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="msal")
        self._applications: dict[ClientSecret, msal.ConfidentialClientApplication] = {}
        self._single_flight: defaultdict[ClientSecret, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def token(
        self, mailbox: str, credentials: ClientSecret, *, rejected: Token | None = None
    ) -> Token | TokenRefused | Broken:
        """A token; with `rejected` one that differs from it."""
        started = time.monotonic()
        client = replace(credentials, username="")  # an app-only token is the app's, whichever mailbox it opens
        async with self._single_flight[client]:
            loop = asyncio.get_running_loop()
            token, fetched = await loop.run_in_executor(self._threads, self._acquire, client, rejected)
        if fetched:
            self._observe(TokenFetched(mailbox, isinstance(token, Token), time.monotonic() - started))
        return token

    def close(self) -> None:
        """Let go of the threads; one that still waits for an authority ends with its time-out."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _acquire(self, credentials: ClientSecret, rejected: Token | None) -> tuple[Token | TokenRefused | Broken, bool]:
        """Runs in a thread. The second value tells whether the authority was asked."""
        try:
            application = self._application(credentials)
            answer = application.acquire_token_for_client([credentials.scope])
            if rejected is not None and answer.get("access_token") == rejected.value:
                application.remove_tokens_for_client()
                answer = application.acquire_token_for_client([credentials.scope])
        except (requests.RequestException, MsalServiceError, ValueError, KeyError) as error:
            return _explained(error, credentials), True
        if "access_token" not in answer:
            return _refused(answer), True
        fetched = answer.get("token_source") != "cache"
        return Token(answer["access_token"], fresh=fetched or rejected is not None), fetched

    def _application(self, credentials: ClientSecret) -> msal.ConfidentialClientApplication:
        """Building one asks the authority for its endpoints, so it happens here and not at start."""
        application = self._applications.get(credentials)
        if application is None:
            where: dict[str, Any] = (
                {"oidc_authority": credentials.authority}
                if credentials.oidc
                else {"authority": credentials.authority, "instance_discovery": _is_microsoft(credentials.authority)}
            )
            application = msal.ConfidentialClientApplication(
                credentials.client_id,
                client_credential=credentials.client_secret.get_secret_value(),
                http_client=_Http(credentials.ca_file, self._timeout),
                **where,
            )
            self._applications[credentials] = application
        return application


class _Http(requests.Session):
    """Requests with a time-out always, and with the certificates that the mailbox names.

    `REQUESTS_CA_BUNDLE` would override a `verify` that a session was given, so a named file takes the environment out
    of the decision and keeps only its proxies.
    """

    def __init__(self, ca_file: str | None, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout
        system = ssl.get_default_verify_paths().cafile
        self.verify = ca_file or (system if system and Path(system).exists() else True)
        self.trust_env = ca_file is None

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", self._timeout)
        if not self.trust_env:
            kwargs.setdefault("proxies", get_environ_proxies(str(url)))
        return super().request(method, url, *args, **kwargs)


def _is_microsoft(authority: str) -> bool:
    """Whether MSAL may ask Microsoft about this authority; of others Microsoft knows nothing."""
    return urlsplit(authority).hostname in WELL_KNOWN_AUTHORITY_HOSTS


def _refused(answer: Mapping[str, Any]) -> TokenRefused:
    description = str(answer.get("error_description") or "")
    hints = [*map(int, answer.get("error_codes") or ()), *map(int, _AADSTS.findall(description))]
    return TokenRefused(
        str(answer.get("error") or "unknown"),
        description.splitlines()[0][:_MAX_DESCRIPTION] if description else "",
        tuple(dict.fromkeys(hints)),
    )


def _explained(error: Exception, credentials: ClientSecret) -> TokenRefused | Broken:
    host = urlsplit(credentials.authority).netloc
    match error:
        case requests.exceptions.SSLError():
            return Broken(Stage.TOKEN, Fault.CERTIFICATE, f"the certificate of {host} could not be verified")
        case requests.RequestException():
            return Broken(Stage.TOKEN, Fault.TOKEN_ENDPOINT, f"{host} could not be reached")
        case MsalServiceError():
            return Broken(Stage.TOKEN, Fault.TOKEN_ENDPOINT, f"{host} has a problem of its own")
        case _:  # discovery was answered, but not with a configuration: no such tenant, or no authority at all
            return TokenRefused("unknown_authority", f"{credentials.authority} is no token authority")
