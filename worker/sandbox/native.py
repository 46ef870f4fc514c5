"""A RabbitMQ node of our own from the installed package, next to whatever else runs on the machine."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from worker.sandbox.family import descendants, end
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

_LOCATIONS = (
    "/usr/lib/rabbitmq/bin",  # Debian, Ubuntu, RPM
    "/opt/rabbitmq/sbin",  # the generic archive, where the public images put it
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)

# epmd, the node and this shell are one process group and end together: when the node ends by itself, and when
# we are gone, however that came about, because then the pipe on standard input ends.
_TOGETHER = """\
epmd -address "$ERL_EPMD_ADDRESS" -port "$ERL_EPMD_PORT" &
{ "$0"; kill -KILL 0; } &
read -r _
kill -KILL 0
"""

_STARTED = "Server startup complete"


@dataclass(frozen=True)
class Account:
    """Whom the node runs as; nobody in particular means ourselves."""

    uid: int | None = None
    gid: int | None = None

    def own(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def installed_server() -> Path | None:
    """The real start script, not the wrapper that Debian puts in front of it for the machine's own node."""
    in_path = shutil.which("rabbitmq-server")
    candidates = [Path(place, "rabbitmq-server") for place in _LOCATIONS]
    candidates += [Path(in_path).resolve()] if in_path else []
    # The wrapper forces the machine's directories upon us. Only the real script stands next to rabbitmq-env.
    return next((it for it in candidates if it.exists() and it.with_name("rabbitmq-env").exists()), None)


@contextmanager
def running(server: Path, directory: Path | None, progress: Callable[[str], None]) -> Iterator["NativeNode"]:
    """A ready node; it is gone afterwards, and so is its data unless the directory was given."""
    with _home(directory) as home:
        node = NativeNode(server, home, progress)
        try:
            node.start()
            yield node
        finally:
            node.kill()


@contextmanager
def _home(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        home = directory.absolute() / "rabbitmq"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield home
        return
    with tempfile.TemporaryDirectory(prefix="postlane-rabbitmq-") as fresh:
        yield Path(fresh)


@dataclass(frozen=True, slots=True)
class Member:
    """What nodes that are to form a cluster must agree upon, and the name by which they differ.

    Attributes:
        epmd: port of the epmd that knows them all; a node starts one there if nobody else has.
    """

    name: str
    epmd: int
    cookie: str = field(repr=False)


class NativeNode:
    """One node with ports, directories, cookie and epmd of its own, all of it on the loopback address."""

    def __init__(self, server: Path, home: Path, progress: Callable[[str], None], member: Member | None = None) -> None:
        self._server = server
        self._home = home
        self._progress = progress
        self._account = _account()
        self._log = home / "log" / "broker.log"
        self._console = home / "log" / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port, distribution, epmd = free_ports(3)
        self._member = member or Member("postlane@localhost", epmd, secrets.token_hex(20))
        self._env = _environment(home, distribution, self._member)
        self._furnish()

    def start(self) -> None:
        if self._alive():
            return
        self.kill()  # what is left of a node that ended by itself
        self._progress(f"starting RabbitMQ ({self._server}) on {HOST}:{self.port}, waiting until it is ready")
        self._launch()
        await_ready(self.port, ready=lambda: _STARTED in self._said(), alive=self._alive, log=self._said)

    def kill(self) -> None:
        """Crash the node: SIGKILL, epmd and every helper included."""
        if self._process is None:
            return
        family = descendants(self._process.pid)
        if self._alive():  # otherwise the group has ended itself, and its number may be another's by now
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        end(family)

    def control(self, *args: str) -> str:
        return self._run(self._server.with_name("rabbitmqctl"), "--quiet", *args)

    def _run(self, *command: str | Path) -> str:
        return output_of(command, env=self._env, user=self._account.uid, group=self._account.gid)

    def _furnish(self) -> None:
        for place in (self._home, self._home / "data", self._home / "log"):
            place.mkdir(mode=0o700, exist_ok=True)
            self._account.own(place)
        try:
            self._run("/bin/sh", "-c", 'cd "$0" && test -w .', str(self._home))
        except CommandError as refused:
            raise BrokerUnavailable(f"the user rabbitmq may not enter {self._home}: choose another") from refused
        self._write(".erlang.cookie", self._member.cookie)
        self._write("enabled_plugins", f"[{PLUGIN}].\n")
        self._write("rabbitmq.conf", _configuration(self.port))

    def _write(self, name: str, text: str) -> None:
        path = self._home / name
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o400)  # Erlang refuses a cookie that others may read
        self._account.own(path)

    def _launch(self) -> None:
        if self._log.exists():  # that of the life before
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(  # noqa: S603 - no input from outside
                ["/bin/sh", "-c", _TOGETHER, self._server],
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=console,
                cwd=self._home,
                env=self._env,
                start_new_session=True,  # a Ctrl-C at the terminal is ours to handle, not the node's
                user=self._account.uid,
                group=self._account.gid,
                extra_groups=None if self._account.uid is None else [],
            )

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _said(self) -> str:
        # The console's part is what the node says before it has found its log.
        logs = (self._console, self._log)
        return "\n".join(log.read_text(errors="replace") for log in logs if log.exists())


def _account() -> Account:
    if os.geteuid() != 0:
        return Account()
    try:
        entry = pwd.getpwnam("rabbitmq")
    except KeyError:
        return Account()
    return Account(entry.pw_uid, entry.pw_gid)


def _configuration(port: int) -> str:
    return f"""\
listeners.tcp.1 = {HOST}:{port}
default_user = guest
default_pass = guest
log.file = broker.log
log.file.level = info
log.console = false
{LIMITS}"""


def _environment(home: Path, distribution: int, member: Member) -> dict[str, str]:
    """Everything RabbitMQ would otherwise take from the machine's own node or from the person's shell."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),  # where the cookie is
        "LANG": "C.UTF-8",
        # Erlang's distribution binds to every address by itself, that of rabbitmqctl too; hence for every
        # Erlang that is started here. None of them may start an epmd, which would outlive us.
        "ERL_AFLAGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
        "ERL_CRASH_DUMP_SECONDS": "0",  # the log says enough
        "ERL_EPMD_ADDRESS": HOST,
        "ERL_EPMD_PORT": str(member.epmd),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_CTL_DIST_PORT_MIN": "0",  # any: the usual range is the machine's
        "RABBITMQ_CTL_DIST_PORT_MAX": "0",
        "RABBITMQ_NODENAME": member.name,
        "RABBITMQ_CONF_ENV_FILE": str(home / "none.env"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(home / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "data" / "generated"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "data" / "node.pid"),
    }
