"""A relay without a login, as the old products used it: secured where the server can, else in the open."""

from __future__ import annotations

from tests.chaos.mailserver import MailServer
from worker.domain.mailbox import SmtpEndpoint, Tls
from worker.emulator.run import Emulator
from worker.smtp.connect import Connection, Timeouts, connect

TIMEOUTS = Timeouts(5, 5, 5)


async def test_server_without_tls_is_used_in_the_open() -> None:
    server = MailServer()
    await server.listen()
    try:
        connection = await connect(SmtpEndpoint("127.0.0.1", server.port, Tls.IF_OFFERED), TIMEOUTS)
        assert isinstance(connection, Connection)
        assert connection.tls == "none"
        await connection.dialogue.quit(5)
    finally:
        await server.close()


async def test_server_with_tls_is_used_with_it_and_verified(emulator: Emulator) -> None:
    ca_file = str(emulator.certificates.ca_file)
    endpoint = SmtpEndpoint("localhost", emulator.ordinary.port, Tls.IF_OFFERED, ca_file=ca_file)
    connection = await connect(endpoint, TIMEOUTS)
    assert isinstance(connection, Connection)
    assert connection.tls.startswith("TLSv1")
    await connection.dialogue.quit(5)


async def test_certificate_that_cannot_be_verified_is_no_reason_to_go_on_in_the_open(emulator: Emulator) -> None:
    connection = await connect(SmtpEndpoint("localhost", emulator.ordinary.port, Tls.IF_OFFERED), TIMEOUTS)
    assert not isinstance(connection, Connection)
