"""The library's exceptions, translated once."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import httpx2

from worker.domain.delivery import Fault

_FAULTS: tuple[tuple[type[Exception], Fault], ...] = (
    (httpx2.TimeoutException, Fault.TIMEOUT),
    (httpx2.ProxyError, Fault.UNREACHABLE),
    (httpx2.ConnectError, Fault.UNREACHABLE),
    (httpx2.NetworkError, Fault.DISCONNECTED),
    (httpx2.RemoteProtocolError, Fault.DISCONNECTED),
    (httpx2.DecodingError, Fault.GARBLED),
    (httpx2.TooManyRedirects, Fault.GARBLED),
    (httpx2.SSEError, Fault.GARBLED),
    (httpx2.ProtocolError, Fault.INTERNAL),
    (httpx2.UnsupportedProtocol, Fault.INTERNAL),
)
_BEFORE = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)


def fault_of(error: httpx2.RequestError) -> Fault:
    """What went wrong; the most telling cause wins over the library's own word."""
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return Fault.CERTIFICATE
            case ssl.SSLError() if connecting(error):
                return Fault.TLS
            case socket.gaierror():
                return Fault.DNS
            case _:
                pass
    return next(fault for kind, fault in _FAULTS if isinstance(error, kind))


def connecting(error: httpx2.RequestError) -> bool:
    """Whether it went wrong before there was a connection."""
    return isinstance(error, _BEFORE)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
