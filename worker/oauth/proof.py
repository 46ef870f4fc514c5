"""How each kind of proof is presented, by MSAL: one source of tokens per client and proof."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, Protocol, assert_never
from urllib.parse import urlsplit

import msal
import requests
from msal.authority import WELL_KNOWN_AUTHORITY_HOSTS
from msal.exceptions import MsalServiceError

from worker.domain.claims import read
from worker.domain.mailbox import Certificate, DeviceLogin, Federated, ManagedIdentity, OAuth, Secret
from worker.oauth import certificate
from worker.oauth.http import Http
from worker.oauth.vault import Vault

_UNSAID = 3600.0  # seconds: what most authorities mean that say nothing

Answer = Mapping[str, Any]
"""As RFC 6749 sections 5.1 and 5.2 have it: `access_token` and `expires_in`, or `error`. MSAL adds `token_source`."""

KEPT = {"token_source": "cache"}
"""What MSAL adds to a token that was not made for this request."""


class Source(Protocol):
    """Where the tokens of one client come from. It blocks, and is asked by one thread at a time."""

    def acquire(self, enough: Callable[[Answer], bool]) -> Answer:
        """A token; one that others have fetched is taken only if it is `enough`.

        Raises:
            Exception: whatever MSAL raises where an authority is out of reach or odd.
        """


class ProofUnusable(Exception):  # noqa: N818
    """The proof itself cannot be used: a file is not there, or not what it should be. The text says which."""


def source(credentials: OAuth, http: Http, vault: Vault) -> Source:
    """Build the source. It asks the authority for its endpoints, so this is done at the first token, not at start."""
    match credentials.proof:
        case Secret(value):
            return _AppOnly(credentials, http, value.get_secret_value())
        case Certificate():
            return _AppOnly(credentials, http, _presented(credentials.proof))
        case Federated(file):
            # A callable: the platform replaces the file long before the process ends.
            return _AppOnly(credentials, http, {"client_assertion": lambda: assertion(file)})
        case ManagedIdentity() as identity:
            return _Managed(credentials, identity, http)
        case DeviceLogin():
            return _Delegated(credentials, http, vault)
        case unknown:
            assert_never(unknown)


def where(credentials: OAuth) -> dict[str, Any]:
    """MSAL's arguments that say which authority is asked; of others than its own Microsoft is told nothing."""
    microsoft = urlsplit(credentials.authority).hostname in WELL_KNOWN_AUTHORITY_HOSTS
    return {"authority": credentials.authority, "instance_discovery": microsoft}


def _not_replayed(answer: Answer, replayed: dict[str, Any]) -> Answer:
    """A refusal is not held against the next attempt: MSAL would replay it for a minute, mended or not."""
    if "error" in answer:
        replayed.clear()
    return answer


def is_new(answer: Answer) -> bool:
    """Whether the authority made this token just now. One that was kept may have been revoked meanwhile."""
    return answer.get("token_source") != KEPT["token_source"]


class _AppOnly:
    """Client credentials (RFC 6749 section 4.4). What MSAL keeps is dropped first: keeping is done by `MsalTokens`."""

    def __init__(self, credentials: OAuth, http: Http, credential: Any) -> None:
        self._scopes = [credentials.scope]
        self._http, self._replayed = http, dict[str, Any]()
        self._application = msal.ConfidentialClientApplication(
            credentials.client_id,
            client_credential=credential,
            http_client=http,
            http_cache=self._replayed,
            **where(credentials),
        )

    def acquire(self, _enough: Callable[[Answer], bool]) -> Answer:
        self._application.remove_tokens_for_client()
        asked = self._http.asked
        try:
            answer: Answer = self._application.acquire_token_for_client(self._scopes)
        except (ProofUnusable, requests.RequestException, MsalServiceError):
            raise
        except Exception as error:
            if self._http.asked == asked:
                raise ProofUnusable(f"nothing can be signed with it ({type(error).__name__})") from error
            raise
        return _not_replayed(answer, self._replayed)


class _Managed:
    """An identity that the platform vouches for; a new client each time, for its cache cannot be told to forget."""

    def __init__(self, credentials: OAuth, identity: ManagedIdentity, http: Http) -> None:
        self._resource = credentials.scope.removesuffix("/.default")
        self._http, self._throttle = http, dict[str, Any]()
        if identity.client_id is not None:
            self._identity = msal.UserAssignedManagedIdentity(client_id=identity.client_id)
        elif identity.resource_id is not None:
            self._identity = msal.UserAssignedManagedIdentity(resource_id=identity.resource_id)
        else:
            self._identity = msal.SystemAssignedManagedIdentity()

    def acquire(self, _enough: Callable[[Answer], bool]) -> Answer:
        client = msal.ManagedIdentityClient(self._identity, http_client=self._http, http_cache=self._throttle)
        answer: Answer = client.acquire_token_for_client(resource=self._resource)
        return {**answer, **KEPT}  # the platform keeps tokens, for hours, and does not say which is a new one


class _Delegated:
    """A person has signed in once; the refresh token lies in a file that several workers share."""

    def __init__(self, credentials: OAuth, http: Http, vault: Vault) -> None:
        self._credentials, self._vault = credentials, vault
        self._cache, self._replayed = msal.SerializableTokenCache(), dict[str, Any]()
        self._application = msal.PublicClientApplication(
            credentials.client_id,
            token_cache=self._cache,
            http_client=http,
            http_cache=self._replayed,
            **where(credentials),
        )

    def acquire(self, enough: Callable[[Answer], bool]) -> Answer:
        with self._vault.opened(self._credentials) as sealed:
            self._cache.deserialize(sealed.content or "{}")
            self._cache.has_state_changed = False
            answer = self._silently(enough)
            if self._cache.has_state_changed:
                sealed.content = self._cache.serialize()
        return _not_replayed(answer, self._replayed)

    def _silently(self, enough: Callable[[Answer], bool]) -> Answer:
        accounts = self._application.get_accounts()
        if not accounts:
            return {"error": "login_required", "error_description": "Nobody has signed in for this mailbox yet."}
        scopes, silently = [self._credentials.scope], self._application.acquire_token_silent_with_error
        answer: Answer | None = silently(scopes, accounts[0])
        if answer is not None and "access_token" in answer and not enough(answer):
            answer = silently(scopes, accounts[0], force_refresh=True)
        return answer or {"error": "login_required", "error_description": "The sign-in has been forgotten."}


def _presented(proof: Certificate) -> dict[str, Any]:
    """As MSAL wants it; whatever is wrong with the file is found here."""
    try:
        return certificate.presented(proof)
    except (OSError, ValueError) as error:
        raise ProofUnusable(f"certificate_file {proof.file}: {error}") from None


def assertion(file: PurePath) -> str:
    """What the platform has put into a federated credential's file.

    Raises:
        ProofUnusable: it cannot be read, or there is nothing in it.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ProofUnusable(f"federated_token_file {file} cannot be read") from error
    if not text:
        raise ProofUnusable(f"federated_token_file {file} is empty: the platform has put no token into it")
    if not text.isascii():
        raise ProofUnusable(f"federated_token_file {file} holds no token")
    return text


def life_of(answer: Answer) -> float:
    """Seconds for which a token is good. Authorities may leave that to the token, or to whoever knows them."""
    if (told := answer.get("expires_in")) is not None:
        return max(float(told), 0)
    claims = read(str(answer.get("access_token")))
    if claims is None or claims.expires is None:
        return _UNSAID
    return max((claims.expires - datetime.now(UTC)).total_seconds(), 0)
