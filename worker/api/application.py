"""The requests that the API answers: a table, from which both the routes and the OpenAPI document are made."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from contracts.address import AddrSpec, parse
from worker.administration import Administration, Changed, Invalid, Managed, NotThere, Shown, Taken
from worker.api.openapi import Operation, described
from worker.api.problem import Problem
from worker.api.tokens import Bearer, Role, TokensFile
from worker.domain.delivery import Key
from worker.domain.mailbox import Stop
from worker.domain.report import looked_up
from worker.ports import Register, StoreDown
from worker.probe import Health
from worker.store.mailboxes import Pause
from worker.switchboard import ShownScope, Switchboard
from worker.tenant_settings import KEYS, TenantServer, TenantSettings
from worker.tryout import NotTried, Tried
from worker.unusable import Unusable

_LARGEST = 256 * 1024  # octets of a request
_STATUSES: Mapping[type[Exception], HTTPStatus] = {
    NotThere: HTTPStatus.NOT_FOUND,
    Managed: HTTPStatus.CONFLICT,
    Taken: HTTPStatus.CONFLICT,
    Changed: HTTPStatus.PRECONDITION_FAILED,
    Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotTried: HTTPStatus.CONFLICT,
    StoreDown: HTTPStatus.SERVICE_UNAVAILABLE,
    Unusable: HTTPStatus.SERVICE_UNAVAILABLE,
}
_MOST_LINES = 1000


class TryOut(Protocol):
    """Sends a test mail over a mailbox, one that is switched off only if that is wished."""

    async def __call__(self, name: str, to: AddrSpec, *, even_disabled: bool) -> Tried:
        """What came of it; raises NotTried if no attempt was made."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What the API opens.

    Attributes:
        look: take up what has changed in the store.
        try_out: send a test mail over a mailbox.
    """

    mailboxes: Administration
    scopes: Switchboard
    tenants: TenantSettings
    register: Register
    servers: Health
    look: Callable[[], Awaitable[None]]
    try_out: TryOut


def application(doors: Doors, tokens: TokensFile, *, references: bool) -> Starlette:
    """The API.

    Args:
        doors: to what it answers for.
        tokens: who may use it.
        references: whether secrets may be taken from files and variables of the workers.
    """
    requests = _Requests(doors, references=references)
    table = [
        (
            Operation("GET", "/mailboxes", Role.READ, "All mailboxes; of secrets only whether they are set."),
            requests.list,
        ),
        (Operation("POST", "/mailboxes", Role.MANAGE, "Add a mailbox.", "NewMailbox", 201), requests.add),
        (Operation("GET", "/mailboxes/{name}", Role.READ, "One mailbox, its revision as ETag."), requests.show),
        (
            Operation(
                "PUT",
                "/mailboxes/{name}",
                Role.MANAGE,
                "Replace all settings; needs If-Match. Secrets that are blank or missing stay.",
                "Settings",
            ),
            requests.replace,
        ),
        (
            Operation(
                "PATCH",
                "/mailboxes/{name}",
                Role.MANAGE,
                "Change settings by a merge patch (RFC 7396).",
                "Settings",
            ),
            requests.change,
        ),
        (
            Operation("DELETE", "/mailboxes/{name}", Role.MANAGE, "Remove it; needs If-Match.", None, 204),
            requests.remove,
        ),
        (
            Operation("DELETE", "/mailboxes/{name}/secrets/{key}", Role.MANAGE, "Forget a secret; its mail waits."),
            requests.forget,
        ),
        (
            Operation(
                "POST", "/mailboxes/{name}/test", Role.MANAGE, "Look at its server up to the login; sends nothing."
            ),
            requests.test,
        ),
        (
            Operation(
                "POST",
                "/mailboxes/{name}/test-mail",
                Role.MANAGE,
                "Send one test mail over it, at once and once; switched off only if even_disabled.",
                "TestMail",
            ),
            requests.test_mail,
        ),
        (Operation("POST", "/mailboxes/{name}/enable", Role.MANAGE, "Switch it on."), requests.enable),
        (Operation("POST", "/mailboxes/{name}/disable", Role.MANAGE, "Switch it off."), requests.disable),
        (
            Operation("POST", "/mailboxes/{name}/pause", Role.MANAGE, "Let it rest on all workers.", "Pause"),
            requests.pause,
        ),
        (Operation("POST", "/mailboxes/{name}/resume", Role.MANAGE, "End a pause by hand."), requests.resume),
        (
            Operation("GET", "/scopes", Role.READ, "All scopes and producers that something is set for."),
            requests.scopes,
        ),
        (Operation("GET", "/scopes/{scope}", Role.READ, "One of them, its revision as ETag."), requests.scope),
        (
            Operation(
                "PATCH",
                "/scopes/{scope}",
                Role.MANAGE,
                "Change its settings by a merge patch (RFC 7396); what is not there is made.",
                "ScopeSettings",
            ),
            requests.set_scope,
        ),
        (
            Operation("DELETE", "/scopes/{scope}", Role.MANAGE, "Forget its settings; needs If-Match.", None, 204),
            requests.remove_scope,
        ),
        (
            Operation("POST", "/scopes/{scope}/stop", Role.MANAGE, "Throw the stop switch, the file's too.", "Stop"),
            requests.stop_scope,
        ),
        (Operation("POST", "/scopes/{scope}/start", Role.MANAGE, "Lift the stop switch."), requests.start_scope),
        (
            Operation("GET", "/tenant-settings", Role.READ, "The keys by which a tenant sets its own mail server."),
            requests.tenant_keys,
        ),
        (
            Operation("GET", "/tenants/{tenant}/settings", Role.READ, "What a tenant has set; never a password."),
            requests.tenant,
        ),
        (
            Operation(
                "PATCH",
                "/tenants/{tenant}/settings",
                Role.MANAGE,
                "Set some keys; a blank password stays as it is.",
                "TenantValues",
            ),
            requests.set_tenant,
        ),
        (
            Operation("DELETE", "/tenants/{tenant}/settings/{key}", Role.MANAGE, "Delete the value of a key."),
            requests.forget_tenant,
        ),
        (
            Operation("GET", "/audit", Role.AUDIT, "Who has changed what, the newest first: ?limit=100&before=N."),
            requests.audit,
        ),
        (
            Operation("GET", "/doubts", Role.AUDIT, "Mails of which nobody knows whether they were accepted."),
            requests.doubts,
        ),
        (
            Operation("POST", "/doubts/{tenant}/{id}/resolve", Role.DOUBTS, "Say what was found.", "Finding"),
            requests.resolve,
        ),
        (
            Operation("GET", "/notifications/{tenant}/{id}", Role.AUDIT, "The latest result of a notification."),
            requests.notification,
        ),
    ]
    document = described([operation for operation, _ in table])

    async def openapi(_request: Request) -> Response:
        return JSONResponse(document)

    guard = _Guard(doors.mailboxes, tokens)
    routes = [Route(row.route, guard.before(row, answer), methods=[row.method]) for row, answer in table]
    handlers: dict[Any, Any] = {404: _not_found, 405: _not_found}
    return Starlette(routes=[Route("/openapi.json", openapi), *routes], exception_handlers=handlers)


Answer = Callable[[Request, Bearer], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Guard:
    """Lets nobody through without a token that is good for it; who is turned away with a token is written down."""

    mailboxes: Administration
    tokens: TokensFile

    def before(self, operation: Operation, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                return await answer(request, await self._admitted(request, operation))
            except Problem as problem:
                return problem.answer()
            except tuple(_STATUSES) as error:
                status = next(status for kind, status in _STATUSES.items() if isinstance(error, kind))
                return Problem(status, str(error)).answer()

        return guarded

    async def _admitted(self, request: Request, operation: Operation) -> Bearer:
        bearer = self._bearer(request)
        if operation.role not in bearer.roles:
            what = f"{operation.method} {request.url.path}"
            await self.mailboxes.note(bearer.name, "forbidden", what, operation.role)
            raise Problem(HTTPStatus.FORBIDDEN, f"Token {bearer.name!r} has not the role {operation.role}.")
        return bearer

    def _bearer(self, request: Request) -> Bearer:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        bearer = self.tokens.bearer(token.strip()) if scheme.lower() == "bearer" else None
        if bearer is None:
            detail = "Send a token that is known here: Authorization: Bearer …"
            raise Problem(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": 'Bearer realm="postlane"'})
        return bearer


class _Requests:
    """One method per row of the table."""

    def __init__(self, doors: Doors, *, references: bool) -> None:
        self._mailboxes = doors.mailboxes
        self._doors = doors
        self._references = references

    async def list(self, _request: Request, _bearer: Bearer) -> Response:
        return JSONResponse({"mailboxes": [told(each) for each in await self._mailboxes.everything()]})

    async def show(self, request: Request, _bearer: Bearer) -> Response:
        return _one(await self._mailboxes.one(_name(request)))

    async def add(self, request: Request, bearer: Bearer) -> Response:
        body = await _object(request)
        name, settings = body.pop("name", None), body.pop("settings", None)
        if not isinstance(name, str) or not isinstance(settings, dict) or body:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, 'send {"name": …, "settings": {…}} and nothing else')
        made = await self._mailboxes.add(name, settings, bearer.name, references=self._references)
        return _one(made, HTTPStatus.CREATED, {"Location": f"/mailboxes/{name}"})

    async def replace(self, request: Request, bearer: Bearer) -> Response:
        name, expected, settings = _name(request), _needed(request), await _object(request)
        return _one(await self._mailboxes.replace(name, settings, bearer.name, expected, references=self._references))

    async def change(self, request: Request, bearer: Bearer) -> Response:
        name, expected, patch = _name(request), _expected(request), await _object(request)
        return _one(await self._mailboxes.change(name, patch, bearer.name, expected, references=self._references))

    async def remove(self, request: Request, bearer: Bearer) -> Response:
        await self._mailboxes.remove(_name(request), bearer.name, _needed(request))
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def forget(self, request: Request, bearer: Bearer) -> Response:
        key = request.path_params["key"]
        return _one(await self._mailboxes.forget(_name(request), key, bearer.name, _expected(request)))

    async def test(self, request: Request, bearer: Bearer) -> Response:
        await self._mailboxes.one(_name(request))
        await self._doors.look()
        checked = await self._doors.servers.of(_name(request))
        finding = checked.finding
        await self._mailboxes.note(bearer.name, "mailbox test", _name(request), finding.state)
        return JSONResponse(
            {
                "well": finding.well,
                "state": finding.state,
                "explanation": finding.explanation,
                "remedy": finding.remedy,
                "warning": finding.warning,
                "checked_at": checked.checked_at.isoformat(timespec="milliseconds"),
            }
        )

    async def test_mail(self, request: Request, bearer: Bearer) -> Response:
        body, name = await _object(request), _name(request)
        to, even_disabled = _recipient(body.pop("to", None)), body.pop("even_disabled", False)
        if to is None or not isinstance(even_disabled, bool) or body:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, 'to: send {"to": "jana@contoso.com"} and nothing else')
        if (shown := await self._mailboxes.one(name)).missing:
            raise Problem(HTTPStatus.CONFLICT, shown.explanation)
        await self._doors.look()
        tried = await self._doors.try_out(name, to, even_disabled=even_disabled)
        await self._mailboxes.note(bearer.name, "mailbox test mail", name, f"to {to}: {tried.status}")
        return JSONResponse(asdict(tried))

    async def scopes(self, _request: Request, _bearer: Bearer) -> Response:
        return JSONResponse({"scopes": [told_scope(each) for each in await self._doors.scopes.everything()]})

    async def scope(self, request: Request, _bearer: Bearer) -> Response:
        return _one_scope(await self._doors.scopes.one(_scope(request)))

    async def set_scope(self, request: Request, bearer: Bearer) -> Response:
        patch, expected = await _object(request), _expected(request)
        return _one_scope(await self._doors.scopes.change(_scope(request), patch, bearer.name, expected))

    async def remove_scope(self, request: Request, bearer: Bearer) -> Response:
        await self._doors.scopes.remove(_scope(request), bearer.name, _needed(request))
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def stop_scope(self, request: Request, bearer: Bearer) -> Response:
        body = await _object(request, empty=True)
        how = body.pop("how", Stop.HOLD)
        if how not in set(Stop) or body:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, 'how: send {"how": "hold"} or "refuse", or nothing')
        return _one_scope(await self._doors.scopes.stop(_scope(request), bearer.name, Stop(how)))

    async def start_scope(self, request: Request, bearer: Bearer) -> Response:
        return _one_scope(await self._doors.scopes.start(_scope(request), bearer.name))

    async def tenant_keys(self, _request: Request, _bearer: Bearer) -> Response:
        keys = ({"key": k.key, "type": k.kind, "required": k.required, "meaning": k.meaning} for k in KEYS.values())
        return JSONResponse({"keys": list(keys)})

    async def tenant(self, request: Request, _bearer: Bearer) -> Response:
        return _one_tenant(await self._doors.tenants.of(_tenant(request)))

    async def set_tenant(self, request: Request, bearer: Bearer) -> Response:
        values, expected = await _object(request), _expected(request)
        return _one_tenant(await self._doors.tenants.change(_tenant(request), values, bearer.name, expected))

    async def forget_tenant(self, request: Request, bearer: Bearer) -> Response:
        key = request.path_params["key"]
        return _one_tenant(await self._doors.tenants.forget(_tenant(request), key, bearer.name))

    async def enable(self, request: Request, bearer: Bearer) -> Response:
        return _one(await self._mailboxes.switch(_name(request), bearer.name, _expected(request), on=True))

    async def disable(self, request: Request, bearer: Bearer) -> Response:
        return _one(await self._mailboxes.switch(_name(request), bearer.name, _expected(request), on=False))

    async def pause(self, request: Request, bearer: Bearer) -> Response:
        body = await _object(request, empty=True)
        because, seconds = body.pop("because", ""), body.pop("seconds", None)
        if not isinstance(because, str) or not (seconds is None or _positive(seconds)) or body:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, 'send {"because": "…", "seconds": 3600}, or neither')
        lasting = None if seconds is None else timedelta(seconds=seconds)
        return _one(await self._mailboxes.pause(_name(request), because, bearer.name, lasting))

    async def resume(self, request: Request, bearer: Bearer) -> Response:
        return _one(await self._mailboxes.resume(_name(request), bearer.name))

    async def audit(self, request: Request, _bearer: Bearer) -> Response:
        limit, before = _number(request, "limit") or 100, _number(request, "before")
        found = await self._mailboxes.audit(min(limit, _MOST_LINES), before)
        return JSONResponse(
            {
                "lines": [
                    {
                        "number": number,
                        "at": _time(line.at),
                        "actor": line.actor,
                        "action": line.action,
                        "subject": line.subject,
                        "detail": line.detail,
                    }
                    for number, line in found
                ]
            }
        )

    async def doubts(self, _request: Request, _bearer: Bearer) -> Response:
        found = await self._doors.register.doubts()
        return JSONResponse({"doubts": [each.result.model_dump(mode="json", exclude_none=True) for each in found]})

    async def resolve(self, request: Request, bearer: Bearer) -> Response:
        body, key = await _object(request), _key(request)
        accepted = body.pop("accepted", None)
        if not isinstance(accepted, bool) or body:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, 'accepted: send {"accepted": true} or false, as you found')
        doubt = next((each for each in await self._doors.register.doubts() if each.key == key), None)
        if doubt is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"There is no open doubt about {key}.")
        result = looked_up(doubt.result, accepted=accepted, finder=bearer.name, now=datetime.now(UTC))
        if not await self._doors.register.resolve(key, result, None, bearer.name):
            raise Problem(HTTPStatus.CONFLICT, f"The doubt about {key} has just been ended by somebody else.")
        return JSONResponse(result.model_dump(mode="json", exclude_none=True))

    async def notification(self, request: Request, _bearer: Bearer) -> Response:
        key = _key(request)
        result = await self._doors.register.find(key)
        if result is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"Nothing is known about {key}.")
        return JSONResponse(result.model_dump(mode="json", exclude_none=True))


def told(shown: Shown) -> dict[str, Any]:
    """A mailbox for machines."""
    return {
        "name": shown.name,
        "source": shown.source,
        "managed": shown.managed,
        "state": shown.state,
        "explanation": shown.explanation,
        "remedy": shown.remedy,
        "revision": shown.revision,
        "changed_at": _time(shown.changed_at),
        "changed_by": shown.changed_by,
        "missing": shown.missing,
        "paused": _paused(shown.paused),
        "settings": json.loads(json.dumps(shown.settings, default=str)),
    }


def told_scope(shown: ShownScope) -> dict[str, Any]:
    """A scope for machines."""
    return {
        "name": shown.name,
        "source": shown.source,
        "managed": shown.managed,
        "state": shown.state,
        "explanation": shown.explanation,
        "revision": shown.revision,
        "changed_at": _time(shown.changed_at),
        "changed_by": shown.changed_by,
        "settings": json.loads(json.dumps(shown.settings, default=str)),
    }


def _one_scope(shown: ShownScope) -> Response:
    return JSONResponse(told_scope(shown), headers=_tag(shown.revision))


def _one_tenant(shown: TenantServer) -> Response:
    return JSONResponse(asdict(shown), headers=_tag(shown.revision))


def _tag(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"ETag": f'"{revision}"'}


def _recipient(text: object) -> AddrSpec | None:
    try:
        return parse(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _scope(request: Request) -> str:
    return str(request.path_params["scope"])


def _tenant(request: Request) -> str:
    return str(request.path_params["tenant"])


def _paused(pause: Pause | None) -> dict[str, Any] | None:
    return None if pause is None else {"until": _time(pause.until), "because": pause.because, "by": pause.by}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def _one(shown: Shown, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(told(shown), status, {**_tag(shown.revision), **(headers or {})})


def _name(request: Request) -> str:
    return str(request.path_params["name"])


def _key(request: Request) -> Key:
    return Key(request.path_params["tenant"].lower(), request.path_params["id"])


def _expected(request: Request) -> int | None:
    """The revision of If-Match; None if any will do."""
    given = request.headers.get("if-match", "*").strip()
    if given == "*":
        return None
    found = re.fullmatch(r'"(\d{1,9})"', given)
    if found is None:
        raise Problem(HTTPStatus.PRECONDITION_FAILED, "If-Match must be the ETag as you have read it.")
    return int(found[1])


def _needed(request: Request) -> int | None:
    if "if-match" not in request.headers:
        detail = "Send If-Match with the ETag as you have read it, or with * if any will do."
        raise Problem(HTTPStatus.PRECONDITION_REQUIRED, detail)
    return _expected(request)


def _number(request: Request, name: str) -> int | None:
    given = request.query_params.get(name)
    if given is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,17}", given):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name}: must be a positive number")
    return int(given)


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LONGEST_PAUSE


_LONGEST_PAUSE = 366 * 24 * 3600  # seconds


async def _object(request: Request, *, empty: bool = False) -> dict[str, Any]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A request may have {_LARGEST} octets.")
    if empty and not body:
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Problem(HTTPStatus.BAD_REQUEST, "The body must be a JSON object.")
    return found


async def _not_found(_request: Request, error: Exception) -> Response:
    status = HTTPStatus(getattr(error, "status_code", 404))
    return Problem(status, "/openapi.json says what can be asked here.", getattr(error, "headers", None)).answer()
