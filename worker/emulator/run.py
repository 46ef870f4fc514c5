"""All of the emulated world, listening."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.emulator.accepted import AcceptedMails
from worker.emulator.authority import Certificates, make_certificates
from worker.emulator.entra import TokenAuthority
from worker.emulator.smtp_server import SmtpServer
from worker.emulator.world import OFFICE365, ORDINARY, AppRegistration, MailboxAccount, ManagedIdentityAccount, Profile
from worker.telemetry import http

TENANT_ID = "11111111-2222-3333-4444-555555555555"
CLIENT_ID = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is emulated, and where.

    Attributes:
        directory: certificates, accepted mails and their log.
        names: further host names for the certificate.
        office365_port, ordinary_port, token_port: 0 takes a free one.
    """

    directory: Path
    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    office365_port: int = 0
    ordinary_port: int = 0
    token_port: int = 0
    office365: Profile = OFFICE365
    ordinary: Profile = ORDINARY
    apps: tuple[AppRegistration, ...] = (AppRegistration(TENANT_ID, CLIENT_ID, "emulated-client-secret"),)
    identities: tuple[ManagedIdentityAccount, ...] = ()
    office365_mailboxes: tuple[MailboxAccount, ...] = (
        MailboxAccount("notifications@contoso.example", "emulated-password", frozenset({CLIENT_ID})),
    )
    ordinary_mailboxes: tuple[MailboxAccount, ...] = (MailboxAccount("notify@fabrikam.example", "emulated-password"),)
    keep_content: bool = True


@dataclass(frozen=True, slots=True)
class Emulator:
    """The running world."""

    plan: Plan
    certificates: Certificates
    office365: SmtpServer
    ordinary: SmtpServer
    authority: TokenAuthority
    accepted: AcceptedMails
    token_url: str

    def expire_tokens(self) -> None:
        """No token is good any more, and nobody stays logged in by one."""
        self.authority.expire_all()
        self.office365.drop_sessions()


@asynccontextmanager
async def emulating(plan: Plan) -> AsyncIterator[Emulator]:
    """Run the emulated world."""
    async with AsyncExitStack() as stack:
        certificates = make_certificates(plan.directory / "certificates", *plan.names)
        accepted = AcceptedMails(plan.directory / "mails", keep_content=plan.keep_content)
        stack.callback(accepted.close)
        tls = certificates.server_context()
        authority = TokenAuthority(list(plan.apps), list(plan.office365_mailboxes), plan.identities)
        office365 = SmtpServer(plan.office365, list(plan.office365_mailboxes), tls, accepted, authority.check)
        ordinary = SmtpServer(plan.ordinary, list(plan.ordinary_mailboxes), tls, accepted)
        for server, port in ((office365, plan.office365_port), (ordinary, plan.ordinary_port)):
            await server.listen(plan.host, port)
            stack.push_async_callback(server.close)
        listening = http.bound(plan.host, plan.token_port)
        url = f"https://{plan.names[0] if plan.names else 'localhost'}:{listening.getsockname()[1]}"
        entra = authority.application(url, office365.drop_sessions)
        await stack.enter_async_context(http.serving(entra, listening, certificates.key_and_chain))
        yield Emulator(plan, certificates, office365, ordinary, authority, accepted, url)
