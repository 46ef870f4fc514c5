"""Entra ID's endpoints for tokens, with its error texts.

Client credentials by every proof, device codes and refreshing, and the metadata endpoints of managed identities.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from worker.emulator import assertion
from worker.emulator.world import AppRegistration, MailboxAccount, ManagedIdentityAccount, TokenTrouble

SMTP_RESOURCE = "https://outlook.office365.com"
GRAPH_RESOURCE = "https://graph.microsoft.com"
_SMTP_RESOURCES = {SMTP_RESOURCE, "https://outlook.office.com"}
_LIFETIME = 3599  # seconds, as seen from Microsoft
_DEVICE_LIFETIME = 900  # seconds
_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
_RESERVED = {"openid", "profile", "offline_access"}

ERRORS: Mapping[int, tuple[int, str, str]] = {
    7000215: (401, "invalid_client", "Invalid client secret provided."),
    7000222: (401, "invalid_client", "The provided client secret keys for app are expired."),
    7000218: (
        401,
        "invalid_client",
        "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
    ),
    700025: (400, "invalid_client", "Client is public so neither 'client_assertion' nor 'client_secret' is allowed."),
    700027: (401, "invalid_client", "The certificate used to sign the client assertion is not registered."),
    700024: (401, "invalid_client", "Client assertion is not within its valid time range."),
    700212: (401, "invalid_client", "No matching federated identity record found for presented assertion audience."),
    700213: (401, "invalid_client", "No matching federated identity record found for presented assertion subject."),
    500133: (401, "invalid_client", "Assertion is not within its valid time range."),
    5000224: (401, "invalid_client", "The signature of the presented assertion could not be verified."),
    50027: (401, "invalid_client", "JWT token is invalid or malformed."),
    50013: (401, "invalid_client", "Assertion failed signature validation."),
    700016: (400, "unauthorized_client", "Application was not found in the directory."),
    7000112: (400, "unauthorized_client", "Application is disabled."),
    90002: (400, "invalid_request", "Tenant not found."),
    500011: (400, "invalid_resource", "The resource principal was not found in the tenant."),
    70011: (400, "invalid_scope", "The provided value for the input parameter 'scope' is not valid."),
    65001: (400, "invalid_grant", "The user or administrator has not consented to use the application."),
    50034: (400, "invalid_grant", "The user account does not exist in the directory."),
    50053: (400, "invalid_grant", "The account is locked."),
    50057: (400, "invalid_grant", "The user account is disabled."),
    50076: (400, "interaction_required", "You must use multi-factor authentication to access the resource."),
    53003: (400, "invalid_grant", "Access has been blocked by Conditional Access policies."),
    70000: (400, "invalid_grant", "The provided value for the input parameter 'refresh_token' is not valid."),
    70008: (400, "invalid_grant", "The refresh token has expired due to inactivity."),
    50173: (400, "invalid_grant", "The provided grant has expired due to it being revoked."),
    50196: (400, "invalid_grant", "The server terminated an operation because it encountered a client request loop."),
    90033: (503, "temporarily_unavailable", "A transient error has occurred. Please try again."),
    90055: (429, "temporarily_unavailable", "The tenant has been throttled."),
}
"""Number → HTTP status, OAuth error, words."""


@dataclass(slots=True)
class _Issued:
    client_id: str
    audience: str
    expires: float
    user: str = ""
    may_submit: bool = True


@dataclass(slots=True)
class _Device:
    client_id: str
    scope: str
    expires: float
    user: str = ""


@dataclass(slots=True)
class _Refresh:
    client_id: str
    user: str


class _No(Exception):  # noqa: N818 - what is answered
    def __init__(self, aadsts: int, text: str = "", retry_after: int | None = None) -> None:
        super().__init__(text)
        self.aadsts, self.text, self.retry_after = aadsts, text, retry_after


@dataclass(slots=True)
class _Asked:
    """What was asked for, for audits; never a secret."""

    grant: str
    client_id: str
    proof: str
    ok: bool = field(default=False)


class TokenAuthority:
    """Issues tokens and knows which are good."""

    def __init__(
        self,
        apps: list[AppRegistration],
        mailboxes: list[MailboxAccount],
        identities: Sequence[ManagedIdentityAccount] = (),
        *,
        lifetime: int = _LIFETIME,
    ) -> None:
        """No token is out yet."""
        self._apps = {(app.tenant_id, app.client_id): app for app in apps}
        self._mailboxes = {mailbox.address.lower(): mailbox for mailbox in mailboxes}
        self._identities = tuple(identities)
        self._issued: dict[str, _Issued] = {}
        self._devices: dict[str, _Device] = {}
        self._user_codes: dict[str, str] = {}
        self._refresh: dict[str, _Refresh] = {}
        self._trouble = {app.client_id: app.trouble for app in apps if app.trouble is not None}
        self.lifetime = lifetime
        self.identity_header = secrets.token_hex(16)
        self.requests = 0
        self.asked: list[_Asked] = []

    def expire_all(self) -> None:
        """From now on no token that was issued is good."""
        self._issued.clear()

    def forget_sign_ins(self) -> None:
        """All refresh tokens are revoked, as when passwords are changed."""
        self._refresh.clear()

    def troubled(self, trouble: TokenTrouble | None, client_id: str) -> None:
        """From now on the endpoint misbehaves for this client; None: no more."""
        self._trouble.pop(client_id, None)
        if trouble is not None:
            self._trouble[client_id] = trouble

    def replace_app(self, app: AppRegistration) -> None:
        """An administrator has changed the registration."""
        self._apps[app.tenant_id, app.client_id] = app

    def approve(self, user_code: str, user: str) -> bool:
        """A person has typed the code in and signed in. Returns whether it was one."""
        device = self._devices.get(self._user_codes.get(user_code, ""))
        if device is None:
            return False
        device.user = user
        return True

    @property
    def user_codes(self) -> tuple[str, ...]:
        """Codes that wait for somebody who signs in."""
        return tuple(code for code, device in self._user_codes.items() if not self._devices[device].user)

    def check(self, mailbox: str, token: str, audience: str = SMTP_RESOURCE) -> str:
        """Why a token does not open a mailbox; empty if it does. Exchange tells none of this to the client."""
        issued = self._issued.get(token)
        account = self._mailboxes.get(mailbox.lower())
        if issued is None or issued.expires < time.time():
            return "token unknown or expired"
        same = {issued.audience, audience} <= _SMTP_RESOURCES
        if issued.audience != audience and not same:
            return "wrong audience"
        if not issued.may_submit:
            return "no permission to submit in the token"
        if issued.user:
            return "" if account is not None and issued.user == mailbox.lower() else "another person's token"
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
                    "device_authorization_endpoint": f"{where}/oauth2/v2.0/devicecode",
                }
            )

        async def token(request: Request) -> Response:
            self.requests += 1
            form, tenant = await _form(request), request.path_params["tenant"]
            if (trouble := await self._misbehaved(form.get("client_id", ""))) is not None:
                return trouble
            try:
                return JSONResponse(self._answer(tenant, form, f"{base_url}/{tenant}/oauth2/v2.0/token"))
            except _No as no:
                return _refusal(no)

        async def device(request: Request) -> Response:
            form = await _form(request)
            try:
                return JSONResponse(self._device(request.path_params["tenant"], form, base_url))
            except _No as no:
                return _refusal(no)

        async def sign_in(request: Request) -> Response:
            form = await _form(request)
            if self.approve(form.get("user_code", ""), form.get("user", "")):
                return PlainTextResponse("Signed in. You may close this window.")
            return PlainTextResponse("There is no such code.", status_code=404)

        async def registration(request: Request) -> Response:
            return self._registration(request.path_params["app"], request.headers.get("Authorization", ""))

        async def metadata(request: Request) -> Response:
            return self._metadata(request)

        async def expire(_request: Request) -> Response:
            self.expire_all()
            on_expire()
            return JSONResponse({"expired": True})

        async def misbehave(request: Request) -> Response:
            wish = dict(await request.json())
            client_id = str(wish.pop("client_id"))
            self.troubled(TokenTrouble(**wish) if wish else None, client_id)
            return JSONResponse({"client_id": client_id, **wish})

        async def state(_request: Request) -> Response:
            return JSONResponse({"token_requests": self.requests, "tokens": len(self._issued)})

        return Starlette(
            routes=[
                Route("/metadata/identity/oauth2/token", metadata),
                Route("/msi/token", metadata),
                Route("/v1.0/applications(appId='{app}')", registration),
                Route("/{tenant}/v2.0/.well-known/openid-configuration", configuration),
                Route("/{tenant}/oauth2/v2.0/token", token, methods=["POST"]),
                Route("/{tenant}/oauth2/v2.0/devicecode", device, methods=["POST"]),
                Route("/_emulator/devicelogin", sign_in, methods=["POST"]),
                Route("/_emulator/expire-tokens", expire, methods=["POST"]),
                Route("/_emulator/token-trouble", misbehave, methods=["POST"]),
                Route("/_emulator/state", state),
            ]
        )

    async def _misbehaved(self, client_id: str) -> Response | None:
        trouble = self._trouble.get(client_id)
        if trouble is None or trouble.times < 1:
            return None
        self._trouble[client_id] = replace(trouble, times=trouble.times - 1)
        if trouble.delay:
            await asyncio.sleep(trouble.delay)
        if trouble.aadsts is not None:
            return _refusal(_No(trouble.aadsts, retry_after=trouble.retry_after))
        if trouble.status is not None:
            headers = {"Retry-After": str(trouble.retry_after)} if trouble.retry_after is not None else {}
            return PlainTextResponse("Service trouble", status_code=trouble.status, headers=headers)
        return None

    def _answer(self, tenant: str, form: dict[str, str], endpoint: str) -> dict[str, object]:
        """An answer of RFC 6749 section 5.1.

        Raises:
            _No: what is answered instead.
        """
        app = self._app(tenant, form)
        asked = _Asked(form.get("grant_type", ""), app.client_id, _proof(form))
        self.asked.append(asked)
        match asked.grant:
            case "client_credentials":
                answer = self._for_itself(app, form, endpoint)
            case "refresh_token":
                answer = self._refreshed(app, form)
            case grant if grant == _DEVICE_CODE:
                answer = self._signed_in(app, form)
            case _:
                raise _No(70003, "The app requested an unsupported grant type.")
        asked.ok = True
        return answer

    def _app(self, tenant: str, form: dict[str, str]) -> AppRegistration:
        app = self._apps.get((tenant, form.get("client_id", "")))
        if app is None:
            what = f"Application with identifier '{form.get('client_id')}' was not found in the directory '{tenant}'."
            raise _No(700016, what)
        return app

    def _for_itself(self, app: AppRegistration, form: dict[str, str], endpoint: str) -> dict[str, object]:
        if form.get("client_assertion_type") == _JWT_BEARER:
            if (found := assertion.wrong(form.get("client_assertion", ""), app, endpoint)) is not None:
                raise _No(found.aadsts, found.text)
        elif "client_secret" not in form:
            raise _No(7000218)
        elif not secrets.compare_digest(form["client_secret"].encode(), app.client_secret.encode()):
            raise _No(7000215)
        scope = form.get("scope", "")
        if not scope.endswith("/.default"):
            raise _No(70011, f"The provided value for scope {scope} is not valid.")
        audience = scope.removesuffix("/.default")
        claims = {"appid": app.client_id, "roles": [*app.roles], "idtyp": "app"}
        may = "SMTP.SendAsApp" in app.roles or app.by_role_assignment
        return self._granted(audience, app.tenant_id, claims, _Issued(app.client_id, audience, 0, may_submit=may))

    def _device(self, tenant: str, form: dict[str, str], base_url: str) -> dict[str, object]:
        app = self._app(tenant, form)
        if not app.public:
            raise _No(7000218)
        code, user_code = secrets.token_urlsafe(32), secrets.token_hex(4).upper()
        self._devices[code] = _Device(app.client_id, form.get("scope", ""), time.time() + _DEVICE_LIFETIME)
        self._user_codes[user_code] = code
        where = f"{base_url}/_emulator/devicelogin"
        return {
            "device_code": code,
            "user_code": user_code,
            "verification_uri": where,
            "expires_in": _DEVICE_LIFETIME,
            "interval": 1,
            "message": f"To sign in, use a web browser to open the page {where} and enter the code {user_code}.",
        }

    def _signed_in(self, app: AppRegistration, form: dict[str, str]) -> dict[str, object]:
        code = form.get("device_code", "")
        device = self._devices.get(code)
        if device is None or device.client_id != app.client_id:
            raise _No(70018, "Invalid verification code.")
        if device.expires < time.time():
            raise _No(70019, "Verification code expired.")
        if not device.user:
            raise _No(70016, "Pending end-user authorization.")
        del self._devices[code]
        return self._delegated(app, device.user, device.scope)

    def _refreshed(self, app: AppRegistration, form: dict[str, str]) -> dict[str, object]:
        """Each refresh token is good for one use, which is stricter than Entra and shows whoever shares badly."""
        refresh = self._refresh.pop(form.get("refresh_token", ""), None)
        if refresh is None or refresh.client_id != app.client_id:
            raise _No(70000)
        return self._delegated(app, refresh.user, form.get("scope", ""))

    def _delegated(self, app: AppRegistration, user: str, scope: str) -> dict[str, object]:
        wanted = [item for item in scope.split() if item not in _RESERVED]
        if len(wanted) != 1 or "/" not in wanted[0]:
            raise _No(70011)
        audience, _, permission = wanted[0].rpartition("/")
        claims = {"appid": app.client_id, "scp": permission, "upn": user, "oid": _id(user)}
        issued = _Issued(app.client_id, audience, 0, user.lower(), may_submit=permission == "SMTP.Send")
        refresh = secrets.token_urlsafe(48)
        self._refresh[refresh] = _Refresh(app.client_id, user)
        identity: dict[str, object] = {"aud": app.client_id, "tid": app.tenant_id, "oid": _id(user), "sub": _id(user)}
        now = int(time.time())
        identity |= {"preferred_username": user, "name": user, "iss": "emulator", "iat": now, "exp": now + _LIFETIME}
        return {
            **self._granted(audience, app.tenant_id, claims, issued),
            "scope": wanted[0],
            "refresh_token": refresh,
            "id_token": f"{_part({'alg': 'none'})}.{_part(identity)}.",
            "client_info": _part({"uid": _id(user), "utid": app.tenant_id}),
        }

    def _granted(self, audience: str, tenant: str, claims: Mapping[str, object], issued: _Issued) -> dict[str, object]:
        return {
            "token_type": "Bearer",
            "expires_in": self.lifetime,
            "ext_expires_in": self.lifetime,
            "access_token": self._issue(audience, tenant, claims, issued),
        }

    def _issue(self, audience: str, tenant: str, more: Mapping[str, object], issued: _Issued) -> str:
        now = int(time.time())
        claims = {
            "aud": audience,
            "tid": tenant,
            **more,
            "iat": now,
            "exp": now + self.lifetime,
            "uti": uuid.uuid4().hex,
            # Real tokens are long, and clients must be able to send them: RFC 4954 forbids them in one AUTH line.
            "xms_padding": uuid.uuid4().hex * 30,
        }
        token = ".".join(_part(item) for item in ({"alg": "none", "typ": "JWT"}, claims)) + ".emulated"
        issued.expires = now + self.lifetime
        self._issued[token] = issued
        return token

    def _registration(self, client_id: str, authorization: str) -> Response:
        """Graph's answer about an app, for that app if it may read it."""
        issued = self._issued.get(authorization.removeprefix("Bearer "))
        app = next((app for app in self._apps.values() if app.client_id == client_id), None)
        if issued is None or issued.client_id != client_id or app is None:
            return JSONResponse({"error": {"code": "InvalidAuthenticationToken"}}, 401)
        if "Application.Read.All" not in app.roles:
            return JSONResponse({"error": {"code": "Authorization_RequestDenied"}}, 403)
        ends = app.secret_ends.isoformat() if app.secret_ends else None
        return JSONResponse({"passwordCredentials": [{"hint": app.client_secret[:3], "endDateTime": ends}]})

    def _metadata(self, request: Request) -> Response:
        """The Instance Metadata Service of a virtual machine, or App Service's endpoint."""
        self.requests += 1
        app_service = request.url.path == "/msi/token"
        proven = (
            request.headers.get("X-IDENTITY-HEADER") == self.identity_header
            if app_service
            else request.headers.get("Metadata") == "true"
        )
        if not proven:
            return JSONResponse({"error": "invalid_request", "error_description": "Required header missing"}, 400)
        wanted = request.query_params.get("client_id")
        resource_id = request.query_params.get("msi_res_id") or request.query_params.get("mi_res_id")
        identity = next(
            (
                known
                for known in self._identities
                if (wanted is None or known.client_id == wanted)
                and (resource_id is None or known.resource_id == resource_id)
            ),
            None,
        )
        if identity is None:
            return JSONResponse({"error": "invalid_request", "error_description": "Identity not found"}, 400)
        audience = request.query_params.get("resource", "")
        claims = {"appid": identity.client_id, "roles": [*identity.roles], "idtyp": "app"}
        issued = _Issued(identity.client_id, audience, 0, may_submit="SMTP.SendAsApp" in identity.roles)
        self.asked.append(_Asked("managed_identity", identity.client_id, "platform", ok=True))
        token = self._issue(audience, identity.tenant_id, claims, issued)
        return JSONResponse(
            {
                "access_token": token,
                "client_id": identity.client_id,
                "expires_in": str(self.lifetime),
                "expires_on": str(int(time.time()) + self.lifetime),
                "resource": audience,
                "token_type": "Bearer",
            }
        )


async def _form(request: Request) -> dict[str, str]:
    """Read the form without the multipart library that Starlette would want."""
    return dict(parse_qsl((await request.body()).decode()))


def _proof(form: Mapping[str, str]) -> str:
    return next((name for name in ("client_assertion", "client_secret", "refresh_token") if name in form), "none")


def _id(user: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, user.lower()))


def _part(claims: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()


_PENDING = {
    70016: (400, "authorization_pending"),
    70018: (400, "bad_verification_code"),
    70019: (400, "expired_token"),
    70003: (400, "unsupported_grant_type"),
}


def _refusal(no: _No) -> Response:
    if no.aadsts in _PENDING:
        return _error(*_PENDING[no.aadsts], no.aadsts, no.text)
    status, error, text = ERRORS[no.aadsts]
    return _error(status, error, no.aadsts, no.text or text, no.retry_after)


def _error(status: int, error: str, code: int, text: str, retry_after: int | None = None) -> Response:
    trace = uuid.uuid4()
    body = {
        "error": error,
        "error_description": f"AADSTS{code}: {text} Trace ID: {trace} Correlation ID: {uuid.uuid4()}",
        "error_codes": [code],
        "trace_id": str(trace),
    }
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
    return JSONResponse(body, status_code=status, headers=headers)
