"""Elixeum: keys of the tenant settings of its Notification service.

Source: the product's manual, "custom SMTP server", and the list of keys with their types on its screenshot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from worker.importers import checks
from worker.importers.dotnet_json import Array, Kind, Member, Node, Object, Scalar, parse
from worker.importers.finding import Findings, Place, Refusal
from worker.importers.mailbox import ImportedMailbox, Login, Smtp, SourceTls, Taken
from worker.importers.section import Section, Setting, of_object
from worker.importers.source import Form, Source, form_of, text_of
from worker.importers.wishes import Wishes

_SERVER, _PORT, _USER, _PASSWORD = "SMTP.Server", "SMTP.Port", "SMTP.Username", "SMTP.Password"
_NAME, _ADDRESS = "SMTP.SenderName", "SMTP.SenderAddress"
_REQUIRED = (_SERVER, _PORT, _USER, _PASSWORD)
_KNOWN = (*_REQUIRED, _NAME, _ADDRESS)


def read(sources: Sequence[Source], wishes: Wishes, findings: Findings) -> Taken:
    """One tenant's settings; later files override earlier ones."""
    settings: dict[str, Setting] = {}
    place = Place(sources[0].name if sources else "")
    count = 0
    for source in sources:
        with findings.gathering():
            section = _section(source, findings)
            settings.update(section.settings)
            place = section.place
            count += 1
    if not count:
        return Taken()
    section = Section(place, settings)
    checks.known_keys(section, _KNOWN, findings)
    if not any(section.has(key) for key in _KNOWN):
        findings.note(
            "default_mailbox.used",
            place,
            "no key is set: the tenant uses the platform's default mailbox",
            "nothing; let the tenant use the default mailbox here too",
        )
        return Taken()
    return _tenant_server(section, wishes, findings)


def _section(source: Source, findings: Findings) -> Section:
    text = text_of(source, findings)
    if form_of(text) is not Form.JSON:
        raise Refusal(
            "format.unexpected",
            Place(source.name),
            "the file is not JSON",
            'give the tenant settings as { "SMTP.Server": "…", "SMTP.Port": 587, … }',
        )
    node = parse(text, source.name, findings)
    if isinstance(node, Array):
        node = _from_list(node, source.name)
    if not isinstance(node, Object):
        raise Refusal(
            "json.no_object",
            Place(source.name),
            "the document is a single value, not settings",
            'write { "SMTP.Server": "…", … }',
        )
    for member in node.members:
        if not isinstance(member.node, Scalar):
            _nested(member, source.name, findings)
    return of_object(node, source.name, "")


def _from_list(node: Array, file: str) -> Object:
    """`[{"key": …, "value": …}]`, the same settings as a list."""
    members: dict[str, Member] = {}
    for item in node.items:
        key = item.get("key") if isinstance(item, Object) else None
        value = item.get("value") if isinstance(item, Object) else None
        if key is None or not isinstance(key.node, Scalar) or not key.node.text:
            raise Refusal(
                "json.no_object",
                Place(file, line=item.line),
                "an item of the list has no key",
                'write { "key": "SMTP.Server", "value": "…" }',
            )
        name = key.node.text
        if name.lower() in members:
            raise Refusal(
                f"key.duplicate_by_case:{checks.shown(name)}",
                Place(file, name, key.line),
                f"{checks.shown(name)} is there twice",
                "keep one of the two",
            )
        content: Node = value.node if value else Scalar("", Kind.NULL, item.line)
        members[name.lower()] = Member(name, content, key.line)
    return Object(tuple(members.values()), node.line)


def _nested(member: Member, file: str, findings: Findings) -> None:
    place = Place(file, checks.shown(member.key), member.line)
    if member.key.lower() in {key.lower() for key in _KNOWN}:
        findings.refuse(
            f"value.wrong_type:{member.key}",
            place,
            "a list or an object stands where a value belongs",
            "write a single value",
        )
    else:
        near = checks.nearest(member.key, _KNOWN) or _SERVER
        findings.refuse(
            f"key.unknown:{checks.shown(member.key)}",
            place,
            "settings stand inside another one; the keys of the tenant settings are flat",
            f"write the whole key, such as {near}",
        )


def _tenant_server(section: Section, wishes: Wishes, findings: Findings) -> Taken:
    # A password field that is there and blank is a password that the product does not show.
    complete = True
    for key in _REQUIRED:
        if not (section.has(key) if key == _PASSWORD else section.text(key)):
            complete = False
            findings.warn(
                f"tenant_server.incomplete:{key}",
                section.at(key),
                f"{key} is not set; the product uses the tenant's own server only when all four keys are",
                f"set {key}, or nothing: mail goes through the platform's default mailbox as before",
            )
    _port_is_number(section, findings)
    number = checks.number_of(section.text(_PORT))
    port = checks.port(section, _PORT, findings, checks.SUBMISSION)
    host = checks.host(section, _SERVER, findings)
    login = _login(section, findings, complete=complete)
    tls = _tls(section, port, findings) if complete and port == number else SourceTls.REQUIRED
    name, address = _sender(section, findings, complete=complete)
    checks.office365(host, login, address, section.at(_SERVER), findings)
    if not complete:
        return Taken(without_effect=True)
    source: Mapping[str, str | int | bool | None] = {"tenant_server": True}
    return Taken(
        (
            ImportedMailbox(
                name=wishes.prefix or "elixeum",
                delivery=Smtp(host, port, tls, login),
                source=MappingProxyType(source),
                sender=address,
                display_name=name,
            ),
        )
    )


def _port_is_number(section: Section, findings: Findings) -> None:
    if checks.number_of(section.text(_PORT)) == 0:
        findings.refuse(
            "port.out_of_range",
            section.at(_PORT),
            "port 0 does not exist, and the product has no default for it",
            "write 587 (STARTTLS), 465 (TLS from the first octet) or 25 (relay)",
        )
    if checks.is_text(section, _PORT) and checks.number_of(section.text(_PORT)) is not None:
        findings.refuse(
            f"value.wrong_type:{_PORT}",
            section.at(_PORT),
            f"{_PORT} is a text; the product's key is a number",
            "write the number without quotation marks",
        )


def _login(section: Section, findings: Findings, *, complete: bool) -> Login | None:
    if not complete:
        return None
    if not section.text(_PASSWORD):
        findings.ask(
            "secret.masked",
            section.at(_PASSWORD),
            "the password is blank, as the product shows every password",
            "enter the password in the file that the mailbox names (password_file)",
        )
        return Login(section.text(_USER), None)
    return checks.login(section, _USER, _PASSWORD, findings)


def _tls(section: Section, port: int, findings: Findings) -> SourceTls:
    """By the port, the only thing that is said."""
    place = section.at(_PORT)
    if port == checks.SMTPS:
        findings.note("tls.not_stated", place, "no key says how to encrypt; port 465 is TLS from the first octet")
        return SourceTls.IMPLICIT
    findings.note("tls.not_stated", place, f"no key says how to encrypt; on port {port} STARTTLS is required")
    if port == checks.RELAY:
        checks.protection(SourceTls.IF_OFFERED, place, findings, with_login=True)
        return SourceTls.IF_OFFERED
    return SourceTls.REQUIRED


def _sender(section: Section, findings: Findings, *, complete: bool) -> tuple[str, str]:
    """SenderAddress, else the user name if it is an address."""
    name = section.text(_NAME)
    if section.text(_ADDRESS):
        named, address = checks.named_address(section.text(_ADDRESS), section.at(_ADDRESS), findings)
        return name or named, address
    if not complete:
        return name, ""
    if "@" in section.text(_USER):
        return name, checks.named_address(section.text(_USER), section.at(_USER), findings)[1]
    checks.missing(section, _ADDRESS, findings, f"{_USER} is no address that could be the sender", f"set {_ADDRESS}")
    return name, ""
