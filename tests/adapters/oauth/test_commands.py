"""`postlane token`, `postlane office365` and `postlane check`, as an administrator runs them."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from worker.emulator.run import CLIENT_ID, TENANT_ID, Emulator, Plan, emulating
from worker.emulator.world import MailboxAccount, TokenTrouble
from worker.sealing import new_key

OWNER = "jana@contoso.example"
SECRET = "emulated-client-secret"


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Shell:
    """An administrator's shell on the worker's host."""

    environment: dict[str, str]
    mailboxes: Path

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        clean = {name: value for name, value in os.environ.items() if not name.startswith("POSTLANE_")}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "worker", *arguments, env=clean | self.environment, stdout=pipe, stderr=pipe
        )

    async def run(self, *arguments: str) -> Said:
        process = await self.start(*arguments)
        out, err = await process.communicate()
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def emulator(tmp_path: Path) -> AsyncIterator[Emulator]:
    accounts = (
        MailboxAccount(OWNER, "password", frozenset({CLIENT_ID}), send_as=frozenset({"info@contoso.example"})),
        MailboxAccount("closed@contoso.example"),
    )
    async with emulating(Plan(tmp_path / "emulator", office365_mailboxes=accounts)) as running:
        yield running


@pytest.fixture
def shell(emulator: Emulator, tmp_path: Path) -> Shell:
    path = tmp_path / "mailboxes.toml"
    environment = {
        "POSTLANE_MAILBOXES__FILE": str(path),
        "POSTLANE_STORE__URL": f"sqlite:///{tmp_path / 'store.sqlite3'}",
        "POSTLANE_OAUTH__DIRECTORY": str(tmp_path / "sign-ins"),
        "POSTLANE_OAUTH__KEY": new_key(),
        "POSTLANE_HEALTH__PORT": "0",
    }
    return Shell(environment, path)


@pytest.fixture
def box(emulator: Emulator, shell: Shell) -> Callable[..., None]:
    """Write a mailboxes file with one mailbox and these lines of [oauth]."""

    def write(*oauth: str, address: str = OWNER) -> None:
        ca_file = emulator.certificates.ca_file.resolve()
        lines = [
            "[mailboxes.box]",
            f'address = "{address}"',
            'host = "localhost"',
            f"port = {emulator.office365.port}",
            f'ca_file = "{ca_file}"',
            "[mailboxes.box.oauth]",
            f'authority = "{emulator.token_url}/{TENANT_ID}"',
            f'client_id = "{CLIENT_ID}"',
            f'ca_file = "{ca_file}"',
            *oauth,
        ]
        shell.mailboxes.write_text("\n".join(lines))

    return write


BY_SECRET = f'client_secret = "{SECRET}"'


def steps(said: Said) -> dict[str, dict[str, Any]]:
    return {step["what"]: step for step in said.json if step["subject"] == "mailbox box"}


# token inspect


async def test_good_token_is_explained_and_not_shown(shell: Shell, box: Callable[..., None]) -> None:
    box(BY_SECRET)
    said = await shell.run("token", "inspect", "box")
    assert said.status == 0, said
    assert "https://outlook.office365.com" in said.out
    assert "SMTP.SendAsApp" in said.out
    assert TENANT_ID in said.out
    assert "eyJ" not in said.out + said.err
    assert SECRET not in said.out + said.err


async def test_json_has_the_claims_and_what_is_missing(
    shell: Shell, box: Callable[..., None], emulator: Emulator
) -> None:
    emulator.authority.replace_app(replace(emulator.plan.apps[0], roles=("Mail.Read",)))
    box(BY_SECRET)
    told = (await shell.run("token", "inspect", "box", "--json")).json
    assert (told["aud"], told["tid"], told["appid"]) == ("https://outlook.office365.com", TENANT_ID, CLIENT_ID)
    assert (told["roles"], told["scp"]) == (["Mail.Read"], [])
    (finding,) = told["findings"]
    assert "SMTP.SendAsApp" in finding["problem"]
    assert finding["step"] == "consent"
    assert "eyJ" not in json.dumps(told)


async def test_token_for_another_service_keeps_the_mailbox_shut(shell: Shell, box: Callable[..., None]) -> None:
    box(BY_SECRET, 'scope = "https://graph.microsoft.com/.default"')
    said = await shell.run("token", "inspect", "box", "--json")
    assert said.status == 1
    assert said.json["aud"] == "https://graph.microsoft.com"
    assert any(finding["fatal"] and "Microsoft Graph" in finding["problem"] for finding in said.json["findings"])


async def test_refusal_is_explained_with_its_remedy(shell: Shell, box: Callable[..., None], emulator: Emulator) -> None:
    emulator.authority.troubled(TokenTrouble(aadsts=7000222), CLIENT_ID)
    box(BY_SECRET)
    said = await shell.run("token", "inspect", "box")
    assert said.status == 1
    assert "AADSTS7000222" in said.out
    assert "has expired" in said.out


async def test_authority_can_be_told_to_misbehave_from_outside(
    shell: Shell, box: Callable[..., None], emulator: Emulator
) -> None:
    box(BY_SECRET)
    wish = {"client_id": CLIENT_ID, "status": 503, "retry_after": 40}
    ca_file = str(emulator.certificates.ca_file)
    url = f"{emulator.token_url}/_emulator/token-trouble"
    assert (await asyncio.to_thread(requests.post, url, json=wish, verify=ca_file)).json() == wish
    said = await shell.run("token", "inspect", "box", "--json")
    assert said.status == 1
    assert "asks to be left alone for 40 s" in said.json["refused"]["description"]
    assert (
        await asyncio.to_thread(requests.post, url, json={"client_id": CLIENT_ID}, verify=ca_file)
    ).status_code == 200
    assert (await shell.run("token", "inspect", "box")).status == 0


# token login


async def sign_in(
    shell: Shell,
    box: Callable[..., None],
    emulator: Emulator,
    address: str = "info@contoso.example",
    scope: str = "SMTP.Send",
) -> None:
    """The owner of a shared mailbox signs in for it."""
    wanted = f'scope = "https://outlook.office.com/{scope}"'
    box("device_login = true", f'username = "{OWNER}"', wanted, address=address)
    process = await shell.start("token", "login", "box", "--json")
    assert process.stdout is not None
    invitation = json.loads(await process.stdout.readline())
    assert invitation["address"] == f"{emulator.token_url}/_emulator/devicelogin"
    assert emulator.authority.approve(invitation["code"], OWNER)
    out, err = await process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out) == {"mailbox": "box", "signed_in_as": OWNER}


async def test_owner_signs_in_and_the_shared_mailbox_sends(
    shell: Shell, box: Callable[..., None], emulator: Emulator
) -> None:
    """`user=` is the owner, MAIL FROM the shared mailbox."""
    await sign_in(shell, box, emulator)
    found = steps(await shell.run("check", "--mailbox", "box", "--json"))
    assert found[f"log in by XOAUTH2 as {OWNER}"]["state"] == "ok"
    assert found["sender info@contoso.example"]["state"] == "ok"
    assert (await shell.run("token", "forget", "box")).out == f"Forgotten: {OWNER}.\n"
    refused = await shell.run("token", "inspect", "box")
    assert refused.status == 1
    assert "postlane token login" in refused.out


async def test_check_replaces_a_token_that_was_kept_as_a_worker_does(
    shell: Shell, box: Callable[..., None], emulator: Emulator
) -> None:
    await sign_in(shell, box, emulator)
    emulator.authority.expire_all()
    found = steps(await shell.run("check", "--mailbox", "box", "--json"))
    assert found[f"log in by XOAUTH2 as {OWNER}"]["state"] == "ok"


async def test_nobody_needs_to_sign_in_for_an_app(shell: Shell, box: Callable[..., None]) -> None:
    box(BY_SECRET)
    said = await shell.run("token", "login", "box")
    assert (said.status, "no `device_login`" in said.err) == (2, True)


async def test_key_that_is_made_can_be_used(shell: Shell) -> None:
    key = (await shell.run("token", "key")).out.strip()
    assert re.fullmatch(r"[A-Za-z0-9+/]{43}=", key)


# check


async def test_step_that_was_left_out_is_named(shell: Shell, box: Callable[..., None]) -> None:
    """The app has no rights on this mailbox; its token is good."""
    box(BY_SECRET, address="closed@contoso.example")
    said = await shell.run("check", "--mailbox", "box", "--json")
    assert said.status == 1
    login = steps(said)["log in by XOAUTH2 as closed@contoso.example"]
    assert login["state"] == "failed"
    assert login["setup"][:2] == ["service-principal", "mailbox-permission"]


@pytest.mark.parametrize(
    ("number", "step"),
    [(7000215, "proof"), (700027, "proof"), (700016, "register"), (65001, "consent"), (500011, "permission")],
)
async def test_refused_token_names_the_step(
    shell: Shell, box: Callable[..., None], emulator: Emulator, number: int, step: str
) -> None:
    emulator.authority.troubled(TokenTrouble(aadsts=number), CLIENT_ID)
    box(BY_SECRET)
    (failed,) = [found for found in steps(await shell.run("check", "--json", "--mailbox", "box")).values()
                 if found["state"] == "failed"]  # fmt: skip
    assert failed["setup"] == [step]
    assert str(number) in failed["detail"]


async def test_missing_permission_is_told_before_the_server_refuses(
    shell: Shell, box: Callable[..., None], emulator: Emulator
) -> None:
    emulator.authority.replace_app(replace(emulator.plan.apps[0], roles=()))
    box(BY_SECRET)
    said = await shell.run("check", "--mailbox", "box")
    assert "no application permission SMTP.SendAsApp" in said.out
    assert "Setup step: permission, consent, service-principal" in said.out


async def test_token_for_another_service_is_not_shown_to_the_server(
    shell: Shell, box: Callable[..., None], emulator: Emulator
) -> None:
    box(BY_SECRET, 'scope = "https://graph.microsoft.com/.default"')
    found = steps(await shell.run("check", "--mailbox", "box", "--json"))
    (failed,) = [step for step in found.values() if step["state"] == "failed"]
    assert failed["setup"] == ["mailboxes-file"]
    assert not any(what.startswith("log in") for what in found)


async def test_persons_login_that_is_refused_has_steps_of_its_own(
    shell: Shell, box: Callable[..., None], emulator: Emulator
) -> None:
    await sign_in(shell, box, emulator, scope="IMAP.AccessAsUser.All")
    found = steps(await shell.run("check", "--mailbox", "box", "--json"))
    login = found[f"log in by XOAUTH2 as {OWNER}"]
    assert login["setup"] == ["mailboxes-file", "permission", "smtp-auth"]
    assert f"whether it is {OWNER} who has signed in" in login["remedy"]


async def test_sender_that_the_login_may_not_send_as_names_the_step(
    shell: Shell, box: Callable[..., None], emulator: Emulator
) -> None:
    await sign_in(shell, box, emulator)
    emulator.play("send-as-denied-mail")
    found = steps(await shell.run("check", "--mailbox", "box", "--json"))
    sender = found["sender info@contoso.example"]
    assert sender["state"] == "failed"
    assert sender["setup"] == ["send-as"]
    assert f'-Identity "info@contoso.example" -Trustee "{OWNER}"' in sender["remedy"]


async def test_graph_that_forbids_names_the_steps(shell: Shell, box: Callable[..., None], emulator: Emulator) -> None:
    ca_file = emulator.certificates.ca_file
    box(
        BY_SECRET,
        "[mailboxes.box.graph]",
        f'url = "{emulator.graph_url}"',
        'scope = "https://graph.microsoft.com/.default"',
        f'ca_file = "{ca_file}"',
    )
    emulator.play("graph-access-denied")
    lines = shell.mailboxes.read_text().splitlines()
    smtp = ("host =", "port =")
    shell.mailboxes.write_text("\n".join(line for line in lines if not line.startswith(smtp)))
    found = steps(await shell.run("check", "--mailbox", "box", "--json"))
    (failed,) = [step for what, step in found.items() if what.startswith("sendMail")]
    assert failed["setup"] == ["permission", "consent", "role-assignment"]


@pytest.mark.parametrize(("expires", "state"), [("2020-01-31", "failed"), ("2099-01-31", "ok")])
async def test_end_of_the_secret_is_told(shell: Shell, box: Callable[..., None], expires: str, state: str) -> None:
    box(BY_SECRET, f"expires = {expires}")
    found = steps(await shell.run("check", "--mailbox", "box", "--json"))
    (step,) = [step for what, step in found.items() if what.startswith("client secret")]
    assert expires in step["what"]
    assert step["state"] == state


@pytest.mark.parametrize("may_read", [True, False], ids=["allowed", "not-allowed"])
async def test_end_that_nobody_wrote_down_is_read_through_graph_where_that_is_allowed(
    shell: Shell,
    box: Callable[..., None],
    emulator: Emulator,
    may_read: bool,  # noqa: FBT001 - of a table
) -> None:
    roles = ("SMTP.SendAsApp", *(("Application.Read.All",) if may_read else ()))
    ends = datetime.now(UTC) + timedelta(days=10, hours=1)
    emulator.authority.replace_app(replace(emulator.plan.apps[0], roles=roles, secret_ends=ends))
    graph = f'[mailboxes.box.graph]\nurl = "{emulator.token_url}"\nca_file = "{emulator.certificates.ca_file}"'
    box(BY_SECRET, graph)
    found = steps(await shell.run("check", "--mailbox", "box", "--json"))
    told = [(step["what"], step["state"]) for what, step in found.items() if what.startswith("client secret")]
    assert told == ([(f"client secret ends on {ends:%Y-%m-%d} (10 days)", "warning")] if may_read else [])


async def test_password_at_microsofts_is_listed_with_the_dates_and_the_steps(shell: Shell) -> None:
    login = '[mailboxes.box.login]\nusername = "u"\npassword = "p-s3cret"\n'
    shell.mailboxes.write_text(f'[mailboxes.box]\naddress = "{OWNER}"\npreset = "office365"\n{login}')
    said = await shell.run("check", "--mailbox", "box", "--json")
    step = steps(said)["basic authentication at smtp.office365.com"]
    assert step["state"] == "warning"
    assert "December 2026" in step["detail"]
    assert "postlane office365 setup --mailbox box" in step["remedy"]
    assert "p-s3cret" not in said.out


# office365 setup


async def test_setup_fills_in_what_the_mailboxes_file_knows(shell: Shell, box: Callable[..., None]) -> None:
    box(BY_SECRET)
    said = await shell.run("office365", "setup", "--mailbox", "box", "--object-id", "the-object", "--json")
    found = {step["step"]: step for step in said.json}
    principal = found["service-principal"]["lines"]
    assert f'New-ServicePrincipal -AppId "{CLIENT_ID}" -ObjectId "the-object" -DisplayName "Postlane"' in principal
    assert f'"{OWNER}"' in found["mailbox-permission"]["lines"][0]
    assert "-SmtpClientAuthenticationDisabled $false" in found["smtp-auth"]["lines"][0]
    assert "-MessageCopyForSMTPClientSubmissionEnabled $false" in found["sent-items"]["lines"][0]
    assert SECRET not in said.out


async def test_setup_of_an_address_needs_no_mailboxes_file(shell: Shell) -> None:
    said = await shell.run("office365", "setup", "--mailbox", "new@contoso.com", "--sender", "info@contoso.com")
    assert said.status == 0, said
    assert 'Add-RecipientPermission -Identity "info@contoso.com"' in said.out


@pytest.mark.parametrize(
    ("options", "has", "lacks"),
    [
        (["--graph"], "Mail.Send", "Set-CASMailbox"),
        (["--graph", "--rbac"], 'New-ManagementRoleAssignment -Role "Application Mail.Send"', "admin consent > Yes"),
        (["--rbac"], 'New-ManagementRoleAssignment -Role "Application SMTP.SendAsApp"', "Add-MailboxPermission"),
        (["--cloud", "gcc-high"], "-ExchangeEnvironmentName O365USGovGCCHigh", "entra.microsoft.com"),
    ],
    ids=["graph", "graph-rbac", "rbac", "gcc-high"],
)
async def test_setup_has_its_variants(shell: Shell, options: list[str], has: str, lacks: str) -> None:
    said = await shell.run("office365", "setup", "--mailbox", "new@contoso.com", *options)
    assert has in said.out
    assert lacks not in said.out


async def test_setup_goes_the_way_of_the_mailbox(shell: Shell) -> None:
    entra = f'oauth = {{ tenant_id = "{TENANT_ID}", client_id = "{CLIENT_ID}", client_secret = "{SECRET}" }}'
    shell.mailboxes.write_text(
        f'[mailboxes.dod]\naddress = "a@b.example"\npreset = "office365-dod"\n{entra}\n'
        f'[mailboxes.hve]\naddress = "hve@b.example"\npreset = "office365-hve"\n{entra}\n'
        f'[mailboxes.graph]\naddress = "graph@b.example"\n{entra}\ngraph = {{}}\n'
    )
    expected = {"dod": "O365USGovDoD", "hve": "Add-HVEAppAccess", "graph": "Microsoft Graph > Application permissions"}
    for name, words in expected.items():
        assert words in (await shell.run("office365", "setup", "--mailbox", name)).out
    refused = await shell.run("office365", "setup", "--mailbox", "hve", "--rbac")
    assert (refused.status, "--rbac" in refused.err) == (2, True)


async def test_mailbox_that_is_not_there_is_said_so(shell: Shell, box: Callable[..., None]) -> None:
    box(BY_SECRET)
    for command in (["token", "inspect", "nobody"], ["office365", "setup", "--mailbox", "nobody"]):
        said = await shell.run(*command)
        assert (said.status, "There is no mailbox nobody" in said.err) == (2, True)
