"""All of the emulated world, listening."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from socket import socket

from worker.emulator import control
from worker.emulator.accepted import AcceptedMails
from worker.emulator.authority import Certificates, make_certificates
from worker.emulator.backstage import Backstage
from worker.emulator.bounces import Bounces
from worker.emulator.entra import TokenAuthority
from worker.emulator.governor import Governor
from worker.emulator.graph_server import GraphServer
from worker.emulator.journal import Journal
from worker.emulator.scenario import EXCHANGE_ONLINE, Catalogue, Limits, Play, Scenario, catalogue
from worker.emulator.smtp_server import SmtpServer
from worker.emulator.world import OFFICE365, ORDINARY, AppRegistration, MailboxAccount, ManagedIdentityAccount, Profile
from worker.telemetry import http
from worker.unusable import Unusable

TENANT_ID = "11111111-2222-3333-4444-555555555555"
CLIENT_ID = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
_GRACE = 1  # seconds that are left to requests when it ends: one that is never answered is part of the play


@dataclass(frozen=True, slots=True)
class Plan:
    """What is emulated, and where.

    Attributes:
        directory: certificates, accepted mails and their log.
        names: further host names for the certificate.
        office365_port, ordinary_port, token_port, graph_port: 0 takes a free one.
        limits: of each Office 365 mailbox, before what the scenarios change.
        scenarios: names in `catalogue`: what everybody meets.
        catalogue: None: the one that comes with Postlane.
    """

    directory: Path
    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    office365_port: int = 0
    ordinary_port: int = 0
    token_port: int = 0
    graph_port: int = 0
    office365: Profile = OFFICE365
    ordinary: Profile = ORDINARY
    apps: tuple[AppRegistration, ...] = (AppRegistration(TENANT_ID, CLIENT_ID, "emulated-client-secret"),)
    identities: tuple[ManagedIdentityAccount, ...] = ()
    office365_mailboxes: tuple[MailboxAccount, ...] = (
        MailboxAccount("notifications@contoso.example", "emulated-password", frozenset({CLIENT_ID})),
    )
    ordinary_mailboxes: tuple[MailboxAccount, ...] = (MailboxAccount("notify@fabrikam.example", "emulated-password"),)
    keep_content: bool = True
    limits: Limits = EXCHANGE_ONLINE
    scenarios: tuple[str, ...] = ()
    catalogue: Catalogue | None = None


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
    graph: GraphServer
    graph_url: str
    backstage: Backstage

    def play(self, *names: str) -> None:
        """Change the scenarios and their limits while it runs; what was used of the limits stays used.

        Raises:
            Unusable: there is no such scenario.
        """
        known = self.plan.catalogue or catalogue()
        scenarios = [known.find(name) for name in names]
        self.backstage.play.now_play(scenarios)
        self.backstage.governor.hold_to(_limits(self.plan, scenarios))

    def reset(self) -> None:
        """Nothing was used of any limit, and no rule has spoken."""
        self.backstage.governor.forget()
        self.backstage.play.forget()

    def expire_tokens(self) -> None:
        """No token is good any more, and nobody stays logged in by one."""
        self.authority.expire_all()
        self.office365.drop_sessions()


@asynccontextmanager
async def emulating(plan: Plan) -> AsyncIterator[Emulator]:
    """Run the emulated world.

    Raises:
        Unusable: the directory or a port cannot be used.
    """
    async with AsyncExitStack() as stack:
        certificates, accepted, backstage = _prepared(plan)
        stack.callback(accepted.close)
        stack.callback(backstage.journal.close)
        mailboxes = [*plan.office365_mailboxes, *_named_by_rules(plan)]
        tls = certificates.server_context()
        authority = TokenAuthority(list(plan.apps), mailboxes, plan.identities, play=backstage.play)
        office365 = SmtpServer(plan.office365, mailboxes, tls, accepted, backstage, authority.check)
        unlimited = replace(backstage, governor=Governor(Limits()), play=Play(plan.catalogue or catalogue()))
        ordinary = SmtpServer(plan.ordinary, list(plan.ordinary_mailboxes), tls, accepted, unlimited)
        for server, port in ((office365, plan.office365_port), (ordinary, plan.ordinary_port)):
            await server.listen(plan.host, port)
            stack.push_async_callback(server.close)
        listening, url = _https(plan, plan.token_port)
        entra = authority.application(url, office365.drop_sessions)
        await stack.enter_async_context(http.serving(entra, listening, certificates.key_and_chain, grace=_GRACE))
        listening, graph_url = _https(plan, plan.graph_port)
        graph = GraphServer(mailboxes, authority, accepted, backstage, graph_url)
        running = Emulator(
            plan, certificates, office365, ordinary, authority, accepted, url, graph, graph_url, backstage
        )
        application = graph.application(*control.routes(running.play, running.reset, plan.catalogue or catalogue()))
        await stack.enter_async_context(http.serving(application, listening, certificates.key_and_chain, grace=_GRACE))
        yield running


def _prepared(plan: Plan) -> tuple[Certificates, AcceptedMails, Backstage]:
    """What lies in the directory."""
    try:
        certificates = make_certificates(plan.directory / "certificates", *plan.names)
        accepted = AcceptedMails(plan.directory / "mails", keep_content=plan.keep_content)
        return certificates, accepted, _backstage(plan)
    except OSError as error:
        raise Unusable(f"{error.filename or plan.directory} cannot be used: {error.strerror}.") from error


def _https(plan: Plan, port: int) -> tuple[socket, str]:
    listening = http.bound(plan.host, port)
    return listening, f"https://{plan.names[0] if plan.names else 'localhost'}:{listening.getsockname()[1]}"


def _backstage(plan: Plan) -> Backstage:
    known = plan.catalogue or catalogue()
    scenarios = [known.find(name) for name in plan.scenarios]
    return Backstage(
        Play(known, scenarios),
        Governor(_limits(plan, scenarios)),
        Journal(plan.directory / "events.jsonl"),
        Bounces(plan.directory / "bounces"),
    )


def _limits(plan: Plan, scenarios: Iterable[Scenario]) -> Limits:
    limits = plan.limits
    for scenario in scenarios:
        limits = replace(limits, **scenario.limits)
    return limits


def _named_by_rules(plan: Plan) -> list[MailboxAccount]:
    """A mailbox for every rule: it meets the rule of its name, whatever it sends to whom."""
    model = plan.office365_mailboxes[0]
    domain = model.address.rpartition("@")[2]
    names = (plan.catalogue or catalogue()).rules
    return [replace(model, address=f"{name}@{domain}", send_as=frozenset()) for name in names]
