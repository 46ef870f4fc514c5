"""Nodemailer's smtp-server, the usual double of a mail server among Node's people; it knows XOAUTH2."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.field.dovecot import PASSWORD, USER
from tests.field.ground import Kept, Process, home, program
from tests.field.oidc import NODE, packages
from worker.emulator.authority import Certificates
from worker.sandbox.node import free_ports


class SmtpServer:
    """One server.

    Attributes:
        port: with STARTTLS, or with TLS from the first octet, as it was told.
    """

    def __init__(self, home: Path, configuration: dict[str, Any]) -> None:
        """It does not run yet."""
        self._home = home
        (self.port,) = free_ports(1)
        self._configuration = {**configuration, "port": self.port, "folder": str(home / "new")}
        (home / "new").mkdir()
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [program("node"), NODE / "smtp.mjs", json.dumps(self._configuration)]
        self._process = Process(command, self._home / "smtp.log", self.port)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()

    def kept(self) -> list[Kept]:
        """The mails, in the order in which they came."""
        return [Kept((self._home / "new" / event["name"]).read_bytes()) for event in self.events("mail")]

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it has told of one kind: `login`, `mail`."""
        lines = (self._home / "smtp.log").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]


@contextmanager
def smtp_server(
    certificates: Certificates,
    *,
    token: str = "",
    methods: Sequence[str] = ("PLAIN", "LOGIN", "XOAUTH2"),
    **options: Any,
) -> Iterator[SmtpServer]:
    """A running server, with options in its own language.

    Raises:
        Missing: it is not installed.
    """
    packages()
    configuration = {"pem": str(certificates.key_and_chain), "user": USER, "password": PASSWORD, "token": token}
    with home("smtp-server") as directory:
        server = SmtpServer(directory, {**configuration, "methods": list(methods), "options": options})
        try:
            server.start()
            yield server
        finally:
            server.stop()
