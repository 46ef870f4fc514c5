"""Tokens for mailboxes: kept while they are good, fetched once however many ask, replaced before they end."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import requests
from msal import ManagedIdentityError

from worker.domain.delivery import Broken, Fault, Stage, TokenRefused
from worker.domain.mailbox import Certificate, DeviceLogin, ManagedIdentity, OAuth
from worker.events import TokenFetched
from worker.oauth import issuer, proof
from worker.oauth.concealed import concealed
from worker.oauth.http import Http, NotTheAuthority
from worker.oauth.proof import Answer, ProofUnusable, Source
from worker.oauth.vault import Vault, VaultError
from worker.ports import Observe, Token

_THREADS = 16  # MSAL blocks; threads keep slow authorities from holding up the others
_NO_SUCH_TENANT = {400, 401, 403, 404, 410}
_TOO_MANY = 429
_SERVER_ERROR = 500
_MAX_DESCRIPTION = 400
_AADSTS = re.compile(r"AADSTS(\d+)")
_AT_HAND_OVER = 600.0  # seconds left: High Volume Email refuses a token that has less (501 5.5.127)
_AHEAD = 300.0  # seconds before that in which a new one is fetched while the old one is still used
_LAST = 60.0  # seconds left with which a token is still used if its authority is out of reach
_REST = 30.0  # seconds between attempts in the background
_AWAY = 10.0  # seconds that a host which cannot be reached is left alone, whoever wants a token from it

Clock = Callable[[], float]
"""Seconds since some moment."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A token, and when it is replaced ahead of time, no longer handed over, and not even used for want of another.

    Attributes:
        new: made by the authority when it was fetched; else somebody had kept it, another process or the platform.
    """

    value: str
    new: bool
    ahead: float
    good: float
    last: float


@dataclass(slots=True)
class _Client:
    """A source of tokens, the line it speaks over, and what the file of its proof looked like."""

    source: Source
    http: Http
    stamp: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Failed:
    """When, and how long the authority asked to be left alone."""

    at: float
    retry_after: float
    failure: TokenRefused | Broken


class MsalTokens:
    """One MSAL application per client and proof; a changed proof is another one, so nothing old is replayed to it."""

    def __init__(
        self, observe: Observe, timeout: float = 20, vault: Vault | None = None, clock: Clock = time.monotonic
    ) -> None:
        """Nothing is fetched yet.

        Args:
            observe: told of every fetch.
            timeout: seconds for each answer of the authority; a whole fetch may take three times as long.
            vault: where sign-ins lie; None: nowhere, mailboxes with a device login get no token.
            clock: by which tokens end.
        """
        self._observe = observe
        self._timeout = timeout
        self._vault = vault or Vault(None)
        self._clock = clock
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="msal")
        self._clients: dict[OAuth, _Client] = {}
        self._kept: dict[OAuth, _Kept] = {}
        self._failed: dict[OAuth, _Failed] = {}
        self._away: dict[str, float] = {}  # by host: until when
        self._flights: dict[OAuth, asyncio.Task[_Kept | TokenRefused | Broken]] = {}

    async def token(
        self, mailbox: str, credentials: OAuth, *, rejected: Token | None = None
    ) -> Token | TokenRefused | Broken:
        """A token; with `rejected` one that differs from it.

        It has ten minutes left, or half its life if that is shorter. Where the authority is out of reach the one that
        is there is used to its end.
        """
        client = _shared(credentials)
        now, kept = self._clock(), self._kept.get(client)
        unwanted = kept is not None and rejected is not None and kept.value == rejected.value
        if kept is not None and not unwanted and now < kept.good:
            if now >= kept.ahead:
                self._renew(client, mailbox, now)
            return Token(kept.value, fresh=rejected is not None)
        first = client not in self._flights
        answer = await asyncio.shield(self._flight(client, mailbox, rejected if unwanted else None))
        if isinstance(answer, _Kept):
            return Token(answer.value, fresh=(first and answer.new) or rejected is not None)
        if isinstance(answer, Broken) and kept is not None and not unwanted and now < kept.last:
            return Token(kept.value, fresh=False)
        return answer

    def close(self) -> None:
        """Let go of threads and connections; one that still waits for an authority ends with its time-out."""
        for flight in self._flights.values():
            flight.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for client in self._clients.values():
            client.http.close()

    def _renew(self, client: OAuth, mailbox: str, now: float) -> None:
        """In the background: no mail waits, and a failure is nobody's yet."""
        failed = self._failed.get(client)
        if failed is None or now >= failed.at + max(failed.retry_after, _REST):
            self._flight(client, mailbox, None)

    def _flight(
        self, client: OAuth, mailbox: str, rejected: Token | None
    ) -> asyncio.Task[_Kept | TokenRefused | Broken]:
        """The one that is under way, or a new one. A caller that gives up does not end it for the others."""
        flight = self._flights.get(client)
        if flight is None:
            flight = asyncio.create_task(self._fetched(client, mailbox, rejected))
            self._flights[client] = flight
            flight.add_done_callback(lambda _done: self._flights.pop(client, None))
        return flight

    async def _fetched(self, client: OAuth, mailbox: str, rejected: Token | None) -> _Kept | TokenRefused | Broken:
        """Not longer than three time-outs in all: an authority may drip an answer octet by octet."""
        failed = self._failed.get(client)
        if failed is not None and self._clock() < failed.at + failed.retry_after:
            return failed.failure
        if self._is_away(host := _host(client)):
            return Broken(Stage.TOKEN, Fault.TOKEN_ENDPOINT, f"{host} could not be reached a moment ago")
        took = time.monotonic()
        answer: _Kept | TokenRefused | Broken
        try:
            async with asyncio.timeout(3 * self._timeout):
                answer = await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._acquire, client, rejected.value if rejected else None
                )
        except TimeoutError:
            self._away[host] = self._clock() + _AWAY
            answer = Broken(Stage.TOKEN, Fault.TOKEN_ENDPOINT, f"{host} does not come to an end")
        self._observe(TokenFetched(mailbox, isinstance(answer, _Kept), time.monotonic() - took))
        if isinstance(answer, _Kept):
            self._kept[client] = answer
            self._failed.pop(client, None)
        elif rejected is not None:
            self._kept.pop(client, None)
        return answer

    def _is_away(self, host: str) -> bool:
        """Each attempt would cost a thread its time-out. When the time is over one looks, the others wait for that."""
        until = self._away.get(host)
        if until is None:
            return False
        if self._clock() < until:
            return True
        self._away[host] = self._clock() + _AWAY
        return False

    def _acquire(self, credentials: OAuth, rejected: str | None) -> _Kept | TokenRefused | Broken:
        """Runs in a thread."""
        client, stamp = self._clients.get(credentials), _stamp(credentials)
        if client is not None and client.stamp != stamp:
            client.http.close()
            client = None  # the certificate was renewed
        http = client.http if client else _line(credentials, self._timeout)
        try:
            if client is None:
                made = issuer.source if credentials.oidc else proof.source
                client = _Client(made(credentials, http, self._vault), http, stamp)
                self._clients[credentials] = client
            answer = client.source.acquire(lambda token: _lasts(token) and token["access_token"] != rejected)
            self._away.pop(_host(credentials), None)
            if answer.get("access_token"):
                return self._timed(answer)
            failure: TokenRefused | Broken = _refused(answer, credentials)
            if http.last_status == _TOO_MANY or http.last_status >= _SERVER_ERROR:
                failure = _in_trouble(credentials, http)
        except Exception as error:  # noqa: BLE001 - whatever an odd authority answers, MSAL raises something else
            failure = _explained(error, credentials, http)
            if _is_out_of_reach(error):
                self._away[_host(credentials)] = self._clock() + _AWAY
        finally:
            if client is None:
                http.close()
        self._failed[credentials] = _Failed(self._clock(), http.retry_after, failure)
        return failure

    def _timed(self, answer: Answer) -> _Kept:
        """A short-lived token is used for half its life, a long-lived one until ten minutes before its end."""
        life = proof.life_of(answer)
        now, reserve = self._clock(), min(_AT_HAND_OVER, life / 2)
        good = now + life - reserve
        ahead, last = good - min(_AHEAD, life / 4), now + life - min(_LAST, life / 4)
        return _Kept(str(answer["access_token"]), proof.is_new(answer), ahead, good, last)


def _shared(credentials: OAuth) -> OAuth:
    """An app-only token is the app's, whichever mailbox it opens; a person's is that person's."""
    return credentials if isinstance(credentials.proof, DeviceLogin) else replace(credentials, username="")


def _lasts(answer: Answer) -> bool:
    """Whether a token that another process has fetched is worth taking."""
    return float(answer.get("expires_in") or 0) > _AT_HAND_OVER + _AHEAD


def _stamp(credentials: OAuth) -> tuple[int, int]:
    """Changes when the certificate's file does."""
    if not isinstance(credentials.proof, Certificate):
        return (0, 0)
    try:
        found = Path(credentials.proof.file).stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


def _line(credentials: OAuth, timeout: float) -> Http:
    issuer = credentials.authority if credentials.oidc else None
    return Http(credentials.ca_file, timeout, issuer, direct=isinstance(credentials.proof, ManagedIdentity))


def _host(credentials: OAuth) -> str:
    return urlsplit(credentials.authority).netloc or "the managed identity endpoint"


def _refused(answer: Answer, credentials: OAuth) -> TokenRefused:
    """RFC 6749 section 5.2; some authorities repeat what they were sent."""
    description = concealed(str(answer.get("error_description") or ""), credentials)
    codes = answer.get("error_codes")
    listed = [str(code) for code in codes] if isinstance(codes, list) else []
    hints = [int(code) for code in (*listed, *_AADSTS.findall(description)) if code.isdecimal()]
    managed = isinstance(credentials.proof, ManagedIdentity)
    return TokenRefused(
        "no_managed_identity" if managed else concealed(str(answer.get("error") or "unknown"), credentials),
        description.splitlines()[0][:_MAX_DESCRIPTION] if description.strip() else "",
        tuple(dict.fromkeys(hints)),
    )


def _in_trouble(credentials: OAuth, http: Http) -> Broken:
    asked = f", asks to be left alone for {http.retry_after:.0f} s" if http.retry_after else ""
    status = f" (HTTP status {http.last_status}{asked})" if http.last_status else ""
    said = concealed(http.trouble, credentials).partition("\n")[0][:_MAX_DESCRIPTION]
    what = f"says: {said}" if said else "does not answer as a token authority"
    detail = f"{_host(credentials)} {what}{status}"
    return Broken(Stage.TOKEN, Fault.TOKEN_ENDPOINT, detail)


def _explained(error: Exception, credentials: OAuth, http: Http) -> TokenRefused | Broken:
    match error:
        case NotTheAuthority():
            return TokenRefused("unknown_authority", f"{credentials.authority} {error}")
        case ProofUnusable() | VaultError():
            return TokenRefused("proof_unusable", str(error))
        case ManagedIdentityError():
            return TokenRefused("no_managed_identity", f"This machine offers no managed identity: {error}")
        case ValueError() if http.last_status in _NO_SUCH_TENANT and isinstance(credentials.proof, ManagedIdentity):
            text = f"The metadata address of this machine answers with HTTP status {http.last_status}, and no token"
            return TokenRefused("no_managed_identity", text)
        case ValueError() if http.last_status in _NO_SUCH_TENANT and not isinstance(error, requests.RequestException):
            return TokenRefused("unknown_authority", f"{credentials.authority} is no token authority")
        case OSError():
            return _unreached(error, credentials)
        case _:
            return _in_trouble(credentials, http)


def _is_out_of_reach(error: Exception) -> bool:
    """Whether nobody answered at all."""
    silent = isinstance(error, requests.ConnectionError | requests.Timeout)
    return silent and not isinstance(error, requests.exceptions.SSLError)


def _unreached(error: OSError, credentials: OAuth) -> Broken:
    host = _host(credentials)
    match error:
        case requests.exceptions.SSLError():
            return Broken(Stage.TOKEN, Fault.CERTIFICATE, f"the certificate of {host} could not be verified")
        case requests.RequestException():
            return Broken(Stage.TOKEN, Fault.TOKEN_ENDPOINT, f"{host} could not be reached")
        case _:  # requests says so where the file of certificates is missing
            return Broken(Stage.TOKEN, Fault.CERTIFICATE, f"ca_file {credentials.ca_file} cannot be used")
