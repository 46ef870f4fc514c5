"""A PostgreSQL of our own for tests: the installed programs on a private directory and port of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_READY_WITHIN = 60  # seconds


@dataclass(frozen=True)
class Cluster:
    """A server that can be killed and started again."""

    programs: Path
    directory: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def url(self, database: str = "postgres") -> str:
        """Where a database is, as `store.url` wants it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: str) -> str:
        """Run one of its programs, as the user who may."""
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **_as_postgres())
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
        return done.stdout

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Have a statement carried out."""
        address = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres")
        return self.run("psql", *address, "-d", database, "-v", "ON_ERROR_STOP=1", "-Atqc", statement).strip()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [str(self.programs / "postgres"), "-D", str(self.directory / "data")]
        with (self.directory / "log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, **_as_postgres()))
        self._until_ready()

    def _until_ready(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        asking = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        while subprocess.run(asking, check=False).returncode != 0:
            assert self.processes[-1].poll() is None, (self.directory / "log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "PostgreSQL does not answer"

    def kill(self) -> None:
        """End it at once, as a power cut would, with all that it has started."""
        first = self.processes.pop()
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(first.pid)], capture_output=True, text=True, check=False
        )
        for process in (first.pid, *map(int, listed.stdout.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        first.wait()

    def stop(self) -> None:
        """End it, if it runs."""
        while self.processes:
            self.processes[-1].send_signal(signal.SIGQUIT)
            self.processes.pop().wait()


@contextmanager
def cluster(*, safe: bool = False) -> Iterator[Cluster]:
    """Make and start a server; it is stopped and removed at the end.

    Args:
        safe: wait for the disk as a real one does; tests need not.
    """
    programs = installed()
    assert programs is not None, "PostgreSQL is not installed: apt-get install postgresql"
    directory = Path(tempfile.mkdtemp(prefix="postlane-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres")
    running = Cluster(programs, directory, _free_port())
    try:
        data = directory / "data"
        running.run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        settings = [
            "listen_addresses = '127.0.0.1'",
            f"port = {running.port}",
            f"unix_socket_directories = '{directory}'",
            *([] if safe else ["fsync = off", "full_page_writes = off"]),
        ]
        with (data / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write("\n".join(settings) + "\n")
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(directory, ignore_errors=True)


def installed() -> Path | None:
    """Where the programs are: the newest that Debian has, or those on the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    found = shutil.which("postgres")
    newest = debian[-1] if debian else Path(found) if found else None
    return newest.parent if newest else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _as_postgres() -> dict[str, Any]:
    """It refuses to run as root."""
    return {"cwd": "/", **({"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {})}
