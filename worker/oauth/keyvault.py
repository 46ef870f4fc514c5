"""Secrets of Azure Key Vault, named by their address where other secrets are named by a variable.

The REST interface needs one GET with a token that MSAL has for us, so Azure's own libraries are not needed.
https://learn.microsoft.com/en-us/rest/api/keyvault/secrets/get-secret/get-secret
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

import requests
from msal import ManagedIdentityError
from pydantic import SecretStr

from worker.domain.mailbox import OAuth
from worker.oauth import proof
from worker.oauth.http import Http, NotTheAuthority, OddAnswer
from worker.oauth.vault import Vault

CLOUDS = ("vault.azure.net", "vault.usgovcloudapi.net", "vault.azure.cn")
_VERSION = "7.4"
_PATH = re.compile(r"/secrets/[0-9A-Za-z-]{1,127}(/[0-9a-f]{32})?")
_FRESH = 300.0  # seconds for which an answer is believed
_REST = 20.0  # seconds for which a vault that has failed is left alone
_TIMEOUT = 10.0  # seconds for each answer
_OK, _FORBIDDEN, _NOT_FOUND = 200, 403, 404


class NoSecret(ValueError):  # noqa: N818 - what happened
    """It cannot be had. The text names the reference and the reason, and nothing of the secret."""


class KeyVault:
    """Reads secrets; one that was read is used on while its vault is out of reach."""

    def __init__(
        self,
        credentials: OAuth,
        hosts: tuple[str, ...] = CLOUDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            credentials: who we are at the vault; its `scope` is the vault's.
            hosts: vaults are these or below them; nobody else gets to see the token.
            clock: by which answers grow old.
        """
        self._credentials = credentials
        self._hosts = hosts
        self._clock = clock
        self._turn = threading.Lock()
        self._read: dict[str, tuple[float, SecretStr]] = {}
        self._failed: dict[str, tuple[float, str]] = {}

    def secret(self, reference: str) -> str:
        """The secret at `https://<vault>/secrets/<name>`, perhaps with a version. Blocks.

        Raises:
            NoSecret: it cannot be had.
        """
        with self._turn:
            now, known, failed = self._clock(), self._read.get(reference), self._failed.get(reference)
            if known is not None and now < known[0] + _FRESH:
                return known[1].get_secret_value()
            if failed is None or now >= failed[0] + _REST:
                try:
                    value = self._asked(reference)
                except NoSecret as error:
                    failed = (now, str(error))
                    self._failed[reference] = failed
                else:
                    self._read[reference] = (now, SecretStr(value))
                    self._failed.pop(reference, None)
                    return value
            if known is not None:
                return known[1].get_secret_value()
            raise NoSecret(failed[1])

    def _asked(self, reference: str) -> str:
        self._check(reference)
        http = Http(self._credentials.ca_file, _TIMEOUT)
        try:
            token = self._token(reference)
            answer = http.get(reference, params={"api-version": _VERSION}, headers={"Authorization": f"Bearer {token}"})
            table = answer.json() if answer.status_code == _OK else {}
        except (requests.RequestException, OddAnswer, ValueError) as error:
            raise NoSecret(f"{reference} cannot be read: its vault gives no answer ({type(error).__name__})") from None
        finally:
            http.close()
        value = table.get("value") if isinstance(table, dict) else None
        if answer.status_code == _NOT_FOUND:
            raise NoSecret(f"{reference} is not there; is its name right, and is it not deleted or disabled?")
        if answer.status_code == _FORBIDDEN:
            raise NoSecret(f"{reference} may not be read: give our identity the role Key Vault Secrets User")
        if not isinstance(value, str) or not value:
            raise NoSecret(f"{reference} cannot be read: its vault answers {answer.status_code}")
        return value

    def _check(self, reference: str) -> None:
        parts = urlsplit(reference)
        host = parts.netloc.lower()
        ours = any(host == each or host.endswith(f".{each}") for each in self._hosts)
        if parts.scheme != "https" or not ours or not _PATH.fullmatch(parts.path) or parts.query or parts.fragment:
            raise NoSecret(f"{reference} is no secret of a key vault; write https://VAULT.{CLOUDS[0]}/secrets/NAME")

    def _token(self, reference: str) -> str:
        http = Http(
            self._credentials.ca_file, _TIMEOUT, self._credentials.authority if self._credentials.oidc else None
        )
        try:
            answer = proof.source(self._credentials, http, Vault(None)).acquire(lambda _: True)
        except (requests.RequestException, ManagedIdentityError, NotTheAuthority, OddAnswer, ValueError) as error:
            why = type(error).__name__
            raise NoSecret(f"{reference} cannot be read: no token for the vault can be had ({why})") from None
        finally:
            http.close()
        if not isinstance(token := answer.get("access_token"), str):
            why = str(answer.get("error", "no reason given"))[:100]
            raise NoSecret(f"{reference} cannot be read: the authority gives no token for the vault ({why})")
        return token


class Surroundings(Mapping[str, str]):
    """The variables of the process, and beside them secrets of key vaults by their address."""

    def __init__(self, variables: Mapping[str, str], vaults: KeyVault | None) -> None:
        """Nothing is asked yet; without vaults there are only the variables."""
        self._variables = variables
        self._vaults = vaults

    def __getitem__(self, name: str) -> str:
        """A variable; a secret if the name is an address.

        Raises:
            KeyError: there is no such variable.
            NoSecret: the secret cannot be had.
        """
        if not name.startswith("https://"):
            return self._variables[name]
        if self._vaults is None:
            raise NoSecret(f"{name}: say who we are at the key vault, POSTLANE_KEYVAULT__IDENTITY")
        return self._vaults.secret(name)

    def __iter__(self) -> Iterator[str]:
        """Names of variables; secrets are not counted up."""
        return iter(self._variables)

    def __len__(self) -> int:
        """How many variables there are."""
        return len(self._variables)
