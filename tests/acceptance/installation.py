"""A Postlane as an operator has it: a mailboxes file, workers, the command line, producers and readers of results."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import Publisher
from tests.acceptance.server import MailServer
from tests.neighbours import Inbox, WorkerProcess, environment_of, running_worker
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology

JANA, OMAR, EVE = "jana@people.example", "omar@people.example", "eve@people.example"


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said, and how it ended."""

    status: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        """Its output, read."""
        return json.loads(self.output)


@dataclass(slots=True)
class Installation:
    """One Postlane.

    Attributes:
        directory: for its store, its mailboxes file and whatever a test puts there.
        settings: environment of workers and commands, on top of what every test has.
    """

    address: BrokerAddress
    topology: Topology
    directory: Path
    post: Publisher
    inbox: Inbox
    stack: AsyncExitStack
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def mailboxes(self) -> Path:
        return self.directory / "mailboxes.toml"

    def configure(self, *tables: str) -> None:
        """Write the mailboxes file."""
        self.mailboxes.write_text("\n".join(tables), encoding="utf-8")

    async def worker(self, *, through: Sequence[str] = (), wait: bool = True, **settings: str) -> WorkerProcess:
        """Start one, perhaps through another command; it ends with the test at the latest."""
        running = running_worker(
            self.address,
            self.topology,
            self.mailboxes,
            self.directory,
            settings={**self.settings, **settings},
            wait=wait,
            through=through,
        )
        return await self.stack.enter_async_context(running)

    async def take_over(self, product: str, files: Mapping[str, str], *arguments: str) -> Said:
        """Import the settings of another product, handed in as files of these names, into the mailboxes file."""
        for name, text in files.items():
            (self.directory / name).write_text(text, encoding="utf-8")
        return await self.postlane("import", product, *files, *arguments)

    def amend(self, old: str, new: str) -> None:
        """Change a line of the mailboxes file by hand."""
        text = self.mailboxes.read_text(encoding="utf-8")
        assert old in text, text
        self.mailboxes.write_text(text.replace(old, new), encoding="utf-8")

    async def postlane(self, *arguments: str) -> Said:
        """Run a command as an operator would, in the installation's directory."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "worker", *arguments),
            env=self._environment(),
            cwd=self.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode is not None
        return Said(process.returncode, output.decode(), errors.decode())

    def _environment(self) -> Mapping[str, str]:
        given = environment_of(self.address, self.topology, self.mailboxes, self.directory, self.settings)
        return {**given, "PYTHONPATH": os.pathsep.join(sys.path), **self.settings}


def bound_by_rights() -> tuple[str, ...]:
    """The command through which a worker minds the rights of files even if root runs the tests."""
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def mailbox(name: str, server: MailServer | int, *lines: str, address: str = "", tls: str = "none") -> str:
    """A table of the mailboxes file: this server, or this port of 127.0.0.1."""
    port = server if isinstance(server, int) else server.port
    return "\n".join(
        [
            f"[mailboxes.{name}]",
            f'address = "{address or name + "@senders.example"}"',
            'host = "localhost"' if tls != "none" else 'host = "127.0.0.1"',
            f"port = {port}",
            f'tls = "{tls}"',
            *lines,
        ]
    )


def files(name: str, directory: Path, *lines: str, flavour: str = "iis") -> str:
    """A table of the mailboxes file: this pickup directory."""
    return "\n".join(
        [
            f"[mailboxes.{name}]",
            f'address = "{name}@senders.example"',
            *lines,
            f"[mailboxes.{name}.pickup]",
            f'directory = "{directory.resolve()}"',
            f'flavour = "{flavour}"',
        ]
    )


def notification(notification_id: str, tenant: str | None = None, **fields: Any) -> Notification:
    """A small one; `from_` is its `from`."""
    given = {"to": [JANA], "subject": "Hello", "text": "Hello.", "tenant": tenant, **fields}
    given = {name.rstrip("_"): value for name, value in given.items() if value is not None}
    return Notification.model_validate({"type": NOTIFICATION_TYPE, "id": notification_id, **given}, strict=False)
