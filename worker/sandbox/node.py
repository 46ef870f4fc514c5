"""What the sandbox asks of a broker it started, and how it knows that one answers."""

import re
import secrets
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from worker.unusable import Unusable

HOST = "127.0.0.1"
PLUGIN = "rabbitmq_consistent_hash_exchange"

# A small machine must not run dry, and a full one must not block publishers. The write-ahead log of quorum
# queues lives in memory until it rolls over: it has to roll long before the memory alarm would stop everyone.
LIMITS = """\
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 512MiB
raft.wal_max_size_bytes = 67108864
"""

# Below the range from which Linux and macOS take the ports of outgoing connections: a client that retries while
# its broker is down would otherwise, once in a while, be given the broker's own port and keep it occupied.
_PORTS = range(20_000, 30_000)

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = 1
_FRAME_HEAD = struct.Struct(">BHI")
_LARGEST_GREETING = 65_536
_ANSWER_WITHIN = 2.0
_READY_WITHIN = 90.0
_PAUSE = 0.1
_LINES = 15
_ERROR = re.compile(r"\[error\]|^(E:|Error)")  # RabbitMQ's, apt's and Docker's way to say it


class BrokerUnavailable(Unusable):
    """No broker is to be had, or this one is not ours to handle; the text is for the person."""


class CommandError(Exception):
    """A program we ran refused or took too long; the text is the program's own."""


class Node(Protocol):
    """A broker of ours that can crash and come back."""

    @property
    def port(self) -> int: ...

    def kill(self) -> None: ...

    def start(self) -> None: ...

    def control(self, *args: str) -> str: ...


def greeting(host: str, port: int) -> str | None:
    """Version of the broker that answers the AMQP header there, None while nobody does."""
    try:
        with socket.create_connection((host, port), _ANSWER_WITHIN) as peer, peer.makefile("rb") as answer:
            peer.sendall(_PROTOCOL_HEADER)
            kind, _channel, size = _FRAME_HEAD.unpack(answer.read(_FRAME_HEAD.size))
            if kind != _METHOD_FRAME or size > _LARGEST_GREETING:
                return None
            return _version(answer.read(size))
    except (OSError, struct.error):
        return None


def _version(connection_start: bytes) -> str:
    # In the server-properties: a short string as key, then "S" and a long string. Nothing else is wanted.
    _, _, rest = connection_start.partition(b"\x07versionS")
    size = int.from_bytes(rest[:4], "big")
    return rest[4 : 4 + size].decode("ascii", "replace") or "of unknown version"


def await_ready(port: int, *, ready: Callable[[], bool], alive: Callable[[], bool], log: Callable[[], str]) -> None:
    """Wait until the node calls itself ready and greets on its port.

    Raises:
        BrokerUnavailable: It ended, or the time is up; the text has the reason from its log.
    """
    deadline = time.monotonic() + _READY_WITHIN
    while not ready() or greeting(HOST, port) is None:
        if not alive():
            raise BrokerUnavailable(f"RabbitMQ ended while starting:\n{complaint(log())}")
        if time.monotonic() > deadline:
            raise BrokerUnavailable(f"RabbitMQ was not ready within {_READY_WITHIN:.0f} s:\n{complaint(log())}")
        time.sleep(_PAUSE)


def free_ports(count: int) -> list[int]:
    """Ports on the loopback address that nobody listens on, all different."""
    found: list[int] = []
    with ExitStack() as held:  # until all are chosen, or one could be chosen twice
        for _ in range(1_000):
            if len(found) == count:
                return found
            candidate, probe = secrets.choice(_PORTS), held.enter_context(socket.socket())
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
            found.append(candidate)
    raise BrokerUnavailable(f"no free port on {HOST} between {_PORTS.start} and {_PORTS.stop}")


def output_of(
    command: Sequence[str | Path],
    *,
    within: float = 60.0,
    env: Mapping[str, str] | None = None,
    user: int | None = None,
    group: int | None = None,
) -> str:
    """Run a program and return what it printed.

    Raises:
        CommandError: It failed or took too long. Arguments are left out of the text: some are passwords.
    """
    program = Path(command[0]).name
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and every argument is ours or the test's
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within,
            check=True,
            env=env,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"{program} did not finish within {within:.0f} s") from None
    except subprocess.CalledProcessError as failed:
        # The reason comes first; then rabbitmqctl repeats its arguments and prints the whole of its help.
        said = (failed.stderr or failed.stdout).partition("Arguments given")[0].strip().splitlines()
        raise CommandError("\n".join([f"{program} failed", *said[:_LINES]])) from None
    return done.stdout


def complaint(log: str) -> str:
    """Why something failed: the first errors in its log, or its last words if it names none."""
    lines = log.strip().splitlines()
    errors = [line for line in lines if _ERROR.search(line)]
    return "\n".join(errors[:_LINES] or lines[-_LINES:])
