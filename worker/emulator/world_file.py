"""Mailboxes and app registrations of one's own: a file of tables, beside the ones that are always there."""

from __future__ import annotations

import tomllib
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from worker.emulator.run import Plan
from worker.emulator.tables import checked, tables
from worker.emulator.world import AppRegistration, FederatedCredential, MailboxAccount
from worker.unusable import Unusable

T = TypeVar("T", MailboxAccount, AppRegistration)


def inhabited(plan: Plan, path: Path) -> Plan:
    """The plan with what a file adds to it; what has the same address or client id takes its place.

    `[[mailbox]]` is of Office 365, `[[ordinary]]` of the ordinary mail server; their keys are those of
    `world.MailboxAccount`. `[[app]]` has those of `world.AppRegistration`, and `[[app.federated]]` of
    `world.FederatedCredential`; keys and certificates are names of PEM files.

    Raises:
        Unusable: it cannot be read or is wrong; says where.
    """
    try:
        return _inhabited(plan, tomllib.loads(path.read_text(encoding="utf-8")), path.parent)
    except OSError as error:
        raise Unusable(f"{error.filename or path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        raise Unusable(f"{path}: {error}") from error


def _inhabited(plan: Plan, tree: Mapping[str, Any], directory: Path) -> Plan:
    if unknown := tree.keys() - {"mailbox", "ordinary", "app"}:
        raise ValueError(f"{sorted(unknown)} are no tables of it: they are [[mailbox]], [[ordinary]] and [[app]]")
    read = _Reader(directory)
    apps = _together(plan.apps, map(read.app, tables(tree, "app")), lambda app: app.client_id)
    everybody = frozenset(app.client_id for app in apps)
    mailboxes = [_mailbox("mailbox", entry, everybody) for entry in tables(tree, "mailbox")]
    ordinary = [_mailbox("ordinary", entry, frozenset()) for entry in tables(tree, "ordinary")]
    return replace(
        plan,
        apps=apps,
        office365_mailboxes=_together(plan.office365_mailboxes, mailboxes, _address),
        ordinary_mailboxes=_together(plan.ordinary_mailboxes, ordinary, _address),
    )


def _address(mailbox: MailboxAccount) -> str:
    return mailbox.address.lower()


def _together(there: Iterable[T], added: Iterable[T], name: Callable[[T], str]) -> tuple[T, ...]:
    own: dict[str, T] = {}
    for each in added:
        if name(each) in own:
            raise ValueError(f"{name(each)!r} is there twice")
        own[name(each)] = each
    return tuple(({name(each): each for each in there} | own).values())


def _mailbox(table: str, entry: Mapping[str, Any], apps: frozenset[str]) -> MailboxAccount:
    what = f"{table} {entry.get('address', 'without an address')!r}"
    mailbox = MailboxAccount(**({"apps": apps} | checked(what, entry, MailboxAccount)))
    if "@" not in mailbox.address:
        raise ValueError(f"{what}: address is none")
    if unknown := mailbox.apps - apps:
        raise ValueError(f"{what}: there are no apps {sorted(unknown)}")
    return mailbox


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads what lies in files beside the world's own."""

    directory: Path

    def app(self, entry: Mapping[str, Any]) -> AppRegistration:
        what = f"app {entry.get('client_id', 'without a client_id')!r}"
        if "trouble" in entry:
            raise ValueError(f"{what} has unknown keys ['trouble']")
        plain = {key: value for key, value in entry.items() if key != "federated"}
        # Without a secret there is none that anybody could know.
        fields = checked(what, {"client_secret": uuid.uuid4().hex} | plain, AppRegistration)
        fields["certificates"] = tuple(map(self._text, fields.get("certificates", ())))
        federated = tuple(self._federated(f"{what}: federated", each) for each in tables(entry, "federated"))
        return AppRegistration(**fields, federated=federated)

    def _federated(self, what: str, entry: Mapping[str, Any]) -> FederatedCredential:
        found = FederatedCredential(**checked(what, entry, FederatedCredential))
        return replace(found, public_key=self._text(found.public_key))

    def _text(self, name: str) -> str:
        return (self.directory / name).read_text(encoding="utf-8")
