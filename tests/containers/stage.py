"""Containers as neighbours: what they log is waited for, what they hold is read, and they are gone afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import docker
from docker.models.containers import Container
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from worker.broker.topology import Topology

REPOSITORY: Final = Path(__file__).parents[2]
DEPLOY: Final = REPOSITORY / "deploy"
RABBITMQ_IMAGE: Final = os.environ.get("POSTLANE_TEST_RABBITMQ_IMAGE", "rabbitmq:4")
BASE_IMAGE: Final = os.environ.get("POSTLANE_TEST_BASE_IMAGE", "python:3.13-slim")

PATIENCE: Final = 60.0  # seconds until a test gives up waiting for what must come
AMQP: Final = 5672

# As compose.yaml runs it: every test of a worker is a test of a confined one.
CONFINED: Final[Mapping[str, Any]] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}


class Log:
    """A container's log, read by a thread as it is written."""

    def __init__(self, container: Container) -> None:
        self._text = ""
        self._over = False
        self._news = threading.Condition()
        self._stream = container.logs(stream=True, follow=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        return self._text

    def events(self, name: str) -> list[dict[str, Any]]:
        """The structured lines of this event."""
        lines = (line for line in self._text.split("\n")[:-1] if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event.get("event") == name]

    async def until(self, event: str, *, times: int = 1, patience: float = PATIENCE) -> list[dict[str, Any]]:
        """Wait until the event has been logged so many times."""
        await asyncio.to_thread(self._wait, lambda: len(self.events(event)) >= times, patience)
        found = self.events(event)
        assert len(found) >= times, f"{len(found)} of {times} times {event!r} in the log:\n{self._text[-3000:]}"
        return found

    def end(self) -> None:
        """Let go of the stream; the container must be gone by now."""
        self._reader.join(PATIENCE)
        self._stream.close()

    def _wait(self, enough: Callable[[], bool], patience: float) -> None:
        with self._news:
            self._news.wait_for(lambda: enough() or self._over, patience)

    def _read(self) -> None:
        for chunk in self._stream:
            with self._news:
                self._text += chunk.decode(errors="replace")
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()


class Docked:
    """A running container of ours."""

    def __init__(self, container: DockerContainer) -> None:
        self.container = container
        self.wrapped = container.get_wrapped_container()
        self.log = Log(self.wrapped)

    def run(self, *command: str) -> tuple[int, str]:
        """Exit status and output of a command in the container."""
        status, output = self.container.exec(list(command))
        return status, output.decode(errors="replace")

    def output(self, *command: str) -> str:
        """What a command in the container prints; it must succeed."""
        status, output = self.run(*command)
        assert status == 0, output
        return output

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.wrapped.kill("SIGKILL")
        self.wrapped.wait(timeout=PATIENCE)

    def stop(self, grace: int) -> int:
        """SIGTERM, and SIGKILL after the grace time; the exit status is 137 then."""
        self.wrapped.stop(timeout=grace)
        return int(self.wrapped.wait(timeout=PATIENCE)["StatusCode"])


class EmulatorContainer(Docked):
    """An emulated Office 365, token endpoint and ordinary mail server in one container."""

    def accepted(self) -> list[dict[str, Any]]:
        """Every mail that a server said 250 to."""
        return [json.loads(line) for line in self.output("cat", "mails/accepted.jsonl").splitlines()]

    def mails(self, notification_id: str) -> list[dict[str, Any]]:
        return [mail for mail in self.accepted() if mail["notification_id"] == notification_id]


@contextmanager
def docked(container: DockerContainer, kind: type[Docked] = Docked) -> Iterator[Docked]:
    """Run a container; it is removed at the end, and its log is shown if the test fails."""
    try:
        container.start()
        running = kind(container)
    except BaseException:
        container.stop()
        raise
    try:
        yield running
    finally:
        container.stop()
        running.log.end()
        print(f"----- log of {container.image} {container._command or ''}\n{running.log.text[-5_000:]}")  # noqa: T201


@contextmanager
def volume() -> Iterator[str]:
    """A volume that is removed again; the containers that use it must be gone by then."""
    client = docker.from_env()
    made = client.volumes.create()
    try:
        yield str(made.id)
    finally:
        made.remove(force=True)
        client.close()


def rabbitmq_container(network: Network, alias: str) -> DockerContainer:
    """RabbitMQ with the hash exchange, reached by us on the loopback address and by containers under the alias."""
    container = (
        DockerContainer(RABBITMQ_IMAGE)
        .with_network(network)
        .with_network_aliases(alias)
        .with_kwargs(hostname=alias)
        .with_volume_mapping(DEPLOY / "rabbitmq", "/postlane")
        .with_volume_mapping(DEPLOY / "rabbitmq/enabled_plugins", "/etc/rabbitmq/enabled_plugins")
        .waiting_for(LogMessageWaitStrategy("Server startup complete").with_startup_timeout(120))
    )
    # It has the password that everybody knows.
    container.ports[str(AMQP)] = ("127.0.0.1", None)  # type: ignore[assignment] # Docker's own client takes a pair
    return container


def amqp_url(rabbitmq: Docked, login: str = "guest:guest") -> str:
    """Where we, outside of the network, reach a broker."""
    return f"amqp://{login}@127.0.0.1:{rabbitmq.container.get_exposed_port(AMQP)}/"


@asynccontextmanager
async def worker_container(
    image: str,
    network: Network,
    topology: Topology,
    volumes: Mapping[str, str],
    *,
    url: str = "amqp://guest:guest@rabbitmq/",
    settings: Mapping[str, str] | None = None,
    wait: bool = True,
    **options: Any,
) -> AsyncIterator[Docked]:
    """A worker as compose.yaml runs it, with the mailboxes of its demo; consuming, unless not waited for.

    Args:
        volumes: name of the volume → where it is mounted; read-only at /emulator.
        url: the broker's, as containers see it.
        options: for Docker, beyond those that confine it.
    """
    container = DockerContainer(image).with_network(network).with_kwargs(**CONFINED, **options)
    container.with_volume_mapping(DEPLOY / "demo/mailboxes.toml", "/etc/postlane/mailboxes.toml")
    for name, place in volumes.items():
        container.with_volume_mapping(name, place, "ro" if place == "/emulator" else "rw")
    container.with_envs(
        **{
            "POSTLANE_BROKER__URL": url,
            "POSTLANE_BROKER__PREFIX": topology.prefix,
            "POSTLANE_RETRY__FIRST_SECONDS": "1",
            **(settings or {}),
        }
    )
    with docked(container) as worker:
        if wait:
            await worker.log.until("broker connected")
        yield worker
