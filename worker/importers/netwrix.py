"""Netwrix Identity Manager (Usercube): `MailSettings` of the Server, `PasswordResetSettings:MailSettings` of the Agent.

Source: the product's reference of `appsettings.json` and `appsettings.agent.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType

from worker.importers import checks
from worker.importers.dotnet_settings import Documents, Tree, documents
from worker.importers.finding import Findings, Place
from worker.importers.mailbox import ImportedMailbox, Login, Pickup, Recipients, Smtp, Taken
from worker.importers.section import Section
from worker.importers.source import Source
from worker.importers.wishes import Wishes

_SERVER, _AGENT = "server", "agent"
_SECTION = "MailSettings"
_RESET = "PasswordResetSettings"
_KNOWN = (
    "FromAddress",
    "Host",
    "Port",
    "UserName",
    "Password",
    "UseDefaultCredentials",
    "EnableSsl",
    "SecureSocketOption",
    "UseSpecifiedPickupDirectory",
    "PickupDirectory",
    "Enabled",
    "AllowedDomains",
    "CatchAllAddress",
    "CatchAllCCAddress",
    "MaxRecipients",
)


def read(sources: Sequence[Source], wishes: Wishes, findings: Findings) -> Taken:
    """Server and Agent files, with the variables that override them."""
    given = documents(sources, findings)
    mailboxes = [
        _mailbox(component, section, tree, wishes, findings)
        for owner, tree in _programs(given, wishes, findings).items()
        for component, section in _sections(owner, tree, findings)
    ]
    return Taken(tuple(mailboxes))


def _programs(given: Documents, wishes: Wishes, findings: Findings) -> dict[str, Tree]:
    """The settings of each program, later files over earlier ones, variables over all."""
    trees: dict[str, Tree] = {}
    for file, tree in given.trees:
        trees.setdefault(wishes.component or _owner(file, tree), Tree()).override(tree)
    if given.variables and not trees:
        trees[wishes.component or _SERVER] = Tree()
    for variables in given.variables:
        variables.check_names(_SECTION, _KNOWN, findings)
        variables.check_names(f"{_RESET}:{_SECTION}", _KNOWN, findings)
        for tree in trees.values():
            tree.add_environment(variables.found, variables.file)
    return trees


def _owner(file: str, tree: Tree) -> str:
    nested_only = tree.section(_RESET) is not None and tree.section(_SECTION) is None
    return _AGENT if nested_only or "agent" in file.lower() else _SERVER


def _sections(owner: str, tree: Tree, findings: Findings) -> Iterator[tuple[str, Section]]:
    nested, bare = tree.section(f"{_RESET}:{_SECTION}"), tree.section(_SECTION)
    if nested is not None:
        yield _AGENT, nested
    if bare is not None and (owner == _SERVER or nested is None):
        if owner == _AGENT:
            findings.warn(
                "section.unexpected_place",
                bare.place,
                f"the Agent's reference has this section under {_RESET}; here it stands by itself",
                "nothing, if the file is the Agent's; --component server if it is the Server's",
            )
        yield owner, bare
    if nested is None and bare is None:
        tree.section_missing(f"{_RESET}:{_SECTION}" if owner == _AGENT else _SECTION, findings)


def _mailbox(component: str, section: Section, tree: Tree, wishes: Wishes, findings: Findings) -> ImportedMailbox:
    checks.known_keys(section, _KNOWN, findings)
    enabled = checks.boolean(section, "Enabled", findings, default=True)
    if not enabled:
        findings.warn(
            "mail.disabled",
            section.at("Enabled"),
            "Enabled is false: the program sends no mail at all",
            "set enabled = true in the mailboxes file when mail is to flow",
        )
    delivery = _delivery(section, wishes, findings, enabled=enabled)
    name, address = _sender(component, section, delivery, findings)
    if isinstance(delivery, Smtp) and isinstance(delivery.login, Login):
        checks.office365(delivery.host, delivery.login, address, section.at("Host"), findings)
    return ImportedMailbox(
        name=f"{wishes.prefix or 'netwrix'}-{component}",
        delivery=delivery,
        source=MappingProxyType({"component": component}),
        sender=address,
        display_name=name,
        enabled=enabled,
        component=component,
        purposes=("password-reset",) if component == _AGENT else (),
        recipients=_recipients(section, findings),
        more=MappingProxyType(_agent(tree, findings) if component == _AGENT else {}),
    )


def _delivery(section: Section, wishes: Wishes, findings: Findings, *, enabled: bool) -> Smtp | Pickup:
    host, folder = section.text("Host"), section.text("PickupDirectory")
    to_folder = checks.boolean(section, "UseSpecifiedPickupDirectory", findings, default=False)
    if to_folder:
        if not folder:
            checks.missing(
                section,
                "PickupDirectory",
                findings,
                "UseSpecifiedPickupDirectory is true",
                "write the directory, or set UseSpecifiedPickupDirectory to false",
            )
        elif checks.is_path(host) and host != folder:
            findings.warn(
                "delivery.conflict",
                section.at("Host"),
                "Host and PickupDirectory name different directories",
                "nothing, if PickupDirectory is right; it is the one taken over",
            )
        elif host:
            findings.note(
                "delivery.conflict", section.at("Host"), "Host has no effect while UseSpecifiedPickupDirectory is true"
            )
        return _pickup(folder, section.at("PickupDirectory"), section, wishes, findings)
    if checks.is_path(host):
        findings.warn(
            "host.is_directory",
            section.at("Host"),
            "Host is a directory, so mail goes into pickup files",
            "nothing, if that is meant",
        )
        return _pickup(host, section.at("Host"), section, wishes, findings)
    if not host:
        checks.missing(
            section,
            "Host",
            findings,
            "nothing says where mail goes",
            "set UseSpecifiedPickupDirectory to true, or write Host" if folder else "write Host",
        )
    elif folder:
        findings.warn(
            "delivery.conflict",
            section.at("PickupDirectory"),
            "PickupDirectory has no effect while UseSpecifiedPickupDirectory is false",
            "set UseSpecifiedPickupDirectory to true if files are meant",
        )
    return _smtp(section, findings, enabled=enabled)


def _pickup(folder: str, place: Place, section: Section, wishes: Wishes, findings: Findings) -> Pickup:
    if checks.socket_option(section, "SecureSocketOption", findings) not in {"Auto", "None"} or checks.boolean(
        section, "EnableSsl", findings, default=False
    ):
        findings.warn(
            "tls.meaningless_for_pickup",
            section.at("SecureSocketOption"),
            "files are written, no connection is made that could be encrypted",
            "nothing",
        )
    return checks.directory(folder, place, wishes, findings) if folder else Pickup("")


def _smtp(section: Section, findings: Findings, *, enabled: bool) -> Smtp:
    option = _socket_option(section, findings)
    port = checks.port(section, "Port", findings, checks.SMTPS if option == "SslOnConnect" else checks.RELAY)
    place = section.at("SecureSocketOption" if section.has("SecureSocketOption") else "EnableSsl")
    if not section.has("EnableSsl"):
        place = section.at("SecureSocketOption")
    if checks.boolean(section, "UseDefaultCredentials", findings, default=False):
        checks.windows_login(section.at("UseDefaultCredentials"), findings)
        login: Login | None = Login(section.text("UserName"), None)
    else:
        login = checks.login(section, "UserName", "Password", findings, in_effect=enabled)
    tls = checks.mailkit_tls(option, port, place, findings)
    checks.protection(tls, place, findings, with_login=login is not None)
    return Smtp(checks.host(section, "Host", findings), port, tls, login)


def _socket_option(section: Section, findings: Findings) -> str:
    """SecureSocketOption, or what the deprecated EnableSsl means without it."""
    option = checks.socket_option(section, "SecureSocketOption", findings)
    if not section.has("EnableSsl"):
        return option
    flag = checks.boolean(section, "EnableSsl", findings, default=False)
    findings.warn(
        "key.deprecated:EnableSsl",
        section.at("EnableSsl"),
        "EnableSsl is deprecated there",
        "write SecureSocketOption: StartTls instead of true, nothing instead of false",
    )
    if not section.text("SecureSocketOption"):
        return "StartTls" if flag else option
    if flag and option != "StartTls":
        findings.warn(
            "tls.settings_disagree",
            section.at("SecureSocketOption"),
            f"EnableSsl is true, which means StartTls, and SecureSocketOption is {option}, which counts",
            "remove EnableSsl",
        )
    return option


def _sender(component: str, section: Section, delivery: Smtp | Pickup, findings: Findings) -> tuple[str, str]:
    # The Agent's reference asks for no sender when it writes files.
    optional = component == _AGENT and isinstance(delivery, Pickup) and not section.text("FromAddress")
    if optional:
        findings.warn(
            "sender.not_stated",
            section.at("FromAddress"),
            "there is no FromAddress",
            "give the mailbox an address, or let every message bring its own From",
        )
    return checks.sender(section, "FromAddress", findings, required=not optional)


def _recipients(section: Section, findings: Findings) -> Recipients:
    to, copy = (
        checks.named_address(section.text(key), section.at(key), findings)[1] if section.text(key) else ""
        for key in ("CatchAllAddress", "CatchAllCCAddress")
    )
    if to or copy:
        findings.warn(
            "recipients.catch_all_on",
            section.at("CatchAllAddress" if to else "CatchAllCCAddress"),
            "all mail goes to the catch-all instead of the real recipients",
            "remove redirect_to from the mailbox when the tests are over",
        )
    domains = checks.domains(section, "AllowedDomains", findings)
    if domains:
        findings.note(
            "recipients.allowed_domains", section.at("AllowedDomains"), "recipients of other domains get no mail"
        )
    return Recipients(domains, to, copy, _most(section, findings))


def _most(section: Section, findings: Findings) -> int:
    text = section.text("MaxRecipients")
    number = checks.number_of(text) if text else 0
    if number is None or number < 0 or (text and number == 0):
        findings.refuse(
            "value.not_a_number:MaxRecipients",
            section.at("MaxRecipients"),
            "MaxRecipients is no number of people",
            "write a whole number from 1",
        )
        return 0
    if number:
        findings.note(
            "recipients.limit",
            section.at("MaxRecipients"),
            f"the product drops every recipient after the first {number}; here they get it in further submissions",
        )
    return number


def _agent(tree: Tree, findings: Findings) -> dict[str, str | int | bool | tuple[str, ...]]:
    more: dict[str, str | int | bool | tuple[str, ...]] = {}
    cultures = tree.section(f"{_RESET}:NotificationSettings:Cultures")
    if cultures is not None:
        more["cultures"] = tuple(setting.text for setting in cultures.settings.values() if setting.text)
    tokens = tree.section(f"{_RESET}:TokenBuildingSettings")
    if tokens is not None and (valid := checks.timespan(tokens, "ValidFor", findings)):
        more["link_valid_for"] = valid
    return more
