"""The image: what is in it, whom it runs as, how it starts, shows its health and stops."""

from __future__ import annotations

import time
from collections.abc import Iterator

import docker
import pytest
from docker.models.images import Image
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import HealthcheckWaitStrategy

from tests.containers.stage import Docked, worker_container
from worker.broker.topology import Topology

SECOND = 1_000_000_000  # nanoseconds, Docker's unit
GRACE = 25  # seconds; the worker's own default


@pytest.fixture(scope="module")
def inspected(image: str) -> Iterator[Image]:
    client = docker.from_env()
    yield client.images.get(image)
    client.close()


def test_image_runs_the_worker_as_a_numbered_user(inspected: Image) -> None:
    config = inspected.attrs["Config"]
    assert (config["Entrypoint"], config["Cmd"], config["User"]) == (["postlane"], ["run"], "10001:10001")
    assert config["Healthcheck"]["Test"] == ["CMD", "postlane", "health"]
    assert "POSTLANE_HEALTH__HOST=0.0.0.0" in config["Env"]


def test_image_says_what_it_is(inspected: Image) -> None:
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in inspected.labels.items()}
    assert (labels["title"], labels["licenses"]) == ("Postlane", "Apache-2.0")
    assert {"description", "version", "revision", "created"} <= labels.keys()


def test_image_has_no_tools_and_no_leftovers(contained: Docked) -> None:
    found = contained.output(
        *("python", "-c", "import shutil, sys; print([it for it in sys.argv[1:] if shutil.which(it)])"),
        *("gcc", "cc", "make", "git", "curl", "wget"),
    )
    assert found.strip() == "[]"
    assert contained.run("python", "-c", "import pip")[0] != 0
    assert contained.run("ls", "/build")[0] != 0
    assert contained.run("ls", "/root/.cache")[0] != 0


def test_container_runs_as_nobody_in_particular_and_cannot_write(contained: Docked) -> None:
    assert contained.output("id", "-u").strip() == "10001"
    for place in ("/opt/postlane", "/etc/postlane", "/tmp"):
        status, said = contained.run("touch", f"{place}/probe")
        assert status != 0
        assert "Read-only file system" in said
    assert contained.run("touch", "/var/lib/postlane/probe")[0] == 0
    assert contained.output("sh", "-c", "grep CapEff /proc/1/status").split()[1].strip("0") == ""


def test_bytecode_is_compiled_for_a_file_system_that_cannot_be_written(contained: Docked) -> None:
    cached = contained.output("python", "-c", "import worker.bootstrap as it; print(it.__cached__)").strip()
    assert contained.run("test", "-e", cached)[0] == 0


async def test_health_check_turns_healthy_when_the_worker_consumes(
    image: str, network: Network, topology: Topology, volumes: dict[str, str]
) -> None:
    check = {"interval": SECOND, "timeout": 10 * SECOND, "retries": 30}
    async with worker_container(image, network, topology, volumes, healthcheck=check) as worker:
        HealthcheckWaitStrategy().with_startup_timeout(60).wait_until_ready(worker.container)
        assert '"ready":true' in worker.output("postlane", "health").replace(" ", "")


async def test_worker_without_a_broker_is_alive_and_not_ready(
    image: str, network: Network, volumes: dict[str, str]
) -> None:
    nowhere = worker_container(image, network, Topology(), volumes, url="amqp://nobody@nowhere.invalid/", wait=False)
    async with nowhere as worker:
        (lost, *_) = await worker.log.until("broker lost")
        assert "nowhere.invalid" in lost["problem"]
        assert worker.run("postlane", "health")[0] == 1
        live = "import urllib.request as it; print(it.urlopen('http://127.0.0.1:8080/livez').read())"
        assert "ok" in worker.output("python", "-c", live)


async def test_wrong_settings_end_the_container_with_words_and_status_two(
    image: str, network: Network, volumes: dict[str, str]
) -> None:
    misspelt = {"POSTLANE_BROKER__LANE": "7"}
    async with worker_container(image, network, Topology(), volumes, settings=misspelt, wait=False) as worker:
        assert worker.wrapped.wait(timeout=60)["StatusCode"] == 2
        assert b"Did you mean POSTLANE_BROKER__LANES?" in worker.wrapped.logs()


async def test_stop_signal_ends_the_worker_in_time_with_status_zero(contained: Docked) -> None:
    begun = time.monotonic()
    assert contained.stop(GRACE + 10) == 0
    assert time.monotonic() - begun < GRACE
    assert len(contained.log.events("stopping")) == 1
