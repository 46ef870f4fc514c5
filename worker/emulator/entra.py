"""Entra ID's token endpoint, as far as client credentials go (RFC 6749 section 4.4), with its error texts."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.emulator.world import AppRegistration, MailboxAccount

SMTP_RESOURCE = "https://outlook.office365.com"
GRAPH_RESOURCE = "https://graph.microsoft.com"
_LIFETIME = 3599  # seconds, as seen from Microsoft


@dataclass(slots=True)
class _Issued:
    client_id: str
    audience: str
    expires: float


class TokenAuthority:
    """Issues tokens and knows which are good."""

    def __init__(self, apps: list[AppRegistration], mailboxes: list[MailboxAccount]) -> None:
        """No token is out yet."""
        self._apps = {(app.tenant_id, app.client_id): app for app in apps}
        self._mailboxes = {mailbox.address.lower(): mailbox for mailbox in mailboxes}
        self._issued: dict[str, _Issued] = {}
        self.requests = 0

    def expire_all(self) -> None:
        """From now on no token that was issued is good."""
        self._issued.clear()

    def check(self, mailbox: str, token: str, audience: str = SMTP_RESOURCE) -> str:
        """Why a token does not open a mailbox; empty if it does. Exchange tells none of this to the client."""
        issued = self._issued.get(token)
        account = self._mailboxes.get(mailbox.lower())
        if issued is None or issued.expires < time.time():
            return "token unknown or expired"
        if issued.audience != audience:
            return "wrong audience"
        if account is None or issued.client_id not in account.apps:
            return "the app has no rights on this mailbox"
        return ""

    def application(self, base_url: str, on_expire: Callable[[], None]) -> Starlette:
        """The HTTP side.

        Args:
            base_url: where it will be reached, `https://host:port`.
            on_expire: called after `POST /_emulator/expire-tokens`.
        """

        async def configuration(request: Request) -> Response:
            tenant = request.path_params["tenant"]
            if not any(tenant == known for known, _ in self._apps):
                return _error(400, "invalid_tenant", 90002, f"Tenant '{tenant}' not found.")
            where = f"{base_url}/{tenant}"
            return JSONResponse(
                {
                    "issuer": f"{where}/v2.0",
                    "authorization_endpoint": f"{where}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{where}/oauth2/v2.0/token",
                }
            )

        async def token(request: Request) -> Response:
            self.requests += 1
            form = {key: str(value) for key, value in (await _form(request)).items()}
            return self._answer(request.path_params["tenant"], form)

        async def expire(_request: Request) -> Response:
            self.expire_all()
            on_expire()
            return JSONResponse({"expired": True})

        async def state(_request: Request) -> Response:
            return JSONResponse({"token_requests": self.requests, "tokens": len(self._issued)})

        return Starlette(
            routes=[
                Route("/{tenant}/v2.0/.well-known/openid-configuration", configuration),
                Route("/{tenant}/oauth2/v2.0/token", token, methods=["POST"]),
                Route("/_emulator/expire-tokens", expire, methods=["POST"]),
                Route("/_emulator/state", state),
            ]
        )

    def _answer(self, tenant: str, form: dict[str, str]) -> Response:
        app = self._apps.get((tenant, form.get("client_id", "")))
        if app is None:
            what = f"Application with identifier '{form.get('client_id')}' was not found in the directory '{tenant}'."
            return _error(400, "unauthorized_client", 700016, what)
        if form.get("client_secret") != app.client_secret:
            return _error(401, "invalid_client", 7000215, "Invalid client secret provided.")
        if form.get("grant_type") != "client_credentials":
            return _error(400, "unsupported_grant_type", 70003, "Only client credentials are emulated.")
        scope = form.get("scope", "")
        if not scope.endswith("/.default"):
            return _error(400, "invalid_scope", 70011, f"The provided value for scope {scope} is not valid.")
        return JSONResponse(
            {
                "token_type": "Bearer",
                "expires_in": _LIFETIME,
                "ext_expires_in": _LIFETIME,
                "access_token": self._issue(app, scope.removesuffix("/.default")),
            }
        )

    def _issue(self, app: AppRegistration, audience: str) -> str:
        now = int(time.time())
        claims = {
            "aud": audience,
            "tid": app.tenant_id,
            "appid": app.client_id,
            "roles": ["SMTP.SendAsApp"],
            "iat": now,
            "exp": now + _LIFETIME,
            "uti": uuid.uuid4().hex,
            # Real tokens are long, and clients must be able to send them: RFC 4954 forbids them in one AUTH line.
            "xms_padding": uuid.uuid4().hex * 30,
        }
        token = ".".join(_part(item) for item in ({"alg": "none", "typ": "JWT"}, claims)) + ".emulated"
        self._issued[token] = _Issued(app.client_id, audience, now + _LIFETIME)
        return token


async def _form(request: Request) -> dict[str, Any]:
    """Read the form without the multipart library that Starlette would want."""
    return dict(parse_qsl((await request.body()).decode()))


def _part(claims: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()


def _error(status: int, error: str, code: int, text: str) -> Response:
    trace = uuid.uuid4()
    body = {
        "error": error,
        "error_description": f"AADSTS{code}: {text} Trace ID: {trace} Correlation ID: {uuid.uuid4()}",
        "error_codes": [code],
        "trace_id": str(trace),
    }
    return JSONResponse(body, status_code=status)
