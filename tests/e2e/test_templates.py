"""Templates, rules and mass mail through a real broker to a real mail server."""

from __future__ import annotations

import email
import email.policy
import json
import signal
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from contracts.delivery import DeliveryStatus, Result
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import publisher
from tests.neighbours import Inbox, WorkerProcess, running_worker
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.emulator.run import Emulator

FILES = {
    "reset/cs.subject.j2": "{{ recipient.name }}, obnovte své heslo",
    "reset/cs.html.j2": '<p>Dobrý den, <a href="{{ base }}/{{ code }}">klikněte sem</a>.</p>',
    "reset/en.subject.j2": "Reset your password",
    "reset/en.txt.j2": "{{ base }}/{{ code }}\n",
    "rules.toml": """
locales = ["cs"]
[[rules]]
event = "password.reset"
template = "reset"
category = "password-reset"
priority = "high"
data = { base = "https://id.contoso.example" }

[[rules]]
event = "approval.requested"
template = "reset"
to = "Boss <boss@contoso.example>; omar@contoso.example"
""",
}


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    root = tmp_path / "templates"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
async def worker(
    address: BrokerAddress, topology: Topology, mailboxes: Path, templates: Path, tmp_path: Path
) -> AsyncIterator[WorkerProcess]:
    settings = {"POSTLANE_TEMPLATES__DIRECTORY": str(templates)}
    async with running_worker(address, topology, mailboxes, tmp_path, settings=settings) as process:
        yield process


def notification(notification_id: str, **fields: object) -> Notification:
    least = {"type": NOTIFICATION_TYPE, "id": notification_id, "tenant": "contoso"}
    return Notification.model_validate({**least, **fields})


def accepted(emulator: Emulator) -> list[dict[str, Any]]:
    return [json.loads(line) for line in emulator.accepted.log.read_text(encoding="utf-8").splitlines()]


def mails(pickup: Path) -> list[EmailMessage]:
    return [
        email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        for path in sorted(pickup.glob("*.eml"))
    ]


async def test_czech_template_by_event_reaches_the_person_and_falls_back_for_others(
    worker: WorkerProcess, pickup: Path, address: BrokerAddress, topology: Topology
) -> None:
    jana = [{"address": "jana@zlin.example", "name": "Jana"}]
    event = {"tenant": "zlin", "event": "password.reset", "to": jana, "data": {"code": "7f3a"}}
    async with publisher(address.url, prefix=topology.prefix) as post:
        czech = await post.send(notification("n-1", locale="cs-CZ", **event))
        french = await post.send(notification("n-2", locale="fr", **event))
        english = await post.send(notification("n-3", locale="en-GB", **event))
    assert {czech.status, french.status, english.status} == {DeliveryStatus.HANDED_OVER}
    assert czech.category == "password-reset"
    found = mails(pickup)
    assert sorted(str(mail["Subject"]) for mail in found) == [
        "Jana, obnovte své heslo",
        "Jana, obnovte své heslo",
        "Reset your password",
    ]
    mail = next(mail for mail in found if "Jana" in mail["Subject"])
    plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert plain.get_content().strip() == "Dobrý den, klikněte sem (https://id.contoso.example/7f3a)."
    assert '<a href="https://id.contoso.example/7f3a">' in html.get_content()


async def test_event_goes_to_the_people_of_its_rule_and_one_without_a_rule_to_nobody(
    worker: WorkerProcess, emulator: Emulator, address: BrokerAddress, topology: Topology
) -> None:
    data = {"base": "https://pm", "code": 1, "recipient": {"name": "All"}}
    async with publisher(address.url, prefix=topology.prefix) as post:
        sent = await post.send(notification("n-1", event="approval.requested", data=data))
        unknown = await post.send(notification("n-2", event="approval.denied"))
    assert [item.address for item in sent.recipients] == ["boss@contoso.example", "omar@contoso.example"]
    assert (unknown.status, unknown.reason.kind if unknown.reason else "") == (DeliveryStatus.REJECTED, "no-rule")
    assert [mail["rcpt_to"] for mail in accepted(emulator)] == [["boss@contoso.example", "omar@contoso.example"]]


async def test_corrected_template_counts_without_a_restart(
    worker: WorkerProcess, templates: Path, address: BrokerAddress, topology: Topology
) -> None:
    fields = {"to": ["jana@contoso.example"], "template": "reset", "locale": "en", "data": {"base": "x"}}
    async with publisher(address.url, prefix=topology.prefix) as post:
        missing = await post.send(notification("n-1", **fields))
        (templates / "reset" / "en.txt.j2").write_text("{{ base }}\n", encoding="utf-8")
        corrected = await post.send(notification("n-2", **fields))
    assert missing.status is DeliveryStatus.REJECTED
    assert missing.reason is not None
    assert "reset/en.txt.j2, line 1): 'code' is undefined" in missing.reason.explanation
    assert corrected.status is DeliveryStatus.ACCEPTED


@pytest.mark.row("KX-W10")
async def test_mass_mail_reaches_fifty_people_one_by_one_but_for_the_one_that_was_taken_out(
    worker: WorkerProcess, emulator: Emulator, inbox: Inbox, address: BrokerAddress, topology: Topology
) -> None:
    people = [f"reader{n}@fabrikam.example" for n in range(1, 51)]
    news = notification("news", tenant="fabrikam", category="mass", to=people, subject="News", text="All is well.")
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.cancel("news/7", "fabrikam")
        whole = await post.send(news)
        again = await post.send(news)
    await inbox.until(lambda results: len({item.event_id for item in results if item.status == "accepted"}) == 49)
    assert (whole.status, whole.expanded_into) == (again.status, again.expanded_into) == (DeliveryStatus.EXPANDED, 50)
    sent = accepted(emulator)
    wanted = [[person] for person in people if person != "reader7@fabrikam.example"]
    assert sorted(mail["rcpt_to"] for mail in sent) == sorted(wanted)
    assert {mail["notification_id"] for mail in sent} == {f"news/{n}" for n in range(1, 51)} - {"news/7"}


async def test_worker_killed_in_the_middle_of_a_mass_mail_loses_nobody_and_doubles_nobody(
    emulator: Emulator, mailboxes: Path, inbox: Inbox, address: BrokerAddress, topology: Topology, tmp_path: Path
) -> None:
    people = [f"reader{n}@fabrikam.example" for n in range(1, 201)]
    news = notification("news", tenant="fabrikam", category="mass", to=people, subject="News", text="All is well.")
    settings = {"POSTLANE_STORE__URL": f"sqlite:///{tmp_path / 'ledger.db'}", "POSTLANE_STORE__LEASE_SECONDS": "2"}

    def ended(results: list[Result]) -> set[str | None]:
        return {item.notification_id for item in results if item.final and item.status != "expanded"}

    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.publish(news)
    async with running_worker(address, topology, mailboxes, tmp_path, settings=settings) as first:
        await inbox.until(lambda results: len(ended(results)) >= 10)
        await first.stop(signal.SIGKILL)
    async with running_worker(address, topology, mailboxes, tmp_path, settings=settings):
        await inbox.until(lambda results: len(ended(results)) == len(people), patience=90)
    reached = [person for mail in accepted(emulator) for person in mail["rcpt_to"]]
    assert len(reached) == len(set(reached))
    doubtful = {person.address for item in inbox.results if item.status == "in_doubt" for person in item.recipients}
    assert set(reached) | doubtful == set(people)
