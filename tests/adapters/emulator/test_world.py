"""Mailboxes and apps of one's own, directories and ports: what the emulator is started with."""

from __future__ import annotations

import re
import socket
import ssl
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.adapters.emulator.client import Client
from worker.cli import app
from worker.emulator.files import mailboxes_file
from worker.emulator.run import CLIENT_ID, Plan, emulating
from worker.emulator.scenario import load
from worker.emulator.world_file import inhabited
from worker.unusable import Unusable

JANA = "jana@fabrikam.example"
PAGE = (Path(__file__).parents[3] / "docs" / "emulator.md").read_text(encoding="utf-8")
PEM = "-----BEGIN PUBLIC KEY-----\n"


def documented(heading: str) -> str:
    """The file that stands below a heading of the documentation."""
    return PAGE.partition(f"## {heading}\n")[2].partition("```toml\n")[2].partition("```")[0]


async def test_world_and_scenarios_of_the_documentation_are_as_it_says(tmp_path: Path) -> None:
    world, own = tmp_path / "world.toml", tmp_path / "own.toml"
    world.write_text(documented("Mailboxes and apps of your own"), encoding="utf-8")
    own.write_text(documented("Scenarios of your own"), encoding="utf-8")
    (tmp_path / "portal.pem").write_text(PEM)
    plan = Plan(tmp_path, catalogue=load(own), scenarios=("auth-tenant-off:billing@*", "printer-throttled"))
    async with emulating(inhabited(plan, world)) as emulator:
        async with Client(emulator) as client:
            await client.secured()
            assert (await client.login("billing@contoso.example", "billing-password")).startswith("535 5.7.139")
        async with Client(emulator) as client:
            await client.secured()
            assert (await client.login("printer@contoso.example", "printer-password")).startswith("235")
            reply = await client.say("MAIL FROM:<scans@contoso.example>")
            assert reply.startswith("432 4.3.2")
        emulator.play()
        async with Client(emulator) as client:
            await client.secured()
            await client.login("printer@contoso.example", "printer-password")
            assert (await client.submit(JANA, sender="scans@contoso.example")).startswith("250")
        async with Client(emulator) as client:
            await client.secured()
            assert "disabled for the Mailbox" in await client.login("archive@contoso.example", "archive-password")
        assert [(each.client_id == CLIENT_ID, each.certificates) for each in emulator.plan.apps] == [
            (True, ()),
            (False, (PEM,)),
        ]
        assert emulator.plan.office365_mailboxes[0].address == "notifications@contoso.example"


async def test_every_example_of_the_documentation_names_what_exists(tmp_path: Path) -> None:
    world = tmp_path / "world.toml"
    world.write_text(documented("Mailboxes and apps of your own"), encoding="utf-8")
    (tmp_path / "portal.pem").write_text(PEM)
    addresses = {box.address for box in inhabited(Plan(tmp_path), world).office365_mailboxes}
    patterns = set(re.findall(r'[:"](\w+)@\*', PAGE))
    assert patterns <= {address.partition("@")[0] for address in addresses}
    assert patterns == {"billing", "printer"}


def test_mailbox_of_the_same_address_takes_the_place_of_the_one_that_is_always_there(tmp_path: Path) -> None:
    path = tmp_path / "world.toml"
    path.write_text('[[mailbox]]\naddress = "Notifications@contoso.example"\nsmtp_auth = false\n')
    (mailbox,) = inhabited(Plan(tmp_path), path).office365_mailboxes
    assert (mailbox.password, mailbox.smtp_auth, mailbox.apps) == (None, False, frozenset({CLIENT_ID}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[mailbox]\n", r"world.toml: every mailbox is a table \[\[mailbox\]\]"),
        ("[[mailboxes]]\n", "mailboxes"),
        ("[[mailbox]]\n", "address is missing"),
        ('[[mailbox]]\naddress = "nobody"\n', "mailbox 'nobody': address is none"),
        ('[[mailbox]]\naddress = "a@b"\nsmtp_auth = "no"\n', "mailbox 'a@b': smtp_auth must be true or false"),
        ('[[mailbox]]\naddress = "a@b"\nsend_as = "c@d"\n', "send_as must be a list of texts"),
        ('[[mailbox]]\naddress = "a@b"\nadress = "c@d"\n', "unknown keys"),
        ('[[mailbox]]\naddress = "a@b"\napps = ["x"]\n', "there are no apps"),
        (2 * '[[mailbox]]\naddress = "a@b"\n', "'a@b' is there twice"),
        ('[[app]]\nclient_id = "x"\n', "app 'x': tenant_id is missing"),
        ('[[app]]\nclient_id = "x"\ntenant_id = "y"\ntrouble = 1\n', "trouble"),
        ('[[app]]\nclient_id = "x"\ntenant_id = "y"\nsecret_ends = 2027-01-01\n', "secret_ends must be a moment"),
        ('[[app]]\nclient_id = "x"\ntenant_id = "y"\ncertificates = ["no.pem"]\n', "no.pem cannot be read"),
        ('[[app]]\nclient_id = "x"\ntenant_id = "y"\n[[app.federated]]\nissuer = "z"\n', "federated: subject"),
        ("no toml", "world.toml"),
    ],
)
def test_mistake_in_a_world_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "world.toml"
    path.write_text(text)
    with pytest.raises(Unusable, match=problem):
        inhabited(Plan(tmp_path), path)


async def test_mailboxes_file_tells_the_password_too(tmp_path: Path) -> None:
    async with emulating(Plan(tmp_path)) as emulator:
        assert '# password = "emulated-password"' in mailboxes_file(emulator)


# ---------------------------------------------------------------- directories, ports, certificates


async def test_port_that_is_taken_is_said_in_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for name in ("office365_port", "ordinary_port", "token_port", "graph_port"):
            with pytest.raises(Unusable, match=f"cannot listen on 127.0.0.1:{taken.getsockname()[1]}"):
                async with emulating(Plan(tmp_path, **{name: taken.getsockname()[1]})):  # type: ignore[arg-type]
                    pass


@pytest.mark.parametrize("plan", [{"host": "no-such-host.invalid"}, {"office365_port": 70000}])
async def test_place_where_nobody_can_listen_is_said_in_words(tmp_path: Path, plan: dict[str, object]) -> None:
    with pytest.raises(Unusable, match="cannot listen on"):
        async with emulating(Plan(tmp_path, **plan)):  # type: ignore[arg-type]
            pass


async def test_directory_that_cannot_be_made_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unusable, match="file/certificates cannot be used: Not a directory"):
        async with emulating(Plan(tmp_path / "file")):
            pass


def test_port_that_is_none_is_refused_by_the_command(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["emulator", "--directory", str(tmp_path), "--office365-port", "70000"])
    assert outcome.exit_code == 2


async def test_authority_stays_from_run_to_run(tmp_path: Path) -> None:
    async with emulating(Plan(tmp_path)) as emulator:
        first = emulator.certificates.ca_file.read_bytes()
    async with emulating(Plan(tmp_path, names=("mail.contoso.example",))) as emulator:
        assert emulator.certificates.ca_file.read_bytes() == first
        context = ssl.create_default_context(cadata=first.decode())
        async with Client(emulator) as client:
            await client.hear()
            await client.say("EHLO test.example")
            await client.say("STARTTLS")
            await client.upgraded(context, "mail.contoso.example")
    assert {path.name: path.stat().st_mode & 0o77 for path in (tmp_path / "certificates").glob("*")} == {
        "ca.pem": 0o44,
        "ca-key.pem": 0,
        "server.pem": 0,
    }


@pytest.mark.parametrize(("line", "reply"), [("VRFY jana", "252 2.1.5"), ("HELP", "214 This server supports")])
async def test_server_answers_what_it_does_not_do(tmp_path: Path, line: str, reply: str) -> None:
    async with emulating(Plan(tmp_path)) as emulator, Client(emulator) as client:
        await client.hear()
        assert (await client.say(line)).startswith(reply)
