"""Refusals of a token endpoint as Entra words them: number, OAuth error, and what its support asks for."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping

from starlette.responses import JSONResponse, PlainTextResponse, Response

from worker.emulator.scenario import Rule

_WHERE = "https://login.microsoftonline.com/error?code="
_REPLY = re.compile(r"(?P<status>\d{3})(?: (?P<error>[a-z_]+) (?:AADSTS(?P<number>\d+): )?(?P<text>.+))?")
_OK = 200

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
    50194: (
        400,
        "invalid_request",
        "Application is not configured as a multi-tenant application. Usage of the /common endpoint is not supported.",
    ),
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
    900144: (400, "invalid_request", "The request body must contain the following parameter: 'grant_type'."),
    9002313: (400, "invalid_request", "Invalid request. Request is malformed or invalid."),
}
"""Number → HTTP status, OAuth error, words: what the endpoint says by itself. Rules may say any other number."""

_PENDING = {
    70016: (400, "authorization_pending"),
    70018: (400, "bad_verification_code"),
    70019: (400, "expired_token"),
    70003: (400, "unsupported_grant_type"),
}


class No(Exception):  # noqa: N818 - what is answered
    """Entra does not give a token."""

    def __init__(self, aadsts: int, text: str = "", retry_after: int | None = None) -> None:
        """Without a text the usual words of the number are said."""
        super().__init__(text)
        self.aadsts, self.text, self.retry_after = aadsts, text, retry_after


def missing(parameter: str) -> No:
    """A parameter of the form was left out."""
    return No(900144, f"The request body must contain the following parameter: '{parameter}'.")


def refusal(no: No, correlation: str = "") -> Response:
    """What the client gets to read.

    Args:
        no: why.
        correlation: the client's `client-request-id`, which is repeated.
    """
    if no.aadsts in _PENDING:
        status, error = _PENDING[no.aadsts]
        return error_of(status, error, no.text, no.aadsts, correlation=correlation)
    status, error, text = ERRORS[no.aadsts]
    return error_of(status, error, no.text or text, no.aadsts, no.retry_after, correlation)


def by_rule(rule: Rule, correlation: str = "") -> Response | None:
    """What a rule has the endpoint say: `<status> <error> <text>`, Entra's if the text begins with `AADSTS…: `.

    A status alone is what something before the endpoint says, a gateway or a proxy; 200 alone: the token after all.
    """
    said = _REPLY.fullmatch(rule.reply)
    if said is None:
        return PlainTextResponse(f"The rule {rule.name!r} has no reply of a token endpoint.", 500)
    status, wait = int(said["status"]), rule.retry_after or None
    if said["error"]:
        return error_of(
            status, said["error"], said["text"], int(said["number"]) if said["number"] else None, wait, correlation
        )
    return None if status == _OK else trouble(status, wait)


def trouble(status: int, retry_after: int | None = None) -> Response:
    """No answer of OAuth at all."""
    return PlainTextResponse("Service trouble", status_code=status, headers=_waiting(retry_after))


def error_of(
    status: int, error: str, text: str, number: int | None, retry_after: int | None = None, correlation: str = ""
) -> Response:
    """An error of RFC 6749 section 5.2; with a number it has everything that Entra adds."""
    body: dict[str, object] = {"error": error, "error_description": text}
    if number is not None:
        trace, now = str(uuid.uuid4()), time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
        correlation = correlation or str(uuid.uuid4())
        ids = f"Trace ID: {trace} Correlation ID: {correlation} Timestamp: {now}"
        body |= {
            "error_description": f"AADSTS{number}: {text} {ids}",
            "error_codes": [number],
            "timestamp": now,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"{_WHERE}{number}",
        }
    return JSONResponse(body, status_code=status, headers=_waiting(retry_after))


def _waiting(retry_after: int | None) -> dict[str, str]:
    return {"Retry-After": str(retry_after)} if retry_after is not None else {}
