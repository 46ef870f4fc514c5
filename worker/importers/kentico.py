"""Kentico Xperience: tables CMS_SMTPServer, CMS_SMTPServerSite and CMS_SettingsKey, as CSV, XML or JSON.

Source: column names and delivery methods from the vendor's public migration tool and KInspector. The priority
numbers are inferred, so words are taken as well and everything else is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from worker.importers import checks, markup, table
from worker.importers.dotnet_json import Array, Kind, Node, Object, Scalar, parse
from worker.importers.finding import Findings, Place, Refusal
from worker.importers.mailbox import ImportedMailbox, Login, OAuthLogin, Pickup, Priority, Smtp, Taken
from worker.importers.section import Section, Setting
from worker.importers.source import Form, Source, form_of, text_of, too_large
from worker.importers.wishes import IIS, Wishes

_SERVER = (
    "ServerID",
    "ServerName",
    "ServerUserName",
    "ServerPassword",
    "ServerUseSSL",
    "ServerEnabled",
    "ServerIsGlobal",
    "ServerGUID",
    "ServerLastModified",
    "ServerPriority",
    "ServerDeliveryMethod",
    "ServerPickupDirectory",
    "ServerAuthenticationType",
    "ServerOAuthCredentials",
    "Sites",
    "SiteName",
    "SiteID",
)
_SITE = ("ServerID", "SiteID", "SiteName", "SiteDisplayName", "SMTPServerSiteID", "SiteGUID", "SiteStatus")
_KEYS = {
    "CMSSMTPServer",
    "CMSSMTPServerUser",
    "CMSSMTPServerPassword",
    "CMSUseSSL",
    "CMSSMTPServerAuthenticationType",
    "CMSSMTPServerOAuthCredentials",
    "CMSEmailsEnabled",
    "CMSEmailQueueEnabled",
    "CMSEmailBatchSize",
    "CMSDebugEmails",
    "CMSLogEmails",
}
_METHODS = {
    "0": 0,
    "1": 1,
    "2": 2,
    "Network": 0,
    "PickupDirectory": 1,
    "SpecifiedPickupDirectory": 1,
    "PickupDirectoryFromIis": 2,
}
_PRIORITIES = {
    "-1": Priority.LOW,
    "0": Priority.NORMAL,
    "1": Priority.HIGH,
    "Low": Priority.LOW,
    "Normal": Priority.NORMAL,
    "High": Priority.HIGH,
}
_OAUTH = {"0": False, "1": True, "Basic": False, "OAuth2": True, "OAuth 2.0": True, "OAuth2.0": True, "OAuth": True}
_MOST = 1_000  # servers
_DISABLED = ".disabled"


@dataclass(slots=True)
class _Tables:
    """Rows of all files."""

    servers: list[Section] = field(default_factory=list)
    sites: list[Section] = field(default_factory=list)
    keys: list[Section] = field(default_factory=list)


def read(sources: Sequence[Source], wishes: Wishes, findings: Findings) -> Taken:
    """Dumps of the tables, in any number of files."""
    tables = _Tables()
    for source in sources:
        with findings.gathering():
            text = text_of(source, findings)
            rows, columns = _rows(text, source.name, findings)
            _sorted_in(rows, columns, source.name, tables, findings)
    if len(tables.servers) > _MOST:
        raise too_large(tables.servers[0].place.file, f"there are more than {_MOST} servers")
    sites = _Sites(tables.sites)
    mailboxes = [_mailbox(row, sites, wishes, findings) for row in tables.servers if not findings.full]
    _identities(tables.servers, findings)
    defaults = _Defaults(tables.keys, sites, wishes, findings)
    found = tuple(defaults.switched(mailbox) for mailbox in (*defaults.mailboxes(), *mailboxes))
    return Taken(found, without_effect=not (found or defaults.anybody_on))


# Rows of the three carriers


def _rows(text: str, file: str, findings: Findings) -> tuple[list[Section], tuple[str, ...]]:
    match form_of(text):
        case Form.LINES:
            found = table.parse(text, file)
            return [_row(file, row.line, row.cells) for row in found.rows], found.columns
        case Form.XML:
            rows = list(_from_xml(markup.parse(text, file), file))
        case Form.JSON:
            rows = list(_from_json(parse(text, file, findings), file))
    return rows, tuple({setting.key: None for row in rows for setting in row.settings.values()})


def _row(file: str, line: int, cells: dict[str, str]) -> Section:
    identity = next((cells[key].strip() for key in cells if key.lower() in {"serverid", "keyname"}), "")
    path = f"{checks.shown(identity)}" if identity and not identity.isdigit() else f"ServerID {identity or '?'}"
    if not identity:
        path = f"row in line {line}"
    return Section(
        Place(file, path, line),
        {
            key.lower(): Setting(key, text, Kind.STRING, Place(file, f"{path}.{key}", line))
            for key, text in cells.items()
        },
        joint=".",
    )


_COLUMNS = {column.lower() for column in (*_SERVER, *_SITE, "KeyName", "KeyValue")} - {"sites", "sitename", "siteid"}


def _from_xml(root: markup.Element, file: str) -> Iterator[Section]:
    for element in root.walk():
        names = {child.name.lower() for child in element.children} | {name.lower() for name in element.attributes}
        if not names & _COLUMNS:
            continue
        cells = dict(element.attributes)
        for child in element.children:
            folded = {key.lower() for key in cells}
            if child.name.lower() in folded:
                raise Refusal(
                    f"key.duplicate_by_case:{checks.shown(child.name)}",
                    Place(file, checks.shown(child.name), child.line),
                    "the column is there twice in one row",
                    "keep one of the two",
                )
            cells[child.name] = (
                ";".join(item.text.strip() for item in child.walk() if item is not child) or child.text
                if child.name.lower() == "sites"
                else child.text
            )
        yield _row(file, element.line, cells)


def _from_json(node: Node, file: str) -> Iterator[Section]:
    """A list of rows, or an object with a list for each table."""
    pending = [node]
    while pending:
        current = pending.pop()
        match current:
            case Array(items=items):
                pending.extend(reversed(items))
            case Object(members=members) if any(isinstance(member.node, Scalar) for member in members):
                cells = {
                    member.key: member.node.text
                    for member in members
                    if isinstance(member.node, Scalar) and member.node.kind is not Kind.NULL
                }
                yield _row(file, current.line, cells)
            case Object(members=members):
                pending.extend(member.node for member in reversed(members))
            case Scalar():
                raise Refusal(
                    "format.unexpected",
                    Place(file, line=current.line),
                    "here stands no row of a table",
                    "give a list of rows: [ { column: value, … }, … ]",
                )


def _sorted_in(rows: list[Section], columns: tuple[str, ...], file: str, tables: _Tables, findings: Findings) -> None:
    """Which table each row belongs to, by its columns."""
    if not rows and not _belongs(columns):
        raise Refusal(
            "csv.header_missing",
            Place(file),
            "no column of CMS_SMTPServer, CMS_SMTPServerSite or CMS_SettingsKey is there",
            "export the table with its column names in the first line",
        )
    for row in rows:
        own = columns or tuple(setting.key for setting in row.settings.values())
        match _belongs(own):
            case "servers":
                tables.servers.append(row)
            case "sites":
                tables.sites.append(row)
            case "keys":
                tables.keys.append(row)
            case _:
                raise Refusal(
                    "csv.header_missing",
                    row.place,
                    "the columns are of no table that holds SMTP servers",
                    "export CMS_SMTPServer, CMS_SMTPServerSite or CMS_SettingsKey with column names",
                )
    if _belongs(columns) == "servers" and rows:
        checks.known_keys(
            Section(rows[0].place, {c.lower(): Setting(c, "", Kind.STRING, Place(file, c)) for c in columns}),
            _SERVER,
            findings,
        )


def _belongs(columns: Iterable[str]) -> str:
    folded = {column.lower() for column in columns}
    if folded & {"keyname", "keyvalue"}:
        return "keys"
    if "serverid" in folded and folded <= {column.lower() for column in _SITE}:
        return "sites"
    if "sitename" in folded and "siteid" in folded and "servername" not in folded and "serverid" not in folded:
        return "sites"
    return "servers" if len(folded & {column.lower() for column in _SERVER}) > 1 or "servername" in folded else ""


class _Sites:
    """Which sites a server is bound to, by whatever the rows have: names or numbers."""

    def __init__(self, rows: Sequence[Section]) -> None:
        numbered = [row for row in rows if row.text("SiteID") and row.text("SiteName")]
        self._names = {row.text("SiteID"): row.text("SiteName") for row in numbered}
        self._bound: dict[str, dict[str, None]] = {}
        for row in rows:
            if row.text("ServerID"):
                self._bound.setdefault(row.text("ServerID"), {})[row.text("SiteName") or row.text("SiteID")] = None

    def of(self, row: Section) -> tuple[str, ...]:
        inside = [name.strip() for name in row.text("Sites").split(";") if name.strip()]
        own = [self.named(row)] if self.named(row) else []
        bound = [self._names.get(site, site) for site in self._bound.get(row.text("ServerID"), {})]
        return tuple(dict.fromkeys(filter(None, (*inside, *own, *bound))))

    def named(self, row: Section) -> str:
        number = row.text("SiteID")
        return row.text("SiteName") or self._names.get(number, number)


# Servers


def _identities(rows: Sequence[Section], findings: Findings) -> None:
    seen: set[str] = set()
    for row in rows:
        number = row.text("ServerID")
        if number and number in seen:
            findings.refuse(
                f"server.duplicate_id:{checks.shown(number)}",
                row.at("ServerID"),
                "two rows have the same ServerID",
                "export the table again",
            )
        seen.add(number)


def _mailbox(row: Section, sites: _Sites, wishes: Wishes, findings: Findings) -> ImportedMailbox:
    name = row.text("ServerName")
    if not name:
        checks.missing(row, "ServerName", findings, "it is the host and the port", "write host or host:port")
    enabled = _enabled(row, findings)
    if name.lower().endswith(_DISABLED):
        enabled, name = False, name[: -len(_DISABLED)]
        findings.warn(
            "host.suffix_disabled",
            row.at("ServerName"),
            "the name ends in .disabled, which is how KInspector switches servers off",
            "nothing; the server is taken over without the suffix, switched off",
        )
    is_global = checks.boolean(row, "ServerIsGlobal", findings, default=False)
    bound = sites.of(row)
    if not is_global and not bound and enabled:
        findings.warn(
            "scope.empty",
            row.at("ServerIsGlobal"),
            "the server is neither global nor bound to a site, so it is never chosen",
            "give the rows of CMS_SMTPServerSite as well, or name its sites in the mailboxes file",
        )
    active = enabled and (is_global or bool(bound))
    if not row.text("ServerPriority"):
        findings.note("priority.defaulted", row.at("ServerPriority"), "there is no priority; Normal is assumed")
    number = row.text("ServerID")
    return ImportedMailbox(
        name=f"{wishes.prefix or 'kentico'}-{checks.slug(number or row.text('ServerName'))}"[:64],
        delivery=_delivery(name, row, wishes, findings, active=active),
        source=MappingProxyType(
            {"id": checks.number_of(number) if checks.number_of(number) is not None else number or None}
        ),
        enabled=enabled,
        in_effect=is_global or bool(bound),
        priority=checks.choice(row, "ServerPriority", _PRIORITIES, findings, Priority.NORMAL),
        sites=None if is_global else bound,
        connections=1,
    )


def _enabled(row: Section, findings: Findings) -> bool:
    if not row.text("ServerEnabled"):
        findings.warn(
            "key.missing:ServerEnabled",
            row.at("ServerEnabled"),
            "nothing says whether the server is on",
            "it is taken over switched on; set enabled = false if it was off",
        )
    enabled = checks.boolean(row, "ServerEnabled", findings, default=True)
    if not enabled:
        findings.note("server.disabled", row.at("ServerEnabled"), "the server is switched off, and stays so")
    return enabled


def _delivery(name: str, row: Section, wishes: Wishes, findings: Findings, *, active: bool) -> Smtp | Pickup:
    match checks.choice(row, "ServerDeliveryMethod", _METHODS, findings, 0):
        case 1:
            folder = row.text("ServerPickupDirectory")
            if not folder:
                checks.missing(
                    row,
                    "ServerPickupDirectory",
                    findings,
                    "the delivery method is Pickup directory",
                    "write the directory, or delivery method 0 (Network)",
                )
                return Pickup("")
            return checks.directory(
                folder, row.at("ServerPickupDirectory"), wishes, findings, writer="iis", label=row.text("ServerID")
            )
        case 2:
            path = wishes.paths.get(IIS, "")
            if not path:
                findings.ask(
                    f"iis.path_unknown:{row.text('ServerID') or checks.shown(name)}",
                    row.at("ServerPickupDirectory"),
                    "the directory stands in the metabase of IIS, which cannot be read from here; NETWORK SERVICE had "
                    "to be able to write there",
                    f"say where it is mounted here: --map {IIS}=/srv/pickup, or write pickup.directory",
                    in_effect=active,
                )
            return Pickup(path, "iis", from_iis=True)
        case _:
            place = row.at("ServerName")
            host, port = host_and_port(name, place, findings)
            return _network(row, "ServerUseSSL", host, port, _login(row, findings, active=active), findings)


def host_and_port(name: str, place: Place, findings: Findings) -> tuple[str, int]:
    """`host`, `host:port` or `[IPv6]:port`: the product has no other place for a port."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", name, re.DOTALL)
    if bracketed:
        try:
            host = str(ipaddress.IPv6Address(bracketed[1]))
        except ValueError:
            return checks.host_name(name, place, findings), checks.RELAY
        port = bracketed[2]
    else:
        if name.count(":") > 1 and not checks.is_path(name) and "://" not in name:
            findings.refuse(
                "host.ipv6_ambiguous",
                place,
                "an IPv6 address without brackets hides its port",
                "write [address] or [address]:port",
            )
            return "", checks.RELAY
        host, colon, port = name.partition(":")
        if checks.is_path(name) or "://" in name:
            return checks.host_name(name, place, findings), checks.RELAY
        port = port if colon else None
    number = checks.smtp_port(port, place, findings) if port is not None else checks.RELAY
    return checks.host_name(host.strip(), place, findings), number


def _network(
    row: Section, ssl: str, host: str, port: int, login: Login | OAuthLogin | None, findings: Findings
) -> Smtp:
    flag = checks.boolean(row, ssl, findings, default=False)
    tls = checks.flagged_tls(flag=flag, port=port, place=row.at(ssl), findings=findings)
    checks.protection(tls, row.at(ssl), findings, with_login=login is not None)
    if isinstance(login, Login):
        checks.office365(host, login, "", row.place, findings)
    return Smtp(host, port, tls, login)


def _login(row: Section, findings: Findings, *, active: bool) -> Login | OAuthLogin | None:
    user = row.text("ServerUserName")
    if checks.choice(row, "ServerAuthenticationType", _OAUTH, findings, default=False):
        return _oauth(
            user, row.text("ServerOAuthCredentials"), row.at("ServerOAuthCredentials"), findings, active=active
        )
    # SSL on 465 never worked there (SmtpClient knows STARTTLS only), so there is no working login to lose.
    never_worked = row.text("ServerName").endswith(":465") and row.text("ServerUseSSL").lower() in {"1", "true"}
    return stored_login(row, "ServerUserName", "ServerPassword", findings, active=active and not never_worked)


def _oauth(user: str, credentials: str, place: Place, findings: Findings, *, active: bool) -> OAuthLogin:
    if credentials:
        findings.ask(
            f"oauth.credentials_to_bind:{checks.shown(credentials)}",
            place,
            f"the login is OAuth 2.0 by the credentials {checks.shown(credentials)}, which the dump does not hold",
            "enter client id, tenant and client secret into the mailbox's [oauth]",
            in_effect=active,
        )
    else:
        findings.ask(
            "oauth.credentials_missing",
            place,
            "the login is OAuth 2.0, but no credentials are named",
            "enter client id, tenant and client secret into the mailbox's [oauth]",
            in_effect=active,
        )
    return OAuthLogin(user, credentials)


def stored_login(
    row: Section, user: str, password: str, findings: Findings, *, active: bool, label: str = ""
) -> Login | None:
    """The login of a row, whose password the product stores encrypted: it is never taken."""
    name, secret = row.text(user), row.text(password)
    if not name:
        if secret:
            findings.warn(
                f"key.missing:{user}",
                row.at(user),
                "there is a password, but no user; nobody logs in",
                f"nothing, or write {user} and import again",
            )
        return None
    if secret and not checks.is_masked(secret):
        findings.ask(
            "secret.encrypted_by_source",
            row.at(password),
            "the password is the product's ciphertext, which must never be sent as a password",
            "enter the password in the file that the mailbox names (password_file)",
            in_effect=active,
        )
        return Login(name, None)
    code = "secret.masked" if secret else f"secret.missing:{label or row.text('ServerID') or name}"
    findings.ask(
        code,
        row.at(password),
        "there is a user, but only the mask of a password" if secret else "there is a user, but no password",
        "enter the password in the file that the mailbox names (password_file)",
        in_effect=active,
    )
    return Login(name, None)


# The default server of each site, and the switches


class _Defaults:
    """CMS_SettingsKey: a site's value counts over the global one."""

    def __init__(self, rows: Sequence[Section], sites: _Sites, wishes: Wishes, findings: Findings) -> None:
        self._wishes, self._findings = wishes, findings
        self._by_site: dict[str, dict[str, Setting]] = {}
        known = {key.lower(): key for key in _KEYS}
        for row in rows:
            name = row.text("KeyName")
            if name.lower() in known:
                place = Place(row.place.file, f"{known[name.lower()]}{_for(sites.named(row))}", row.place.line)
                self._add(
                    sites.named(row), known[name.lower()], Setting(name, row.text("KeyValue"), Kind.STRING, place)
                )
            elif name.lower().startswith("cmssmtp") or not name:
                self._unknown(name, row)

    def _add(self, site: str, key: str, setting: Setting) -> None:
        settings = self._by_site.setdefault(site, {})
        if key.lower() in settings and settings[key.lower()].text != setting.text:
            self._findings.refuse(
                f"key.duplicate:{key}",
                setting.place,
                f"{key} is there twice with different values",
                "export the table again",
            )
        settings[key.lower()] = setting

    def _unknown(self, name: str, row: Section) -> None:
        near = checks.nearest(name, _KEYS)
        self._findings.refuse(
            f"key.unknown:{checks.shown(name)}",
            row.at("KeyName"),
            "the product knows no such settings key",
            f"did you mean {near}?" if near else "remove the row",
        )

    def switched(self, mailbox: ImportedMailbox) -> ImportedMailbox:
        """The mailbox under the product's own stop switches: no e-mails at all, or only into the log."""
        on = self.anybody_on if mailbox.sites is None else not mailbox.sites or any(map(self._on, mailbox.sites))
        return replace(mailbox, enabled=mailbox.enabled and on and not self._debugging(), suppress=self._debugging())

    @property
    def anybody_on(self) -> bool:
        """Whether any site, or mail without a site, goes out."""
        return not self._debugging() and any(map(self._on, ("", *self._by_site)))

    def _on(self, site: str) -> bool:
        """A site's own switch counts, else the global one."""
        everywhere = self._switch("", "CMSEmailsEnabled", default=True)
        return self._switch(site, "CMSEmailsEnabled", default=everywhere)

    def mailboxes(self) -> Iterator[ImportedMailbox]:
        for site, settings in self._by_site.items():
            section = Section(next(iter(settings.values())).place, settings)
            self._remarks(site, section)
            if section.text("CMSSMTPServer"):
                yield self._default(site, section)
            elif section.text("CMSSMTPServerUser"):
                self._findings.warn(
                    f"key.missing:CMSSMTPServer{_for(site)}",
                    section.at("CMSSMTPServerUser"),
                    "a user is set, but no server",
                    "write CMSSMTPServer for the site",
                )

    def _remarks(self, site: str, section: Section) -> None:
        if not self._on(site):
            self._findings.warn(
                f"mail.disabled{_for(site)}",
                section.at("CMSEmailsEnabled"),
                "e-mails are switched off",
                "switch the mailboxes on when mail is to flow",
            )
        if site == "" and self._debugging():
            self._findings.warn(
                "mail.suppressed",
                section.at("CMSDebugEmails"),
                "e-mails are logged, none is sent",
                "switch the mailboxes on when mail is to flow",
            )
        batch = section.text("CMSEmailBatchSize")
        if batch and not (checks.number_of(batch) or 0) > 0:
            self._findings.refuse(
                "value.not_a_number:CMSEmailBatchSize",
                section.at("CMSEmailBatchSize"),
                "the batch size is no number",
                "write a whole number from 1",
            )
        elif batch:
            self._findings.note(
                "batch.size",
                section.at("CMSEmailBatchSize"),
                f"batches of {checks.number_of(batch)}: here the prefetch of the workers",
            )
        if section.text("CMSEmailQueueEnabled") and not self._switch(site, "CMSEmailQueueEnabled", default=True):
            self._findings.note(
                "queue.always",
                section.at("CMSEmailQueueEnabled"),
                "the queue is off there; here every mail goes through RabbitMQ",
            )

    def _default(self, site: str, section: Section) -> ImportedMailbox:
        if not section.text("CMSUseSSL") and site:
            inherited = self._by_site.get("", {}).get("cmsusessl")
            if inherited is not None:
                section = Section(section.place, {**section.settings, "cmsusessl": inherited})
        enabled = self._on(site)
        place = section.at("CMSSMTPServer")
        host, port = host_and_port(section.text("CMSSMTPServer"), place, self._findings)
        if checks.choice(section, "CMSSMTPServerAuthenticationType", _OAUTH, self._findings, default=False):
            login: Login | OAuthLogin | None = _oauth(
                section.text("CMSSMTPServerUser"),
                section.text("CMSSMTPServerOAuthCredentials"),
                section.at("CMSSMTPServerOAuthCredentials"),
                self._findings,
                active=enabled,
            )
        else:
            login = stored_login(
                section,
                "CMSSMTPServerUser",
                "CMSSMTPServerPassword",
                self._findings,
                active=enabled,
                label=site or "global",
            )
        return ImportedMailbox(
            name=f"{self._wishes.prefix or 'kentico'}-default{f'-{checks.slug(site)}' if site else ''}"[:64],
            delivery=_network(section, "CMSUseSSL", host, port, login, self._findings),
            source=MappingProxyType({"site": site or None}),
            enabled=enabled,
            priority=Priority.HIGH,
            sites=(site,) if site else None,
            site_default=True,
            connections=1,
        )

    def _switch(self, site: str, key: str, *, default: bool) -> bool:
        settings = self._by_site.get(site, {})
        place = next(iter(settings.values())).place if settings else Place("")
        return checks.boolean(Section(place, settings), key, self._findings, default=default)

    def _debugging(self) -> bool:
        return self._switch("", "CMSDebugEmails", default=False)


def _for(site: str) -> str:
    return f":{checks.shown(site)}" if site else ""
