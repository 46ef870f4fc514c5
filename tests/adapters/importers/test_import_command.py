"""`postlane import` as an administrator uses it: files in, a mailboxes file and secret files out."""

import json
import os
import stat
import tomllib
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from worker import mailbox_file
from worker.cli import app
from worker.domain.mailbox import Password, SmtpEndpoint, Tls
from worker.unusable import Unusable

SECRET = "Made-up-secret-99"
PLAIN = {"FromAddress": "Identity <iam@adatum.example>", "Host": "mx1.adatum.example"}
LOGIN = {**PLAIN, "Port": 587, "UserName": "iam", "Password": SECRET, "SecureSocketOption": "StartTls"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings(content: dict, name: str = "appsettings.json") -> str:
    Path(name).write_text(json.dumps({"MailSettings": content}), encoding="utf-8")
    return name


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, ["import", *words])
    assert SECRET not in result.output
    return result


def listing() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_imported_file_is_one_that_the_worker_reads() -> None:
    network = f'<network host="mx1.adatum.example" port="587" enableSsl="true" userName="web" password="{SECRET}"/>'
    Path("web.config").write_text(f'<smtp from="Web &lt;web@adatum.example&gt;">{network}</smtp>', encoding="utf-8")
    result = run("umbraco", "web.config", "--tenant", "adatum")
    assert (result.exit_code, result.output.splitlines()[-2]) == (0, "accept: taken over complete")
    mailbox = mailbox_file.load(Path("mailboxes.toml"), {}).mailboxes["umbraco"]
    assert (str(mailbox.address), mailbox.display_name, mailbox.tenants) == ("web@adatum.example", "Web", {"adatum"})
    assert isinstance(mailbox.endpoint, SmtpEndpoint)
    assert (mailbox.endpoint.port, mailbox.endpoint.tls) == (587, Tls.STARTTLS)
    assert isinstance(mailbox.endpoint.credentials, Password)
    assert mailbox.endpoint.credentials.password.get_secret_value() == SECRET


def test_mailbox_without_its_secret_is_refused_by_the_worker_with_its_file() -> None:
    network = '<network host="mx1.adatum.example" port="587" enableSsl="true" userName="web"/>'
    Path("web.config").write_text(f'<smtp from="web@adatum.example">{network}</smtp>', encoding="utf-8")
    run("umbraco", "web.config")
    with pytest.raises(mailbox_file.MailboxFileError, match=r"mailboxes\.umbraco: .*umbraco\.password is empty"):
        mailbox_file.load(Path("mailboxes.toml"), {})


def test_secret_is_in_a_file_of_its_own_that_nobody_else_reads() -> None:
    run("netwrix", settings(LOGIN))
    secret = Path("secrets/netwrix-server.password")
    assert secret.read_text(encoding="utf-8") == SECRET
    assert (stat.S_IMODE(secret.stat().st_mode), stat.S_IMODE(secret.parent.stat().st_mode)) == (0o600, 0o700)
    assert SECRET not in Path("mailboxes.toml").read_text(encoding="utf-8")


def test_second_import_changes_nothing() -> None:
    run("netwrix", settings(LOGIN))
    before = listing()
    result = run("netwrix", "appsettings.json")
    assert result.output.splitlines()[-1].startswith("unchanged: ")
    assert listing() == before


def test_dry_run_writes_nothing() -> None:
    settings(LOGIN)
    before = listing()
    assert "dry run, nothing written" in run("netwrix", "appsettings.json", "--dry-run").output
    assert listing() == before


def test_json_has_the_verdict_and_shows_no_secret() -> None:
    result = run("netwrix", settings(LOGIN), "--json")
    shown = json.loads(result.output)
    assert (result.exit_code, shown["verdict"], shown["findings"]) == (0, "accept", [])
    (mailbox,) = shown["mailboxes"]
    assert (mailbox["host"], mailbox["auth"], mailbox["secret"]) == ("mx1.adatum.example", "basic", "present")


def test_refused_file_writes_nothing_even_beside_a_good_one() -> None:
    settings(LOGIN)
    settings({**PLAIN, "Port": 993}, "other.appsettings.agent.json")
    before = listing()
    result = run("netwrix", "appsettings.json", "other.appsettings.agent.json", "--json")
    shown = json.loads(result.output)
    assert (result.exit_code, shown["verdict"], shown["mailboxes"]) == (2, "reject", [])
    finding = shown["findings"][0]
    assert (finding["code"], finding["key"]) == ("port.not_smtp:993", "MailSettings:Port")
    assert finding["file"] == "other.appsettings.agent.json"
    assert "587" in finding["proposal"]
    assert listing() == before


def test_what_stands_in_the_mailboxes_file_already_stays_as_it_is() -> None:
    hand = '# ours\ndefault = "own"\n\n[mailboxes.own]   # mind the gap\naddress = "a@a.example"\nhost = "a.example"\n'
    Path("mailboxes.toml").write_text(hand, encoding="utf-8")
    run("netwrix", settings(PLAIN))
    run("netwrix", settings({**PLAIN, "Host": "mx2.adatum.example"}))
    text = Path("mailboxes.toml").read_text(encoding="utf-8")
    assert text.startswith(hand)
    tables = tomllib.loads(text)["mailboxes"]
    assert {name: table["host"] for name, table in tables.items()} == {
        "own": "a.example",
        "netwrix-server": "mx2.adatum.example",
    }


def test_several_products_share_one_file() -> None:
    run("netwrix", settings(PLAIN))
    Path("web.config").write_text('<smtp from="a@a.example"><network host="a.example"/></smtp>', encoding="utf-8")
    run("umbraco", "web.config", "--name", "shop")
    run("umbraco", "web.config", "--name", "blog")
    assert set(tomllib.loads(Path("mailboxes.toml").read_text())["mailboxes"]) == {"netwrix-server", "shop", "blog"}
    before = listing()
    assert "unchanged" in run("umbraco", "web.config", "--name", "shop").output
    assert listing() == before


def test_edited_block_is_not_overwritten_unless_told_so() -> None:
    run("netwrix", settings(PLAIN))
    path = Path("mailboxes.toml")
    path.write_text(path.read_text().replace("mx1.", "mx9."), encoding="utf-8")
    result = run("netwrix", settings({**PLAIN, "Host": "mx2.adatum.example"}))
    assert isinstance(result.exception, Unusable)
    assert "mx9." in path.read_text()
    run("netwrix", "appsettings.json", "--force")
    assert "mx2." in path.read_text()


def test_mailbox_of_the_same_name_outside_of_the_block_is_a_conflict() -> None:
    mine = '[mailboxes.netwrix-server]\naddress = "a@a.example"\nhost = "a.example"\n'
    Path("mailboxes.toml").write_text(mine, encoding="utf-8")
    result = run("netwrix", settings(LOGIN))
    assert isinstance(result.exception, Unusable)
    assert Path("mailboxes.toml").read_text() == mine
    assert not Path("secrets").exists()


def test_entered_password_outlives_the_next_import() -> None:
    run("netwrix", settings({key: value for key, value in LOGIN.items() if key != "Password"}))
    secret = Path("secrets/netwrix-server.password")
    assert secret.read_text() == ""
    secret.write_text("entered\n")
    run("netwrix", "appsettings.json")
    assert secret.read_text() == "entered\n"
    assert "kept as they are" in run("netwrix", settings(LOGIN)).output
    assert secret.read_text() == "entered\n"
    run("netwrix", "appsettings.json", "--force")
    assert secret.read_text() == SECRET


def test_unwritable_directory_leaves_everything_as_it_was(tmp_path: Path) -> None:
    Path("blocker").write_text("")
    result = run("netwrix", settings(LOGIN), "--secrets", "blocker/secrets")
    assert isinstance(result.exception, Unusable)
    assert not Path("mailboxes.toml").exists()


def test_directory_device_and_missing_file_are_refused_in_words() -> None:
    for name in (".", os.devnull, "nowhere.json"):
        result = run("elixeum", name, "--json")
        assert (result.exit_code, json.loads(result.output)["findings"][0]["code"]) == (2, "file.unreadable")


def test_huge_file_is_refused_without_being_read() -> None:
    with Path("huge.json").open("wb") as file:
        file.truncate(100 * 1024 * 1024 * 1024)
    result = run("netwrix", "huge.json", "--json")
    assert json.loads(result.output)["findings"][0]["code"] == "file.too_large"


def test_inactive_mailbox_is_written_switched_off() -> None:
    Path("x.csv").write_text("ServerID,ServerName,ServerIsGlobal,ServerEnabled\n9,a.example,0,1\n", encoding="utf-8")
    assert run("kentico", "x.csv", "--address", "web@a.example").output.splitlines()[-2].startswith("inactive: ")
    table = tomllib.loads(Path("mailboxes.toml").read_text())["mailboxes"]["kentico-9"]
    assert (table["enabled"], table["address"]) == (False, "web@a.example")


@pytest.mark.parametrize(
    "words", [("--map", "D:/x"), ("--map", "D:/x=relative"), ("--name", "a b"), ("--address", "a")]
)
def test_wrong_usage_is_told(words: tuple[str, str]) -> None:
    assert run("netwrix", settings(PLAIN), *words).exit_code == 2
