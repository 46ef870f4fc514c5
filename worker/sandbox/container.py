"""A RabbitMQ in a container of a Docker engine on this machine."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from worker.sandbox.node import (
    HOST,
    LIMITS,
    PLUGIN,
    BrokerUnavailable,
    CommandError,
    await_ready,
    free_ports,
    output_of,
)

# To the broker the host is not on the loopback interface, where alone guest may log in by default. What holds
# for the public image holds for one that is only Debian's package: both read conf.d, only one has an entry point.
_BEFORE_START = f"""\
set -e
exec 2>&1
mkdir -p /etc/rabbitmq/conf.d
printf '%s' "$POSTLANE_CONFIGURATION" > /etc/rabbitmq/conf.d/90-postlane.conf
rabbitmq-plugins enable --offline {PLUGIN}
if command -v docker-entrypoint.sh > /dev/null; then exec docker-entrypoint.sh rabbitmq-server; fi
exec rabbitmq-server
"""
_CONFIGURATION = f"loopback_users.guest = false\n{LIMITS}"

_ENGINE_WITHIN = 10.0
_PULLED_WITHIN = 600.0


def engine() -> str | None:
    """The Docker client, when an engine answers it."""
    docker = shutil.which("docker")
    if docker is None:
        return None
    try:
        output_of([docker, "info"], within=_ENGINE_WITHIN)
    except CommandError:
        return None
    return docker


@contextmanager
def running(docker: str, image: str, progress: Callable[[str], None]) -> Iterator["Container"]:
    """A ready broker; container and data are removed afterwards.

    Raises:
        BrokerUnavailable: The image cannot be had or does not start.
    """
    container = Container(docker, image, progress)
    try:
        container.create()
        container.start()
        yield container
    finally:
        container.remove()


class Container:
    """One container that keeps its data and its port from one start to the next."""

    def __init__(self, docker: str, image: str, progress: Callable[[str], None]) -> None:
        self._docker = docker
        self._image = image
        self._progress = progress
        # Known before the container exists, so that it can be removed whenever we are interrupted.
        self._name = f"postlane-rabbitmq-{secrets.token_hex(4)}"
        # Chosen by us: Docker would publish another one at every start.
        (self.port,) = free_ports(1)

    def create(self) -> None:
        try:
            self._obtain_image()
            self._run(
                *("create", "--name", self._name, "--hostname", "postlane", "--publish", f"{HOST}:{self.port}:5672"),
                *("--env", f"POSTLANE_CONFIGURATION={_CONFIGURATION}"),
                *("--entrypoint", "sh", self._image, "-c", _BEFORE_START),
            )
        except CommandError as refused:
            raise BrokerUnavailable(str(refused)) from refused

    def start(self) -> None:
        try:
            if self._alive():
                return
            self._progress(
                f"starting RabbitMQ ({self._image}, Docker) on {HOST}:{self.port}, waiting until it is ready"
            )
            self._run("start", self._name)
            await_ready(self.port, ready=self._alive, alive=self._alive, log=lambda: self._run("logs", self._name))
        except CommandError as refused:
            raise BrokerUnavailable(str(refused)) from refused

    def kill(self) -> None:
        """Crash the broker: SIGKILL."""
        if self._alive():
            self._run("kill", "--signal", "KILL", self._name)
            self._run("wait", self._name)  # started too early, it would count as running still

    def control(self, *args: str) -> str:
        return self._run("exec", self._name, "rabbitmqctl", "--quiet", *args)

    def remove(self) -> None:
        with suppress(CommandError):  # never created
            self._run("rm", "--force", "--volumes", self._name)

    def _obtain_image(self) -> None:
        try:
            self._run("image", "inspect", self._image)
        except CommandError:
            self._progress(f"pulling the image {self._image}: some 100 MB, up to a few minutes")
            self._run("pull", "--quiet", self._image, within=_PULLED_WITHIN)

    def _alive(self) -> bool:
        return self._run("container", "inspect", "--format", "{{.State.Running}}", self._name).strip() == "true"

    def _run(self, *args: str, within: float = 60.0) -> str:
        return output_of([self._docker, *args], within=within)
