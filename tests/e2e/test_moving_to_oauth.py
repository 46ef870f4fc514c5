"""A mailbox moves from basic authentication to OAuth while mail is coming in."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from contracts.delivery import DeliveryStatus
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import publisher
from tests.neighbours import Inbox, running_worker
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.emulator.run import CLIENT_ID, TENANT_ID, Emulator

ADDRESS = "notifications@contoso.example"
BY_PASSWORD = f'[mailboxes.box.login]\nusername = "{ADDRESS}"\npassword = "emulated-password"\n'
COUNT = 120


@pytest.fixture
def mailboxes(tmp_path: Path) -> Path:
    return tmp_path / "mailboxes.toml"


def text(emulator: Emulator, login: str) -> str:
    ca_file = emulator.certificates.ca_file.resolve()
    return (
        f'default = "box"\n[mailboxes.box]\naddress = "{ADDRESS}"\nhost = "localhost"\n'
        f'port = {emulator.office365.port}\nca_file = "{ca_file}"\nconnections = 1\n{login}'
    )


def by_oauth(emulator: Emulator) -> str:
    ca_file = emulator.certificates.ca_file.resolve()
    return (
        f'[mailboxes.box.oauth]\nauthority = "{emulator.token_url}/{TENANT_ID}"\nclient_id = "{CLIENT_ID}"\n'
        f'client_secret = "emulated-client-secret"\nexpires = 2020-01-31\nca_file = "{ca_file}"\n'
    )


def notification(number: int) -> Notification:
    fields = {"to": ["jana@contoso.example"], "subject": f"Hello {number}", "text": "Hello."}
    return Notification.model_validate({"type": NOTIFICATION_TYPE, "id": f"n-{number}", "tenant": "contoso", **fields})


async def test_mailbox_is_switched_under_load_and_nothing_is_lost_or_doubled(
    emulator: Emulator, mailboxes: Path, inbox: Inbox, address: BrokerAddress, topology: Topology, tmp_path: Path
) -> None:
    """The new worker starts with the new file while the old one finishes what it has."""

    async def produce() -> None:
        async with publisher(address.url, prefix=topology.prefix) as post:
            for number in range(COUNT):
                await post.publish(notification(number))

    mailboxes.write_text(text(emulator, BY_PASSWORD))
    async with running_worker(address, topology, mailboxes, tmp_path) as old:
        producing = asyncio.create_task(produce())
        await inbox.until(lambda results: len(results) >= COUNT // 4)
        mailboxes.write_text(text(emulator, by_oauth(emulator)))
        async with running_worker(address, topology, mailboxes, tmp_path) as new:
            await new.logged("credential ends", mailbox="box", at="2020-01-31")
            assert await old.stop() == 0
            await producing
            await inbox.until(lambda results: len({result.notification_id for result in results}) == COUNT)
    assert {result.status for result in inbox.results} == {DeliveryStatus.ACCEPTED}
    log = emulator.accepted.log.read_text(encoding="utf-8").splitlines()
    mails = [json.loads(line) for line in log]
    assert len(mails) == len({mail["message_id"] for mail in mails}) == COUNT
    assert {mail["mechanism"] for mail in mails} == {"LOGIN", "XOAUTH2"}
