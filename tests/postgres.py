"""A PostgreSQL of our own: private directory and port, may be crashed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.neighbours import free_port
from worker.sandbox.family import descendants, end, kill

_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")
_WITHIN = 30.0  # seconds


class PostgresMissing(Exception):  # noqa: N818 - the sentence a person reads
    """There is no PostgreSQL server on this machine."""


class Cluster:
    """A server on loopback whose data survives its crashes."""

    def __init__(self, programs: Path, directory: Path, *, syncs: bool) -> None:
        """Make an empty cluster; it does not run yet."""
        self._programs = programs
        self._syncs = syncs
        self._directory = directory
        self._data = directory / "data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._call("initdb", "-D", str(self._data), "-U", "postlane", "-A", "trust", "-E", "UTF8", "--no-sync")

    @property
    def url(self) -> str:
        """For the setting `store.url`."""
        return f"postgresql://postlane@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            str(self._programs / "postgres"),
            *("-D", str(self._data), "-p", str(self.port), "-k", str(self._directory)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=100"),
            *("-c", f"fsync={'on' if self._syncs else 'off'}"),
        ]
        with (self._directory / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **_as_postgres())
        until = time.monotonic() + _WITHIN
        while self._call("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), check=False):
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start:\n{(self._directory / 'postgres.log').read_text()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Crash it (SIGKILL to all of its processes)."""
        if self._process is not None:
            # Its children lead sessions of their own, and would write for a while after it is gone.
            children = descendants(self._process.pid)
            self._process.kill()
            kill(children)
            self._process.wait()
            self._process = None
            end(children)
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def psql(self, statement: str) -> str:
        """What psql prints for a statement."""
        command = [str(self._programs / "psql"), "-qAt", "-d", self.url, "-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def _call(self, program: str, *arguments: str, check: bool = True) -> int:
        command = [str(self._programs / program), *arguments]
        return subprocess.run(command, check=check, capture_output=True, **_as_postgres()).returncode


@contextmanager
def postgres(*, syncs: bool = True) -> Iterator[Cluster]:
    """A running server; ended and removed afterwards.

    Args:
        syncs: it waits for the disk, which a test need not: it crashes the server, never the machine.

    Raises:
        PostgresMissing: none is installed.
    """
    programs = _programs()
    directory = Path(tempfile.mkdtemp(prefix="postlane-pg-"))
    cluster = None
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres", "postgres")
        cluster = Cluster(programs, directory, syncs=syncs)
        cluster.start()
        yield cluster
    finally:
        if cluster is not None:
            cluster.kill()
        shutil.rmtree(directory, ignore_errors=True)


def _programs() -> Path:
    found = sorted(path for place in _PLACES for path in Path("/").glob(f"{place[1:]}/initdb"))
    if not found:
        raise PostgresMissing("PostgreSQL is needed: apt-get install postgresql (it need not run)")
    return found[-1].parent


def _as_postgres() -> dict[str, object]:
    """PostgreSQL refuses to run as root."""
    session: dict[str, object] = {"start_new_session": True, "cwd": "/"}
    return {**session, "user": "postgres", "group": "postgres"} if os.geteuid() == 0 else session
