"""The only place that knows how an imported mailbox is written: as lines of the mailboxes file, and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from worker.importers.finding import Finding
from worker.importers.mailbox import (
    Import,
    ImportedMailbox,
    Login,
    OAuthLogin,
    Pickup,
    Priority,
    Rule,
    Smtp,
    SourceTls,
)

_OFFICE365 = "smtp.office365.com"
_CATEGORY = re.compile(r"[a-z][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True)
class Placing:
    """What the mailboxes get beyond what the old settings say.

    Attributes:
        tenants: whose mailboxes they are.
        address: sender of mailboxes whose messages bring their own.
        secrets: directory of the secret files, absolute.
    """

    tenants: tuple[str, ...] = ()
    address: str = ""
    secrets: str = "secrets"


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file that a mailbox names; without a secret a person must still fill it."""

    name: str
    secret: SecretStr | None


def toml(outcome: Import, placing: Placing) -> str:
    """Tables for the mailboxes file. Secrets are named by their files."""
    lines = [line for rule in outcome.rules for line in _rule(rule)]
    for mailbox in outcome.mailboxes:
        lines.extend(["", *_mailbox(mailbox, placing)] if lines else _mailbox(mailbox, placing))
    return "".join(f"{line}\n" for line in lines)


def secret_files(outcome: Import) -> tuple[SecretFile, ...]:
    """The files that `toml` names."""
    found = []
    for mailbox in outcome.mailboxes:
        match mailbox.delivery:
            case Smtp(login=Login(password=password)):
                found.append(SecretFile(_secret_name(mailbox), password))
            case Smtp(login=OAuthLogin()):
                found.append(SecretFile(_secret_name(mailbox), None))
            case _:
                pass
    return tuple(found)


def _mailbox(mailbox: ImportedMailbox, placing: Placing) -> Iterator[str]:
    address = mailbox.sender or placing.address
    yield from (f"# {line}" for line in mailbox.advice)
    yield f"[mailboxes.{_key(mailbox.name)}]"
    if address:
        yield _pair("address", address)
    else:
        yield '# To do: address = "…"; the old product takes the sender from each message.'
    yield from _scope(mailbox, placing)
    yield from _pairs(
        display_name=mailbox.display_name,
        senders=mailbox.senders,
        enabled=None if mailbox.enabled and mailbox.in_effect else False,
        purposes=tuple(name for name in mailbox.purposes if _CATEGORY.fullmatch(name)),
        allowed_domains=mailbox.recipients.allowed_domains,
        catch_all=mailbox.recipients.catch_all_to,
        catch_all_cc=mailbox.recipients.catch_all_cc,
        suppress=mailbox.suppress or None,
    )
    yield from _limits(mailbox)
    match mailbox.delivery:
        case Smtp() as smtp:
            yield from _smtp(smtp, mailbox, placing)
        case Pickup() as pickup:
            yield from _pickup(pickup, mailbox)


def _limits(mailbox: ImportedMailbox) -> Iterator[str]:
    """For all workers together. Where the product dropped further recipients in silence, the mail is refused here."""
    limits = {"connections": mailbox.connections, "recipients_per_message": mailbox.recipients.most}
    if given := [f"{name} = {most}" for name, most in limits.items() if most]:
        yield f"limits = {{ {', '.join(given)} }}"


def _scope(mailbox: ImportedMailbox, placing: Placing) -> Iterator[str]:
    """Sites, components and a scope's default are a tenant's: without one they wait for a person to name it."""
    rank = mailbox.priority.value.lower() if mailbox.priority and mailbox.priority is not Priority.NORMAL else ""
    scoped = list(
        _pairs(
            tenants=placing.tenants,
            sites=mailbox.sites or (),
            components=(mailbox.component,) if mailbox.component else (),
            priority="default" if mailbox.site_default else rank,
        )
    )
    if placing.tenants or not (mailbox.sites or mailbox.component or mailbox.site_default):
        yield from scoped
        return
    yield '# To do: tenants = ["…"], whose mailbox it is (or import again with --tenant); then also:'
    yield from (f"# {line}" for line in scoped)


def _smtp(smtp: Smtp, mailbox: ImportedMailbox, placing: Placing) -> Iterator[str]:
    if not smtp.host:
        yield '# To do: host = "…"; the old product has none.'
    if smtp.host.lower() == _OFFICE365:
        yield _pair("preset", "office365")
    yield from _pairs(
        host=smtp.host,
        port=smtp.port,
        tls=_tls(smtp),
        helo=smtp.ehlo,
    )
    secret = f"{placing.secrets}/{_secret_name(mailbox)}"
    match smtp.login:
        case Login(username=username):
            yield f"[mailboxes.{_key(mailbox.name)}.login]"
            if not username:
                yield '# To do: username = "…"; the old product logged in as its Windows account.'
            yield from _pairs(username=username, password_file=secret)
        case OAuthLogin(username=username, credentials=credentials):
            yield f"[mailboxes.{_key(mailbox.name)}.oauth]"
            yield f"# To do: client_id and tenant_id of the app registration {_comment(credentials)}."
            yield from _pairs(username=username, client_secret_file=secret)
        case None:
            pass


def _tls(smtp: Smtp) -> str:
    """Ours for theirs; a login is never sent over a connection that may be in clear text."""
    match smtp.tls:
        case SourceTls.IMPLICIT:
            return "implicit"
        case SourceTls.IF_OFFERED if smtp.login is None:
            return "starttls-if-offered"
        case SourceTls.NONE if smtp.login is None:
            return "none"
        case _:
            return "starttls"


def _pickup(pickup: Pickup, mailbox: ImportedMailbox) -> Iterator[str]:
    yield f"[mailboxes.{_key(mailbox.name)}.pickup]"
    if not pickup.path.startswith("/"):
        yield "# To do: the directory as it is mounted on this machine."
    yield _pair("directory", pickup.path)
    yield from _pairs(flavour=pickup.flavour)


def _rule(rule: Rule) -> Iterator[str]:
    details = ", ".join(f"{key} {_words(value)}" for key, value in rule.fields.items() if value)
    yield _comment(
        f"# {rule.kind} {rule.name}: server {rule.server or 'as managed'}{f'; {details}' if details else ''}"
    )


def _words(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else " and ".join(value)


def _secret_name(mailbox: ImportedMailbox) -> str:
    match mailbox.delivery:
        case Smtp(login=OAuthLogin()):
            return f"{mailbox.name}.client-secret"
        case _:
            return f"{mailbox.name}.password"


def _pairs(**values: str | float | Sequence[str] | None) -> Iterator[str]:
    return (_pair(key, value) for key, value in values.items() if value is not None and value not in ("", ()))


def _pair(key: str, value: str | float | Sequence[str]) -> str:
    match value:
        case bool():
            return f"{key} = {str(value).lower()}"
        case str():
            return f"{key} = {_text(value)}"
        case int() | float():
            return f"{key} = {value}"
        case _:
            return f"{key} = [{', '.join(map(_text, value))}]"


def _text(text: str) -> str:
    # A JSON text is a TOML basic string, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if "." not in name else _text(name)


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


# JSON


def as_json(outcome: Import) -> dict[str, object]:
    """What `--json` shows. Of a secret it says whether it is there."""
    return {
        "verdict": outcome.verdict.value,
        "findings": [_finding(finding) for finding in outcome.findings],
        "mailboxes": [_shown(mailbox) for mailbox in outcome.mailboxes],
        "rules": [
            {rule.kind: rule.name, "server": rule.server, **_listed(rule.fields)} for rule in outcome.rules
        ],
    }  # fmt: skip


def _finding(finding: Finding) -> dict[str, object]:
    place = finding.place
    return {
        "code": finding.code,
        "key": place.key,
        "reason": finding.reason,
        "proposal": finding.proposal,
        "file": place.file,
        "line": place.line or None,
        "weight": finding.weight.name.lower(),
    }


def _shown(mailbox: ImportedMailbox) -> dict[str, object]:
    endpoint = _endpoint(mailbox.delivery)
    sender = f"{mailbox.display_name} <{mailbox.sender}>" if mailbox.display_name else mailbox.sender
    optional = {
        "sender": sender,
        "senders": list(mailbox.senders),
        "priority": mailbox.priority.value if mailbox.priority else "",
        "component": mailbox.component,
        "purposes": list(mailbox.purposes),
        "allowed_domains": list(mailbox.recipients.allowed_domains),
        "catch_all_to": mailbox.recipients.catch_all_to,
        "catch_all_cc": mailbox.recipients.catch_all_cc,
        "max_recipients": mailbox.recipients.most,
        "suppress": mailbox.suppress,
        **_listed(mailbox.more),
    }
    shown: dict[str, object] = {"name": mailbox.name, **mailbox.source, **endpoint, "enabled": mailbox.enabled}
    shown["in_effect"] = mailbox.enabled and mailbox.in_effect
    if mailbox.priority:
        shown["scope"] = "global" if mailbox.sites is None else list(mailbox.sites)
    if mailbox.site_default:
        shown["default"] = endpoint
    return {**shown, **{key: value for key, value in optional.items() if value}}


def _endpoint(delivery: Smtp | Pickup) -> dict[str, object]:
    if isinstance(delivery, Pickup):
        kind = "pickup-iis" if delivery.from_iis else "pickup"
        return {"delivery": kind, "path": delivery.path or None, "flavour": delivery.flavour or None}
    shown: dict[str, object] = {
        "delivery": "smtp",
        "host": delivery.host,
        "port": delivery.port,
        "tls": delivery.tls.value,
    }
    match delivery.login:
        case None:
            shown["auth"] = "none"
        case Login(username=username, password=password):
            shown |= {"auth": "basic", "username": username, "secret": "present" if password else "missing"}
        case OAuthLogin(username=username, credentials=credentials):
            shown |= {"auth": "oauth2", "username": username, "secret": "missing", "credentials": credentials}
    if delivery.ehlo:
        shown["ehlo"] = delivery.ehlo
    return shown


def _listed(fields: Mapping[str, str | int | bool | tuple[str, ...]]) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items() if value}
