"""The command line's own table: what `--help` shows is what there is, and costs little."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from worker.cli import COMMANDS, app

_HEAVY = {"aio_pika", "aiosmtplib", "asyncio", "httpx2", "jinja2", "msal", "pydantic", "rich", "sqlalchemy"}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_of_the_table_has_help_of_its_own(name: str) -> None:
    said = CliRunner().invoke(app, [name, "--help"])
    assert said.exit_code == 0, said.output
    assert said.output.startswith(f"Usage: postlane {name} ")


def test_command_that_there_is_not_is_named() -> None:
    said = CliRunner().invoke(app, ["sned"])
    assert said.exit_code == 2
    assert "sned" in said.output


def test_help_imports_none_of_the_libraries() -> None:
    script = "import sys; from worker.cli import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert _HEAVY & set(said.stdout.split()) == set()
    for name, about in COMMANDS.items():
        assert name in said.stdout
        assert about in said.stdout


def test_command_without_a_broker_says_so_in_its_own_words_only(unused_tcp_port: int) -> None:
    address = {"AMQP_URL": f"amqp://guest:guest@127.0.0.1:{unused_tcp_port}/"}
    said = subprocess.run(
        [sys.executable, "-m", "worker", "topology", "apply"],
        env={**os.environ, **address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2
    assert said.stderr == f"nothing listens at amqp://guest@127.0.0.1:{unused_tcp_port}/\n"
