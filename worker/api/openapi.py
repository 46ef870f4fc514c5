"""The OpenAPI 3.1 document, made of the same table as the routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contracts import __version__
from contracts.delivery import Result
from worker import mailbox_file
from worker.api.tokens import Role
from worker.tenant_settings import KEYS, Kind


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of the table.

    Attributes:
        body: name of the request's schema; None: it has none.
        done: status of the answer if all goes well.
    """

    method: str
    path: str
    role: Role
    summary: str
    body: str | None = None
    done: int = 200

    @property
    def route(self) -> str:
        """As Starlette wants it: an id may hold slashes."""
        return re.sub(r"{(id|scope)}", r"{\1:path}", self.path)


def described(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Postlane management API", "version": __version__},
        "paths": paths,
        "security": [{"bearer": []}],
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "Done."}
    if operation.done != _NO_CONTENT:
        answer["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{_answer(operation)}"}}}
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    made: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{operation.method.lower()}{operation.path}").strip("_"),
        "summary": operation.summary,
        "description": f"Needs the role `{operation.role}`.",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", operation.path)
        ],
        "responses": {str(operation.done): answer, "default": {"description": "Not done.", "content": problem}},
    }
    if _REVISED.match(operation.path) and operation.method in ("PUT", "PATCH", "DELETE"):
        needed = operation.method == "PUT" or operation.done == _NO_CONTENT
        made["parameters"].append(
            {"name": "If-Match", "in": "header", "required": needed, "schema": {"type": "string"}}
        )
    if operation.body is not None:
        kind = "application/merge-patch+json" if operation.method == "PATCH" else "application/json"
        schema = {"$ref": f"#/components/schemas/{operation.body}"}
        made["requestBody"] = {"required": operation.body not in _MAY_BE_EMPTY, "content": {kind: {"schema": schema}}}
    return made


_NO_CONTENT = 204
_REVISED = re.compile(r"/(mailboxes/{name}|scopes/{scope}$|tenants/{tenant}/settings$)")
_MAY_BE_EMPTY = ("Pause", "Stop")
_ANSWERS = {
    "/mailboxes": "Mailboxes",
    "/scopes": "Scopes",
    "/audit": "Audit",
    "/doubts": "Doubts",
    "/mailboxes/{name}/test": "Look",
    "/mailboxes/{name}/test-mail": "Tried",
    "/tenant-settings": "TenantKeys",
}


def _answer(operation: Operation) -> str:
    if operation.method == "POST" and operation.path == "/mailboxes":
        return "Mailbox"
    if operation.path.startswith(("/doubts/", "/notifications/")):
        return "Result"
    if operation.path.startswith("/scopes/"):
        return "Scope"
    if operation.path.startswith("/tenants/"):
        return "TenantServer"
    return _ANSWERS.get(operation.path, "Mailbox")


def _schemas() -> dict[str, Any]:
    text, moment = {"type": "string"}, {"type": ["string", "null"], "format": "date-time"}
    settings = mailbox_file.schema("#/components/schemas/{model}")
    revised = {
        "revision": {"type": ["integer", "null"]},
        "changed_at": moment,
        "changed_by": {"type": ["string", "null"]},
    }
    parts = settings.pop("$defs", {})
    result = Result.model_json_schema(ref_template="#/components/schemas/{model}")
    parts |= result.pop("$defs", {})
    settings["properties"]["default"] = {"type": "boolean", "description": "It is the platform's default mailbox."}
    settings["properties"]["required"] = {
        "type": "array",
        "items": text,
        "description": "It is a draft: not used until these keys and all that it cannot do without are there.",
    }
    whole = {"$ref": "#/components/schemas/Settings"}
    return {
        **parts,
        "Settings": settings,
        "Result": result,
        "NewMailbox": _object({"name": text, "settings": whole}, needed=("name", "settings")),
        "Mailbox": _object(
            {
                "name": text,
                "source": {"enum": ["file", "store"]},
                "managed": {"type": "boolean", "description": "It is the mailboxes file's and cannot be changed here."},
                "state": {"enum": ["ok", "disabled", "paused", "unusable", "incomplete", "shadowed"]},
                "explanation": text,
                "remedy": text,
                **revised,
                "missing": {"type": "array", "items": text, "description": "Keys that a draft lacks."},
                "paused": {"type": ["object", "null"]},
                "settings": {"type": "object", "description": 'As written; a secret reads {"set": true} or false.'},
            }
        ),
        "Mailboxes": _object({"mailboxes": _list("Mailbox")}),
        "ScopeSettings": {
            "type": "object",
            "description": "Keys of [platform], [tenants.NAME], a site, a component or [[producers]].",
        },
        "Scope": _object(
            {
                "name": text,
                "source": {"enum": ["file", "store"]},
                "managed": {"type": "boolean", "description": "The file's; it can only be stopped and started here."},
                "state": {"enum": ["flowing", "held", "refused", "suppressed", "redirected", "listed", "unusable"]},
                "explanation": text,
                **revised,
                "settings": {"$ref": "#/components/schemas/ScopeSettings"},
            }
        ),
        "Scopes": _object({"scopes": _list("Scope")}),
        "Stop": _object({"how": {"enum": ["hold", "refuse"]}}),
        "TestMail": _object({"to": text, "even_disabled": {"type": "boolean"}}, needed=("to",)),
        "Tried": _object({"well": {"type": "boolean"}, "status": text, "explanation": text, "remedy": text}),
        "TenantValues": {
            "type": "object",
            "properties": {
                known.key: {"type": "integer" if known.kind is Kind.NUMBER else "string", "description": known.meaning}
                for known in KEYS.values()
            },
            "additionalProperties": False,
        },
        "TenantKeys": _object({"keys": {"type": "array", "items": {"type": "object"}}}),
        "TenantServer": _object(
            {
                "tenant": text,
                "state": text,
                "explanation": text,
                "missing": {"type": "array", "items": text},
                "revision": {"type": ["integer", "null"]},
                "values": {"type": "object"},
            }
        ),
        "Pause": _object({"because": text, "seconds": {"type": "number", "exclusiveMinimum": 0}}),
        "Finding": _object({"accepted": {"type": "boolean"}}, needed=("accepted",)),
        "Look": _object({"well": {"type": "boolean"}, "state": text, "explanation": text, "remedy": text}),
        "Audit": _object({"lines": {"type": "array", "items": {"type": "object"}}}),
        "Doubts": _object({"doubts": _list("Result")}),
        "Problem": _object({"title": text, "status": {"type": "integer"}, "detail": text, "errors": {"type": "array"}}),
    }


def _object(properties: dict[str, Any], needed: Sequence[str] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": list(needed)} if needed else {})}


def _list(of: str) -> dict[str, Any]:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{of}"}}
