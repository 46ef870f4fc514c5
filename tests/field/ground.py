"""The ground that real servers stand on: their programs, directories of their own, processes, what they keep."""

from __future__ import annotations

import email
import email.policy
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import TypeVar

EXTRACTED = Path(__file__).resolve().parents[2] / ".field"
"""Where `make test-field` puts programs whose packages exclude each other."""

_WITHIN = 30.0  # seconds
_PAUSE = 0.05

_TRACE = re.compile(
    rb"\A(?:(?:Return-Path|Received|X-Original-To|Delivered-To|Envelope-To|Delivery-Date):.*\n(?:[ \t].*\n)*)*",
    re.IGNORECASE,
)
_Found = TypeVar("_Found")


class Missing(Exception):  # noqa: N818 - the sentence a person reads
    """What a server needs is not on this machine."""


def program(name: str, *places: str) -> Path:
    """Where a program is: in the path, in a system directory, in what was extracted.

    Raises:
        Missing: nowhere.
    """
    system = ["/usr/sbin", "/usr/local/sbin", *places]
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *system]))
    extracted = next(EXTRACTED.glob(f"*/usr/**/{name}"), None) if EXTRACTED.is_dir() else None
    if not found and extracted is None:
        raise Missing(f"{name} is not installed; make test-field installs what is missing")
    return Path(found) if found else Path(str(extracted))


def as_root(server: str) -> None:
    """Servers that change users start as root only.

    Raises:
        Missing: we are somebody else.
    """
    if os.geteuid() != 0:
        raise Missing(f"{server} starts as root only, and these tests do not run as root")


def account(name: str) -> None:
    """Servers run as users that their packages make.

    Raises:
        Missing: there is no such user.
    """
    try:
        pwd.getpwnam(name)
    except KeyError:
        raise Missing(f"there is no user {name}; make test-field makes one") from None


@contextmanager
def home(name: str) -> Iterator[Path]:
    """A directory that users of servers may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix=f"postlane-{name}-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


class Process:
    """A server in the foreground."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it and wait until it listens.

        Args:
            command: what to run.
            log: what it prints, appended.
            port: on loopback.
            environment: in addition to ours.
        """
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=log.parent,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        try:
            until(lambda: listens(port) or self._process.poll() is not None)
            assert self._process.poll() is None, f"{command[0]} ended:\n{log.read_text(errors='replace')}"
        except BaseException:
            self.stop()
            raise

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and its children."""
        for sent in (number, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, sent)
                self._process.wait(10)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


def until(look: Callable[[], _Found], within: float = _WITHIN) -> _Found:
    """What a look finds, as soon as it finds something."""
    deadline = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < deadline, "what should have come did not come"
        time.sleep(_PAUSE)
    return found


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True, slots=True)
class Kept:
    """A mail as the server has stored it."""

    octets: bytes

    @property
    def mail(self) -> EmailMessage:
        """It, read."""
        return email.message_from_bytes(self.octets, policy=email.policy.default)  # type: ignore[return-value]

    @property
    def content(self) -> bytes:
        """Without the trace headers that servers put on top (RFC 5321 section 4.4)."""
        return _TRACE.sub(b"", self.octets)


@dataclass(frozen=True, slots=True)
class Maildir:
    """Where a server delivers to."""

    path: Path

    def mails(self) -> list[Kept]:
        """All of them, in any order."""
        return [Kept(file.read_bytes()) for file in (*self.path.glob("**/new/*"), *self.path.glob("**/cur/*"))]

    def wait(self, count: int = 1) -> list[Kept]:
        """Them, once there are so many."""
        until(lambda: len(self.mails()) >= count)
        return self.mails()
