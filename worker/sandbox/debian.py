"""RabbitMQ from the distribution's package, on Debian and Ubuntu, with the person's consent."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from worker.sandbox.node import BrokerUnavailable, CommandError, complaint, output_of

QUESTION = (
    "No RabbitMQ was found: no AMQP_URL, no Docker engine, no rabbitmq-server. "
    "Install the package rabbitmq-server now? Only this run would use it; "
    "the machine-wide service is neither started nor enabled."
)

# One script, so that one sudo is enough and the policy file goes away however the installation ends. The time
# limits are inside for the same reason. Ctrl-C is put off until the end: dpkg should not be stopped half-way
# (timeout gives it a process group of its own), nor the service be left enabled. A policy file that is there
# already belongs to somebody else.
_INSTALL = """\
set -eu
export DEBIAN_FRONTEND=noninteractive
trap : HUP INT TERM
policy=/usr/sbin/policy-rc.d
if [ -e "$policy" ]; then
    verdict=0
    "$policy" rabbitmq-server start > /dev/null 2>&1 || verdict=$?
    if [ "$verdict" -ne 101 ]; then
        echo "$policy would let the service start: nothing was installed" >&2
        exit 1
    fi
else
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\\nexit 101\\n' > "$policy"
    chmod 755 "$policy"
fi
command -v epmd > /dev/null && epmd= || epmd='epmd.service epmd.socket'
install() { timeout 900 apt-get install -y --no-install-recommends rabbitmq-server; }
install || { timeout 300 apt-get update && install; }
update-rc.d rabbitmq-server disable || true
if command -v systemctl > /dev/null; then systemctl disable rabbitmq-server.service $epmd || true; fi
"""


def is_possible() -> bool:
    return shutil.which("apt-get") is not None


def install(progress: Callable[[str], None], may_install: Callable[[str], bool]) -> None:
    """Install the package without its service.

    Raises:
        BrokerUnavailable: The person said no, may not, or the installation failed.
    """
    if not may_install(QUESTION):
        raise BrokerUnavailable("rabbitmq-server was not installed: the answer was no")
    as_root = _as_root()
    progress("installing rabbitmq-server with apt-get and waiting for it: about a minute")
    with tempfile.TemporaryFile() as said:
        if _wait([*as_root, "/bin/sh", "-c", _INSTALL], said) != 0:
            said.seek(0)
            reason = complaint(said.read().decode(errors="replace"))
            raise BrokerUnavailable(f"rabbitmq-server could not be installed:\n{reason}")


def _as_root() -> list[str | Path]:
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is not None and _asks_nothing(sudo):
        return [sudo, "-n"]
    if sudo is not None and sys.stdin.isatty():
        return [sudo]
    raise BrokerUnavailable("installing rabbitmq-server takes root: run it as root or through sudo")


def _asks_nothing(sudo: str) -> bool:
    try:
        output_of([sudo, "-n", "true"], within=10.0)
    except CommandError:
        return False
    return True


def _wait(command: list[str | Path], said: IO[bytes]) -> int:
    installation = subprocess.Popen(  # noqa: S603 - a constant script
        command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
    )
    try:
        return installation.wait()
    except KeyboardInterrupt:
        installation.wait()
        raise
