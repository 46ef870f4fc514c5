"""What authorities say, without the secrets that some of them repeat."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus

from worker.domain.mailbox import Certificate, OAuth, Secret
from worker.oauth import issuer

_REMOVED = "[removed]"
_SIGNED = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")  # an assertion, or a token (RFC 7519 section 3.1)
_FIELD = re.compile(
    r"((?:client_secret|client_assertion|refresh_token|access_token|device_code)\"?(?:=|:\s*)\"?)[^&\s\",;}]+"
)


def concealed(text: str, credentials: OAuth) -> str:
    """An authority's words, without what we have sent it: as it is, as it goes in a form, and in the header."""
    for form in _forms(credentials):
        text = re.sub(re.escape(form), _REMOVED, text, flags=re.IGNORECASE)
    return _FIELD.sub(rf"\1{_REMOVED}", _SIGNED.sub(_REMOVED, text))


def _forms(credentials: OAuth) -> set[str]:
    match credentials.proof:
        case Secret(value):
            secret = value.get_secret_value()
            coded = issuer.in_header(credentials.client_id, secret)
            return {secret, quote_plus(secret), quote(secret, safe=""), coded}
        case Certificate(password=password) if password is not None:
            return {password.get_secret_value()}
        case _:
            return set()
