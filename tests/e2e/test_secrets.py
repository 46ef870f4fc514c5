"""Every kind of secret, used well and badly by whole workers, and then looked for wherever anything is written."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import httpx2
import pytest

from contracts.delivery import DeliveryStatus
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import publisher
from tests.adapters.oauth.test_proofs import Keys, made
from tests.neighbours import PATIENCE, Inbox, environment_of, free_port, running_worker
from worker.api.tokens import Role, added
from worker.broker.connection import BrokerAddress
from worker.broker.dead import dead_letters
from worker.broker.topology import Topology
from worker.emulator.run import Emulator, Plan, emulating
from worker.emulator.world import AppRegistration, MailboxAccount
from worker.sealing import new_key

SMTP = MailboxAccount("own@fabrikam.example", "smtp pass/word+ü&1")
APP = AppRegistration(
    "11111111-2222-4333-8444-555555555555", "22222222-3333-4444-8555-666666666666", "client~sec/ret+&2"
)
CLOUD = MailboxAccount("cloud@contoso.example", None, frozenset({APP.client_id}))


@dataclass
class Scene:
    """Secrets by what they are, and everything that was written."""

    secrets: dict[str, str]
    written: dict[str, bytes] = field(default_factory=dict)

    def keep(self, place: str, text: str | bytes) -> None:
        self.written[place] = self.written.get(place, b"") + (text.encode() if isinstance(text, str) else text)


def forms(secret: str) -> Iterator[bytes]:
    """As it is, as programs write it, and as it travels."""
    raw = secret.encode()
    for inner in (raw, b"\0" + raw, f"\0{SMTP.address}\0{secret}".encode()):
        yield base64.b64encode(inner).rstrip(b"=")
        yield base64.urlsafe_b64encode(inner).rstrip(b"=")
    yield raw
    yield raw.decode().encode("utf-16-le")
    yield json.dumps(secret)[1:-1].encode()
    yield repr(secret)[1:-1].encode()
    yield quote(secret, safe="").encode()
    yield quote_plus(secret).encode()
    yield raw.hex().encode()


@pytest.fixture(scope="module")
def keys() -> Keys:
    """The app's."""
    return made()


@pytest.fixture
async def emulator(tmp_path: Path, keys: Keys) -> AsyncIterator[Emulator]:
    app = replace(APP, certificates=(keys.public,))
    plan = Plan(
        tmp_path / "emulator", apps=(app,), office365_mailboxes=(CLOUD,), ordinary_mailboxes=(SMTP,), keep_content=False
    )
    async with emulating(plan) as running:
        yield running


async def command(environment: Mapping[str, str], *arguments: str, given: str = "") -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=dict(environment), stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate(given.encode())
    return out.decode()


async def test_no_secret_is_in_anything_that_is_written_whether_it_was_good_or_not(
    address: BrokerAddress, topology: Topology, inbox: Inbox, emulator: Emulator, tmp_path: Path, keys: Keys
) -> None:
    mailboxes, tokens = tmp_path / "mailboxes.toml", tmp_path / "tokens.toml"
    mailboxes.write_text("", encoding="utf-8")
    pem, port = tmp_path / "app.pem", free_port()
    names = ("wrong SMTP password", "wrong client secret", "certificate password", "key vault app", "broker password")
    scene = Scene({name: f"{name.replace(' ', '-')}/+ &{number}" for number, name in enumerate(names)})
    scene.secrets |= {
        "SMTP password": str(SMTP.password),
        "client secret": APP.client_secret,
        "API token": added(tokens, "portal", frozenset(Role)),
        "sealing key": new_key(),
    }
    pem.write_bytes(keys.pem(scene.secrets["certificate password"]))
    settings = {
        "POSTLANE_SECRETS__KEY": scene.secrets["sealing key"],
        "POSTLANE_LOG__LEVEL": "debug",
        "POSTLANE_API__PORT": str(port),
        "POSTLANE_API__TOKENS_FILE": str(tokens),
        "POSTLANE_KEYVAULT__IDENTITY": APP.client_id,
        "POSTLANE_KEYVAULT__TENANT_ID": APP.tenant_id,
        "POSTLANE_KEYVAULT__CLIENT_SECRET": scene.secrets["key vault app"],
    }
    environment = environment_of(address, topology, mailboxes, tmp_path, settings)
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(
            running_worker(address, topology, mailboxes, tmp_path, settings=settings)
        )
        portal = await stack.enter_async_context(
            httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"Authorization": f"Bearer {scene.secrets['API token']}"},
                timeout=PATIENCE,
            )
        )
        post = await stack.enter_async_context(publisher(address.url, prefix=topology.prefix))
        for name, settings_of_it in boxes(emulator, scene, pem).items():
            answer = await portal.post("/mailboxes", json={"name": name, "settings": settings_of_it})
            if name == "by-certificate":  # a file is only named on the machine itself
                assert answer.status_code == 422
                source = tmp_path / "certificate.json"
                source.write_text(json.dumps(settings_of_it), encoding="utf-8")
                told = await command(environment, "-m", "worker", "mailbox", "add", name, "--from", str(source))
                source.unlink()
                assert "oauth.certificate_password = set" in told
                scene.keep("commands", told)
            scene.keep("answers", answer.text)
        await worker.logged("mailboxes changed", number=5)
        for name in ("smtp", "smtp-wrong", "app", "app-wrong", "by-certificate"):
            await post.publish(to_jana(name, name))
        for name in ("smtp", "app", "by-certificate"):
            assert (await inbox.final(name)).status is DeliveryStatus.ACCEPTED
        for name in ("smtp-wrong", "app-wrong"):
            assert (await inbox.first(name)).status is DeliveryStatus.DEFERRED
        await post.publish(to_jana("dead", "smtp", mailbox="nobody"))
        assert (await inbox.final("dead")).status is DeliveryStatus.REJECTED
        tenant = await portal.patch(
            "/tenants/tailspin/settings", json={"SMTP.Password": scene.secrets["SMTP password"]}
        )
        assert tenant.json()["state"] == "incomplete"
        bad = await portal.patch("/mailboxes/smtp", json={"port": "x", "login": {"password": SMTP.password}})
        assert bad.status_code == 422
        scene.keep("answers", tenant.text + bad.text)
        await look_around(scene, portal, environment, address, topology)
    scene.keep("logs", "".join(worker.raw))
    scene.keep("results", "".join(result.model_dump_json() for result in inbox.results))
    for file in tmp_path.glob("postlane.sqlite3*"):
        scene.keep("database and its log", file.read_bytes())
    scene.keep("tokens file", tokens.read_bytes())
    assert len(scene.written) == 8, "every place was looked into"
    assert all(scene.written.values())
    found = [
        (what, place)
        for what, secret in scene.secrets.items()
        for place, content in scene.written.items()
        if any(form in content for form in forms(secret))
    ]
    assert found == []
    assert b"smtp-wrong" in scene.written["logs"], "there is something in the logs to be found"


def boxes(emulator: Emulator, scene: Scene, pem: Path) -> dict[str, dict[str, Any]]:
    """Good and bad ones of each kind, each a tenant's own."""
    ca_file = str(emulator.certificates.ca_file.resolve())
    near: dict[str, Any] = {"host": "localhost", "ca_file": ca_file}
    own = {**near, "address": SMTP.address, "port": emulator.ordinary.port}
    cloud = {**near, "address": CLOUD.address, "port": emulator.office365.port, "connections": 1}
    entra = {"authority": f"{emulator.token_url}/{APP.tenant_id}", "client_id": APP.client_id, "ca_file": ca_file}
    by_certificate = {"certificate_file": str(pem), "certificate_password": scene.secrets["certificate password"]}
    found: dict[str, dict[str, Any]] = {
        "smtp": {**own, "login": {"username": SMTP.address, "password": SMTP.password}},
        "smtp-wrong": {**own, "login": {"username": SMTP.address, "password": scene.secrets["wrong SMTP password"]}},
        "app": {**cloud, "oauth": {**entra, "client_secret": APP.client_secret}},
        "app-wrong": {**cloud, "oauth": {**entra, "client_secret": scene.secrets["wrong client secret"]}},
        "by-certificate": {**cloud, "oauth": {**entra, **by_certificate}},
    }
    return {name: {**each, "tenants": [name]} for name, each in found.items()}


async def look_around(
    scene: Scene,
    portal: httpx2.AsyncClient,
    environment: Mapping[str, str],
    address: BrokerAddress,
    topology: Topology,
) -> None:
    """Ask for everything that can be asked for, with everything that can be run."""
    for path in ("/mailboxes", "/mailboxes/app", "/scopes", "/tenants/tailspin/settings", "/audit", "/openapi.json"):
        scene.keep("answers", (await portal.get(path)).text)
    for name in ("smtp", "smtp-wrong", "app", "app-wrong", "by-certificate"):
        scene.keep("answers", (await portal.post(f"/mailboxes/{name}/test")).text)
        scene.keep("answers", (await portal.post(f"/mailboxes/{name}/test-mail", json={"to": "a@b.example"})).text)
    for words in ("mailbox list --json", "mailbox show app", "config show", "check", "dead list", "store show"):
        scene.keep("commands", await command(environment, "-m", "worker", *words.split()))
    user = quote(scene.secrets["broker password"], safe="")
    astray = {**environment, "POSTLANE_BROKER__URL": f"amqp://nobody:{user}@127.0.0.1:{free_port()}/"}
    for words in ("check", "config show", "dead list"):
        scene.keep("commands", await command(astray, "-m", "worker", *words.split()))
    scene.keep("dumps", await command(environment, "-c", DUMP))
    assert "Mailbox(name='app'" in scene.written["dumps"].decode()
    async with dead_letters(address, topology) as letters:
        async for letter in letters:
            scene.keep("dead letters", repr(letter))


DUMP = """
import asyncio
from worker import bootstrap, settings
found = settings.load()
directory = asyncio.run(bootstrap.effective(found))
near = bootstrap.surroundings(found)
given = (found, bootstrap.keyring(found), near, near._vaults._credentials)
for each in (*given, directory, *directory.mailboxes.values()):
    print(repr(each), str(each))
print(found.model_dump_json(), found.model_dump())
"""


def to_jana(notification_id: str, tenant: str, **fields: Any) -> Notification:
    given = {"to": ["jana@people.example"], "subject": "Hello", "text": "Hello.", "tenant": tenant, **fields}
    return Notification.model_validate({"type": NOTIFICATION_TYPE, "id": notification_id, **given}, strict=False)
