"""Umbraco: `Umbraco:CMS:Global:Smtp` of appsettings.json and the environment (9 and later), web.config (8 and earlier).

Source: the product's GlobalSettings reference and its open code (`EmailSender`, `BasicSmtpEmailSenderClient`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType

from worker.importers import checks, system_net
from worker.importers.dotnet_settings import Tree, documents
from worker.importers.finding import Findings
from worker.importers.mailbox import ImportedMailbox, Login, Pickup, Smtp, Taken
from worker.importers.section import Section
from worker.importers.source import Form, Source, form_of, text_of
from worker.importers.wishes import Wishes

_SECTION = "Umbraco:CMS:Global:Smtp"
# A switch of the project, not of its mail settings: whether it is on cannot be read here.
_CLOUD = (
    "On Umbraco Cloud password reset is off unless somebody has switched it on. To keep it off:",
    """postlane scope set tenants/NAME 'purposes_off=["password-reset"]'""",
)
_KNOWN = (
    "From",
    "Host",
    "Port",
    "SecureSocketOptions",
    "DeliveryMethod",
    "PickupDirectoryLocation",
    "Username",
    "Password",
    "EmailExpiration",
)
_NETWORK, _FOLDER, _IIS = "Network", "SpecifiedPickupDirectory", "PickupDirectoryFromIis"
_METHODS = {_NETWORK: _NETWORK, _FOLDER: _FOLDER, _IIS: _IIS, "0": _NETWORK, "1": _FOLDER, "2": _IIS}


def read(sources: Sequence[Source], wishes: Wishes, findings: Findings) -> Taken:
    """Files of either generation."""
    old, new = _by_generation(sources)
    found = (*_from_web_config(old, wishes, findings), *_from_appsettings(new, wishes, findings))
    return Taken(tuple(replace(mailbox, advice=_CLOUD) for mailbox in found))


def _by_generation(sources: Sequence[Source]) -> tuple[list[Source], list[Source]]:
    """Web.config files, and the others; a file that cannot be read says so among the others."""
    old: list[Source] = []
    new: list[Source] = []
    for source in sources:
        unheard = Findings()
        xml = False
        with unheard.gathering():
            xml = form_of(text_of(source, unheard)) is Form.XML
        (old if xml else new).append(source)
    return old, new


def _from_web_config(sources: Sequence[Source], wishes: Wishes, findings: Findings) -> Iterator[ImportedMailbox]:
    names = frozenset(source.name.lower() for source in sources)
    for source in sources:
        with findings.gathering():
            text = text_of(source, findings)
            mailbox = system_net.read(text, source.name, names - {source.name.lower()}, wishes, findings)
            if mailbox is not None:
                yield mailbox


def _from_appsettings(sources: Sequence[Source], wishes: Wishes, findings: Findings) -> Iterator[ImportedMailbox]:
    given = documents(sources, findings)
    if not given.trees and not given.variables:
        return
    tree = Tree()
    for _, document in given.trees:
        tree.override(document)
    for variables in given.variables:
        variables.check_names(_SECTION, _KNOWN, findings)
        tree.add_environment(variables.found, variables.file)
    section = tree.section(_SECTION)
    if section is None:
        tree.section_missing(_SECTION, findings)
        return
    checks.known_keys(section, _KNOWN, findings)
    if not given.trees and not any(section.text(key) for key in ("From", "Host", "PickupDirectoryLocation")):
        findings.note(
            "file.companion",
            section.place,
            "these variables only complete an appsettings.json",
            "import both files together",
        )
        return
    yield _mailbox(section, wishes, findings)


def _mailbox(section: Section, wishes: Wishes, findings: Findings) -> ImportedMailbox:
    delivery = _delivery(section, wishes, findings)
    name, address = checks.sender(section, "From", findings)
    if isinstance(delivery, Smtp) and isinstance(delivery.login, Login):
        checks.office365(delivery.host, delivery.login, address, section.at("Host"), findings)
    expires = checks.timespan(section, "EmailExpiration", findings)
    return ImportedMailbox(
        name=wishes.prefix or "umbraco",
        delivery=delivery,
        source=MappingProxyType({"format": _SECTION}),
        sender=address,
        display_name=name,
        more=MappingProxyType({"expires_after": expires} if expires else {}),
    )


def _delivery(section: Section, wishes: Wishes, findings: Findings) -> Smtp | Pickup:
    folder, host = section.text("PickupDirectoryLocation"), section.text("Host")
    method = checks.choice(section, "DeliveryMethod", _METHODS, findings, _NETWORK)
    if folder:
        # The product's own order: a directory that is set wins, whatever DeliveryMethod says.
        if method == _NETWORK and (host or section.text("DeliveryMethod")):
            findings.warn(
                "delivery.conflict",
                section.at("DeliveryMethod"),
                "DeliveryMethod is Network, but PickupDirectoryLocation is set, and that wins there",
                "remove PickupDirectoryLocation if mail is to go to Host",
            )
        if checks.socket_option(section, "SecureSocketOptions", findings) in {"StartTls", "SslOnConnect"}:
            findings.warn(
                "tls.meaningless_for_pickup",
                section.at("SecureSocketOptions"),
                "files are written, no connection is made that could be encrypted",
                "nothing",
            )
        place = section.at("PickupDirectoryLocation")
        return checks.directory(folder, place, wishes, findings, writer="exchange")
    if method == _IIS:
        return system_net.iis_directory(section.at("DeliveryMethod"), wishes, findings)
    if method == _FOLDER:
        checks.missing(
            section,
            "PickupDirectoryLocation",
            findings,
            f"DeliveryMethod is {_FOLDER}",
            "write the directory, or DeliveryMethod: Network with a Host",
        )
        return Pickup("")
    if not host:
        checks.missing(section, "Host", findings, "without it the product counts mail as not configured", "write Host")
    option = checks.socket_option(section, "SecureSocketOptions", findings)
    port = checks.port(section, "Port", findings, checks.SMTPS if option == "SslOnConnect" else checks.RELAY)
    login = checks.login(section, "Username", "Password", findings)
    tls = checks.mailkit_tls(option, port, section.at("SecureSocketOptions"), findings)
    checks.protection(tls, section.at("SecureSocketOptions"), findings, with_login=login is not None)
    return Smtp(checks.host(section, "Host", findings), port, tls, login)
