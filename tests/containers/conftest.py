"""One RabbitMQ 4, one emulator and one image of ours for all tests here. A Docker engine must answer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import BuildError, DockerException
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.containers.stage import (
    BASE_IMAGE,
    CONFINED,
    RABBITMQ_IMAGE,
    REPOSITORY,
    Docked,
    EmulatorContainer,
    amqp_url,
    docked,
    rabbitmq_container,
    volume,
    worker_container,
)
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here need an engine, and the first one waits for an image to be built."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.container)
            item.add_marker(pytest.mark.timeout(900))


def told(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - the person waits for it


@pytest.fixture(scope="session")
def engine() -> None:
    """An engine that answers."""
    try:
        client = docker.from_env()
    except DockerException as refused:
        pytest.skip(f"no Docker engine answers ({refused}); `make test-containers` starts one where it may")
    try:
        client.ping()
    except DockerException as refused:
        pytest.skip(f"the Docker engine at {os.environ.get('DOCKER_HOST', 'the default socket')} fails: {refused}")
    finally:
        client.close()


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    """The worker's image, from deploy/Dockerfile."""
    told(f"building the worker's image from {BASE_IMAGE}")
    begun = time.monotonic()
    made = DockerImage(
        path=REPOSITORY,
        dockerfile_path="deploy/Dockerfile",
        tag="postlane:test",
        clean_up=False,  # its layers are what makes the next run fast
        forcerm=True,
        buildargs={"BASE_IMAGE": BASE_IMAGE},
    )
    try:
        made.build()
    except BuildError as error:
        pytest.fail(f"{error}\n{''.join(str(line.get('stream', '')) for line in error.build_log)}")
    finally:
        made.remove()
    told(f"built in {time.monotonic() - begun:.0f} s")
    return "postlane:test"


@pytest.fixture(scope="session")
def network(engine: None) -> Iterator[Network]:
    """Where containers find each other by name."""
    with Network() as made:
        yield made


@pytest.fixture(scope="session")
def rabbitmq(network: Network) -> Iterator[Docked]:
    """RabbitMQ 4, `rabbitmq` to other containers."""
    told(f"starting {RABBITMQ_IMAGE}")
    with docked(rabbitmq_container(network, "rabbitmq")) as running:
        yield running


@pytest.fixture
def address(rabbitmq: Docked) -> BrokerAddress:
    """Instead of the broker that all other tests use: RabbitMQ 4."""
    return BrokerAddress(amqp_url(rabbitmq))


@pytest.fixture(scope="session")
def emulator_volume(engine: None) -> Iterator[str]:
    """Where the emulator keeps its certificates and mails."""
    with volume() as name:
        yield name


@pytest.fixture(scope="session")
def emulator_container(image: str, network: Network, emulator_volume: str) -> Iterator[EmulatorContainer]:
    """The same image as an emulated Office 365, `emulator` to other containers and in its certificate."""
    container = (
        DockerContainer(image)
        .with_command("emulator --directory /var/lib/postlane --host 0.0.0.0 --name emulator")
        .with_network(network)
        .with_network_aliases("emulator")
        .with_volume_mapping(emulator_volume, "/var/lib/postlane", "rw")
        .with_kwargs(**CONFINED)
        .waiting_for(LogMessageWaitStrategy("Running; Ctrl-C ends it").with_startup_timeout(60))
    )
    with docked(container, EmulatorContainer) as running:
        assert isinstance(running, EmulatorContainer)
        yield running


@pytest.fixture
def state_volume(engine: None) -> Iterator[str]:
    """The one place that a worker may write to."""
    with volume() as name:
        yield name


@pytest.fixture
def volumes(emulator_container: EmulatorContainer, emulator_volume: str, state_volume: str) -> dict[str, str]:
    """What a worker needs: the emulator's authority, and a place of its own."""
    return {emulator_volume: "/emulator", state_volume: "/var/lib/postlane"}


@pytest.fixture
async def contained(image: str, network: Network, topology: Topology, volumes: dict[str, str]) -> AsyncIterator[Docked]:
    """A worker in a container, consuming."""
    async with worker_container(image, network, topology, volumes) as worker:
        yield worker
