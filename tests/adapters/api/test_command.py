"""`postlane mailbox`, `postlane secret` and `postlane api`, as an administrator runs them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.neighbours import free_port
from worker.emulator.run import Emulator
from worker.sealing import new_key

SECRET = "correct horse battery staple"
FILE = """default = "platform"
[mailboxes.platform]
address = "noreply@platform.example"
host = "smtp.platform.example"
"""


@dataclass
class Shell:
    environment: dict[str, str]
    directory: Path

    def run(self, *arguments: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            env={**self.environment, **environment},
            cwd=self.directory,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )

    def well(self, *arguments: str, given: str = "", **environment: str) -> str:
        done = self.run(*arguments, given=given, **environment)
        assert done.returncode == 0, done.stderr
        assert SECRET not in done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "mailboxes.toml").write_text(FILE, encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POSTLANE_")}
    settings = {
        "POSTLANE_MAILBOXES__FILE": str(tmp_path / "mailboxes.toml"),
        "POSTLANE_STORE__URL": f"sqlite:///{tmp_path / 'store.sqlite3'}",
        "POSTLANE_SECRETS__KEY": new_key(),
        "COLUMNS": "200",
    }
    return Shell(clean | settings, tmp_path)


def test_mailbox_is_added_shown_changed_paused_and_removed(shell: Shell) -> None:
    pairs = ["address=info@contoso.example", 'tenants=["contoso"]', "host=smtp.contoso.example", "login.username=info"]
    made = shell.well("mailbox", "add", "contoso", *pairs, "--password-stdin", given=f"{SECRET}\n")
    assert "login.password = set" in made
    assert "revision 1" in made
    listed = {each["name"]: each for each in json.loads(shell.well("mailbox", "list", "--json"))}
    assert (listed["platform"]["source"], listed["contoso"]["source"]) == ("file", "store")
    assert "contoso" in shell.well("mailbox", "list")
    changed = json.loads(
        shell.well("mailbox", "set", "contoso", "display_name=Contoso", "limits.per_minute=10", "--json")
    )
    assert changed["settings"]["limits"] == {"per_minute": 10}
    assert changed["settings"]["login"]["password"] == {"set": True}
    shell.well("mailbox", "disable", "contoso")
    assert json.loads(shell.well("mailbox", "show", "contoso", "--json"))["state"] == "disabled"
    shell.well("mailbox", "enable", "contoso")
    assert "rests until" in shell.well("mailbox", "pause", "contoso", "--for", "10m", "--because", "moving")
    assert json.loads(shell.well("mailbox", "show", "contoso", "--json"))["paused"]["because"] == "moving"
    shell.well("mailbox", "resume", "contoso")
    shell.well("mailbox", "remove", "contoso")
    assert shell.run("mailbox", "show", "contoso").returncode == 2


def test_password_on_the_command_line_is_refused(shell: Shell) -> None:
    refused = shell.run("mailbox", "add", "contoso", "address=a@b.example", "host=h", f"login.password={SECRET}")
    assert refused.returncode == 2
    assert "--password-file" in refused.stderr
    assert SECRET not in refused.stderr


def test_mailbox_comes_from_a_file_and_its_password_from_another(shell: Shell) -> None:
    (shell.directory / "own.toml").write_text(
        'address = "a@b.example"\nhost = "h.example"\n[login]\nusername = "a"\n', encoding="utf-8"
    )
    (shell.directory / "password").write_text(f"{SECRET}\n", encoding="utf-8")
    shell.well("mailbox", "add", "own", "--from", "own.toml", "--password-file", "password")
    shown = json.loads(shell.well("mailbox", "show", "own", "--json"))
    assert (shown["state"], shown["settings"]["login"]["password"]) == ("ok", {"set": True})


ENTRA = [
    "oauth.tenant_id=1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    "oauth.client_id=6fa459ea-ee8a-3ca4-894e-db77e160355e",
]


@pytest.mark.parametrize("without", [["login="], ["login.username=", "login.password="]], ids=["table", "keys"])
def test_mailbox_moves_from_a_password_to_oauth_by_one_line(shell: Shell, without: list[str]) -> None:
    pairs = ["address=a@b.example", "preset=office365", "login.username=a@b.example"]
    shell.well("mailbox", "add", "own", *pairs, "--password-stdin", given="the old one")
    moved = ["mailbox", "set", "own", *without, *ENTRA, "--password-stdin", "--json"]
    shown = json.loads(shell.well(*moved, given=SECRET))
    assert (shown["state"], shown["settings"]["oauth"]["client_secret"]) == ("ok", {"set": True})
    assert "login" not in shown["settings"]


def test_file_moves_a_mailbox_to_oauth_too(shell: Shell) -> None:
    pairs = ["address=a@b.example", "preset=office365", "login.username=a@b.example"]
    shell.well("mailbox", "add", "own", *pairs, "--password-stdin", given="the old one")
    named = dict(pair.removeprefix("oauth.").split("=") for pair in ENTRA)
    (shell.directory / "patch.json").write_text(json.dumps({"login": None, "oauth": named}), encoding="utf-8")
    moved = ["mailbox", "set", "own", "--from", "patch.json", "--password-stdin", "--json"]
    shown = json.loads(shell.well(*moved, given=SECRET))
    assert (shown["state"], shown["settings"]["oauth"]["client_secret"]) == ("ok", {"set": True})


def test_setup_knows_the_mailboxes_of_the_store_and_prints_how_they_are_changed(shell: Shell) -> None:
    pairs = ["address=a@b.example", "preset=office365", "login.username=a@b.example"]
    shell.well("mailbox", "add", "own", *pairs, "--password-stdin", given=SECRET)
    printed = shell.well("office365", "setup", "--mailbox", "own", "--client-id", "the-app")
    assert 'Set-CASMailbox -Identity "a@b.example"' in printed
    assert "postlane mailbox set own preset=office365 login= " in printed


def test_new_password_of_a_certificate_is_given_alone(shell: Shell) -> None:
    certificate = f"oauth.certificate_file={shell.directory / 'app.pfx'}"
    (shell.directory / "app.pfx").write_bytes(b"whatever is in it")
    pairs = ["address=a@b.example", "preset=office365", *ENTRA, certificate]
    shell.well("mailbox", "add", "own", *pairs)
    shown = json.loads(shell.well("mailbox", "set", "own", "--password-stdin", "--json", given=SECRET))
    assert shown["settings"]["oauth"]["certificate_password"] == {"set": True}
    assert "client_secret" not in shown["settings"]["oauth"]


def test_wrong_settings_are_told_line_by_line_and_nothing_is_added(shell: Shell) -> None:
    refused = shell.run("mailbox", "add", "own", "address=nobody", "hots=x")
    assert refused.returncode == 2
    assert {line.partition(":")[0] for line in refused.stderr.splitlines()} == {"address", "hots"}
    assert [each["name"] for each in json.loads(shell.well("mailbox", "list", "--json"))] == ["platform"]


def test_secret_without_a_key_is_refused_with_the_remedy(shell: Shell) -> None:
    pairs = ["address=a@b.example", "host=h.example", "login.username=a"]
    refused = shell.run("mailbox", "add", "own", *pairs, "--password-stdin", given=SECRET, POSTLANE_SECRETS__KEY="")
    assert refused.returncode == 2
    assert "postlane secret key" in refused.stderr
    assert SECRET not in refused.stderr


def test_wrong_key_is_told_without_being_repeated(shell: Shell) -> None:
    refused = shell.run("mailbox", "list", POSTLANE_SECRETS__KEY="my-secret-passphrase")
    assert refused.returncode == 2
    assert "POSTLANE_SECRETS__KEY must be 32 random octets" in refused.stderr
    assert "my-secret-passphrase" not in refused.stderr


def test_store_in_memory_keeps_no_mailboxes(shell: Shell) -> None:
    refused = shell.run("mailbox", "list", POSTLANE_STORE__URL="memory://")
    assert refused.returncode == 2
    assert "memory://" in refused.stderr


def test_keys_are_rotated(shell: Shell) -> None:
    pairs = ["address=a@b.example", "host=h.example", "login.username=a"]
    shell.well("mailbox", "add", "own", *pairs, "--password-stdin", given=SECRET)
    old, new = shell.environment["POSTLANE_SECRETS__KEY"], shell.well("secret", "key").strip()
    assert "1 secrets were sealed anew" in shell.well("secret", "rotate", POSTLANE_SECRETS__KEY=f"{new},{old}")
    shown = json.loads(shell.well("mailbox", "show", "own", "--json", POSTLANE_SECRETS__KEY=new))
    assert shown["state"] == "ok"
    assert json.loads(shell.well("mailbox", "show", "own", "--json"))["state"] == "unusable"
    assert shell.run("secret", "rotate").returncode == 1


def test_route_and_check_know_the_mailboxes_of_the_store(shell: Shell) -> None:
    shell.well("mailbox", "add", "own", "address=a@b.example", 'tenants=["contoso"]', "host=h.example")
    example = str(Path("contracts/examples/notification-minimal.json").resolve())
    tenant = json.loads(Path(example).read_text(encoding="utf-8"))["tenant"]
    shell.well("mailbox", "set", "own", f'tenants=["{tenant}"]')
    assert "own" in shell.well("route", example)
    shell.well("mailbox", "pause", "own", "--because", "moving")
    waits = shell.run("route", "--explain", example)
    assert waits.returncode == 1
    assert "moving" in waits.stdout


async def test_test_looks_at_the_server_with_the_stored_password(shell: Shell, emulator: Emulator) -> None:
    account = emulator.plan.ordinary_mailboxes[0]
    pairs = [
        f"address={account.address}",
        "host=localhost",
        f"port={emulator.ordinary.port}",
        f"ca_file={emulator.certificates.ca_file.resolve()}",
        f"login.username={account.address}",
    ]
    run: Callable[..., str] = shell.well
    await asyncio.to_thread(run, "mailbox", "add", "own", *pairs, "--password-stdin", given=str(account.password))
    assert "ok" in await asyncio.to_thread(run, "mailbox", "test", "own")
    await asyncio.to_thread(run, "mailbox", "set", "own", "--password-stdin", given="wrong")
    refused = await asyncio.to_thread(shell.run, "mailbox", "test", "own")
    assert refused.returncode == 1
    assert "login-refused" in refused.stdout
    await asyncio.to_thread(run, "mailbox", "forget-secret", "own", "login.password")
    unset = await asyncio.to_thread(shell.run, "mailbox", "test", "own")
    assert "login.password is not set" in unset.stdout


async def test_test_mail_is_sent_once_and_over_a_disabled_mailbox_only_if_asked(
    shell: Shell, emulator: Emulator
) -> None:
    account = emulator.plan.ordinary_mailboxes[0]
    pairs = [
        f"address={account.address}",
        "host=localhost",
        "enabled=false",
        f"port={emulator.ordinary.port}",
        f"ca_file={emulator.certificates.ca_file.resolve()}",
        f"login.username={account.address}",
    ]
    await asyncio.to_thread(
        shell.well, "mailbox", "add", "own", *pairs, "--password-stdin", given=str(account.password)
    )
    to_jana = ("mailbox", "test", "own", "--send-to", "jana@people.example")
    refused = await asyncio.to_thread(shell.run, *to_jana)
    assert refused.returncode == 2
    assert "switched off" in refused.stderr
    sent = json.loads(await asyncio.to_thread(shell.well, *to_jana, "--even-if-disabled", "--json"))
    assert (sent["status"], sent["well"]) == ("accepted", True)
    (mail,) = emulator.accepted.log.read_text(encoding="utf-8").splitlines()
    assert json.loads(mail)["rcpt_to"] == ["jana@people.example"]


def test_scope_is_stopped_shown_set_started_and_removed(shell: Shell) -> None:
    shop = "tenants/contoso/sites/shop"
    assert "mail waits" in shell.well("scope", "stop", shop)
    shell.well("scope", "set", shop, 'purposes_off=["form"]', "suppress=true")
    shown = json.loads(shell.well("scope", "show", shop, "--json"))
    assert (shown["state"], shown["settings"]) == ("held", {"stop": "hold", "purposes_off": ["form"], "suppress": True})
    assert "mail is refused" in shell.well("scope", "stop", shop, "--refuse")
    assert "suppressed" in shell.well("scope", "start", shop)
    assert shop in shell.well("scope", "list")
    assert shell.run("scope", "set", "contoso", "stop=hold").returncode == 2
    shell.well("scope", "remove", shop)
    assert json.loads(shell.well("scope", "list", "--json")) == []


def test_route_and_check_know_the_scopes_of_the_store(shell: Shell) -> None:
    example = str(Path("contracts/examples/notification-minimal.json").resolve())
    tenant = json.loads(Path(example).read_text(encoding="utf-8"))["tenant"]
    shell.well("scope", "stop", f"tenants/{tenant}")
    waits = shell.run("route", example)
    assert waits.returncode == 1
    assert "stop switch" in waits.stdout


def test_tenant_sets_its_own_server_by_known_keys(shell: Shell) -> None:
    assert "SMTP.SenderAddress" in shell.well("tenant", "keys")
    three = ["SMTP.Server=smtp.contoso.example", "SMTP.Port=587", "SMTP.Username=info@contoso.example"]
    assert "incomplete: SMTP.Password" in shell.well("tenant", "set", "contoso", *three)
    spoken = shell.run("tenant", "set", "contoso", f"SMTP.Password={SECRET}")
    assert spoken.returncode == 2
    assert SECRET not in spoken.stdout + spoken.stderr
    whole = json.loads(shell.well("tenant", "set", "contoso", "--password-stdin", "--json", given=SECRET))
    assert (whole["state"], whole["values"]["SMTP.Password"]) == ("ok", {"set": True})
    assert shell.run("tenant", "set", "contoso", "SMTP.Port=smtp").returncode == 2
    assert "incomplete: SMTP.Password" in shell.well("tenant", "forget", "contoso", "SMTP.Password")


def test_draft_waits_for_what_is_missing(shell: Shell) -> None:
    shell.well("mailbox", "add", "own", "--draft", "host=h.example", 'tenants=["contoso"]')
    shown = json.loads(shell.well("mailbox", "show", "own", "--json"))
    assert (shown["state"], shown["missing"]) == ("incomplete", ["address"])
    shell.well("mailbox", "set", "own", "address=info@contoso.example")
    assert json.loads(shell.well("mailbox", "show", "own", "--json"))["state"] == "ok"


def test_api_is_served_by_itself_until_it_is_told_to_stop(shell: Shell) -> None:
    tokens = {"POSTLANE_API__TOKENS_FILE": str(shell.directory / "tokens.toml")}
    port = free_port()
    token = shell.well("api", "token", "portal", "--role", "mail.settings.read", **tokens).strip()
    assert shell.run("api", "token", "portal", "--role", "mail.settings.read", **tokens).returncode == 2
    assert shell.run("api", "token", "other", "--role", "root", **tokens).returncode == 2
    environment = {**shell.environment, **tokens, "POSTLANE_API__PORT": str(port)}
    serving = subprocess.Popen(
        [sys.executable, "-m", "worker", "api", "serve"], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert serving.stderr is not None
        assert "/openapi.json" in serving.stderr.readline()
        request = Request(f"http://127.0.0.1:{port}/mailboxes", headers={"Authorization": f"Bearer {token}"})
        with urlopen(request, timeout=10) as answer:
            assert [each["name"] for each in json.load(answer)["mailboxes"]] == ["platform"]
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(timeout=20) == 0
    finally:
        serving.kill()
        serving.wait()
        serving.stderr.close()


def test_api_without_tokens_file_is_refused(shell: Shell) -> None:
    refused = shell.run("api", "serve")
    assert refused.returncode == 2
    assert "POSTLANE_API__TOKENS_FILE" in refused.stderr
