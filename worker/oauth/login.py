"""Signing in by device code (RFC 8628): a person types a code into a browser anywhere, the mailbox gets tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msal
import requests
from msal.exceptions import MsalServiceError

from worker.domain.claims import read
from worker.domain.mailbox import OAuth
from worker.oauth import issuer
from worker.oauth.concealed import concealed
from worker.oauth.http import Http, NotTheAuthority, OddAnswer
from worker.oauth.proof import Answer, where
from worker.oauth.vault import Vault
from worker.unusable import Unusable

_TOO_MANY = 429
_SERVER_ERROR = 500
_PAUSE = 5.0  # seconds
_NO_PUBLIC_CLIENT = "AADSTS7000218"
_PUBLIC = "Entra admin center > App registrations > the app > Authentication > Allow public client flows: Yes."


class LoginFailed(Unusable):
    """Nobody has been signed in. The text says why."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the person is told.

    Attributes:
        seconds: for which the code is good.
    """

    address: str
    code: str
    seconds: int


def sign_in(credentials: OAuth, vault: Vault, timeout: float, show: Callable[[Invitation], None]) -> str:
    """Have somebody sign in and keep what is needed to act for them. Blocks until they have.

    Args:
        credentials: with a device login.
        vault: where it is kept, in place of what is there; prepared first, so that nobody signs in for nothing.
        timeout: seconds for each answer of the authority.
        show: told where the person has to go, with which code.

    Returns:
        The name that the person has signed in with.

    Raises:
        LoginFailed: the authority is out of reach or refuses, the person refuses or the code ends.
        VaultError: it cannot be kept.
    """
    vault.prepare(credentials)
    by = _at_an_issuer if credentials.oidc else _at_microsofts
    with Http(credentials.ca_file, timeout, credentials.authority if credentials.oidc else None) as http:
        try:
            user, kept = by(credentials, http, show)
        except (requests.RequestException, NotTheAuthority, OddAnswer, ValueError, MsalServiceError) as error:
            raise LoginFailed(f"{credentials.authority} cannot be used for signing in: {_words(error, http)}") from None
    vault.keep(credentials, kept)
    return user


def _at_microsofts(credentials: OAuth, http: Http, show: Callable[[Invitation], None]) -> tuple[str, str]:
    """Who has signed in, and what is to be kept of it."""
    cache, replayed = msal.SerializableTokenCache(), dict[str, Any]()
    application = msal.PublicClientApplication(
        credentials.client_id, token_cache=cache, http_client=http, http_cache=replayed, **where(credentials)
    )
    flow = application.initiate_device_flow([credentials.scope])
    show(_invitation(flow, credentials))
    answer = _patiently(application, flow, replayed)
    _check(answer, credentials, refresh=bool(list(cache.search(cache.CredentialType.REFRESH_TOKEN))))
    return str(answer.get("id_token_claims", {}).get("preferred_username", "")), cache.serialize()


def _patiently(application: msal.PublicClientApplication, flow: dict[str, Any], replayed: dict[str, Any]) -> Answer:
    """Wait for the person; an authority in trouble meanwhile is asked again, more and more slowly."""
    pause = float(flow.get("interval") or _PAUSE)
    while True:
        try:
            answer: Answer = application.acquire_token_by_device_flow(flow)
        except (MsalServiceError, requests.ConnectionError, requests.Timeout):
            if time.time() + pause >= flow["expires_at"]:
                raise
            replayed.clear()
            time.sleep(pause)
            pause *= 2
        else:
            return answer


def _at_an_issuer(credentials: OAuth, http: Http, show: Callable[[Invitation], None]) -> tuple[str, str]:
    asked = issuer.Issuer(credentials, http)
    flow = asked.invitation(" ".join(dict.fromkeys(["openid", "offline_access", *credentials.scope.split()])))
    show(_invitation(flow, credentials))
    answer = issuer.sign_in(asked, flow)
    _check(answer, credentials, refresh="refresh_token" in answer)
    claims = read(str(answer.get("id_token", "")))
    return claims.user if claims else "", issuer.kept_of(answer)


def _invitation(flow: Answer, credentials: OAuth) -> Invitation:
    if "user_code" not in flow:
        raise LoginFailed(_refusal(flow, credentials))
    address = flow.get("verification_uri") or flow.get("verification_url")  # the second is Google's
    if not address or "device_code" not in flow:
        raise LoginFailed(f"{credentials.authority} gives a code and no page to enter it: it cannot be used.")
    return Invitation(str(address), str(flow["user_code"]), int(issuer.lasts(flow)))


def _check(answer: Answer, credentials: OAuth, *, refresh: bool) -> None:
    if "access_token" not in answer:
        raise LoginFailed(_refusal(answer, credentials))
    if not refresh:
        raise LoginFailed("The authority gave no refresh token, so the sign-in would end within the hour.")


def _refusal(answer: Answer, credentials: OAuth) -> str:
    description = concealed(str(answer.get("error_description") or ""), credentials).splitlines()
    error = concealed(str(answer.get("error", "without a reason")), credentials)
    remedy = f" {_PUBLIC}" if description and _NO_PUBLIC_CLIENT in description[0] else ""
    return f"The sign-in was refused: {description[0] if description else error}{remedy}"


def _words(error: Exception, http: Http) -> str:
    match error:
        case NotTheAuthority():
            return str(error)
        case _ if http.last_status == _TOO_MANY or http.last_status >= _SERVER_ERROR:
            return f"it is in trouble (HTTP status {http.last_status}); try again later."
        case requests.exceptions.SSLError():
            return "its certificate could not be verified."
        case requests.ConnectionError() | requests.Timeout():
            return "it could not be reached."
        case _:
            return f"it does not answer as a token authority ({type(error).__name__})."
