"""A throw-away RabbitMQ for the demo and the tests: the one given, or one started for this run and then removed."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from worker.sandbox import container, debian, native
from worker.sandbox.node import HOST, BrokerUnavailable, CommandError, Node, greeting

__all__ = ["BrokerUnavailable", "CommandError", "Origin", "RunningBroker", "broker"]

_DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
_CONNECT_WITHIN = 3.0
_WAYS_OUT = """\
Three ways out:
  - set AMQP_URL to a RabbitMQ that you have, such as amqp://user:password@host:5672/
  - install Docker and start it
  - install RabbitMQ (Debian and Ubuntu: apt-get install rabbitmq-server)"""


class Origin(StrEnum):
    """Where the broker comes from; only a given one is not ours to crash."""

    GIVEN = "given"
    DOCKER = "docker"
    NATIVE = "native"


@dataclass(frozen=True)
class RunningBroker:
    """A broker that answers.

    Attributes:
        amqp_url: Where to connect and as whom; kept out of the repr for the password in it.
        origin: Who started it.
        version: As the broker told it, None where it did not (TLS).
        description: One sentence for the person.
    """

    amqp_url: str = field(repr=False)
    origin: Origin
    version: str | None
    description: str
    _node: Node | None = field(repr=False)

    def kill(self) -> None:
        """Crash it (SIGKILL); port and data stay for `start`.

        What RabbitMQ had not written yet is lost. That includes confirmed messages in a quorum queue that was declared
        about a second before or less: it came back empty or silent (3.10.8 and 4.0.5).
        """
        self._ours().kill()

    def start(self) -> None:
        """Start it again on the same port with the same data, and wait until it is ready."""
        self._ours().start()

    def restart(self) -> None:
        """Crash it and start it again."""
        self.kill()
        self.start()

    def control(self, *args: str) -> str:
        """What rabbitmqctl prints when run against this broker.

        Raises:
            CommandError: It refused.
        """
        return self._ours().control(*args)

    def _ours(self) -> Node:
        if self._node is None:
            raise BrokerUnavailable("not ours: the given broker is only used, never started, stopped or changed")
        return self._node


@contextmanager
def broker(
    *,
    amqp_url: str | None,
    progress: Callable[[str], None],
    may_install: Callable[[str], bool],
    image: str = "rabbitmq:4",
    directory: Path | None = None,
) -> Iterator[RunningBroker]:
    """A broker that answers; what was started for it is ended and removed afterwards.

    Args:
        amqp_url: Use this one and touch nothing. If there is none (or an empty one), Docker is tried, then an
            installed rabbitmq-server, then Debian's package.
        progress: Told what is happening and what is being waited for.
        may_install: Asked before Debian's package is installed.
        image: For Docker. Its data lives and dies with the container.
        directory: Data and logs of an installed rabbitmq-server go here and stay; else to a temporary directory.

    Raises:
        BrokerUnavailable: None is to be had; the text tells the person what to do.
    """
    if amqp_url:
        yield _given(amqp_url)
        return
    with ExitStack() as started:
        yield _in_docker(started, image, progress) or _installed(started, directory, progress, may_install)


def _given(amqp_url: str) -> RunningBroker:
    try:
        parts = urlsplit(amqp_url)
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        host = None
    if not host:
        raise BrokerUnavailable("AMQP_URL is not of the form amqp://user:password@host:port/vhost")
    try:
        socket.create_connection((host, port), _CONNECT_WITHIN).close()
    except OSError as refused:
        raise BrokerUnavailable(f"nothing answers at {host}:{port}, where AMQP_URL points: {refused}") from refused
    version = greeting(host, port) if parts.scheme == "amqp" else None
    name = f"RabbitMQ {version}" if version else "the broker"
    return RunningBroker(amqp_url, Origin.GIVEN, version, f"{name} at {host}:{port}, given by AMQP_URL", None)


def _in_docker(started: ExitStack, image: str, progress: Callable[[str], None]) -> RunningBroker | None:
    docker = container.engine()
    if docker is None:
        progress("no Docker engine answers; looking for an installed rabbitmq-server")
        return None
    try:
        return _ready(started.enter_context(container.running(docker, image, progress)), Origin.DOCKER)
    except BrokerUnavailable as fault:
        progress(f"{image} cannot be started in Docker; looking for an installed rabbitmq-server. {fault}")
        return None


def _installed(
    started: ExitStack,
    directory: Path | None,
    progress: Callable[[str], None],
    may_install: Callable[[str], bool],
) -> RunningBroker:
    server = native.installed_server()
    if server is None:
        server = _newly_installed(progress, may_install)
    return _ready(started.enter_context(native.running(server, directory, progress)), Origin.NATIVE)


def _newly_installed(progress: Callable[[str], None], may_install: Callable[[str], bool]) -> Path:
    if not debian.is_possible():
        raise BrokerUnavailable(f"no RabbitMQ was found on this machine.\n{_WAYS_OUT}")
    try:
        debian.install(progress, may_install)
    except BrokerUnavailable as fault:
        raise BrokerUnavailable(f"{fault}\n{_WAYS_OUT}") from fault
    server = native.installed_server()
    if server is None:
        raise BrokerUnavailable(f"the installed rabbitmq-server was not found.\n{_WAYS_OUT}")
    return server


def _ready(node: Node, origin: Origin) -> RunningBroker:
    version = greeting(HOST, node.port)
    where = "in Docker, published on" if origin is Origin.DOCKER else "on"
    return RunningBroker(
        f"amqp://guest:guest@{HOST}:{node.port}/",
        origin,
        version,
        f"RabbitMQ {version}, started {where} {HOST}:{node.port} for this run",
        node,
    )
