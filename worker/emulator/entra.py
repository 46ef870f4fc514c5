"""Entra ID's endpoints for tokens, with its error texts.

Client credentials by every proof, device codes and refreshing, and the metadata endpoints of managed identities.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from worker.emulator import assertion
from worker.emulator.aadsts import ERRORS, No, by_rule, error_of, missing, refusal, trouble
from worker.emulator.hanging import unspoken
from worker.emulator.permissions import (
    SMTP_RESOURCE,
    SUBMIT,
    Right,
    Scope,
    resource_of_app,
    same,
    scope_of_person,
    shown,
)
from worker.emulator.scenario import LOST, Moment, Play, Rule
from worker.emulator.signing import part, public_keys, signed
from worker.emulator.world import AppRegistration, MailboxAccount, ManagedIdentityAccount, TokenTrouble

_LOG = logging.getLogger(__name__)
_LIFETIME = 3599  # seconds, as seen from Microsoft
_DEVICE_LIFETIME = 900  # seconds
_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
_OF_NO_TENANT = frozenset({"common", "organizations", "consumers"})


@dataclass(slots=True)
class _Issued:
    """A token that is out.

    Attributes:
        permissions: a person's, or the app's own without one.
        by_role_assignment: Exchange knows the app's permissions by itself.
    """

    client_id: str
    audience: str
    permissions: frozenset[str]
    expires: float = 0
    user: str = ""
    by_role_assignment: bool = False

    def may(self, right: Right) -> bool:
        """Whether it shows a permission."""
        wanted = right.of_person if self.user else right.of_app
        return self.by_role_assignment or not wanted.isdisjoint(self.permissions)


@dataclass(slots=True)
class _Device:
    client_id: str
    scope: Scope
    expires: float
    user: str = ""


@dataclass(frozen=True, slots=True)
class _Refresh:
    """A sign-in that goes on."""

    client_id: str
    user: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request to an endpoint of a tenant.

    Attributes:
        place: `https://host:port/<tenant>`.
    """

    tenant: str
    place: str
    form: Mapping[str, str]

    @property
    def endpoint(self) -> str:
        """What an assertion must be meant for."""
        return f"{self.place}/oauth2/v2.0/token"

    @property
    def client_id(self) -> str:
        return self.given("client_id")

    @property
    def known_as(self) -> str:
        """What stands for the mailbox where rules look for one."""
        return f"{self.form.get('client_id', '')}@{self.tenant}"

    def given(self, parameter: str) -> str:
        """A parameter without which there is no answer.

        Raises:
            No: it is missing.
        """
        value = self.form.get(parameter)
        if not value:
            raise missing(parameter)
        return value


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
        play: Play | None = None,
    ) -> None:
        """No token is out yet.

        Args:
            apps: the registrations; their tenants exist.
            mailboxes: that apps or persons open.
            identities: of the machine, the system's first.
            lifetime: seconds that a token is good for.
            play: the rules in force; None: there are none.
        """
        self._tenants = {app.tenant_id for app in apps}
        self._play = play
        self._apps = {(app.tenant_id, app.client_id): app for app in apps}
        self._mailboxes = {mailbox.address.lower(): mailbox for mailbox in mailboxes}
        self._identities = tuple(identities)
        self._issued: dict[str, _Issued] = {}
        self._devices: dict[str, _Device] = {}
        self._user_codes: dict[str, str] = {}
        self._refresh: dict[str, _Refresh] = {}
        self._trouble: dict[str, TokenTrouble] = {}
        for app in apps:
            self.troubled(app.trouble, app.client_id)
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
        """From now on the endpoint misbehaves for this client; None: no more.

        Raises:
            ValueError: the number is none of `ERRORS`.
        """
        if trouble is not None and trouble.aadsts is not None and trouble.aadsts not in ERRORS:
            raise ValueError(f"AADSTS{trouble.aadsts} has no words here; play the rule aadsts-{trouble.aadsts}")
        self._trouble.pop(client_id, None)
        if trouble is not None:
            self._trouble[client_id] = trouble

    def replace_app(self, app: AppRegistration) -> None:
        """An administrator has changed the registration."""
        self._apps[app.tenant_id, app.client_id] = app
        self._tenants.add(app.tenant_id)

    def approve(self, user_code: str, user: str) -> bool:
        """A person has typed the code in and signed in. Returns whether it was one."""
        device = self._devices.get(self._user_codes.get(user_code, ""))
        if device is None or not user:
            return False
        device.user = user
        return True

    @property
    def user_codes(self) -> tuple[str, ...]:
        """Codes that wait for somebody who signs in."""
        waiting = {code for code, device in self._devices.items() if not device.user}
        return tuple(user_code for user_code, code in self._user_codes.items() if code in waiting)

    def owner(self, token: str) -> str:
        """Whose token it is: `me` of Graph. Empty for an app's own, and for what is no token."""
        issued = self._issued.get(token)
        return issued.user if issued is not None else ""

    def check(self, mailbox: str, token: str, audience: str = SMTP_RESOURCE, right: Right = SUBMIT) -> str:
        """Why a token does not open a mailbox; empty if it does. Exchange tells none of this to the client."""
        issued = self._issued.get(token)
        account = self._mailboxes.get(mailbox.lower())
        if issued is None or issued.expires < time.time():
            return "token unknown or expired"
        if not same(issued.audience, audience):
            return "wrong audience"
        if not issued.may(right):
            return "no permission for this in the token"
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
            if tenant not in self._tenants | _OF_NO_TENANT:
                return error_of(400, "invalid_tenant", f"Tenant '{tenant}' not found.", 90002)
            where = f"{base_url}/{tenant}"
            return JSONResponse(
                {
                    "issuer": f"{base_url}/{'{tenantid}' if tenant in _OF_NO_TENANT else tenant}/v2.0",
                    "authorization_endpoint": f"{where}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{where}/oauth2/v2.0/token",
                    "device_authorization_endpoint": f"{where}/oauth2/v2.0/devicecode",
                    "jwks_uri": f"{where}/discovery/v2.0/keys",
                    "token_endpoint_auth_methods_supported": [
                        "client_secret_post",
                        "private_key_jwt",
                        "client_secret_basic",
                    ],
                    "response_types_supported": ["code", "id_token"],
                    "subject_types_supported": ["pairwise"],
                    "id_token_signing_alg_values_supported": ["RS256"],
                    "scopes_supported": ["openid", "profile", "email", "offline_access"],
                }
            )

        async def instances(request: Request) -> Response:
            """Whoever asks which clouds there are hears of this one only, whatever it calls itself."""
            asked = urlsplit(request.query_params.get("authorization_endpoint", ""))
            tenant = asked.path.strip("/").partition("/")[0] or "common"
            here = urlsplit(base_url).netloc
            names = {"preferred_network": here, "preferred_cache": here, "aliases": [here]}
            return JSONResponse(
                {
                    "tenant_discovery_endpoint": f"{base_url}/{tenant}/v2.0/.well-known/openid-configuration",
                    "api-version": "1.1",
                    "metadata": [names],
                }
            )

        async def keys(_request: Request) -> Response:
            return JSONResponse(public_keys())

        def answering(
            answer: Callable[[_Ask, Request], Awaitable[Response]],
        ) -> Callable[[Request], Awaitable[Response]]:
            """Read the form; what is wrong with it or refused is said as Entra does."""

            async def answered(request: Request) -> Response:
                tenant, correlation = request.path_params["tenant"], _correlation(request)
                try:
                    return await answer(_Ask(tenant, f"{base_url}/{tenant}", await _form(request)), request)
                except No as no:
                    return refusal(no, correlation)
                except ClientDisconnect:
                    return Response(status_code=499)
                except Exception:  # noqa: BLE001 - whatever a client has sent, it must not look like an outage
                    _LOG.exception("a request to %s cannot be read", request.url.path)
                    return refusal(No(9002313), correlation)

            return answered

        async def token(ask: _Ask, request: Request) -> Response:
            self.requests += 1
            if (said := await self._misbehaved(ask.form.get("client_id", ""))) is not None:
                return said
            rule = self._play.answer(Moment.TOKEN, ask.known_as) if self._play else None
            if rule is not None and (said := await _spoken(rule, request)) is not None:
                return said
            answer = self._answer(ask)
            if rule is not None and rule.reply == LOST:
                await unspoken(rule.reply, request)
            return JSONResponse(answer, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})

        async def device(ask: _Ask, _request: Request) -> Response:
            return JSONResponse(self._device(ask, base_url))

        async def sign_in(request: Request) -> Response:
            with contextlib.suppress(No):
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
            try:
                wish = dict(await request.json())
                client_id = str(wish.pop("client_id"))
                self.troubled(TokenTrouble(**wish) if wish else None, client_id)
            except KeyError as error:
                return JSONResponse({"problem": f"{error} is missing"}, 400)
            except (TypeError, ValueError) as error:
                return JSONResponse({"problem": str(error)}, 400)
            return JSONResponse({"client_id": client_id, **wish})

        async def state(_request: Request) -> Response:
            return JSONResponse({"token_requests": self.requests, "tokens": len(self._issued)})

        return Starlette(
            routes=[
                Route("/metadata/identity/oauth2/token", metadata),
                Route("/msi/token", metadata),
                Route("/v1.0/applications(appId='{app}')", registration),
                Route("/{tenant}/v2.0/.well-known/openid-configuration", configuration),
                Route("/common/discovery/instance", instances),
                Route("/{tenant}/discovery/v2.0/keys", keys),
                Route("/{tenant}/oauth2/v2.0/token", answering(token), methods=["POST"]),
                Route("/{tenant}/oauth2/v2.0/devicecode", answering(device), methods=["POST"]),
                Route("/_emulator/devicelogin", sign_in, methods=["POST"]),
                Route("/_emulator/expire-tokens", expire, methods=["POST"]),
                Route("/_emulator/token-trouble", misbehave, methods=["POST"]),
                Route("/_emulator/state", state),
            ]
        )

    async def _misbehaved(self, client_id: str) -> Response | None:
        wish = self._trouble.get(client_id)
        if wish is None or wish.times < 1:
            return None
        self._trouble[client_id] = replace(wish, times=wish.times - 1)
        if wish.delay:
            await asyncio.sleep(wish.delay)
        if wish.aadsts is not None:
            return refusal(No(wish.aadsts, retry_after=wish.retry_after))
        return trouble(wish.status, wish.retry_after) if wish.status is not None else None

    def _answer(self, ask: _Ask) -> dict[str, object]:
        """An answer of RFC 6749 section 5.1.

        Raises:
            No: what is answered instead.
        """
        grant = ask.given("grant_type")
        app = self._app(ask)
        asked = _Asked(grant, app.client_id, _proof(ask.form))
        self.asked.append(asked)
        match grant:
            case "client_credentials":
                answer = self._for_itself(app, ask)
            case "refresh_token":
                answer = self._refreshed(app, ask)
            case grant if grant == _DEVICE_CODE:
                answer = self._signed_in(app, ask)
            case _:
                raise No(70003, "The app requested an unsupported grant type.")
        asked.ok = True
        return answer

    def _app(self, ask: _Ask) -> AppRegistration:
        """The app that asks. One that acts for a person may leave it to the person's account which tenant it is.

        One that is called like a rule and has not been refused by it is the usual one.
        """
        client_id = ask.client_id
        if self._play is not None and self._play.knows(client_id):
            client_id = next((app.client_id for app in self._apps.values()), client_id)
        if ask.tenant in _OF_NO_TENANT:
            found = next((app for app in self._apps.values() if app.client_id == client_id), None)
            if found is not None and ask.form.get("grant_type") == "client_credentials":
                raise No(50194)
        elif ask.tenant not in self._tenants:
            raise No(90002, f"Tenant '{ask.tenant}' not found. Check to make sure you have the correct tenant ID.")
        else:
            found = self._apps.get((ask.tenant, client_id))
        if found is None:
            what = f"Application with identifier '{client_id}' was not found in the directory '{ask.tenant}'."
            raise No(700016, what)
        return found

    def _for_itself(self, app: AppRegistration, ask: _Ask) -> dict[str, object]:
        if not _proven(app, ask):
            raise No(7000218)
        audience = resource_of_app(ask.form.get("scope", ""), ask.tenant, _parent(ask.place))
        roles = shown(audience, app.roles)
        claims = {"appid": app.client_id, "roles": roles, "idtyp": "app"}
        issued = _Issued(app.client_id, audience, frozenset(roles), by_role_assignment=app.by_role_assignment)
        return self._granted(app.tenant_id, claims, issued)

    def _device(self, ask: _Ask, base_url: str) -> dict[str, object]:
        app = self._app(ask)
        if not app.public:
            raise No(7000218)
        scope = scope_of_person(ask.form.get("scope", ""), ask.tenant)
        code, user_code = secrets.token_urlsafe(32), secrets.token_hex(4).upper()
        self._devices[code] = _Device(app.client_id, scope, time.time() + _DEVICE_LIFETIME)
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

    def _signed_in(self, app: AppRegistration, ask: _Ask) -> dict[str, object]:
        code = ask.given("device_code")
        device = self._devices.get(code)
        if device is None or device.client_id != app.client_id:
            raise No(70018, "Invalid verification code.")
        if device.expires < time.time():
            raise No(70019, "Verification code expired.")
        if not device.user:
            raise No(70016, "Pending end-user authorization.")
        answer = self._delegated(app, device.user, device.scope, ask)
        del self._devices[code]
        return answer

    def _refreshed(self, app: AppRegistration, ask: _Ask) -> dict[str, object]:
        """Each refresh token is good for one use, which is stricter than Entra and shows whoever shares badly.

        One that could not be used is as good as before. Without a `scope` it is for what was asked for at the sign-in
        (RFC 6749 section 6); with one it may be for another resource, as at Entra.
        """
        token = ask.given("refresh_token")
        if not _proven(app, ask) and not app.public:
            raise No(7000218)
        refresh = self._refresh.get(token)
        if refresh is None or refresh.client_id != app.client_id:
            raise No(70000)
        wanted = ask.form.get("scope")
        scope = scope_of_person(wanted, ask.tenant) if wanted else refresh.scope
        answer = self._delegated(app, refresh.user, replace(scope, offline=True), ask)
        del self._refresh[token]
        return answer

    def _delegated(self, app: AppRegistration, user: str, scope: Scope, ask: _Ask) -> dict[str, object]:
        claims = {"appid": app.client_id, "scp": " ".join(scope.permissions), "upn": user, "oid": _id(user)}
        issued = _Issued(app.client_id, scope.audience, frozenset(scope.permissions), user=user.lower())
        answer = {
            **self._granted(app.tenant_id, claims, issued),
            "scope": scope.text,
            "client_info": part({"uid": _id(user), "utid": app.tenant_id}),
        }
        if scope.offline:
            answer["refresh_token"] = secrets.token_urlsafe(48)
            self._refresh[str(answer["refresh_token"])] = _Refresh(app.client_id, user, scope)
        if scope.identity:
            now = int(time.time())
            who = {"oid": _id(user), "sub": _id(user), "preferred_username": user, "name": user}
            about = {"aud": app.client_id, "tid": app.tenant_id, "iss": f"{_parent(ask.place)}/{app.tenant_id}/v2.0"}
            answer["id_token"] = signed({**about, **who, "iat": now, "nbf": now, "exp": now + _LIFETIME, "ver": "2.0"})
        return answer

    def _granted(self, tenant: str, claims: Mapping[str, object], issued: _Issued) -> dict[str, object]:
        return {
            "token_type": "Bearer",
            "expires_in": self.lifetime,
            "ext_expires_in": self.lifetime,
            "access_token": self._issue(tenant, claims, issued),
        }

    def _issue(self, tenant: str, more: Mapping[str, object], issued: _Issued) -> str:
        now = int(time.time())
        claims = {
            "aud": issued.audience,
            "iss": f"https://sts.windows.net/{tenant}/",
            "tid": tenant,
            **more,
            "iat": now,
            "nbf": now,
            "exp": now + self.lifetime,
            "ver": "1.0",
            "uti": uuid.uuid4().hex,
            # Real tokens are long, and clients must be able to send them: RFC 4954 forbids them in one AUTH line.
            "xms_padding": uuid.uuid4().hex * 30,
        }
        token = signed(claims)
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
        issued = _Issued(identity.client_id, audience, frozenset(identity.roles))
        self.asked.append(_Asked("managed_identity", identity.client_id, "platform", ok=True))
        token = self._issue(identity.tenant_id, claims, issued)
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


async def _form(request: Request) -> Mapping[str, str]:
    """Read the form without the multipart library that Starlette would want, and HTTP Basic (RFC 6749 section 2.3.1).

    Raises:
        No: it is no text.
    """
    try:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
    except UnicodeDecodeError:
        raise No(9002313) from None
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return form
    try:
        name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return form
    return form | {"client_id": unquote_plus(name), "client_secret": unquote_plus(secret)}


def _correlation(request: Request) -> str:
    """What the client calls its request, if that is a name that Entra repeats."""
    try:
        return str(uuid.UUID(request.headers.get("client-request-id", "")))
    except ValueError:
        return ""


async def _spoken(rule: Rule, request: Request) -> Response | None:
    """What a rule has said; None: the token is issued all the same."""
    if rule.delay:
        await asyncio.sleep(rule.delay)
    if rule.reply == LOST:
        return None
    await unspoken(rule.reply, request)
    return by_rule(rule, _correlation(request))


def _proven(app: AppRegistration, ask: _Ask) -> bool:
    """Whether the client has shown who it is; False: it has not tried.

    Raises:
        No: what it has shown is wrong.
    """
    if ask.form.get("client_assertion_type") == _JWT_BEARER:
        if (found := assertion.wrong(ask.form.get("client_assertion", ""), app, ask.endpoint)) is not None:
            raise No(found.aadsts, found.text)
        return True
    if "client_secret" not in ask.form:
        return False
    if not secrets.compare_digest(ask.form["client_secret"].encode(), app.client_secret.encode()):
        raise No(7000215)
    return True


def _proof(form: Mapping[str, str]) -> str:
    return next((name for name in ("client_assertion", "client_secret", "refresh_token") if name in form), "none")


def _id(user: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, user.lower()))


def _parent(place: str) -> str:
    return place.rpartition("/")[0]
