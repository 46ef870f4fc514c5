"""`system.net/mailSettings/smtp` of a web.config, which .NET's SmtpClient reads. XML: names with the right case only.

Source: Microsoft's file schema of the network settings (`<smtp>`, `<network>`, `<specifiedPickupDirectory>`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PureWindowsPath
from types import MappingProxyType

from worker.importers import checks, markup
from worker.importers.dotnet_json import Kind
from worker.importers.finding import Findings, Place, Refusal
from worker.importers.mailbox import ImportedMailbox, Login, Pickup, Smtp
from worker.importers.markup import Element
from worker.importers.section import Section, Setting
from worker.importers.wishes import IIS, Wishes

_PATH = ("system.net", "mailSettings", "smtp")
_SECTION = "/".join(_PATH)
_DELIVERY = {
    "network": "network",
    "specifiedPickupDirectory": "specifiedPickupDirectory",
    "pickupDirectoryFromIis": "pickupDirectoryFromIis",
}
_FORMAT = {"SevenBit": False, "International": True}
# Attributes that .NET allows on every section; they rule who may change it.
_GENERAL = (
    "lockItem",
    "lockElements",
    "lockAttributes",
    "lockAllElementsExcept",
    "lockAllAttributesExcept",
    "configSource",
    "configProtectionProvider",
    "inheritInChildApplications",
    "allowOverride",
    "overrideMode",
)
_NETWORK = ("host", "port", "userName", "password", "defaultCredentials", "enableSsl", "clientDomain", "targetName")


def read(text: str, file: str, others: frozenset[str], wishes: Wishes, findings: Findings) -> ImportedMailbox | None:
    """The mailbox of one file.

    Args:
        text: the file's.
        file: its name.
        others: names (lower case) of the files that are read as well: a section may be in one of them.
        wishes: what the person said.
        findings: where to say what is found.

    Returns:
        None if the section is in another file that is read as well.

    Raises:
        Refusal: no such section, an unreadable one, or no XML.
    """
    smtp = _smtp_element(markup.parse(text, file), file, others)
    if smtp is None:
        return None
    top = _section(smtp, "smtp", file)
    checks.known_keys(top, ("deliveryMethod", "deliveryFormat", "from", *_GENERAL), findings, strict=True)
    for child in smtp.children:
        if child.name not in {"network", "specifiedPickupDirectory"}:
            near = checks.nearest(child.name, ("network", "specifiedPickupDirectory"))
            findings.refuse(
                f"key.unknown:{checks.shown(child.name)}",
                Place(file, f"smtp/{checks.shown(child.name)}", child.line),
                "no such element belongs there; .NET refuses the file",
                f"did you mean {near}?" if near else "remove it",
            )
    if checks.choice(top, "deliveryFormat", _FORMAT, findings, default=False):
        findings.note("format.international", top.at("deliveryFormat"), "SMTPUTF8 is used whenever an address needs it")
    delivery = _delivery(top, smtp, wishes, findings)
    name, address = checks.sender(top, "from", findings)
    if isinstance(delivery, Smtp) and isinstance(delivery.login, Login):
        checks.office365(delivery.host, delivery.login, address, top.at("from"), findings)
    return ImportedMailbox(
        name=wishes.prefix or "umbraco",
        delivery=delivery,
        source=MappingProxyType({"format": _SECTION}),
        sender=address,
        display_name=name,
    )


def _smtp_element(root: Element, file: str, others: frozenset[str]) -> Element | None:
    found, elsewhere = [], False
    for chain in _chains(root):
        if _in_other_file(chain, file, others):
            elsewhere = True
            continue
        _readable(chain, file)
        if chain[-1].name == _PATH[-1]:
            found.append(chain[-1])
    if len(found) == 1 or (elsewhere and not found):
        return found[0] if found else None
    if found:
        raise Refusal(
            f"section.duplicate:{_SECTION}",
            Place(file, _SECTION, found[1].line),
            "the section is there twice",
            "keep the one that counts",
        )
    near = next((item for item in root.walk() if item.name.lower() in {"smtp", "mailsettings", "system.net"}), None)
    raise Refusal(
        f"section.not_found:{_SECTION}",
        Place(file, _SECTION, near.line if near else 0),
        f"the section {_SECTION} is not there"
        + (f"; {near.name} comes near, but .NET does not read it there or so spelled" if near else ""),
        "write <configuration><system.net><mailSettings><smtp …>, with exactly these names",
    )


def _chains(root: Element) -> Iterator[list[Element]]:
    """Every way down towards the section, as far as it goes."""
    if root.name in _PATH:  # the file that a configSource names holds the section alone
        yield from _down([root], _PATH[_PATH.index(root.name) + 1 :])
    elif root.name == "configuration":
        for holder in (root, *root.all("location")):
            for top in holder.all(_PATH[0]):
                yield from _down([top], _PATH[1:])


def _down(chain: list[Element], rest: tuple[str, ...]) -> Iterator[list[Element]]:
    below = list(chain[-1].all(rest[0])) if rest else []
    if not below:
        yield chain
    for element in below:
        yield from _down([*chain, element], rest[1:])


def _in_other_file(chain: list[Element], file: str, others: frozenset[str]) -> bool:
    for element in (*chain, *chain[-1].children):
        source = element.attributes.get("configSource", "").strip()
        if source and PureWindowsPath(source).name.lower() in others:
            return True
        if source:
            raise Refusal(
                f"section.in_other_file:{checks.shown(source)}",
                Place(file, f"{element.name}@configSource", element.line),
                f"the section stands in another file, {checks.shown(source)}",
                f"import {checks.shown(source)} together with this file",
            )
    return False


def _readable(chain: list[Element], file: str) -> None:
    for element in (*chain, *chain[-1].children):
        provider = element.attributes.get("configProtectionProvider", "").strip()
        if provider or element.name == "EncryptedData" or any(element.all("EncryptedData")):
            raise Refusal(
                f"section.encrypted:{checks.shown(provider) or 'EncryptedData'}",
                Place(file, f"{element.name}@configProtectionProvider", element.line),
                "the section is encrypted with a key that never leaves the old machine",
                f'decrypt it there (aspnet_regiis -pdf "{_SECTION}" <folder of the file>, or -pd with -app) and import '
                "the result, or type the values into a mailbox by hand",
            )


def _section(element: Element | None, name: str, file: str, line: int = 0) -> Section:
    attributes = element.attributes if element else {}
    line = element.line if element else line
    settings = {
        key: Setting(key, value, Kind.STRING, Place(file, f"{name}@{key}", line)) for key, value in attributes.items()
    }
    return Section(Place(file, name, line), settings, exact=True, joint="@")


def _delivery(top: Section, smtp: Element, wishes: Wishes, findings: Findings) -> Smtp | Pickup:
    file, line = top.place.file, smtp.line
    network = _section(_only(smtp, "network", file), "smtp/network", file, line)
    folder = _section(_only(smtp, "specifiedPickupDirectory", file), "smtp/specifiedPickupDirectory", file, line)
    checks.known_keys(network, (*_NETWORK, *_GENERAL), findings, strict=True)
    checks.known_keys(folder, ("pickupDirectoryLocation", *_GENERAL), findings, strict=True)
    path = folder.text("pickupDirectoryLocation")
    method = checks.choice(top, "deliveryMethod", _DELIVERY, findings, "network")
    if method == "network":
        if path:
            findings.warn(
                "delivery.conflict",
                folder.at("pickupDirectoryLocation"),
                "a pickup directory is named, but deliveryMethod is network, which counts",
                'write deliveryMethod="specifiedPickupDirectory" if files are meant',
            )
        return _smtp(network, findings)
    if checks.boolean(network, "enableSsl", findings, default=False):
        findings.warn(
            "tls.meaningless_for_pickup",
            network.at("enableSsl"),
            "files are written, no connection is made that could be encrypted; .NET itself stops here",
            "nothing; it is left out",
        )
    if method == "pickupDirectoryFromIis":
        return iis_directory(top.at("deliveryMethod"), wishes, findings)
    if not path:
        checks.missing(
            folder,
            "pickupDirectoryLocation",
            findings,
            "deliveryMethod is specifiedPickupDirectory",
            "write <specifiedPickupDirectory pickupDirectoryLocation=…/>",
        )
        return Pickup("")
    return checks.directory(path, folder.at("pickupDirectoryLocation"), wishes, findings, absolute=True, writer="iis")


def iis_directory(place: Place, wishes: Wishes, findings: Findings) -> Pickup:
    """The directory that only IIS's metabase knows."""
    if IIS not in wishes.paths:
        findings.refuse(
            "iis.path_unknown",
            place,
            "the directory stands in the metabase of IIS, which cannot be read from here",
            f"say where it is mounted here: --map {IIS}=/srv/pickup (NETWORK SERVICE had to be able to write there; "
            "here the worker's user and pickup.group)",
        )
    return Pickup(wishes.paths.get(IIS, ""), "iis", from_iis=True)


def _only(smtp: Element, name: str, file: str) -> Element | None:
    found = list(smtp.all(name))
    if len(found) > 1:
        raise Refusal(
            f"section.duplicate:{name}",
            Place(file, f"smtp/{name}", found[1].line),
            f"{name} is there twice; .NET refuses the file",
            "keep the one that counts",
        )
    return found[0] if found else None


def _smtp(network: Section, findings: Findings) -> Smtp:
    if not network.text("host"):
        checks.missing(network, "host", findings, "nothing says where mail goes", 'write <network host="…" />')
    port = checks.port(network, "port", findings, checks.RELAY)
    flag = checks.boolean(network, "enableSsl", findings, default=False)
    if checks.boolean(network, "defaultCredentials", findings, default=False):
        checks.windows_login(network.at("defaultCredentials"), findings)
        login: Login | None = Login(network.text("userName"), None)
    else:
        login = checks.login(network, "userName", "password", findings)
    tls = checks.flagged_tls(flag=flag, port=port, place=network.at("enableSsl"), findings=findings)
    checks.protection(tls, network.at("enableSsl"), findings, with_login=login is not None)
    if network.text("targetName"):
        findings.warn(
            "key.no_meaning_here:targetName",
            network.at("targetName"),
            "targetName belongs to Windows authentication, which has no equal here",
            "nothing; it is left out",
        )
    return Smtp(
        checks.host(network, "host", findings), port, tls, login, checks.host(network, "clientDomain", findings)
    )
