"""Settings: where each may come from, which source is the strongest, and that a misspelt one is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker import settings
from worker.settings import Origin, SettingsError

SECRET = "S3CRET"
OURS = ("AMQP_URL", "RABBITMQ_URL", "CLOUDAMQP_URL", "CREDENTIALS_DIRECTORY")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Nothing of ours in it."""
    for name in list(os.environ):
        if name.startswith("POSTLANE_") or name in OURS:
            monkeypatch.delenv(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one test below is about them
        yield monkeypatch


def url(name: str) -> str:
    return f"amqp://{name}:{SECRET}-{name}@{name}.example/"


def source_of(path: str) -> Origin:
    return next(origin for origin in settings.origins(settings.load()) if origin.path == path)


# ---------------------------------------------------------------- sources

SOURCES = ["environment", "AMQP_URL", "RABBITMQ_URL", "CLOUDAMQP_URL", "file", "directory", "toml", "default"]


@pytest.fixture
def give(environment: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """Set broker.url in one of the sources; gives the name that `config show` must call it by."""

    def named(source: str) -> str:
        match source:
            case "environment":
                environment.setenv("POSTLANE_BROKER__URL", url("environment"))
            case "file":
                (tmp_path / "amqp").write_text(f"{url('file')}\n")
                environment.setenv("POSTLANE_BROKER__URL_FILE", str(tmp_path / "amqp"))
                return "file named by the environment"
            case "directory":
                (tmp_path / "secrets").mkdir()
                (tmp_path / "secrets" / "broker__url").write_text(f"{url('directory')}\r\n")
                environment.setenv("POSTLANE_SECRETS_DIR", str(tmp_path / "secrets"))
                return str(tmp_path / "secrets")
            case "toml":
                (tmp_path / "postlane.toml").write_text(f'[broker]\nurl = "{url("toml")}"\n')
                environment.setenv("POSTLANE_CONFIG", str(tmp_path / "postlane.toml"))
                return str(tmp_path / "postlane.toml")
            case "default":
                pass
            case name:
                environment.setenv(name, url(name))
        return source

    return named


@pytest.mark.parametrize("strongest", SOURCES)
def test_setting_comes_from_the_only_source_that_has_it(give: Callable[[str], str], strongest: str) -> None:
    name = give(strongest)
    wanted = "amqp://guest:guest@localhost:5672/" if strongest == "default" else url(strongest)
    assert settings.load().broker.url.get_secret_value() == wanted
    assert source_of("broker.url") == Origin("broker.url", "********", name)


@pytest.mark.parametrize("strongest", [source for source in SOURCES if source != "file"])
def test_stronger_source_wins_over_all_weaker_ones(give: Callable[[str], str], strongest: str) -> None:
    names = {source: give(source) for source in SOURCES[SOURCES.index(strongest) :] if source != "file"}
    assert source_of("broker.url").source == names[strongest]


@pytest.mark.parametrize("strongest", ["environment", "AMQP_URL", "file"])
def test_file_named_by_the_environment_has_its_place_in_the_order(give: Callable[[str], str], strongest: str) -> None:
    weaker = [source for source in ("environment", "AMQP_URL", "file", "directory", "toml") if source in SOURCES]
    names = {source: give(source) for source in weaker[weaker.index(strongest) :]}
    assert source_of("broker.url").source == names[strongest]


def test_each_setting_has_a_source_of_its_own(give: Callable[[str], str], environment: pytest.MonkeyPatch) -> None:
    give("directory")
    toml = give("toml")
    Path(toml).write_text('[broker]\nurl = "amqp://x/"\nprefetch = 3\n[log]\nlevel = "debug"\n')
    environment.setenv("POSTLANE_BROKER__LANES", "5")
    loaded = settings.load()
    assert (loaded.broker.prefetch, loaded.broker.lanes, loaded.log.level) == (3, 5, "debug")
    assert url("directory") == loaded.broker.url.get_secret_value()
    found = {origin.path: origin.source for origin in settings.origins(loaded)}
    assert (found["broker.prefetch"], found["broker.lanes"], found["log.level"]) == (toml, "environment", toml)
    assert found["broker.prefix"] == "default"


def test_file_may_hold_any_setting_not_only_secrets(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lanes").write_text("7\n")
    environment.setenv("POSTLANE_BROKER__LANES_FILE", str(tmp_path / "lanes"))
    assert settings.load().broker.lanes == 7


@pytest.mark.parametrize("name", ["broker__url", "BROKER__URL"])
def test_secrets_directory_knows_its_files_by_the_settings_name(
    environment: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text(f"{url('directory')}\n")
    environment.setenv("POSTLANE_SECRETS_DIR", str(tmp_path))
    assert settings.load().broker.url.get_secret_value() == url("directory")


def test_secrets_mounted_by_kubernetes_are_read(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Links into a directory that is swapped as a whole, beside files that are none of ours."""
    (tmp_path / "..2026_06_01").mkdir()
    (tmp_path / "..2026_06_01" / "broker__url").write_text(url("kubernetes"))
    (tmp_path / "..2026_06_01" / "tls.crt").write_text("not ours")
    (tmp_path / "..data").symlink_to("..2026_06_01")
    (tmp_path / "broker__url").symlink_to("..data/broker__url")
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")
    environment.setenv("POSTLANE_SECRETS_DIR", str(tmp_path))
    assert settings.load().broker.url.get_secret_value() == url("kubernetes")


def test_credentials_of_systemd_are_read(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broker__url").write_text(url("systemd"))
    environment.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert settings.load().broker.url.get_secret_value() == url("systemd")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", ""], ids=["lf", "crlf", "two", "none"])
def test_line_end_of_a_secret_file_is_not_part_of_the_secret(
    environment: pytest.MonkeyPatch, tmp_path: Path, end: str
) -> None:
    (tmp_path / "broker__url").write_bytes(f"{url('directory')}{end}".encode())
    environment.setenv("POSTLANE_SECRETS_DIR", str(tmp_path))
    assert settings.load().broker.url.get_secret_value() == url("directory")


@pytest.mark.parametrize("end", ["\n", "\r\n", ""], ids=["lf", "crlf", "none"])
def test_line_end_of_a_named_file_is_not_part_of_the_value(
    environment: pytest.MonkeyPatch, tmp_path: Path, end: str
) -> None:
    (tmp_path / "url").write_bytes(f"{url('file')}{end}".encode())
    environment.setenv("POSTLANE_BROKER__URL_FILE", str(tmp_path / "url"))
    assert settings.load().broker.url.get_secret_value() == url("file")


def test_names_are_found_in_small_letters_too(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("postlane_broker__lanes", "3")
    assert settings.load().broker.lanes == 3


# ---------------------------------------------------------------- mistakes


def refusal() -> str:
    with pytest.raises(SettingsError) as refused:
        settings.load()
    text = str(refused.value)
    assert SECRET not in f"{text}{refused.value!r}"
    return text


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("POSTLANE_BROKER__URI", "POSTLANE_BROKER__URL"),
        ("POSTLANE_BROKR__URL", "POSTLANE_BROKER__URL"),
        ("POSTLANE_WORKER__CONCURENCY", "POSTLANE_WORKER__CONCURRENCY"),
        ("POSTLANE_BROKER_URL", "POSTLANE_BROKER__URL"),
        ("POSTLANE_LOG__LEVEL_FILES", "POSTLANE_LOG__LEVEL"),
        ("POSTLANE_MAILBOXES_FILE", "POSTLANE_MAILBOXES__FILE"),
    ],
)
def test_misspelt_name_is_refused_with_the_right_one(
    environment: pytest.MonkeyPatch, name: str, suggested: str
) -> None:
    environment.setenv(name, SECRET)
    assert refusal() == f"{name} is not a setting. Did you mean {suggested}?"


def test_name_like_no_other_is_refused_without_a_guess(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("POSTLANE_XYZZY", SECRET)
    assert refusal() == "POSTLANE_XYZZY is not a setting."


def test_every_misspelt_name_is_told(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("POSTLANE_BROKER__URI", SECRET)
    environment.setenv("POSTLANE_LOGS__LEVEL", "info")
    assert [line.split()[0] for line in refusal().splitlines()] == ["POSTLANE_BROKER__URI", "POSTLANE_LOGS__LEVEL"]


def test_names_that_kubernetes_makes_for_a_service_are_nobodys_mistake(environment: pytest.MonkeyPatch) -> None:
    """A Service called `postlane` puts these into every container of its namespace."""
    address = "tcp://10.0.0.1:8080"
    for name, value in {
        "POSTLANE_SERVICE_HOST": "10.0.0.1",
        "POSTLANE_SERVICE_PORT": "8080",
        "POSTLANE_SERVICE_PORT_METRICS": "8080",
        "POSTLANE_PORT": address,
        "POSTLANE_PORT_8080_TCP": address,
        "POSTLANE_PORT_8080_TCP_PROTO": "tcp",
        "POSTLANE_PORT_8080_TCP_PORT": "8080",
        "POSTLANE_PORT_8080_TCP_ADDR": "10.0.0.1",
    }.items():
        environment.setenv(name, value)
    assert settings.load().broker.lanes == 32


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("POSTLANE_BROKER__LANES", "many", "valid integer"),
        ("POSTLANE_BROKER__LANES", "0", "greater than or equal to 1"),
        ("POSTLANE_BROKER__LANES", "257", "less than or equal to 256"),
        ("POSTLANE_BROKER__PREFIX", "Has Spaces", "match pattern"),
        ("POSTLANE_WORKER__NAME", "", "at least 1 character"),
        ("POSTLANE_WORKER__GRACE_SECONDS", "-1", "greater than or equal to 0"),
        ("POSTLANE_HEALTH__PORT", "65536", "less than or equal to 65535"),
        ("POSTLANE_LOG__LEVEL", "verbose", "'debug', 'info', 'warning' or 'error'"),
        ("POSTLANE_LOG__FORMAT", "xml", "'auto', 'json' or 'console'"),
        ("POSTLANE_RETRY__FACTOR", "0.5", "greater than or equal to 1"),
        ("POSTLANE_SMTP__CONNECT_SECONDS", "0", "greater than 0"),
    ],
)
def test_wrong_value_is_named_with_its_setting(
    environment: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    environment.setenv(name, value)
    text = refusal()
    section, key = name.removeprefix("POSTLANE_").lower().split("__")
    assert text.startswith(f"{section}.{key} ({name}): ")
    assert problem in text


def test_wrong_section_as_json_names_the_variable(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("POSTLANE_BROKER", SECRET)
    assert "POSTLANE_BROKER" in refusal()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[broker]\nuri = "S3CRET"\n', "broker.uri"),
        ('[brokr]\nurl = "S3CRET"\n', "brokr"),
        ("[broker]\nlanes = 0\n", "broker.lanes"),
        ('[broker]\nlanes = "many"\n', "broker.lanes"),
        ("broker = 3\n", "broker"),
        ('[broker\nurl = "S3CRET"\n', "line 1"),
        ("[broker]\nurl = amqp://u:S3CRET@h/\n", "line 2"),
    ],
    ids=["key", "section", "value", "type", "no-section", "no-toml", "no-quotes"],
)
def test_mistake_in_the_toml_file_is_named_with_the_file(
    environment: pytest.MonkeyPatch, tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "postlane.toml"
    path.write_text(text)
    environment.setenv("POSTLANE_CONFIG", str(path))
    said = refusal()
    assert problem in said
    assert str(path) in said


def test_not_even_the_traceback_of_a_mistake_holds_a_secret(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An error is printed with its causes where nobody expected one."""
    path = tmp_path / "postlane.toml"
    path.write_text(f'[broker]\nuri = "amqp://u:{SECRET}@h/"\nca_file = ["{SECRET}"]\n')
    environment.setenv("POSTLANE_CONFIG", str(path))
    with pytest.raises(SettingsError) as refused:
        settings.load()
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_toml_file_that_is_not_there_is_named(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("POSTLANE_CONFIG", str(tmp_path / "nowhere.toml"))
    assert refusal() == f"POSTLANE_CONFIG names {tmp_path}/nowhere.toml, which is no file."


def test_secrets_directory_that_is_not_there_is_named_with_its_variable(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("POSTLANE_SECRETS_DIR", str(tmp_path / "nowhere"))
    said = refusal()
    assert str(tmp_path / "nowhere") in said
    assert "POSTLANE_SECRETS_DIR" in said


@pytest.mark.parametrize("what", ["missing", "directory", "octets"])
def test_file_that_cannot_be_read_is_named_with_its_variable(
    environment: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "octets").write_bytes(b"\xff\xfe\x00")
    environment.setenv("POSTLANE_BROKER__URL_FILE", str(tmp_path / what))
    assert refusal().startswith(f"POSTLANE_BROKER__URL_FILE names {tmp_path / what}, which cannot be read")


@pytest.mark.parametrize(
    "broken",
    ["broker.example:5672", "http://broker.example/", "", "amqp://u:S3CRET@h:port/", "amqp://u:S3CRET@h:99999/"],
    ids=["no-scheme", "other-scheme", "empty", "port-of-letters", "port-out-of-range"],
)
def test_broker_address_that_is_none_is_refused_at_once(environment: pytest.MonkeyPatch, broken: str) -> None:
    environment.setenv("POSTLANE_BROKER__URL", broken)
    assert "POSTLANE_BROKER__URL" in refusal()


# ---------------------------------------------------------------- what is shown


def test_no_secret_is_in_what_is_shown_or_represented(give: Callable[[str], str]) -> None:
    give("environment")
    loaded = settings.load()
    assert SECRET not in f"{loaded!r} {loaded} {list(settings.origins(loaded))}"


def test_every_setting_is_documented_under_the_name_that_sets_it() -> None:
    documented = {name: (default, text) for name, default, text in settings.documented()}
    shown = {f"POSTLANE_{origin.path.replace('.', '__').upper()}" for origin in settings.origins(settings.load())}
    assert set(documented) == shown
    assert all(text for _, text in documented.values())
    assert documented["POSTLANE_BROKER__LANES"][0] == "32"


def test_defaults_are_those_that_are_documented(environment: pytest.MonkeyPatch) -> None:
    before = settings.load()
    for name, default, _ in settings.documented():
        if default:
            environment.setenv(name, default)
    after = settings.load()
    assert after.model_dump(exclude={"worker": {"name"}}) == before.model_dump(exclude={"worker": {"name"}})


def test_reading_the_settings_warns_of_nothing() -> None:
    """What a library has to say about our code is nothing that the person who runs a command can mend."""
    code = "from worker import settings; settings.load()"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POSTLANE_")}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_origins_are_plain_data(give: Callable[[str], str]) -> None:
    give("environment")
    rows = [(origin.path, origin.value, origin.source) for origin in settings.origins(settings.load())]
    assert json.loads(json.dumps(rows))[0] == ["broker.url", "********", "environment"]
