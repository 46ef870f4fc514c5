"""Every proof that a mailbox can have, verified by the emulated Entra: certificates, federation, managed identities."""

import base64
import datetime as dt
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from pydantic import SecretStr

from tests.adapters.oauth.authority import Answer, issuing, let_go
from tests.adapters.oauth.conftest import Client
from worker.domain.delivery import Broken, TokenRefused
from worker.domain.mailbox import Certificate, Federated, ManagedIdentity, OAuth, Proof
from worker.domain.verdict import catalogue, of_fault, of_token
from worker.emulator.run import CLIENT_ID, TENANT_ID, Emulator, Plan, emulating
from worker.emulator.world import (
    AppRegistration,
    FederatedCredential,
    MailboxAccount,
    ManagedIdentityAccount,
    TokenTrouble,
)
from worker.ports import Token

MAILBOX = "notifications@contoso.example"
PASSWORD = "pfx-password-s3cret"
ISSUER, SUBJECT = "https://kubernetes.example", "system:serviceaccount:mail:postlane"
SYSTEM, ASSIGNED = "99999999-0000-0000-0000-000000000001", "99999999-0000-0000-0000-000000000002"
RESOURCE_ID = "/subscriptions/1/resourcegroups/mail/providers/Microsoft.ManagedIdentity/userAssignedIdentities/postlane"


@dataclass(frozen=True)
class Keys:
    """A private key and a certificate of it."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def public(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def pem(self, password: str | None = None) -> bytes:
        wrapped = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, wrapped)
        return self.key.private_bytes(*form) + self.public.encode()

    def pfx(self, password: str) -> bytes:
        wrapped = serialization.BestAvailableEncryption(password.encode())
        return pkcs12.serialize_key_and_certificates(b"postlane", self.key, self.certificate, None, wrapped)

    def assertion(self, **changes: object) -> str:
        """What Kubernetes puts into AZURE_FEDERATED_TOKEN_FILE."""
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": SUBJECT, "aud": "api://AzureADTokenExchange", "exp": now + 600} | changes
        signed = ".".join(map(_part, ({"alg": "RS256", "kid": "1"}, claims)))
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _part(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def made() -> Keys:
    key = rsa.generate_private_key(65537, 2048)
    return Keys(key, certified(key))


def certified(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A certificate of a key, signed by itself."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "postlane")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now)
    return builder.not_valid_after(now + dt.timedelta(days=365)).sign(key, hashes.SHA256())


@pytest.fixture(scope="session")
def ours() -> Keys:
    """The app's."""
    return made()


@pytest.fixture(scope="session")
def strange() -> Keys:
    """Nobody's."""
    return made()


@pytest.fixture
async def emulator(tmp_path: Path, ours: Keys) -> AsyncIterator[Emulator]:
    """An Entra that knows all of them."""
    public = ours.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    federated = (FederatedCredential(ISSUER, SUBJECT, public.decode()),)
    app = AppRegistration(TENANT_ID, CLIENT_ID, "unused", certificates=(ours.public,), federated=federated)
    plan = Plan(
        tmp_path / "emulator",
        apps=(app,),
        identities=(
            ManagedIdentityAccount(TENANT_ID, SYSTEM),
            ManagedIdentityAccount(TENANT_ID, ASSIGNED, RESOURCE_ID),
        ),
        office365_mailboxes=(MailboxAccount(MAILBOX, apps=frozenset({CLIENT_ID, SYSTEM, ASSIGNED})),),
    )
    async with emulating(plan) as running:
        yield running


@pytest.fixture
def client(emulator: Emulator) -> Iterator[Client]:
    """A worker's tokens, let go of before the emulator ends."""
    made = Client()
    yield made
    let_go(made.tokens)


def proving(emulator: Emulator, proof: Proof) -> OAuth:
    return OAuth(
        f"{emulator.token_url}/{TENANT_ID}",
        CLIENT_ID,
        proof,
        "https://outlook.office365.com/.default",
        MAILBOX,
        ca_file=str(emulator.certificates.ca_file),
    )


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


async def opens(client: Client, emulator: Emulator, credentials: OAuth) -> bool:
    """Whether the token that we get opens the mailbox."""
    answer = await client.tokens.token("box", credentials)
    assert isinstance(answer, Token), answer
    return emulator.authority.check(MAILBOX, answer.value) == ""


# certificates


@pytest.mark.parametrize("password", [None, PASSWORD], ids=["open", "with-a-password"])
async def test_pem_certificate_opens_the_mailbox(
    client: Client, emulator: Emulator, ours: Keys, tmp_path: Path, password: str | None
) -> None:
    file = written(tmp_path / "app.pem", ours.pem(password))
    proof = Certificate(file, SecretStr(password) if password else None)
    assert await opens(client, emulator, proving(emulator, proof))
    assert emulator.authority.asked[-1].proof == "client_assertion"


async def test_pfx_certificate_opens_the_mailbox(
    client: Client, emulator: Emulator, ours: Keys, tmp_path: Path
) -> None:
    file = written(tmp_path / "app.pfx", ours.pfx(PASSWORD))
    assert await opens(client, emulator, proving(emulator, Certificate(file, SecretStr(PASSWORD))))


async def test_certificate_that_is_not_registered_is_refused_with_its_number(
    client: Client, emulator: Emulator, strange: Keys, tmp_path: Path
) -> None:
    proof = Certificate(written(tmp_path / "app.pem", strange.pem()))
    answer = await client.tokens.token("box", proving(emulator, proof))
    assert isinstance(answer, TokenRefused)
    assert (answer.error, answer.hints) == ("invalid_client", (700027,))


async def test_certificate_that_was_renewed_is_taken_without_a_restart(
    client: Client, emulator: Emulator, ours: Keys, strange: Keys, tmp_path: Path
) -> None:
    credentials = proving(emulator, Certificate(written(tmp_path / "app.pem", strange.pem())))
    assert isinstance(await client.tokens.token("box", credentials), TokenRefused)
    written(tmp_path / "app.pem", ours.pem() + b"\n")
    assert await opens(client, emulator, credentials)


@pytest.mark.parametrize("content", ["missing", "rubbish", "wrong-password", "another-key", "no-key"])
async def test_unusable_certificate_is_named_and_its_password_is_not(
    client: Client, emulator: Emulator, ours: Keys, strange: Keys, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "app.pem"
    octets = {
        "rubbish": b"rubbish",
        "wrong-password": ours.pfx("another"),
        "another-key": strange.pem(PASSWORD).partition(b"-----BEGIN CERT")[0] + ours.public.encode(),
        "no-key": ours.public.encode(),
    }
    if content in octets:
        written(file, octets[content])
    answer = await client.tokens.token("box", proving(emulator, Certificate(file, SecretStr(PASSWORD))))
    assert isinstance(answer, TokenRefused)
    assert answer.error == "proof_unusable"
    assert str(file) in answer.description
    assert PASSWORD not in repr(answer)
    assert of_token(catalogue(), answer).kind == "auth-config/proof"
    assert emulator.authority.requests == 0


CA = made()
FORMS: dict[str, Callable[[Keys], bytes]] = {
    "bag-attributes": lambda ours: (
        b"Bag Attributes\n    localKeyID: 01\nKey Attributes: <No Attributes>\n" + ours.pem()
    ),
    "comment": lambda ours: b"# the app's certificate\n" + ours.pem(),
    "byte-order-mark": lambda ours: b"\xef\xbb\xbf" + ours.pem(),
    "encrypted-bag": lambda ours: b"Bag Attributes\n    friendlyName: postlane\n" + ours.pem(PASSWORD),
    "not-the-first-certificate": lambda ours: CA.public.encode() + ours.pem(),
}


@pytest.mark.parametrize("form", FORMS)
async def test_file_as_administrators_have_it_opens_the_mailbox(
    client: Client, emulator: Emulator, ours: Keys, tmp_path: Path, form: str
) -> None:
    file = written(tmp_path / "app.pem", FORMS[form](ours))
    password = SecretStr(PASSWORD) if form == "encrypted-bag" else None
    assert await opens(client, emulator, proving(emulator, Certificate(file, password)))


@pytest.mark.parametrize(
    ("content", "password", "words"),
    [
        (lambda ours: ours.pem(PASSWORD), None, "give certificate_password"),
        (lambda ours: ours.pem(PASSWORD), "another", "certificate_password does not open it"),
        (lambda ours: ours.pfx(PASSWORD), None, "give certificate_password"),
        (lambda ours: ours.pfx(PASSWORD), "another", "certificate_password is another one"),
        (lambda ours: ours.public.encode(), None, "a certificate without its private key"),
        (lambda ours: ours.pem().partition(b"-----BEGIN CERT")[0], None, "a private key and no certificate"),
        (lambda ours: CA.pem().partition(b"-----BEGIN CERT")[0] + ours.public.encode(), None, "do not belong together"),
        (lambda _ours: b"rubbish", None, "neither a PEM file nor a PFX file"),
    ],
)
async def test_what_is_wrong_with_a_certificate_is_said(
    client: Client,
    emulator: Emulator,
    ours: Keys,
    tmp_path: Path,
    content: Callable[[Keys], bytes],
    password: str | None,
    words: str,
) -> None:
    file = written(tmp_path / "app.pem", content(ours))
    proof = Certificate(file, SecretStr(password) if password else None)
    answer = await client.tokens.token("box", proving(emulator, proof))
    assert isinstance(answer, TokenRefused)
    assert answer.error == "proof_unusable"
    assert words in answer.description


async def test_key_that_entra_does_not_take_is_not_the_authoritys_trouble(
    client: Client, emulator: Emulator, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate = certified(key).public_bytes(serialization.Encoding.PEM)
    file = written(tmp_path / "app.pem", key.private_bytes(*form) + certificate)
    answer = await client.tokens.token("box", proving(emulator, Certificate(file)))
    assert isinstance(answer, TokenRefused)
    assert (answer.error, "RSA keys only" in answer.description) == ("proof_unusable", True)
    assert emulator.authority.requests == 0


# federation


async def test_byte_order_mark_before_an_assertion_is_left_out(
    client: Client, emulator: Emulator, ours: Keys, tmp_path: Path
) -> None:
    file = written(tmp_path / "token", b"\xef\xbb\xbf" + ours.assertion().encode())
    assert await opens(client, emulator, proving(emulator, Federated(file)))


async def test_empty_assertion_is_named_and_nobody_is_asked(client: Client, emulator: Emulator, tmp_path: Path) -> None:
    file = written(tmp_path / "token", b" \n")
    answer = await client.tokens.token("box", proving(emulator, Federated(file)))
    assert isinstance(answer, TokenRefused)
    assert (answer.error, f"{file} is empty" in answer.description) == ("proof_unusable", True)
    assert emulator.authority.requests == 0


async def test_federated_assertion_opens_the_mailbox(
    client: Client, emulator: Emulator, ours: Keys, tmp_path: Path
) -> None:
    file = written(tmp_path / "token", ours.assertion().encode())
    assert await opens(client, emulator, proving(emulator, Federated(file)))


async def test_federated_assertion_is_read_again_at_each_use(
    client: Client, emulator: Emulator, ours: Keys, tmp_path: Path
) -> None:
    file = written(tmp_path / "token", ours.assertion().encode())
    credentials = proving(emulator, Federated(file))
    first = await client.tokens.token("box", credentials)
    assert isinstance(first, Token)
    written(file, ours.assertion(exp=int(time.time()) - 1000).encode())
    refused = await client.tokens.token("box", credentials, rejected=first)
    assert isinstance(refused, TokenRefused)
    assert refused.hints == (500133,)
    written(file, ours.assertion(exp=int(time.time()) + 900).encode())
    assert await opens(client, emulator, credentials)


@pytest.mark.parametrize(
    ("changes", "number"),
    [({"sub": "somebody"}, 700213), ({"aud": "api://other"}, 700212)],
    ids=["subject", "audience"],
)
async def test_assertion_that_entra_does_not_trust_is_refused_with_its_number(
    client: Client, emulator: Emulator, ours: Keys, tmp_path: Path, changes: dict[str, object], number: int
) -> None:
    file = written(tmp_path / "token", ours.assertion(**changes).encode())
    answer = await client.tokens.token("box", proving(emulator, Federated(file)))
    assert isinstance(answer, TokenRefused)
    assert answer.hints == (number,)


async def test_assertion_signed_by_a_stranger_is_refused(
    client: Client, emulator: Emulator, strange: Keys, tmp_path: Path
) -> None:
    file = written(tmp_path / "token", strange.assertion().encode())
    answer = await client.tokens.token("box", proving(emulator, Federated(file)))
    assert isinstance(answer, TokenRefused)
    assert answer.hints == (5000224,)


async def test_assertion_file_that_is_gone_is_named(client: Client, emulator: Emulator, tmp_path: Path) -> None:
    answer = await client.tokens.token("box", proving(emulator, Federated(tmp_path / "token")))
    assert isinstance(answer, TokenRefused)
    assert (answer.error, str(tmp_path / "token") in answer.description) == ("proof_unusable", True)


# managed identities


def managed(emulator: Emulator, identity: ManagedIdentity) -> OAuth:
    return replace(proving(emulator, identity), authority="", client_id="")


@pytest.mark.parametrize(
    ("identity", "client_id"),
    [
        (ManagedIdentity(), SYSTEM),
        (ManagedIdentity(client_id=ASSIGNED), ASSIGNED),
        (ManagedIdentity(resource_id=RESOURCE_ID), ASSIGNED),
    ],
    ids=["system", "by-client-id", "by-resource-id"],
)
async def test_managed_identity_of_a_virtual_machine_opens_the_mailbox(
    client: Client,
    emulator: Emulator,
    identity: ManagedIdentity,
    client_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", emulator.token_url)
    assert await opens(client, emulator, managed(emulator, identity))
    assert emulator.authority.asked[-1].client_id == client_id


async def test_token_of_a_managed_identity_may_be_an_old_one_as_platforms_keep_them(
    client: Client, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", emulator.token_url)
    credentials = managed(emulator, ManagedIdentity())
    first = await client.tokens.token("box", credentials)
    assert isinstance(first, Token)
    assert not first.fresh
    second = await client.tokens.token("box", credentials, rejected=first)
    assert isinstance(second, Token)
    assert second.fresh


async def test_managed_identity_of_app_service_opens_the_mailbox(
    client: Client, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{emulator.token_url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", emulator.authority.identity_header)
    assert await opens(client, emulator, managed(emulator, ManagedIdentity()))


async def test_identity_that_the_machine_does_not_have_is_refused(
    client: Client, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", emulator.token_url)
    answer = await client.tokens.token("box", managed(emulator, ManagedIdentity(client_id="unknown")))
    assert isinstance(answer, TokenRefused)
    assert of_token(catalogue(), answer).kind == "auth-config/managed-identity"


@pytest.mark.parametrize(("status", "words"), [(404, "HTTP status 404"), (410, "HTTP status 410")])
async def test_metadata_address_that_knows_no_identity_is_no_wrong_tenant(
    client: Client,
    emulator: Emulator,
    server_tls: ssl.SSLContext,
    ca_file: str,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    words: str,
) -> None:
    async with issuing(server_tls) as metadata:
        metadata.answers["/metadata/identity/oauth2/token"] = Answer(status, "Not here")
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"https://{metadata.netloc}")
        credentials = replace(managed(emulator, ManagedIdentity()), ca_file=ca_file)
        answer = await client.tokens.token("box", credentials)
        client.tokens.close()
    assert isinstance(answer, TokenRefused)
    assert (answer.error, words in answer.description) == ("no_managed_identity", True)
    assert "tenant_id" not in of_token(catalogue(), answer).remedy


async def test_metadata_address_in_trouble_is_named_in_the_remedy(
    client: Client, emulator: Emulator, server_tls: ssl.SSLContext, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with issuing(server_tls) as metadata:
        metadata.answers["/metadata/identity/oauth2/token"] = Answer(500, "{}")
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"https://{metadata.netloc}")
        answer = await client.tokens.token("box", replace(managed(emulator, ManagedIdentity()), ca_file=ca_file))
        client.tokens.close()
    assert isinstance(answer, Broken)
    assert "metadata endpoint" in of_fault(catalogue(), answer).remedy


# trouble at Microsoft's


async def test_client_that_is_told_to_wait_waits(
    client: Client, emulator: Emulator, ours: Keys, tmp_path: Path
) -> None:
    credentials = proving(emulator, Certificate(written(tmp_path / "app.pem", ours.pem())))
    emulator.authority.troubled(TokenTrouble(aadsts=90055, retry_after=120, times=1), CLIENT_ID)
    answer = await client.tokens.token("box", credentials)
    assert isinstance(answer, Broken)
    assert "120 s" in answer.detail
    assert "AADSTS90055" in answer.detail
    assert await client.tokens.token("box", credentials) == answer
    assert emulator.authority.requests == 1


async def test_slow_authority_answers_in_the_end(
    client: Client, emulator: Emulator, ours: Keys, tmp_path: Path
) -> None:
    credentials = proving(emulator, Certificate(written(tmp_path / "app.pem", ours.pem())))
    emulator.authority.troubled(TokenTrouble(delay=0.2, times=1), CLIENT_ID)
    assert await opens(client, emulator, credentials)
