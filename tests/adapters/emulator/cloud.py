"""Entra and Graph as any HTTP client speaks to them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from worker.emulator.run import CLIENT_ID, TENANT_ID, Emulator

SECRET = "emulated-client-secret"
BOX = "notifications@contoso.example"
SMTP = "https://outlook.office365.com/.default"
GRAPH = "https://graph.microsoft.com/.default"
PERSONS_SMTP = "https://outlook.office.com/SMTP.Send"
BY_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass
class Cloud:
    """A client of one emulator."""

    emulator: Emulator
    http: httpx2.AsyncClient

    async def ask(self, *, tenant: str = TENANT_ID, **form: str) -> httpx2.Response:
        """A request for a token."""
        return await self.http.post(f"{self.emulator.token_url}/{tenant}/oauth2/v2.0/token", data=form)

    async def app(self, scope: str = GRAPH, **form: str) -> httpx2.Response:
        """The same, of an app for itself."""
        own = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": SECRET, "scope": scope}
        return await self.ask(**own | form)

    async def person(self, scope: str = f"{PERSONS_SMTP} offline_access openid", user: str = BOX) -> dict[str, Any]:
        """Somebody has signed in by a device code."""
        address = f"{self.emulator.token_url}/{TENANT_ID}/oauth2/v2.0/devicecode"
        invitation = (await self.http.post(address, data={"client_id": CLIENT_ID, "scope": scope})).json()
        assert self.emulator.authority.approve(invitation["user_code"], user)
        form = {"grant_type": BY_DEVICE, "client_id": CLIENT_ID, "device_code": invitation["device_code"]}
        return (await self.ask(**form)).json()

    async def refreshed(self, token: str, **form: str) -> httpx2.Response:
        """The sign-in goes on, as an app with a secret does it."""
        own = {"grant_type": "refresh_token", "client_id": CLIENT_ID, "client_secret": SECRET, "refresh_token": token}
        return await self.ask(**own | form)

    async def post(self, path: str, body: object, token: str) -> httpx2.Response:
        """JSON to Graph."""
        headers = {"Authorization": f"Bearer {token}"}
        return await self.http.post(f"{self.emulator.graph_url}/v1.0{path}", json=body, headers=headers)

    async def post_octets(self, path: str, body: bytes, token: str, kind: str = "application/json") -> httpx2.Response:
        """Anything to Graph."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        return await self.http.post(f"{self.emulator.graph_url}/v1.0{path}", content=body, headers=headers)


@asynccontextmanager
async def cloud_of(emulator: Emulator) -> AsyncIterator[Cloud]:
    """A client that trusts the emulator's authority."""
    context = ssl.create_default_context(cafile=str(emulator.certificates.ca_file))
    async with httpx2.AsyncClient(verify=context) as http:
        yield Cloud(emulator, http)
