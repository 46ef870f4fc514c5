"""A mailbox of the emulated Office 365 whose way out is Graph, and what a worker has to submit with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from pydantic import SecretStr

from contracts.address import AddrSpec, parse
from tests.factories import NOON, notification
from tests.fakes import Events
from worker.domain.delivery import Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import GraphEndpoint, Mailbox, OAuth, Secret
from worker.domain.message import OutgoingMessage, compose
from worker.emulator.run import Emulator
from worker.graph.conversation import Timeouts
from worker.graph.transport import GraphTransport
from worker.oauth.tokens import MsalTokens


def graph_mailbox(emulator: Emulator, address: str = "notifications@contoso.example", **fields: Any) -> Mailbox:
    """A mailbox of the emulator's tenant."""
    app, ca_file = emulator.plan.apps[0], str(emulator.certificates.ca_file)
    credentials = OAuth(
        authority=f"{emulator.token_url}/{app.tenant_id}",
        client_id=app.client_id,
        proof=Secret(SecretStr(app.client_secret)),
        scope="https://graph.microsoft.com/.default",
        username=address,
        ca_file=ca_file,
    )
    endpoint = GraphEndpoint(f"{emulator.graph_url}/v1.0", address, credentials, ca_file=ca_file)
    return Mailbox("portal", parse(address), "Portal", replace(endpoint, **fields))


@dataclass
class Sender:
    """A worker's Graph transport.

    Attributes:
        marks: how often the ledger was asked; `fenced` makes it say no.
    """

    transport: GraphTransport
    tokens: MsalTokens
    mailbox: Mailbox
    fenced: bool = False
    marks: int = 0
    events: Events = field(default_factory=Events)

    async def handing_over(self) -> bool:
        self.marks += 1
        return not self.fenced

    def mail(self, *files: bytes, **fields: Any) -> OutgoingMessage:
        """A mail from the mailbox, to Jana unless it says otherwise."""
        return compose(notification(**fields), self.mailbox, files, NOON)

    async def send(self, message: OutgoingMessage | None = None, *rcpt_to: AddrSpec) -> Submission:
        """Submit, to Jana if nobody is named."""
        message = message or self.mail()
        envelope = Envelope.of(self.mailbox.address, rcpt_to or sorted(message.visible, key=str))
        return await self.transport.submit(self.mailbox, envelope, message, self.handing_over)


@pytest.fixture
async def sender(emulator: Emulator) -> AsyncIterator[Sender]:
    """Submits to the emulated Graph, patiently enough."""
    events = Events()
    tokens = MsalTokens(events)
    transport = GraphTransport(tokens, Timeouts(connect=5, answer=5, whole=20))
    yield Sender(transport, tokens, graph_mailbox(emulator), events=events)
    await transport.close()
    tokens.close()
