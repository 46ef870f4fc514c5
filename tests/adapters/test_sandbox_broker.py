"""The throw-away broker: really started, really crashed, and gone without a trace."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from worker.sandbox import container, debian, native, node
from worker.sandbox.node import HOST, greeting
from worker.sandbox.rabbitmq import BrokerUnavailable, CommandError, Origin, RunningBroker, broker

REPOSITORY = Path(__file__).parents[2]

needs_rabbitmq = pytest.mark.skipif(
    native.installed_server() is None, reason="rabbitmq-server is not installed on this machine"
)
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="finding processes takes Linux's /proc")

# Says when it has a broker, and waits to be killed.
DOOMED = """
from worker.sandbox.rabbitmq import broker

with broker(amqp_url=None, progress=lambda said: None, may_install=lambda question: False) as rabbit:
    print(rabbit.amqp_url, flush=True)
    input()
"""


def never(question: str) -> bool:
    pytest.fail(f"nobody is to be asked: {question}")


def port_of(rabbit: RunningBroker) -> int:
    port = urlsplit(rabbit.amqp_url).port
    assert port is not None
    return port


@dataclass(frozen=True)
class Process:
    number: int
    name: str
    born: str


def children_of(parents: set[int]) -> Iterator[Process]:
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            head, _, fields = place.read_text().rpartition(") ")
            state, parent, *more = fields.split()
            if int(parent) in parents and state != "Z":
                yield Process(int(place.parent.name), head.partition("(")[2], more[17])


def descendants_of(ancestor: int) -> set[Process]:
    children = set(children_of({ancestor}))
    found = children
    while children := set(children_of({it.number for it in children})):
        found |= children
    return found


def still_running(processes: set[Process]) -> set[Process]:
    everybody = {int(place.name) for place in Path("/proc").glob("[0-9]*")} | {0}
    return processes & set(children_of(everybody))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind((HOST, port))
            return True
    return False


def becomes_true(condition: Callable[[], bool], within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
    return True


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary directories go during the test; unlike pytest's own, the user rabbitmq may enter it."""
    with tempfile.TemporaryDirectory(prefix="postlane-test-") as name:
        place = Path(name)
        place.chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.setenv("TMPDIR", name)
        yield place


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(Origin.NATIVE, marks=needs_rabbitmq),
        pytest.param(Origin.DOCKER, marks=pytest.mark.container),
    ],
)
def rabbit(request: pytest.FixtureRequest) -> Iterator[RunningBroker]:
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        if request.param is Origin.NATIVE:
            patch.setenv("DOCKER_HOST", "unix:///nobody.sock")
        elif container.engine() is None:
            pytest.skip("no Docker engine answers")
        image = os.environ.get("POSTLANE_TEST_RABBITMQ_IMAGE", "rabbitmq:4")
        with broker(amqp_url=None, image=image, progress=told.append, may_install=never) as started:
            assert started.origin is request.param, told
            yield started


def test_started_broker_answers_the_amqp_header_with_its_version(rabbit: RunningBroker) -> None:
    assert greeting(HOST, port_of(rabbit)) == rabbit.version
    assert f"RabbitMQ {rabbit.version}, started" in rabbit.description
    assert f"{HOST}:{port_of(rabbit)}" in rabbit.description


def test_control_speaks_to_this_very_node(rabbit: RunningBroker) -> None:
    assert "guest\t[administrator]" in rabbit.control("list_users")
    assert "rabbitmq_consistent_hash_exchange" in rabbit.control("status")


def test_refused_control_tells_the_reason_and_no_argument(rabbit: RunningBroker) -> None:
    with pytest.raises(CommandError, match=r"already.exists") as refused:
        rabbit.control("add_user", "guest", "a-password")
    assert "a-password" not in str(refused.value)
    with pytest.raises(CommandError, match=r"rabbitmqctl|docker") as misused:
        rabbit.control("add_user", "guest", "a-password", "too-much")
    assert "a-password" not in str(misused.value)


def test_crash_and_start_keep_port_and_definitions(rabbit: RunningBroker) -> None:
    before = port_of(rabbit)
    rabbit.control("add_vhost", "survivor")
    rabbit.kill()
    assert greeting(HOST, before) is None
    with pytest.raises(CommandError):
        rabbit.control("list_vhosts")
    rabbit.start()
    assert greeting(HOST, before) == rabbit.version
    assert "survivor" in rabbit.control("list_vhosts")


def test_repr_keeps_the_password_to_itself(rabbit: RunningBroker) -> None:
    assert "guest" not in repr(rabbit)


@needs_rabbitmq
@needs_proc
def test_interrupted_run_leaves_no_process_no_port_and_no_file(no_docker: None, temporary: Path) -> None:
    others = descendants_of(os.getpid())
    processes: set[Process] = set()
    ports = []

    def interrupted() -> None:
        with broker(amqp_url=None, progress=print, may_install=never) as started:
            processes.update(descendants_of(os.getpid()) - others)
            ports.append(port_of(started))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {"beam.smp", "epmd", "erl_child_setup", "inet_gethost"} <= {it.name for it in processes}
    assert still_running(processes) == set()
    assert list(temporary.iterdir()) == []
    assert is_free(ports[0])


@needs_rabbitmq
@needs_proc
def test_interrupted_start_leaves_nothing_either(
    no_docker: None, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = descendants_of(os.getpid())
    processes: set[Process] = set()

    def has_begun() -> bool:
        processes.update(descendants_of(os.getpid()) - others)
        return "beam.smp" in {it.name for it in processes}

    def interrupt(*_: object, **__: object) -> None:
        assert becomes_true(has_begun)
        raise KeyboardInterrupt

    monkeypatch.setattr(native, "await_ready", interrupt)
    with pytest.raises(KeyboardInterrupt), broker(amqp_url=None, progress=print, may_install=never):
        pytest.fail("it never got ready")
    assert still_running(processes) == set()
    assert list(temporary.iterdir()) == []


@needs_rabbitmq
@needs_proc
def test_node_does_not_outlive_an_owner_that_was_killed(no_docker: None, temporary: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DOOMED], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().startswith(b"amqp://")
        processes = descendants_of(owner.pid)
        owner.kill()
    assert {"beam.smp", "epmd"} <= {it.name for it in processes}
    assert becomes_true(lambda: not still_running(processes))


@needs_rabbitmq
def test_node_that_cannot_start_says_what_its_log_says(
    no_docker: None, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "LIMITS", "no.such.setting = 1\n")
    with (
        pytest.raises(BrokerUnavailable, match=r"no\.such\.setting"),
        broker(amqp_url=None, progress=print, may_install=never),
    ):
        pytest.fail("it cannot have started")
    assert list(temporary.iterdir()) == []


@needs_rabbitmq
def test_node_that_is_not_ready_in_time_is_ended(
    no_docker: None, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "_READY_WITHIN", 2.0)
    with (
        pytest.raises(BrokerUnavailable, match="not ready within 2 s:"),
        broker(amqp_url=None, progress=print, may_install=never),
    ):
        pytest.fail("nobody is that fast")
    assert list(temporary.iterdir()) == []


@needs_rabbitmq
def test_given_directory_is_used_and_stays(no_docker: None, temporary: Path) -> None:
    with broker(amqp_url=None, progress=print, may_install=never, directory=temporary / "mine"):
        pass
    assert "Server startup complete" in (temporary / "mine" / "rabbitmq" / "log" / "broker.log").read_text()


@pytest.fixture
def bare_debian(monkeypatch: pytest.MonkeyPatch, no_docker: None) -> None:
    """As if rabbitmq-server were not installed, on a machine with apt-get."""
    monkeypatch.setattr(native, "installed_server", lambda: None)
    monkeypatch.setattr(debian, "is_possible", lambda: True)


def test_nothing_is_installed_without_consent(bare_debian: None) -> None:
    asked: list[str] = []

    def no(question: str) -> bool:
        asked.append(question)
        return False

    with (
        pytest.raises(BrokerUnavailable, match=r"(?s)AMQP_URL.*Docker.*apt-get install rabbitmq-server"),
        broker(amqp_url=None, progress=print, may_install=no),
    ):
        pytest.fail("there is no broker")
    assert asked == [debian.QUESTION]


def test_without_apt_nobody_is_asked(bare_debian: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "is_possible", lambda: False)
    with (
        pytest.raises(BrokerUnavailable, match="Three ways out"),
        broker(amqp_url=None, progress=print, may_install=never),
    ):
        pytest.fail("there is no broker")


def test_given_broker_is_used_as_it_is(temporary: Path) -> None:
    with socket.create_server((HOST, 0)) as theirs:
        url = f"amqp://them:secret@{HOST}:{theirs.getsockname()[1]}/"
        with broker(amqp_url=url, progress=pytest.fail, may_install=never) as given:
            assert (given.origin, given.amqp_url) == (Origin.GIVEN, url)
            assert "secret" not in given.description + repr(given)
            for interfere in (given.kill, given.start, given.restart, lambda: given.control("status")):
                with pytest.raises(BrokerUnavailable, match="not ours"):
                    interfere()
    assert list(temporary.iterdir()) == []


def test_given_broker_tells_its_version(rabbit: RunningBroker) -> None:
    with broker(amqp_url=rabbit.amqp_url, progress=pytest.fail, may_install=never) as given:
        assert given.version == rabbit.version
    assert greeting(HOST, port_of(rabbit)) == rabbit.version


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_given_url_where_nobody_answers_is_refused_by_name(scheme: str) -> None:
    with socket.socket() as silent:
        silent.bind((HOST, 0))  # taken, but nobody listens
        port = silent.getsockname()[1]
        with (
            pytest.raises(BrokerUnavailable, match=f"nothing answers at {HOST}:{port}, where AMQP_URL") as refused,
            broker(amqp_url=f"{scheme}://them:secret@{HOST}:{port}/", progress=pytest.fail, may_install=never),
        ):
            pytest.fail("there is no broker")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["localhost:5672", "http://localhost/", "amqp:///vhost", "amqp://localhost:many/", "amqp://[::1/"]
)
def test_given_url_of_another_form_is_refused(url: str) -> None:
    with (
        pytest.raises(BrokerUnavailable, match="AMQP_URL is not of the form"),
        broker(amqp_url=url, progress=pytest.fail, may_install=never),
    ):
        pytest.fail("there is no broker")


@pytest.mark.parametrize(
    "answer",
    [b"", b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x01\x00\x00\xff\xff\xff\xff"],
    ids=["closed", "other-amqp", "http", "endless-frame"],
)
def test_anything_else_is_no_greeting(answer: bytes) -> None:
    with socket.create_server((HOST, 0)) as server, ThreadPoolExecutor(1) as peer:

        def reply() -> None:
            with server.accept()[0] as client:
                client.sendall(answer)

        replied = peer.submit(reply)
        assert greeting(HOST, server.getsockname()[1]) is None
        replied.result()
