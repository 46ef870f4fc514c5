"""Ends of secrets and certificates, and passwords at Microsoft's: told to logs and metrics, weeks ahead."""

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path, PurePath

import pytest
from pydantic import SecretStr

from contracts.address import parse
from tests.adapters.oauth.authority import let_go
from tests.adapters.oauth.test_proofs import made
from worker.domain.cloud import CLOUDS, CloudName
from worker.domain.delivery import TokenRefused
from worker.domain.mailbox import (
    Certificate,
    Directory,
    GraphEndpoint,
    Mailbox,
    OAuth,
    Password,
    Proof,
    Secret,
    SmtpEndpoint,
    Tls,
)
from worker.domain.mailbox import Credentials as AnyCredentials
from worker.emulator.run import CLIENT_ID, TENANT_ID, Plan, emulating
from worker.emulator.world import AppRegistration
from worker.events import BasicAuthRetiring, CredentialEnds, Event
from worker.oauth.expiry import End, review, withdrawn
from worker.oauth.registration import Registrations
from worker.oauth.tokens import MsalTokens
from worker.ports import Token
from worker.telemetry.logs import LogEvents, configure
from worker.telemetry.metrics import Metrics

NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)


def mailbox(credentials: AnyCredentials, host: str = "smtp.office365.com", name: str = "box") -> Mailbox:
    return Mailbox(name, parse("box@contoso.com"), "", SmtpEndpoint(host, 587, Tls.STARTTLS, credentials))


def proven(proof: Proof) -> Mailbox:
    return mailbox(OAuth("https://login.microsoftonline.com/t", "app", proof, "scope", "box@contoso.com"))


def told(*mailboxes: Mailbox) -> list[Event]:
    return list(review(Directory({item.name: item for item in mailboxes}), NOW))


@pytest.mark.parametrize(("days", "urgent"), [(200, False), (43, False), (41, True), (1, True), (0, True), (-3, True)])
def test_end_of_a_secret_is_told_and_urgent_six_weeks_before(days: int, urgent: bool) -> None:  # noqa: FBT001
    day = NOW.date() + dt.timedelta(days=days)
    (event,) = told(proven(Secret(SecretStr("s"), day)))
    assert isinstance(event, CredentialEnds)
    assert (event.mailbox, event.what, event.at.date(), event.urgent) == ("box", "client secret", day, urgent)


def test_end_of_a_certificate_is_read_from_it(tmp_path: Path) -> None:
    keys = made()
    (tmp_path / "app.pem").write_bytes(keys.pem())
    (event,) = told(proven(Certificate(tmp_path / "app.pem")))
    assert isinstance(event, CredentialEnds)
    assert (event.what, event.at) == ("certificate", keys.certificate.not_valid_after_utc)


@pytest.mark.parametrize(
    "proof", [Secret(SecretStr("s")), Certificate(PurePath("/nowhere"))], ids=["secret", "missing"]
)
def test_end_that_nobody_knows_is_not_told(proof: Proof) -> None:
    assert told(proven(proof)) == []


def test_passwords_at_microsofts_are_listed_and_others_are_not() -> None:
    password = Password("u", SecretStr("p-s3cret"))
    (event,) = told(
        mailbox(password, name="one"),
        mailbox(password, "smtp.hve.mx.microsoft", "two"),
        mailbox(password, "smtp.contoso.com", "three"),
    )
    assert event == BasicAuthRetiring(("one", "two"))


def test_both_stand_in_the_metrics() -> None:
    metrics = Metrics(lambda: 0)
    metrics(CredentialEnds("box", "certificate", NOW, 0, urgent=True))
    metrics(BasicAuthRetiring(("one",)))
    sample = metrics.registry.get_sample_value
    assert sample("postlane_credential_end_timestamp_seconds", {"mailbox": "box"}) == NOW.timestamp()
    assert sample("postlane_mailbox_basic_auth", {"mailbox": "one"}) == 1


def test_mailbox_that_has_moved_is_taken_out_of_the_metrics() -> None:
    password = Password("u", SecretStr("p-s3cret"))
    before = told(mailbox(password, name="one"), proven(Secret(SecretStr("s"), NOW.date())))
    after = told(mailbox(password, "smtp.contoso.com", "one"))
    metrics = Metrics(lambda: 0)
    for event in (*before, *withdrawn(before, after), *after):
        metrics(event)
    sample = metrics.registry.get_sample_value
    assert sample("postlane_mailbox_basic_auth", {"mailbox": "one"}) is None
    assert sample("postlane_credential_end_timestamp_seconds", {"mailbox": "box"}) is None


def test_gauge_shows_only_the_mailboxes_that_are_left() -> None:
    metrics = Metrics(lambda: 0)
    metrics(BasicAuthRetiring(("one", "two")))
    metrics(BasicAuthRetiring(("two",)))
    sample = metrics.registry.get_sample_value
    assert sample("postlane_mailbox_basic_auth", {"mailbox": "one"}) is None
    assert sample("postlane_mailbox_basic_auth", {"mailbox": "two"}) == 1
    assert b"December 2026" in metrics.exposition()


def test_end_that_entra_knows_is_told_where_nobody_has_written_one_down() -> None:
    box = proven(Secret(SecretStr("s")))
    directory, end = Directory({"box": box}), End("client secret", NOW + dt.timedelta(days=3))
    assert list(review(directory, NOW, {"box": end})) == [
        CredentialEnds("box", "client secret", end.at, 3, urgent=True)
    ]
    written = Directory({"box": proven(Secret(SecretStr("s"), NOW.date() + dt.timedelta(days=200)))})
    (event,) = review(written, NOW, {"box": end})
    assert isinstance(event, CredentialEnds)
    assert not event.urgent


async def test_apps_end_is_asked_for_once_however_many_mailboxes_it_has(tmp_path: Path) -> None:
    app = AppRegistration(
        TENANT_ID, CLIENT_ID, "the-secret", roles=("Application.Read.All",), secret_ends=NOW + dt.timedelta(days=10)
    )
    async with emulating(Plan(tmp_path / "emulator", apps=(app,))) as emulator:
        ca_file = str(emulator.certificates.ca_file)
        client = OAuth(
            f"{emulator.token_url}/{TENANT_ID}",
            CLIENT_ID,
            Secret(SecretStr("the-secret")),
            "s/.default",
            "u",
            ca_file=ca_file,
        )
        for_graph = replace(client, scope=f"{emulator.token_url}/.default")
        graph = GraphEndpoint(f"{emulator.token_url}/v1.0", "u", for_graph, ca_file=ca_file)
        boxes = [replace(mailbox(client, name=f"box-{number}"), further=(graph,)) for number in range(3)]
        tokens = MsalTokens(lambda _event: None, 5)
        await tokens.token("box-0", for_graph)
        ends = await Registrations(tokens, 5).ends(boxes)
        requests = emulator.authority.requests
        let_go(tokens)
    assert {name: end.at for name, end in ends.items()} == dict.fromkeys(["box-0", "box-1", "box-2"], app.secret_ends)
    assert requests == 1


class Refusing:
    """An authority that gives no token."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def token(self, mailbox: str, client: OAuth, rejected: Token | None = None) -> TokenRefused:
        del mailbox, rejected
        self.asked.append(client.client_id)
        return TokenRefused("access_denied", "")


async def test_platform_of_thousands_of_apps_does_not_ask_for_all_of_them() -> None:
    def box(number: int) -> Mailbox:
        client = OAuth(f"{CLOUDS[CloudName.GLOBAL].authority}/t", f"app-{number}", Secret(SecretStr("s")), "s", "u")
        return mailbox(client, name=f"box-{number}")

    tokens = Refusing()
    registrations = Registrations(tokens, 5)
    for _ in range(2):
        assert await registrations.ends(map(box, range(300))) == {}
    assert len(tokens.asked) == 100


def test_both_stand_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    log = LogEvents("w")
    log(CredentialEnds("box", "certificate", NOW, 3, urgent=True))
    log(CredentialEnds("calm", "certificate", NOW, 300, urgent=False))
    log(BasicAuthRetiring(("one", "two")))
    ends, basic = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert (ends["event"], ends["mailbox"], ends["at"], ends["days"]) == ("credential ends", "box", "2026-11-26", 3)
    assert (basic["mailboxes"], basic["some"]) == (2, ["one", "two"])
    assert "December 2026" in basic["dates"]
