"""Every exception of the library below has a meaning that somebody chose; a new one makes this fail, not production."""

import builtins
import inspect
import socket
import ssl
from collections.abc import Iterator

import aiosmtplib.errors
import pytest

from worker.domain.delivery import Broken, Fault, Refused, Stage
from worker.domain.reply import Reply
from worker.smtp.connect import translated

REPLY = Reply.parse("451 4.7.1 not now")
SAID = (451, "4.7.1 not now")

# What the server said, whichever command it was said to.
SPOKEN: dict[type[Exception], tuple[object, ...]] = {
    aiosmtplib.errors.SMTPResponseException: SAID,
    aiosmtplib.errors.SMTPConnectResponseError: SAID,
    aiosmtplib.errors.SMTPHeloError: SAID,
    aiosmtplib.errors.SMTPDataError: SAID,
    aiosmtplib.errors.SMTPAuthenticationError: SAID,
    aiosmtplib.errors.SMTPSenderRefused: (*SAID, "sender@contoso.com"),
    aiosmtplib.errors.SMTPRecipientRefused: (*SAID, "jana@fabrikam.com"),
}

UNICODE = ("idna", "x" * 70, 0, 70, "label too long")

# Where the server said nothing: how to make one, and which fault it is.
UNSPOKEN: dict[type[Exception], tuple[tuple[object, ...], Fault]] = {
    aiosmtplib.errors.SMTPServerDisconnected: (("Connection lost",), Fault.DISCONNECTED),
    aiosmtplib.errors.SMTPConnectError: (("Error connecting",), Fault.UNREACHABLE),
    aiosmtplib.errors.SMTPConnectTimeoutError: (("Timed out connecting",), Fault.UNREACHABLE),
    aiosmtplib.errors.SMTPReadTimeoutError: (("Timed out waiting for server response",), Fault.TIMEOUT),
    # Raised by the library in one place, while STARTTLS is negotiated: whoever is there has answered before.
    aiosmtplib.errors.SMTPTimeoutError: (("Timed out while upgrading transport",), Fault.TIMEOUT),
    # These are not raised while connecting; whatever they are, nothing was sent.
    aiosmtplib.errors.SMTPException: (("SMTP instance is already connected",), Fault.GARBLED),
    aiosmtplib.errors.SMTPNotSupported: (("not supported",), Fault.GARBLED),
    aiosmtplib.errors.SMTPRecipientsRefused: (([],), Fault.GARBLED),
    ssl.SSLError: ((1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), Fault.TLS),
    ssl.SSLZeroReturnError: ((6, "closed"), Fault.TLS),
    ssl.SSLWantReadError: ((2, "want read"), Fault.TLS),
    ssl.SSLWantWriteError: ((3, "want write"), Fault.TLS),
    ssl.SSLSyscallError: ((5, "syscall"), Fault.TLS),
    ssl.SSLEOFError: ((8, "EOF occurred in violation of protocol"), Fault.TLS),
    ssl.SSLCertVerificationError: ((1, "certificate verify failed"), Fault.CERTIFICATE),
    socket.gaierror: ((-2, "Name or service not known"), Fault.DNS),
    socket.herror: ((1, "Unknown host"), Fault.UNREACHABLE),
    UnicodeError: (("label empty or too long",), Fault.DNS),
    UnicodeEncodeError: (UNICODE, Fault.DNS),
    UnicodeDecodeError: (("utf-8", b"\xff", 0, 1, "invalid start byte"), Fault.DNS),
    UnicodeTranslateError: (UNICODE[1:], Fault.DNS),
    ValueError: (("bad helo name",), Fault.GARBLED),
    OSError: ((113, "No route to host"), Fault.UNREACHABLE),
    TimeoutError: ((110, "Connection timed out"), Fault.UNREACHABLE),
    ConnectionError: (("broken",), Fault.UNREACHABLE),
    ConnectionRefusedError: ((111, "Connection refused"), Fault.UNREACHABLE),
    ConnectionResetError: ((104, "Connection reset by peer"), Fault.DISCONNECTED),
    BrokenPipeError: ((32, "Broken pipe"), Fault.DISCONNECTED),
    # asyncio's word for a TLS handshake that takes too long.
    ConnectionAbortedError: (("SSL handshake is taking longer than 20 seconds",), Fault.UNREACHABLE),
    PermissionError: ((13, "Permission denied"), Fault.UNREACHABLE),
    BlockingIOError: ((115, "in progress"), Fault.UNREACHABLE),
    ChildProcessError: ((10, "no child"), Fault.UNREACHABLE),
    FileExistsError: ((17, "exists"), Fault.UNREACHABLE),
    FileNotFoundError: ((2, "not found"), Fault.UNREACHABLE),
    InterruptedError: ((4, "interrupted"), Fault.UNREACHABLE),
    IsADirectoryError: ((21, "is a directory"), Fault.UNREACHABLE),
    NotADirectoryError: ((20, "no directory"), Fault.UNREACHABLE),
    ProcessLookupError: ((3, "no process"), Fault.UNREACHABLE),
}


def made(kind: type[Exception]) -> Exception:
    """One as it is raised."""
    error = kind(*UNSPOKEN[kind][0])
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_message = "certificate has expired"
    return error


def families() -> Iterator[type[Exception]]:
    """All that can come out of connecting: the library's own exceptions, and the families of the standard library."""
    for _, found in inspect.getmembers(aiosmtplib.errors, inspect.isclass):
        if found.__module__ == aiosmtplib.errors.__name__:
            yield found
    for module in (builtins, ssl, socket):
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, OSError | UnicodeError):
                yield found


@pytest.mark.parametrize(
    "kind", sorted(set(families()), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__
)
def test_exception_of_the_library_has_a_row_in_the_table(kind: type[Exception]) -> None:
    assert kind in SPOKEN or kind in UNSPOKEN


@pytest.mark.parametrize(("kind", "arguments"), SPOKEN.items(), ids=lambda item: getattr(item, "__name__", ""))
def test_reply_in_an_exception_becomes_a_refusal(kind: type[Exception], arguments: tuple[object, ...]) -> None:
    assert translated(kind(*arguments)) == Refused(Stage.CONNECT, REPLY)


@pytest.mark.parametrize("code", [-1, 0, 99, 199, 600, 999])
@pytest.mark.parametrize("kind", SPOKEN, ids=lambda kind: kind.__name__)
def test_reply_with_an_impossible_code_is_garbled(kind: type[Exception], code: int) -> None:
    outcome = translated(kind(code, *SPOKEN[kind][1:]))
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.CONNECT, Fault.GARBLED)


@pytest.mark.parametrize(
    "kind",
    [
        aiosmtplib.errors.SMTPConnectResponseError,
        aiosmtplib.errors.SMTPHeloError,
        aiosmtplib.errors.SMTPResponseException,
    ],
    ids=["greeting", "ehlo", "starttls"],
)
def test_reply_that_is_no_refusal_is_garbled(kind: type[Exception]) -> None:
    """The library raises for every reply that it did not expect; 250 to a connection refuses nothing."""
    outcome = translated(kind(250, *SPOKEN[kind][1:]))
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.CONNECT, Fault.GARBLED)


@pytest.mark.parametrize("kind", UNSPOKEN, ids=lambda kind: kind.__name__)
def test_exception_without_a_reply_becomes_its_fault(kind: type[Exception]) -> None:
    outcome = translated(made(kind))
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.CONNECT, UNSPOKEN[kind][1])
    assert outcome.detail


CAUSES = [kind for kind in UNSPOKEN if kind.__module__ in {"builtins", "ssl", "socket"} and issubclass(kind, OSError)]


@pytest.mark.parametrize("kind", CAUSES, ids=lambda kind: kind.__name__)
def test_cause_inside_a_connect_error_decides(kind: type[Exception]) -> None:
    """The library wraps whatever goes wrong while connecting."""
    error = aiosmtplib.errors.SMTPConnectError("Error connecting to mail.example on port 587")
    error.__cause__ = made(kind)
    outcome = translated(error)
    assert isinstance(outcome, Broken)
    assert outcome.fault is UNSPOKEN[kind][1]


def test_reply_of_several_lines_is_read_like_any_other() -> None:
    error = aiosmtplib.errors.SMTPHeloError(550, "5.7.1 first\n5.7.1 second")
    assert translated(error) == Refused(Stage.CONNECT, Reply.parse("550-5.7.1 first\n550 5.7.1 second"))


def test_text_that_is_not_utf8_can_be_written_into_a_result() -> None:
    """The library decodes with `surrogateescape`; what comes out is no text that JSON can carry."""
    said = b"5.7.1 gesperrt f\xfcr immer".decode("utf-8", "surrogateescape")
    outcome = translated(aiosmtplib.errors.SMTPConnectResponseError(554, said))
    assert isinstance(outcome, Refused)
    assert outcome.reply.text.encode("utf-8")
