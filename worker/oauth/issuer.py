"""Tokens of an OpenID Connect issuer, by the standards alone: MSAL knows only issuers that resemble Microsoft's.

Client credentials (RFC 6749 section 4.4), client authentication by secret (section 2.3.1) or by a signed assertion
(RFC 7523), sign-ins by device code (RFC 8628), refresh tokens (RFC 6749 section 6).
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never
from urllib.parse import quote_plus

import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msal.oauth2cli.assertion import JwtAssertionCreator
from requests import PreparedRequest
from requests.auth import HTTPBasicAuth

from worker.domain.mailbox import Certificate, DeviceLogin, Federated, ManagedIdentity, OAuth, Secret
from worker.oauth import certificate
from worker.oauth.http import Http
from worker.oauth.proof import KEPT, Answer, ProofUnusable, Source, assertion, life_of
from worker.oauth.vault import Vault

_BY_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
_NOT_THAT_WAY = {"invalid_client", "unauthorized_client"}  # the second is what Keycloak says
_SECONDS = 300  # that an assertion is good for
_IN_TROUBLE = "server_error"
_CODE = 600.0  # seconds that a device code is supposed to be good for where the issuer does not say
_INTERVAL = 5.0  # seconds between questions (RFC 8628 section 3.5)
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

Form = dict[str, str]


@dataclass(frozen=True, slots=True)
class _Way:
    """One of the ways in which a client shows who it is: fields of the form, or the header."""

    form: Callable[[], Form]
    basic: HTTPBasicAuth | None = None


class Issuer:
    """An issuer that has told where its endpoints are, and the client that we are to it."""

    def __init__(self, credentials: OAuth, http: Http) -> None:
        """Ask the issuer about itself (OpenID Connect Discovery section 4).

        Raises:
            ValueError: what answers there is no issuer.
            ProofUnusable: the certificate cannot be used.
            Exception: as `Http.request`.
        """
        self._credentials, self._http = credentials, http
        response = http.get(f"{credentials.authority.rstrip('/')}/.well-known/openid-configuration")
        self._told: dict[str, Any] = response.json() if response.ok else {}
        if "token_endpoint" not in self._told:
            raise ValueError("no OpenID Connect issuer")
        self._ways = list(self._ways_in(credentials))

    def token(self, form: Form) -> Answer:
        """Ask the token endpoint, in the way that it takes from this client: which one that is only a try can show."""
        return self._asked("token_endpoint", form)

    def invitation(self, scope: str) -> Answer:
        """Ask for a device code (RFC 8628 section 3.1).

        Raises:
            ValueError: the issuer has no sign-in by device code, or is in trouble.
        """
        if "device_authorization_endpoint" not in self._told:
            raise ValueError("no sign-in by device code")
        invitation = self._asked("device_authorization_endpoint", {"scope": scope})
        if invitation.get("error") == _IN_TROUBLE:
            raise ValueError(_IN_TROUBLE)
        return invitation

    def _asked(self, endpoint: str, form: Form) -> Answer:
        answer: Answer = {}
        for way in tuple(self._ways):
            fields = {**form, **way.form()}
            response = self._http.post(self._told[endpoint], data=fields, auth=way.basic or _as_it_is)
            answer = response.json() if response.status_code < 500 else {"error": _IN_TROUBLE}  # noqa: PLR2004
            if answer.get("error") not in _NOT_THAT_WAY:
                self._ways = [way, *(other for other in self._ways if other is not way)]
                break
        return answer

    def _ways_in(self, credentials: OAuth) -> Iterator[_Way]:
        us = {"client_id": credentials.client_id}
        match credentials.proof:
            case Secret(value):
                yield from self._by_secret(credentials.client_id, value.get_secret_value())
            case Certificate() as proof:
                # Security considerations of 2025 want the issuer as the only audience; before, it was the endpoint.
                for audience in (self._told["issuer"], self._told["token_endpoint"]):
                    yield _Way(partial(_signed, proof, credentials.client_id, audience))
            case Federated(file):
                yield _Way(lambda: us | _asserted(assertion(file)))
            case DeviceLogin() | ManagedIdentity():
                yield _Way(lambda: us)
            case unknown:
                assert_never(unknown)

    def _by_secret(self, client_id: str, secret: str) -> Iterator[_Way]:
        """In the header, which every issuer must take, or in the form; left unsaid it is the header (Discovery 3)."""
        takes = self._told.get("token_endpoint_auth_methods_supported") or ["client_secret_basic", "client_secret_post"]
        if "client_secret_basic" in takes or "client_secret_post" not in takes:
            yield _Way(dict, HTTPBasicAuth(*_quoted(client_id, secret)))
        if "client_secret_post" in takes:
            yield _Way(lambda: {"client_id": client_id, "client_secret": secret})


def source(credentials: OAuth, http: Http, vault: Vault) -> Source:
    """Build the source of an issuer's tokens. It asks the issuer about itself."""
    issuer = Issuer(credentials, http)
    if isinstance(credentials.proof, DeviceLogin):
        return _Person(issuer, credentials, vault)
    return _Client(issuer, credentials.scope)


class _Client:
    """The client's own tokens."""

    def __init__(self, issuer: Issuer, scope: str) -> None:
        self._issuer = issuer
        self._form = {"grant_type": "client_credentials", **({"scope": scope} if scope else {})}

    def acquire(self, _enough: Callable[[Answer], bool]) -> Answer:
        return self._issuer.token(self._form)


class _Person:
    """Tokens of a person who has signed in once; several workers share what is kept."""

    def __init__(self, issuer: Issuer, credentials: OAuth, vault: Vault) -> None:
        self._issuer, self._credentials, self._vault = issuer, credentials, vault

    def acquire(self, enough: Callable[[Answer], bool]) -> Answer:
        with self._vault.opened(self._credentials) as sealed:
            kept: dict[str, Any] = json.loads(sealed.content or "{}")
            if "refresh_token" not in kept:
                return {"error": "login_required", "error_description": "Nobody has signed in for this mailbox yet."}
            there = kept | {"expires_in": kept["ends"] - time.time()}
            if enough(there):
                return there | KEPT
            answer = self._issuer.token({"grant_type": "refresh_token", "refresh_token": kept["refresh_token"]})
            if "access_token" in answer:
                sealed.content = kept_of({**kept, **answer})
            return answer


def sign_in(issuer: Issuer, invitation: Answer) -> Answer:
    """Wait until the person has signed in or refused, or the code has ended (RFC 8628 section 3.4).

    An issuer that is in trouble or out of reach meanwhile is asked again, more and more slowly (section 3.5).
    """
    form = {"grant_type": _DEVICE_CODE, "device_code": str(invitation["device_code"])}
    interval = float(invitation.get("interval") or _INTERVAL)
    until = time.monotonic() + lasts(invitation)
    answer: Answer = {"error": "expired_token"}
    while time.monotonic() < until:
        time.sleep(interval)
        try:
            answer = issuer.token(form)
        except (requests.ConnectionError, requests.Timeout):
            answer = {"error": _IN_TROUBLE}
        match answer.get("error"):
            case "slow_down":
                interval += _INTERVAL
            case "server_error" | "temporarily_unavailable":
                interval *= 2
            case "authorization_pending":
                continue
            case _:
                break
    return answer


def lasts(invitation: Answer) -> float:
    """Seconds for which a device code is good, which an issuer has to tell and may forget."""
    return float(invitation.get("expires_in") or _CODE)


def kept_of(answer: Answer) -> str:
    """What is kept of a sign-in."""
    ends = time.time() + life_of(answer)
    return json.dumps({"access_token": answer["access_token"], "refresh_token": answer["refresh_token"], "ends": ends})


def in_header(client_id: str, secret: str) -> str:
    """A client's secret as it goes over the line, for whoever has to keep it out of texts."""
    return base64.b64encode(":".join(_quoted(client_id, secret)).encode()).decode()


def _quoted(client_id: str, secret: str) -> tuple[str, str]:
    return quote_plus(client_id), quote_plus(secret)


def _as_it_is(request: PreparedRequest) -> PreparedRequest:
    """Else `requests` would send a login that it finds in a .netrc file."""
    return request


def _asserted(signed: str) -> Form:
    return {"client_assertion_type": _BY_ASSERTION, "client_assertion": signed}


def _signed(proof: Certificate, client_id: str, audience: str) -> Form:
    """RFC 7523 section 3. The header names the certificate (RFC 7515 section 4.1.8)."""
    try:
        key, shown = certificate.opened(proof)
    except (OSError, ValueError) as error:
        raise ProofUnusable(f"certificate_file {proof.file}: {error}") from None
    algorithm = _CURVES.get(key.curve.name, "ES256") if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
    now = int(time.time())
    thumbprint = base64.urlsafe_b64encode(shown.fingerprint(hashes.SHA256())).rstrip(b"=").decode()
    signer = JwtAssertionCreator(key, algorithm, headers={"x5t#S256": thumbprint})
    made: bytes = signer.create_normal_assertion(audience, client_id, issued_at=now, expires_at=now + _SECONDS)
    return {"client_id": client_id, **_asserted(made.decode())}
