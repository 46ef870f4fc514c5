"""Pickup directories, and writers in processes of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.factories import NOON, mailbox, notification
from worker.domain.delivery import Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Mailbox, PickupDirectory, PickupFlavour
from worker.domain.message import OutgoingMessage, compose
from worker.pickup.transport import PickupTransport

WRITER = Path(__file__).with_name("writer.py")
ROOT = Path(__file__).parents[3]


async def always() -> bool:
    return True


class Place:
    """A pickup directory with its staging directory beside it."""

    def __init__(self, base: Path, flavour: PickupFlavour = PickupFlavour.IIS) -> None:
        self.directory = base / "pickup"
        self.staging = base / "pickup.staging"
        self.directory.mkdir()
        self.staging.mkdir()
        self.flavour = flavour

    @property
    def files(self) -> list[Path]:
        """What lies there to be collected."""
        return sorted(self.directory.iterdir())

    @property
    def staged(self) -> list[Path]:
        """What lies there and should not for long."""
        return sorted(self.staging.iterdir())

    def mailbox(self, **fields: object) -> Mailbox:
        return mailbox(endpoint=PickupDirectory(self.directory, self.staging, self.flavour, **fields))

    async def submit(
        self,
        handing_over: Callable[[], Awaitable[bool]] = always,
        endpoint: Mapping[str, object] | None = None,
        **fields: object,
    ) -> Submission:
        """A notification with these fields, as a mail in this directory."""
        box = self.mailbox(**(endpoint or {}))
        sent = notification(**fields)
        message = compose(sent, box, [item.inline_bytes() for item in sent.attachments], NOON)
        envelope = Envelope.of(box.address, [person.spec for person in sent.recipients()])
        return await PickupTransport().submit(box, envelope, message, handing_over)

    async def submit_message(self, message: OutgoingMessage, envelope: Envelope) -> Submission:
        """A mail as it is."""
        return await PickupTransport().submit(self.mailbox(), envelope, message, always)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """For IIS."""
    return Place(tmp_path)


@pytest.fixture
def exchange(tmp_path: Path) -> Place:
    """For Exchange."""
    return Place(tmp_path, PickupFlavour.EXCHANGE)


@pytest.fixture
def public_place() -> Iterator[Place]:
    """Where a process without rights can get to, which pytest's own directories are not."""
    with tempfile.TemporaryDirectory(prefix="postlane-pickup-") as base:
        Path(base).chmod(0o755)
        made = Place(Path(base))
        made.directory.chmod(0o777)
        made.staging.chmod(0o777)
        yield made


@asynccontextmanager
async def writing(place: Place, *arguments: object, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the writer; it is killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(WRITER), str(place.directory), str(place.staging), *map(str, arguments)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def written(place: Place, *arguments: object, **environment: str) -> list[str]:
    """Run the writer to its end; its lines."""
    async with writing(place, *arguments, **environment) as process:
        out, _ = await process.communicate()
        assert process.returncode == 0
    return out.decode().splitlines()


async def checked(place: Place, **environment: str) -> str:
    """What the check at start says in a process of its own."""
    command = [sys.executable, str(WRITER), "check", str(place.directory), str(place.staging)]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
