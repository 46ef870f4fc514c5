"""From host and port to a session that can submit: TCP, TLS, greeting, EHLO, AUTH."""

from __future__ import annotations

import base64
import re
import socket
import ssl
from dataclasses import dataclass, replace
from functools import lru_cache

import aiosmtplib

from worker.domain.delivery import Broken, Fault, Refused, Stage
from worker.domain.mailbox import SmtpEndpoint, Tls
from worker.domain.reply import Reply
from worker.smtp.dialogue import Dialogue, Lost
from worker.smtp.sasl import Mechanism

_MAX_COMMAND = 512  # octets with CRLF, RFC 5321 section 4.5.3.1.4
_MAX_DIGITS = 16
_CONTINUE = 334
_HOST_NAME = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait. Submission is apart from the rest: a slow answer to the final dot is no slow EHLO.

    Attributes:
        connect: for TCP, TLS and the greeting, each.
        command: for the reply to a command, and for the network to take a chunk of body.
        submission: for the reply to the final dot (RFC 5321 section 4.5.3.2.6 asks for ten minutes).
    """

    connect: float = 20
    command: float = 120
    submission: float = 600


@dataclass(frozen=True, slots=True)
class Connection:
    """An open connection and what the server says it can do.

    Attributes:
        extensions: EHLO keywords, lower case → parameters.
        mechanisms: of AUTH, upper case.
        tls: protocol version, `none` without.
    """

    dialogue: Dialogue
    extensions: dict[str, str]
    mechanisms: tuple[str, ...]
    tls: str

    def offers(self, keyword: str) -> bool:
        """Whether the server named this extension."""
        return keyword in self.extensions

    @property
    def size_limit(self) -> int:
        """Octets that the server accepts (RFC 1870), 0 if it does not say."""
        limit = self.extensions.get("size", "")
        return int(limit) if limit.isascii() and limit.isdigit() and len(limit) < _MAX_DIGITS else 0


async def connect(
    endpoint: SmtpEndpoint, timeouts: Timeouts, connected: socket.socket | None = None
) -> Connection | Refused | Broken:
    """Open and secure a connection, over a connected socket if there is one already. Nothing secret is sent."""
    try:
        context = tls_context(endpoint.ca_file) if endpoint.tls is not Tls.NONE else None
    except OSError as error:
        return Broken(Stage.CONNECT, Fault.CERTIFICATE, f"ca_file {endpoint.ca_file} cannot be used: {error}")
    client = aiosmtplib.SMTP(
        hostname=endpoint.host,
        port=None if connected else endpoint.port,
        sock=connected,
        use_tls=endpoint.tls is Tls.IMPLICIT,
        start_tls=False,
        tls_context=context,
        local_hostname=endpoint.helo or _own_name(),
        timeout=timeouts.connect,
    )
    try:
        await client.connect()
        return await _greeted(client, endpoint)
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        client.close()
        return translated(error)
    except BaseException:
        client.close()
        raise


async def _greeted(client: aiosmtplib.SMTP, endpoint: SmtpEndpoint) -> Connection | Broken:
    await _hello(client, endpoint)
    offered = client.supports_extension("starttls")
    if endpoint.tls is Tls.STARTTLS or (endpoint.tls is Tls.IF_OFFERED and offered):
        if not offered:
            client.close()
            return Broken(Stage.CONNECT, Fault.NO_STARTTLS, f"{endpoint.host}:{endpoint.port} does not offer STARTTLS")
        await client.starttls()
        await _hello(client, endpoint)
    transport = client.transport
    if transport is None:
        return Broken(Stage.CONNECT, Fault.DISCONNECTED, "the server closed the connection")
    tls_object = transport.get_extra_info("ssl_object")
    return Connection(
        Dialogue.over(transport),
        dict(client.esmtp_extensions),
        tuple(dict.fromkeys(name.upper() for name in client.server_auth_methods)),
        tls_object.version() if tls_object else "none",
    )


async def _hello(client: aiosmtplib.SMTP, endpoint: SmtpEndpoint) -> None:
    """EHLO, and HELO for a server that knows no EHLO (RFC 5321 section 3.2), if nothing depends on its extensions."""
    try:
        await client.ehlo()
    except aiosmtplib.SMTPHeloError as error:
        if error.code not in (500, 502, 504) or endpoint.tls not in {Tls.NONE, Tls.IF_OFFERED}:
            raise
        await client.helo()


async def authenticate(connection: Connection, mechanism: Mechanism, timeouts: Timeouts) -> Reply | Refused | Broken:
    """Log in by exactly this mechanism; the reply is positive."""
    if mechanism.name not in connection.mechanisms:
        offered = " ".join(connection.mechanisms) or "none"
        connection.dialogue.hang_up()
        return Broken(Stage.AUTH, Fault.NO_MECHANISM, f"{mechanism.name} is not offered (offered: {offered})")
    try:
        reply = await _exchange(connection.dialogue, mechanism, timeouts.command)
    except Lost as lost:
        return Broken(Stage.AUTH, lost.fault, str(lost))
    if reply.positive:
        return reply
    connection.dialogue.hang_up()
    if not reply.negative:
        return Broken(Stage.AUTH, Fault.GARBLED, f"the server answered {reply.code}, which means nothing here")
    return Refused(Stage.AUTH, _without_secrets(reply, mechanism), mechanism=mechanism.name.lower())


async def _exchange(dialogue: Dialogue, mechanism: Mechanism, timeout: float) -> Reply:
    responses = mechanism.responses()
    answer: bytes | None = next(responses)
    one_line = f"AUTH {mechanism.name} ".encode() + base64.b64encode(mechanism.initial or b"")
    fits = len(one_line) + 2 <= _MAX_COMMAND
    if mechanism.initial is not None and fits:
        answer = next(responses, None)
        reply = await _say(dialogue, one_line, timeout)
    else:
        # RFC 4954 section 4: an initial response that makes the command too long must be sent as an answer instead.
        reply = await _say(dialogue, f"AUTH {mechanism.name}".encode(), timeout)
        if mechanism.initial is not None and reply.code in (500, 501):
            # Nothing has been tried yet: a server that knows only the one-line form gets it, however long it is.
            answer = next(responses, None)
            reply = await _say(dialogue, one_line, timeout)
    while reply.code == _CONTINUE:
        # Asked for more than the mechanism has to say: cancel the exchange (RFC 4954 section 4).
        line = b"*" if answer is None else base64.b64encode(answer)
        reply = await _say(dialogue, line, timeout)
        if answer is None:
            break
        answer = next(responses, None)
    return reply


def _without_secrets(reply: Reply, mechanism: Mechanism) -> Reply:
    """Some servers repeat the line that they refuse."""
    text = reply.text
    for secret in mechanism.secrets():
        text = text.replace(secret, "[removed]")
    return replace(reply, text=text)


async def _say(dialogue: Dialogue, line: bytes, timeout: float) -> Reply:
    return (await dialogue.ask(line, timeout=timeout))[0]


@lru_cache(maxsize=64)
def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """A context that verifies name and chain; with a file only against that, else against the system's authorities.

    Shared, because building one costs more than a whole mail.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@lru_cache(maxsize=1)
def _own_name() -> str:
    """What we call ourselves: the host's full name, else an address literal (RFC 5321 section 4.1.4)."""
    name = socket.getfqdn()
    return name if _HOST_NAME.fullmatch(name) else "[127.0.0.1]"


def translated(error: Exception) -> Refused | Broken:
    """What an exception of the library below means; most specific first."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    match error:
        case aiosmtplib.SMTPResponseException(code=code, message=message) if 400 <= code < 600:  # noqa: PLR2004
            return Refused(Stage.CONNECT, Reply.of(code, message.split("\n")))
        case aiosmtplib.SMTPResponseException():
            return Broken(Stage.CONNECT, Fault.GARBLED, "what answers there does not speak SMTP")
        case _:
            return Broken(Stage.CONNECT, _fault(error, cause), _words(cause))


def _fault(error: Exception, cause: Exception) -> Fault:
    for candidate in (error, cause):
        match candidate:
            case ssl.SSLCertVerificationError():
                return Fault.CERTIFICATE
            case ssl.SSLError():
                return Fault.TLS
            case socket.gaierror() | UnicodeError():
                return Fault.DNS
            case aiosmtplib.SMTPConnectTimeoutError():
                return Fault.UNREACHABLE  # a port where nobody speaks is as good as closed
            case aiosmtplib.SMTPTimeoutError():
                return Fault.TIMEOUT
            case TimeoutError():
                return Fault.UNREACHABLE
            case aiosmtplib.SMTPServerDisconnected() | ConnectionResetError() | BrokenPipeError():
                return Fault.DISCONNECTED
            case _:
                continue
    return Fault.UNREACHABLE if isinstance(cause, OSError) else Fault.GARBLED


def _words(cause: Exception) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    return str(cause) or type(cause).__name__
