"""A producer in another language: Node with amqplib publishes a golden message and reads its result."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

import contracts
from tests.neighbours import WorkerProcess
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology

HERE = Path(__file__).parent.parent / "producers" / "node"
GOLDEN = Path(contracts.__file__).parent / "examples" / "notification-password-reset.json"

pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")),
    reason="node and npm are not installed (Debian: apt-get install nodejs npm); the CI script installs them",
)


async def run(*command: str, cwd: Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_node_producer_publishes_a_golden_message_and_reads_its_result(
    worker: WorkerProcess, address: BrokerAddress, topology: Topology, tmp_path: Path
) -> None:
    project = tmp_path / "producer"
    shutil.copytree(HERE, project, ignore=shutil.ignore_patterns("node_modules"))
    status, _, err = await run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", cwd=project)
    assert status == 0, err
    status, out, err = await run("node", "publish.mjs", address.url, str(GOLDEN), topology.prefix, cwd=project)
    assert status == 0, err
    (result,) = map(json.loads, out.splitlines())
    assert (result["status"], result["final"], result["correlation_id"]) == ("accepted", True, "from-node")
    assert result["mailbox"]["name"] == "platform"
