"""node-oidc-provider, a certified OpenID Connect provider, and how Dovecot asks it whether a token is good."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests
import trustme
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.field.dovecot import USER
from tests.field.ground import Missing, Process, home, program
from worker.emulator.authority import Certificates
from worker.sandbox.node import free_ports

NODE = Path(__file__).with_name("node")
SECRET = "a/secret+with:odd=signs&more"
SCOPE = "mail.send"

_JUDGE = {
    "client_id": "dovecot",
    "client_secret": "judge",
    "grant_types": [],
    "redirect_uris": [],
    "response_types": [],
}


def client(client_id: str, method: str, **more: Any) -> dict[str, Any]:
    """A client that may have tokens for itself, authenticated by `method` (OpenID Connect Core section 9)."""
    secret = {"client_secret": SECRET} if method.startswith("client_secret") else {}
    flow = {"grant_types": ["client_credentials"], "redirect_uris": [], "response_types": []}
    return {"client_id": client_id, "token_endpoint_auth_method": method, **secret, **flow, "scope": SCOPE, **more}


def packages() -> None:
    """Look for Node and what these tests need of npm.

    Raises:
        Missing: it is not there.
    """
    program("node")
    if not (NODE / "node_modules").is_dir():
        raise Missing("oidc-provider and smtp-server are not installed; make test-field installs them")


PERSONS = {
    "client_id": "persons",
    "token_endpoint_auth_method": "none",
    "grant_types": ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"],
    "redirect_uris": [],
    "response_types": [],
    "application_type": "native",
}


def key_of(directory: Path, name: str) -> dict[str, Any]:
    """A client that signs with a key of its own. Its certificate lies in the directory, `<name>.pem`."""
    made = trustme.CA().issue_cert(f"{name}.contoso.example", key_type=trustme.KeyType[name.upper()])
    file = directory / f"{name}.pem"
    made.private_key_and_cert_chain_pem.write_to_path(file)
    public = load_pem_x509_certificate(made.cert_chain_pems[0].bytes()).public_key()
    written = RSAAlgorithm.to_jwk(public) if name == "rsa" else ECAlgorithm.to_jwk(public)
    return client(name, "private_key_jwt", jwks={"keys": [json.loads(written)]})


def visit(address: str, code: str, ca_file: Path) -> str:
    """What somebody does who is shown a code: opens the page, fills in every form in turn. Returns the last page."""
    answers = {"user_code": code, "login": USER, "password": "anything"}
    with requests.Session() as browser:
        browser.trust_env, browser.verify = False, str(ca_file)
        page = browser.get(address)
        while form := re.search(r'<form[^>]*action="([^"]*)"', page.text):
            inputs = [dict(re.findall(r'(\w+)="([^"]*)"', it)) for it in re.findall(r"<input[^>]*>", page.text)]
            fields = {it["name"]: answers.get(it["name"], it.get("value", "")) for it in inputs}
            page = browser.post(urljoin(page.url, unescape(form[1])), data=fields)
    return page.text


class Oidc:
    """One provider; it keeps its tokens in memory, so that a restart makes all of them worthless.

    Attributes:
        issuer: how it calls itself.
    """

    def __init__(self, home: Path, certificates: Certificates, clients: Sequence[Mapping[str, Any]]) -> None:
        """It does not run yet."""
        self._home, self._certificates = home, certificates
        self._clients = clients
        (self._port,) = free_ports(1)
        self.issuer = f"https://localhost:{self._port}"
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        configuration = {
            "port": self._port,
            "pem": str(self._certificates.key_and_chain),
            "clients": [_JUDGE, *self._clients],
            "scopes": ["openid", "offline_access", SCOPE],
            "username": USER,
        }
        command = [program("node"), NODE / "oidc.mjs", json.dumps(configuration)]
        self._process = Process(command, self._home / "oidc.log", self._port)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()

    def restart(self) -> None:
        """Forget all tokens."""
        self.stop()
        self.start()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it has told of one kind: `granted`, `refused`."""
        lines = (self._home / "oidc.log").read_text(encoding="utf-8").splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in told if event["event"] == name]

    @property
    def dovecot(self) -> str:
        """Dovecot's oauth2 settings: every token is looked up here (RFC 7662)."""
        return (
            f"introspection_url = https://dovecot:judge@localhost:{self._port}/token/introspection\n"
            "introspection_mode = post\nforce_introspection = yes\n"
            "username_attribute = username\nactive_attribute = active\nactive_value = true\n"
            f"tls_ca_cert_file = {self._certificates.ca_file}\n"
        )


@contextmanager
def oidc(certificates: Certificates, *clients: Mapping[str, Any]) -> Iterator[Oidc]:
    """A running provider.

    Raises:
        Missing: it is not installed.
    """
    packages()
    with home("oidc") as directory:
        provider = Oidc(directory, certificates, clients)
        try:
            provider.start()
            yield provider
        finally:
            provider.stop()
