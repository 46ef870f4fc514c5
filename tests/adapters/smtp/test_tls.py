"""TLS that does not hold: nothing is said to such a server, no password, no token, no MAIL."""

import asyncio
import base64
import datetime as dt
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from contracts.address import parse
from tests.adapters.smtp.dialog import SMALL, Tokens
from tests.adapters.smtp.server import PATIENCE, Obedient, Peer, listening
from tests.factories import mailbox
from tests.fakes import Events
from worker.domain.delivery import Accepted, Broken, Fault, Stage, Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Credentials, NoLogin, OAuth, Password, Secret, SmtpEndpoint, Tls
from worker.domain.message import OutgoingMessage
from worker.emulator.authority import Certificates
from worker.events import SessionOpened
from worker.smtp.connect import Timeouts
from worker.smtp.transport import SmtpTransport

PASSWORD = "S3cret-of-Jana"
TOKEN = "T0ken-of-Jana"
ENVELOPE = Envelope.of(parse("noreply@contoso.com"), [parse("jana@fabrikam.com")])
MESSAGE = OutgoingMessage("<1@contoso.com>", SMALL)
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)

LOGINS = {
    "password": Password("jana@contoso.com", SecretStr(PASSWORD), "plain"),
    "token": OAuth("https://authority.example/t", "app", Secret(SecretStr("s")), "scope", "jana@contoso.com"),
}


async def never() -> bool:
    pytest.fail("a mail was about to be handed over")


async def always() -> bool:
    return True


async def submit(
    port: int,
    tls: Tls,
    ca_file: str | None,
    *,
    host: str = "localhost",
    credentials: Credentials = LOGINS["password"],
    timeouts: Timeouts | None = None,
    events: Events | None = None,
) -> Submission:
    """One mail, as a worker submits it, over a transport of its own."""
    transport = SmtpTransport(Tokens([TOKEN]), timeouts or Timeouts(5, 5, 5), events or Events())
    endpoint = SmtpEndpoint(host, port, tls, credentials, helo="client.example", ca_file=ca_file)
    try:
        return await transport.submit(mailbox(endpoint=endpoint), ENVELOPE, MESSAGE, always)
    finally:
        await transport.close()


def assert_nothing_was_told(heard: bytes) -> None:
    """Neither in words nor in base64, wherever a base64 group may begin."""
    assert b"AUTH" not in heard.upper()
    assert b"MAIL" not in heard.upper().replace(b"mail.example".upper(), b"")
    for secret in (PASSWORD, TOKEN):
        assert secret.encode() not in heard
        for shift in range(3):
            inner = base64.b64encode(b"\0" * shift + secret.encode())[4:-4]
            assert inner not in heard


def context_for(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


def handmade(directory: Path, *, san: bool) -> ssl.SSLContext:
    """A certificate that signs itself, with or without subject alternative names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    path = directory / "handmade.pem"
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(
        key.private_bytes(encoding, form, serialization.NoEncryption()) + certificate.public_bytes(encoding)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    return context


def serve_once(listening_socket: socket.socket, context: ssl.SSLContext, tls: Tls) -> bytes:
    """One connection by blocking sockets: asyncio's server side would not send the alert that real servers send."""
    listening_socket.settimeout(PATIENCE)
    connection, _ = listening_socket.accept()
    connection.settimeout(PATIENCE)
    heard = b""
    with connection:
        if tls is Tls.STARTTLS:
            connection.sendall(b"220 mail.example\r\n")
            heard += connection.recv(1000)
            connection.sendall(b"250-mail.example\r\n250 STARTTLS\r\n")
            heard += connection.recv(1000)
            connection.sendall(b"220 Go\r\n")
        try:
            with context.wrap_socket(connection, server_side=True) as secured:
                return heard + secured.recv(1000)
        except ssl.SSLError:
            return heard


Bad = Callable[[trustme.CA, Path], ssl.SSLContext]

BAD: dict[str, tuple[Bad, Fault]] = {
    "another-name": (lambda ca, _: context_for(ca.issue_cert("mail.example")), Fault.CERTIFICATE),
    "unknown-authority": (lambda _ca, _: context_for(trustme.CA().issue_cert("localhost")), Fault.CERTIFICATE),
    "expired": (
        lambda ca, _: context_for(ca.issue_cert("localhost", not_before=NOW - 2 * DAY, not_after=NOW - DAY)),
        Fault.CERTIFICATE,
    ),
    "not-yet-valid": (
        lambda ca, _: context_for(ca.issue_cert("localhost", not_before=NOW + DAY, not_after=NOW + 2 * DAY)),
        Fault.CERTIFICATE,
    ),
    "self-signed": (lambda _ca, directory: handmade(directory, san=True), Fault.CERTIFICATE),
    "name-in-cn-alone": (lambda _ca, directory: handmade(directory, san=False), Fault.CERTIFICATE),
}


@pytest.mark.parametrize("login", LOGINS.values(), ids=LOGINS)
@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.IMPLICIT])
@pytest.mark.parametrize(("bad", "fault"), BAD.values(), ids=BAD)
async def test_tls_that_does_not_hold_is_told_nothing(
    bad: Bad, fault: Fault, tls: Tls, login: Credentials, tmp_path: Path
) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    context = bad(authority, tmp_path)
    server = Obedient("AUTH PLAIN XOAUTH2", tls=context if tls is Tls.STARTTLS else None)
    async with listening(server.serve, tls=context if tls is Tls.IMPLICIT else None) as listener:
        outcome = await submit(listener.port, tls, str(ca_file), credentials=login)
        await listener.until(lambda: listener.open == 0)
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.CONNECT, fault)
    assert_nothing_was_told(listener.heard)


async def test_certificate_for_a_name_is_refused_for_an_address(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    server = Obedient("AUTH PLAIN", tls=context_for(authority.issue_cert("localhost")))
    async with listening(server.serve) as listener:
        outcome = await submit(listener.port, Tls.STARTTLS, str(ca_file), host="127.0.0.1")
    assert isinstance(outcome, Broken)
    assert outcome.fault is Fault.CERTIFICATE
    assert_nothing_was_told(listener.heard)


async def test_private_authority_is_not_trusted_without_ca_file(server_tls: ssl.SSLContext) -> None:
    server = Obedient("AUTH PLAIN", tls=server_tls)
    async with listening(server.serve) as listener:
        outcome = await submit(listener.port, Tls.STARTTLS, None)
    assert isinstance(outcome, Broken)
    assert outcome.fault is Fault.CERTIFICATE
    assert_nothing_was_told(listener.heard)


async def test_server_without_starttls_is_told_nothing(ca_file: str) -> None:
    server = Obedient("AUTH PLAIN LOGIN XOAUTH2")
    async with listening(server.serve) as listener:
        outcome = await submit(listener.port, Tls.STARTTLS, ca_file)
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.CONNECT, Fault.NO_STARTTLS)
    assert_nothing_was_told(listener.heard)


async def test_starttls_spoken_to_an_implicit_port_times_out_in_silence(
    server_tls: ssl.SSLContext, ca_file: str
) -> None:
    async with listening(Obedient("AUTH PLAIN").serve, tls=server_tls) as listener:
        outcome = await submit(listener.port, Tls.STARTTLS, ca_file, timeouts=Timeouts(0.2, 5, 5))
    assert isinstance(outcome, Broken)
    assert outcome.stage is Stage.CONNECT
    assert outcome.fault in {Fault.TIMEOUT, Fault.UNREACHABLE}
    assert listener.heard == b""


async def test_implicit_tls_spoken_to_a_starttls_port_is_a_tls_fault(server_tls: ssl.SSLContext, ca_file: str) -> None:
    server = Obedient("AUTH PLAIN", tls=server_tls)
    async with listening(server.serve) as listener:
        outcome = await submit(listener.port, Tls.IMPLICIT, ca_file)
        await listener.until(lambda: listener.open == 0)
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.CONNECT, Fault.TLS)
    assert_nothing_was_told(listener.heard)


async def test_handshake_that_never_comes_ends_by_the_time_out(ca_file: str) -> None:
    async def mute(peer: Peer) -> None:
        await peer.reply("220 mail.example")
        await peer.line()
        await peer.reply("250-mail.example", "250 STARTTLS")
        await peer.line()
        await peer.reply("220 Go")
        await peer.rest()

    async with listening(mute) as listener:
        outcome = await submit(listener.port, Tls.STARTTLS, ca_file, timeouts=Timeouts(0.2, 5, 5))
        await listener.until(lambda: listener.open == 0)
    assert isinstance(outcome, Broken)
    assert outcome.stage is Stage.CONNECT
    assert outcome.fault in {Fault.TIMEOUT, Fault.TLS}, "the server is there: it has answered before"
    assert_nothing_was_told(listener.heard)


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.IMPLICIT])
async def test_server_that_knows_only_tls_1_1_is_told_nothing(tls: Tls, tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    context = context_for(authority.issue_cert("localhost"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_server(("127.0.0.1", 0)) as listening_socket:
        serving = asyncio.create_task(asyncio.to_thread(serve_once, listening_socket, context, tls))
        outcome = await submit(listening_socket.getsockname()[1], tls, str(ca_file))
        heard = await serving
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.CONNECT, Fault.TLS)
    assert_nothing_was_told(heard)


@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["missing", "empty", "rubbish"])
async def test_unusable_ca_file_is_a_fault_of_the_mailbox_and_no_bug(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    server = Obedient("AUTH PLAIN")
    async with listening(server.serve) as listener:
        outcome = await submit(listener.port, Tls.STARTTLS, str(path))
    assert isinstance(outcome, Broken)
    assert outcome.stage is Stage.CONNECT
    assert outcome.fault in {Fault.CERTIFICATE, Fault.TLS}
    assert_nothing_was_told(listener.heard)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.IMPLICIT])
async def test_good_tls_is_used_and_told_to_observers(
    tls: Tls, version: ssl.TLSVersion, certificates: Certificates, ca_file: str
) -> None:
    context = certificates.server_context()
    context.minimum_version = context.maximum_version = version
    server = Obedient("AUTH PLAIN", tls=context if tls is Tls.STARTTLS else None)
    events = Events()
    async with listening(server.serve, tls=context if tls is Tls.IMPLICIT else None) as listener:
        outcome = await submit(listener.port, tls, ca_file, events=events)
    assert isinstance(outcome, Accepted)
    (opened,) = events.of(SessionOpened)
    assert isinstance(opened, SessionOpened)
    assert opened.tls == version.name.replace("_", ".")
    assert opened.mechanism == "plain"


async def test_address_literal_in_the_certificate_serves_a_mailbox_with_an_address(
    server_tls: ssl.SSLContext, ca_file: str
) -> None:
    server = Obedient("AUTH PLAIN", tls=server_tls)
    async with listening(server.serve) as listener:
        outcome = await submit(listener.port, Tls.STARTTLS, ca_file, host="127.0.0.1")
    assert isinstance(outcome, Accepted)


async def test_closed_port_is_unreachable(ca_file: str) -> None:
    async with listening(Obedient().serve) as listener:
        port = listener.port
    outcome = await submit(port, Tls.NONE, ca_file, credentials=NoLogin())
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.CONNECT, Fault.UNREACHABLE)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 64 + ".example", "a..b"])
async def test_name_that_does_not_resolve_is_a_dns_fault(host: str) -> None:
    async with asyncio.timeout(10):
        outcome = await submit(25, Tls.NONE, None, host=host, credentials=NoLogin())
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.CONNECT, Fault.DNS)
