"""A mailbox that sends over Microsoft Graph, and one with two ways out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.adapters.smtp.server import Obedient, listening
from tests.factories import mailbox
from tests.neighbours import free_port
from worker.domain.delivery import Broken, TokenRefused
from worker.domain.health import Finding, State, together
from worker.domain.mailbox import GraphEndpoint, OAuth, Secret, SmtpEndpoint, Tls
from worker.emulator.authority import Certificates
from worker.ports import Token
from worker.probe import look
from worker.telemetry import http

CLIENT = OAuth("https://authority.example/t", "app", Secret(SecretStr("s")), "scope", "jana@contoso.com")


class Authority:
    def __init__(self, answer: Token | TokenRefused | Broken) -> None:
        self.answer = answer

    async def token(
        self,
        _mailbox: str,
        _credentials: OAuth,
        *,
        rejected: Token | None = None,  # noqa: ARG002
    ) -> Token | TokenRefused | Broken:
        return self.answer


TOKENS = Authority(Token("T0ken", fresh=True))


class Service:
    """Graph, as far as a look goes.

    Attributes:
        heard: bodies that came.
    """

    def __init__(self, certificates: Certificates, status: int) -> None:
        self.certificates = certificates
        self.status = status
        self.heard: list[bytes] = []

    @asynccontextmanager
    async def endpoint(self) -> AsyncIterator[GraphEndpoint]:
        listening_socket = http.bound("127.0.0.1", 0)
        listening_socket.listen()
        url = f"https://localhost:{listening_socket.getsockname()[1]}/v1.0"
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["POST"])])
        async with http.serving(app, listening_socket, self.certificates.key_and_chain):
            yield GraphEndpoint(url, "jana@contoso.com", CLIENT, ca_file=str(self.certificates.ca_file))

    async def _answer(self, request: Request) -> Response:
        self.heard.append(await request.body())
        return JSONResponse({"error": {"code": "SomeCode", "message": "Some words."}}, status_code=self.status)


@pytest.mark.parametrize(
    ("status", "state"), [(400, State.WELL), (401, State.LOGIN_REFUSED), (403, State.LOGIN_REFUSED)]
)
async def test_graph_that_refuses_only_what_is_no_mail_is_well(
    certificates: Certificates, status: int, state: State
) -> None:
    service = Service(certificates, status)
    async with service.endpoint() as endpoint:
        found = await look(mailbox(endpoint=endpoint), TOKENS)
    assert found.state is state
    assert service.heard
    assert not [body for body in service.heard if len(body) > 8], "no mail is that short"


async def test_graph_where_nobody_listens_is_closed(certificates: Certificates) -> None:
    url = f"https://localhost:{free_port()}/v1.0"
    endpoint = GraphEndpoint(url, "jana@contoso.com", CLIENT, ca_file=str(certificates.ca_file))
    assert (await look(mailbox(endpoint=endpoint), TOKENS)).state is State.PORT_CLOSED


async def test_token_for_graph_that_is_refused_is_told_apart(certificates: Certificates) -> None:
    service = Service(certificates, 400)
    no = Authority(TokenRefused("invalid_client", "AADSTS7000215: Invalid client secret provided.", (7000215,)))
    async with service.endpoint() as endpoint:
        assert (await look(mailbox(endpoint=endpoint), no)).state is State.TOKEN_REFUSED
    assert service.heard == []


async def test_mailbox_with_a_broken_and_a_working_way_out_tells_both(certificates: Certificates) -> None:
    service, server = Service(certificates, 403), Obedient()
    async with service.endpoint() as endpoint, listening(server.serve) as listener:
        further = SmtpEndpoint("127.0.0.1", listener.port, Tls.NONE)
        found = await look(mailbox(endpoint=endpoint, further=(further,)), TOKENS)
    assert found.state is State.LOGIN_REFUSED
    assert "still leaves another way" in found.warning


def test_mailbox_all_of_whose_ways_work_is_well() -> None:
    well = Finding(State.WELL, "Fine.")
    assert together([well, well]) == well
