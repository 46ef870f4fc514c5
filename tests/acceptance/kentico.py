"""Dumps of Kentico's tables, as an administrator exports them, taken over by the command."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.acceptance.installation import Installation, Said

Row = Mapping[str, Any]
NETWORK, PICKUP, IIS = 0, 1, 2
_SERVER = {
    "ServerID": "",
    "ServerName": "",
    "ServerUserName": "",
    "ServerPassword": "",
    "ServerUseSSL": 0,
    "ServerEnabled": 1,
    "ServerIsGlobal": 1,
    "ServerPriority": 0,
    "ServerDeliveryMethod": NETWORK,
    "ServerPickupDirectory": "",
    "ServerAuthenticationType": 0,
    "ServerOAuthCredentials": "",
}


def server(number: int, name: str, **columns: Any) -> Row:
    """A row of CMS_SMTPServer: switched on, global, of normal priority, in the open, without a login, unless told."""
    return {**_SERVER, "ServerID": number, "ServerName": name, **columns}


def bound(number: int, site: str) -> Row:
    """A row of CMS_SMTPServerSite."""
    return {"ServerID": number, "SiteName": site}


def key(name: str, value: Any, site: str = "") -> Row:
    """A row of CMS_SettingsKey."""
    return {"KeyName": name, "SiteName": site, "KeyValue": value}


async def take_over(
    lane: Installation,
    servers: Sequence[Row] = (),
    *options: str,
    sites: Sequence[Row] = (),
    keys: Sequence[Row] = (),
) -> Said:
    """Export the tables, import them as tenant `kx`."""
    files = []
    for name, rows in (("CMS_SMTPServer", servers), ("CMS_SMTPServerSite", sites), ("CMS_SettingsKey", keys)):
        if rows:
            files.append(f"{name}.csv")
            _export(lane.directory / files[-1], rows)
    settled = ("--tenant", "kx", "--address", "web@senders.example", "--json")
    return await lane.postlane("import", "kentico", *files, *settled, *options)


def _export(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
