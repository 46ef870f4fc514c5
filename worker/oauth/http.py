"""The line to a token authority: with time-outs, without redirects, and distrustful of what answers there."""

from __future__ import annotations

import json
import re
import ssl
from pathlib import Path
from typing import Any

import requests
from requests.utils import get_environ_proxies

_DISCOVERY = "/.well-known/openid-configuration"
_OK = 200
_TOO_MANY = 429
_SERVER_ERROR = 500
_SECONDS = ("expires_in", "ext_expires_in", "refresh_in")
_NUMBER = re.compile(r"-?\d{1,9}(\.\d*)?", re.ASCII)
_LONGEST_REST = 3600.0  # seconds


class NotTheAuthority(Exception):  # noqa: N818 - the sentence that it completes
    """What answers there is not the authority that was asked, or sends secrets elsewhere. The text says how."""


class OddAnswer(Exception):  # noqa: N818
    """A token endpoint answered what is no answer of a token endpoint (RFC 6749 section 5)."""


class Http(requests.Session):
    """Requests with a time-out always, no redirects, and with the certificates that the mailbox names.

    A redirect could carry the client secret to another place, or to plain http (RFC 6749 section 3.2 wants TLS).
    `REQUESTS_CA_BUNDLE` would override a `verify` that a session was given, so a named file takes the environment out
    of the decision and keeps only its proxies. What MSAL would log because it does not understand it, a token in a form
    perhaps, does not get that far.

    Attributes:
        last_status: of the last answer, 0 if there was none.
        retry_after: seconds that the last answer asked to be left alone (RFC 9110 section 10.2.3), 0 if it did not.
        asked: how often something was asked for, a token or a code; discovery is not counted.
        trouble: what the last answer said of its trouble if its status was 429 or 5xx, else empty.
    """

    def __init__(self, ca_file: str | None, timeout: float, issuer: str | None = None, *, direct: bool = False) -> None:
        """Nothing is opened yet.

        Args:
            ca_file: trust only these certificates; None: the system's.
            timeout: seconds for each answer.
            issuer: an OpenID Connect issuer must call itself so.
            direct: past all proxies, for the metadata address of a cloud machine.
        """
        super().__init__()
        self._timeout = timeout
        self._issuer = issuer
        self._direct = direct
        self.last_status = 0
        self.retry_after = 0.0
        self.asked = 0
        self.trouble = ""
        system = ssl.get_default_verify_paths().cafile
        self.verify = ca_file or (system if system and Path(system).exists() else True)
        self.trust_env = ca_file is None and not direct

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """As `requests` does it, within those bounds.

        Raises:
            NotTheAuthority, OddAnswer: instead of an answer that nobody should act on.
        """
        kwargs.setdefault("timeout", self._timeout)
        kwargs["allow_redirects"] = False
        if not self.trust_env and not self._direct:
            kwargs.setdefault("proxies", get_environ_proxies(str(url)))
        posting = str(method).upper() == "POST"
        self.last_status, self.retry_after, self.trouble = 0, 0.0, ""
        self.asked += posting
        response = super().request(method, url, *args, **kwargs)
        self.last_status = response.status_code
        self.retry_after = _seconds(response.headers.get("Retry-After", ""))
        if str(url).endswith(_DISCOVERY):
            self._check_configuration(response)
        elif posting:
            self._check_answer(response)
        return response

    def _check_answer(self, response: requests.Response) -> None:
        """RFC 6749 section 5. Numbers as text, or null in their place, are understood."""
        said, status = _table(response), response.status_code
        if said is None and status >= _SERVER_ERROR:
            return
        if said is None or (status == _OK and said.get("access_token", True) in ("", None)):
            raise OddAnswer
        if status == _TOO_MANY or status >= _SERVER_ERROR:
            self.trouble = str(said.get("error_description") or "")
        if any(name in said for name in _SECONDS):
            plain = {name: value for name, value in said.items() if name not in _SECONDS} | _whole(said)
            response._content = json.dumps(plain).encode()  # noqa: SLF001 - MSAL reads it, and stumbles over text
            response.encoding = "utf-8"

    def _check_configuration(self, response: requests.Response) -> None:
        """OpenID Connect Discovery section 4.3: the issuer must be the one that was asked."""
        said = _table(response) if response.status_code == _OK else None
        if said is None:
            return
        issuer, endpoint = str(said.get("issuer", "")), str(said.get("token_endpoint", "https://"))
        if self._issuer is not None and issuer.rstrip("/") != self._issuer.rstrip("/"):
            raise NotTheAuthority(
                f"calls itself {issuer[:200]!r}; oidc_issuer must be exactly that, if it is the right one"
            )
        if not endpoint.startswith("https://"):
            raise NotTheAuthority("names a token endpoint without TLS, where the secret would be sent in clear text")


def _table(response: requests.Response) -> dict[str, Any] | None:
    try:
        found = response.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _whole(said: dict[str, Any]) -> dict[str, int]:
    """Its lives in seconds, as far as they are numbers."""
    found = {name: str(said.get(name)).strip() for name in _SECONDS}
    return {name: int(float(text)) for name, text in found.items() if _NUMBER.fullmatch(text)}


def _seconds(text: str) -> float:
    """The dated form is not used by token authorities."""
    return min(float(text), _LONGEST_REST) if text.isascii() and text.isdecimal() else 0.0
