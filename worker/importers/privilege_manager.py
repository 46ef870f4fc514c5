"""Delinea Privilege Manager: SMTP foreign systems (a name and a URI), e-mail tasks, approval processes.

The product exports none of this; the JSON carrier is ours, described in docs/importing.md. A text file with a URI a
line is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import MappingProxyType

from worker.importers import checks
from worker.importers.dotnet_json import Array, Kind, Object, Scalar, parse
from worker.importers.finding import Findings, Place, Refusal
from worker.importers.mailbox import ImportedMailbox, Login, Rule, Smtp, SourceTls, Taken
from worker.importers.section import Section, Setting, of_object
from worker.importers.source import Form, Source, form_of, text_of, too_large
from worker.importers.wishes import Wishes

_MOST = 1_000  # servers, tasks or processes
_PREFIX = "privilege-manager"
_TOP = ("product", "edition", "version", "foreignSystems", "emailTasks", "approvalProcesses", "installerEmailServer")
_SYSTEM = ("type", "name", "baseUri", "origin", "description", "id")
_TASK = ("name", "description", "template", "command", "smtpServer", "parameters", "schedules", "enabled", "id")
_PARAMETERS = ("reportToRun", "fromAddress", "toAddress", "subject", "smtpServer")
_PROCESS = ("name", "description", "startActivity", "smtpServer", "requestType", "approvalType", "id")
_INSTALLER = (
    "emailServer",
    "fromAddress",
    "useSsl",
    "useCustomPort",
    "port",
    "authenticationRequired",
    "userName",
    "domain",
    "password",
)
_APPROVALS = "Manual Approval Process with E-mail Alerts"
_EDITIONS = {"cloud": True, "on-premises": False, "onpremises": False, "on-premise": False, "onprem": False}
_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?P<slashes>//)?(?P<rest>.*)", re.DOTALL)


def read(sources: Sequence[Source], wishes: Wishes, findings: Findings) -> Taken:
    """Documents of our carrier, and lists of URIs."""
    mailboxes: list[ImportedMailbox] = []
    rules: list[Rule] = []
    idle = False
    for source in sources:
        with findings.gathering():
            text = text_of(source, findings)
            match form_of(text):
                case Form.JSON:
                    taken = _Document(text, source.name, wishes, findings).taken()
                case Form.LINES:
                    taken = Taken(tuple(_listed(text, source.name, wishes, findings)))
                case Form.XML:
                    raise Refusal(
                        "format.unexpected",
                        Place(source.name),
                        "the file is XML",
                        "write the carrier of docs/importing.md, or one URI a line",
                    )
            mailboxes.extend(taken.mailboxes)
            rules.extend(taken.rules)
            idle = idle or taken.without_effect
    return Taken(tuple(mailboxes), tuple(rules), idle and not mailboxes)


# URIs


def _listed(text: str, file: str, wishes: Wishes, findings: Findings) -> Iterator[ImportedMailbox]:
    names: dict[str, int] = {}
    lines = text.split("\n")
    if len(lines) > _MOST:
        raise too_large(file, f"the list has more than {_MOST} lines")
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if findings.full:
            return
        place = Place(file, f"URI in line {number}", number)
        host, port = uri(line.strip(), place, findings)
        if not host:
            continue
        base = f"{wishes.prefix or _PREFIX}-{checks.slug(host)}-{port}"
        names[base] = names.get(base, 0) + 1
        if names[base] > 1:
            findings.note("server.repeated", place, f"{host} port {port} is there already; it is taken over once")
        else:
            yield ImportedMailbox(base[:64], Smtp(host, port, SourceTls.NONE), MappingProxyType({"server": host}))


def uri(text: str, place: Place, findings: Findings) -> tuple[str, int]:
    """Host and port of `smtp://host[:port]`; whatever else stands there is named, and never repeated."""
    found = _URI.fullmatch(text)
    if re.search(r"\s", text):
        _wrong("uri.whitespace", place, findings, "the URI has a blank in it", "write smtp://host:port without blanks")
    elif "://" not in text and (found is None or found["scheme"].lower() != "smtp"):
        _wrong("uri.no_scheme", place, findings, "the URI does not begin with smtp://", "write smtp://host:port")
    elif found is None or found["scheme"].lower() != "smtp":
        _wrong("uri.wrong_scheme", place, findings, "the URI is not smtp://", "write smtp://host:port")
    elif not found["slashes"]:
        _wrong("uri.no_authority", place, findings, "after smtp: two slashes are missing", "write smtp://host:port")
    else:
        return _authority(found["rest"], place, findings)
    return "", checks.RELAY


def _authority(rest: str, place: Place, findings: Findings) -> tuple[str, int]:
    if "@" in rest:
        _wrong(
            "uri.secret_in_uri",
            place,
            findings,
            "the URI holds a login, and with it perhaps a password",
            "write smtp://host:port; the login belongs into the mailbox's [login]",
        )
        return "", checks.RELAY
    authority, slash, path = rest.partition("/")
    if path or "?" in authority or "#" in authority:
        _wrong("uri.path_or_query", place, findings, "after host and port nothing may follow", "write smtp://host:port")
        return "", checks.RELAY
    del slash
    return _host_and_port(authority, place, findings)


def _host_and_port(authority: str, place: Place, findings: Findings) -> tuple[str, int]:
    bracketed = re.fullmatch(r"\[([^\]]*)\](.*)", authority)
    plain = re.sub(r"[\[\]]", "", authority)
    faulty = False
    if (bracketed and ":" not in bracketed[1]) or re.search(r"[:;]\[", authority):
        faulty = True
        _wrong(
            "uri.placeholder_brackets",
            place,
            findings,
            "the brackets are those of the manual, they mean: put your value here",
            f"write smtp://{_proposed(plain)}, without brackets",
        )
    if ";" in authority:
        faulty = True
        _wrong(
            "uri.semicolon_port",
            place,
            findings,
            "a semicolon stands before the port; the manual printed it so by mistake until 2020-05-11",
            f"write smtp://{_proposed(plain)}, with a colon",
        )
    if faulty:
        return "", checks.RELAY
    if bracketed:
        host, port_text = bracketed[1], bracketed[2]
    else:
        host, colon, tail = authority.partition(":")
        port_text = colon + tail
        if ":" in tail:
            findings.refuse(
                "host.ipv6_ambiguous",
                place,
                "an IPv6 address without brackets hides its port",
                "write smtp://[address]:port",
            )
            return "", checks.RELAY
    if not host:
        _wrong("uri.no_host", place, findings, "the URI names no host", "write smtp://host:port")
        return "", checks.RELAY
    if port_text and not port_text.startswith(":"):
        findings.refuse("host.invalid", place, "something stands between host and port", "write smtp://[address]:port")
        return "", checks.RELAY
    number = checks.smtp_port(port_text[1:], place, findings) if port_text not in {"", ":"} else checks.RELAY
    return checks.host_name(host.lower(), place, findings), number


def _proposed(plain: str) -> str:
    """Host and port as they were probably meant; nothing of it if it is no host and port."""
    host, _, port = plain.replace(";", ":").partition(":")
    fits = checks.is_host_name(host) and (not port or checks.number_of(port) is not None)
    return f"{host}:{port}" if fits and port else host if fits else "host:port"


def _wrong(code: str, place: Place, findings: Findings, reason: str, proposal: str) -> None:
    findings.refuse(code, place, reason, proposal)


# The carrier


class _Document:
    """One JSON document."""

    def __init__(self, text: str, file: str, wishes: Wishes, findings: Findings) -> None:
        root = parse(text, file, findings)
        if not isinstance(root, Object):
            raise Refusal(
                "json.no_object",
                Place(file),
                "the document is a list or a single value",
                'write { "foreignSystems": [ … ] }',
            )
        self._root, self._file, self._wishes, self._findings = root, file, wishes, findings

    def taken(self) -> Taken:
        top = self._whole(self._root)
        checks.known_keys(top, _TOP, self._findings)
        servers = list(self._systems())
        cloud = self._cloud(top, [section for section, _ in servers])
        names = self._names(servers)
        rules = [*self._tasks(names, cloud=cloud), *self._processes(names, cloud=cloud)]
        mailboxes = [self._mailbox(section, mailbox, rules) for section, mailbox in servers]
        mailboxes.extend(self._installer())
        if not mailboxes:
            self._findings.warn(
                "server.none",
                Place(self._file, "foreignSystems"),
                "no SMTP server is connected, so the product sends no alerts",
                "add a foreign system with a name and a baseUri",
            )
        return Taken(tuple(mailboxes), tuple(rules), without_effect=not mailboxes)

    def _whole(self, node: Object, path: str = "") -> Section:
        """All members as settings, so that unknown ones are seen; what is nested counts as null."""
        section = of_object(node, self._file, path)
        nested = {
            member.key.lower(): Setting(
                member.key,
                "",
                Kind.NULL,
                Place(self._file, f"{path}.{member.key}" if path else member.key, member.line),
            )
            for member in node.members
            if not isinstance(member.node, Scalar)
        }
        return Section(section.place, {**section.settings, **nested}, joint=".")

    def _objects(self, key: str) -> Iterator[tuple[Object, str]]:
        member = self._root.get(key)
        if member is None or (isinstance(member.node, Scalar) and member.node.kind is Kind.NULL):
            return
        items = member.node.items if isinstance(member.node, Array) else (member.node,)
        if len(items) > _MOST:
            raise too_large(self._file, f"{member.key} has more than {_MOST} entries")
        for number, item in enumerate(items):
            path = f"{member.key}[{number}]"
            if isinstance(item, Object):
                yield item, path
            else:
                self._findings.refuse(
                    f"value.wrong_type:{key}",
                    Place(self._file, path, member.line),
                    "here stands no object",
                    "write { … } with the documented keys",
                )

    def _cloud(self, top: Section, systems: Sequence[Section]) -> bool:
        managed = any(section.text("origin").lower() == "instance-setup" for section in systems)
        if not top.text("edition") and not managed and systems:
            self._findings.warn(
                "edition.not_stated",
                top.at("edition"),
                "the edition is not stated; on-premises is assumed, where tasks name their server",
                'write "edition": "on-premises" or "cloud"',
            )
        cloud = checks.choice(top, "edition", _EDITIONS, self._findings, managed)
        if cloud:
            self._findings.note(
                "edition.cloud",
                top.at("edition"),
                "in the cloud edition nobody chooses a server; here a notification may name a mailbox",
                "write choose_mailbox = false into the tenant's table [tenants.NAME]; if the file has had no such "
                "table, each tenant without a mailbox of its own needs one then",
            )
        return cloud

    def _systems(self) -> Iterator[tuple[Section, Smtp | None]]:
        for node, path in self._objects("foreignSystems"):
            section = self._whole(node, path)
            kind = section.text("type")
            if kind and "smtp" not in kind.lower():
                self._findings.note(
                    "server.other_kind",
                    section.at("type"),
                    f"the foreign system is of the type {checks.shown(kind)}, not SMTP",
                )
                continue
            checks.known_keys(section, _SYSTEM, self._findings)
            if not section.text("name"):
                checks.missing(section, "name", self._findings, "tasks choose their server by name", "write a name")
            yield section, self._endpoint(section)

    def _endpoint(self, section: Section) -> Smtp | None:
        if section.has("baseUri") and not section.text("baseUri"):
            self._findings.warn(
                "uri.empty",
                section.at("baseUri"),
                "the server has no URI; the product keeps such a broken record, and mail through it does not go",
                "write smtp://host:port",
            )
            return None
        if not section.has("baseUri"):
            checks.missing(section, "baseUri", self._findings, "it says where mail goes", "write smtp://host:port")
            return None
        host, port = uri(section.text("baseUri"), section.at("baseUri"), self._findings)
        return Smtp(host, port, SourceTls.NONE)

    def _names(self, servers: Sequence[tuple[Section, Smtp | None]]) -> dict[str, str]:
        names: dict[str, str] = {}
        for section, _ in servers:
            name = section.text("name")
            if name and name.lower() in names:
                self._findings.refuse(
                    f"server.duplicate_name:{checks.shown(name)}",
                    section.at("name"),
                    f"two servers are called {checks.shown(name)} (case does not count); a task could mean either",
                    "rename one of them",
                )
            elif name:
                names[name.lower()] = name
        return names

    def _mailbox(self, section: Section, smtp: Smtp | None, rules: Sequence[Rule]) -> ImportedMailbox:
        name = section.text("name")
        mine = [rule for rule in rules if rule.server.lower() == name.lower()]
        senders = list(dict.fromkeys(str(rule.fields["from"]) for rule in mine if rule.fields.get("from")))
        managed = section.text("origin").lower() == "instance-setup"
        return ImportedMailbox(
            name=f"{self._wishes.prefix or _PREFIX}-{checks.slug(name)}"[:64],
            delivery=smtp or Smtp("", checks.RELAY, SourceTls.NONE),
            source=MappingProxyType({"server": name, **({"managed": True} if managed else {})}),
            sender=senders[0] if senders else "",
            senders=tuple(senders[1:]),
            in_effect=smtp is not None,
        )

    def _tasks(self, names: dict[str, str], *, cloud: bool) -> Iterator[Rule]:
        for node, path in self._objects("emailTasks"):
            section = self._whole(node, path)
            checks.known_keys(section, _TASK, self._findings)
            inner = node.get("parameters")
            parameters = self._whole(
                inner.node if inner and isinstance(inner.node, Object) else Object((), section.place.line),
                f"{path}.parameters",
            )
            checks.known_keys(parameters, _PARAMETERS, self._findings)
            sender = checks.sender(parameters, "fromAddress", self._findings)[1]
            to = parameters.text("toAddress")
            if not to:
                checks.missing(
                    parameters,
                    "toAddress",
                    self._findings,
                    "the task's mail has no recipient",
                    "write addresses with commas between them",
                )
            recipients = checks.addresses(to, parameters.at("toAddress"), self._findings, separator=",", other=";")
            chosen = parameters if parameters.text("smtpServer") else section
            server = self._server(chosen, names, "task", cloud=cloud)
            fields: dict[str, str | tuple[str, ...]] = {
                "from": sender,
                "to": recipients,
                "report": parameters.text("reportToRun"),
            }
            yield Rule("task", section.text("name"), server, MappingProxyType(fields))

    def _processes(self, names: dict[str, str], *, cloud: bool) -> Iterator[Rule]:
        found = False
        for node, path in self._objects("approvalProcesses"):
            section = self._whole(node, path)
            checks.known_keys(section, _PROCESS, self._findings)
            found = found or section.text("name").lower() == _APPROVALS.lower()
            server = self._server(section, names, "process", cloud=cloud)
            activity = section.text("startActivity")
            yield Rule("process", section.text("name"), server, MappingProxyType({"activity": activity}))
        if not found and self._root.get("foreignSystems") is not None:
            self._findings.note(
                "process.missing",
                Place(self._file, "approvalProcesses"),
                f"there is no {_APPROVALS}; approval requests send no mail until a rule for them exists",
            )

    def _server(self, section: Section, names: dict[str, str], what: str, *, cloud: bool) -> str:
        server = section.text("smtpServer")
        if cloud:
            if server:
                self._findings.refuse(
                    f"server.read_only:{checks.shown(server)}",
                    section.at("smtpServer"),
                    f"in the cloud edition the {what} cannot choose a server, it is managed",
                    "remove smtpServer; the managed server is used",
                )
            elif len(names) == 1:
                self._findings.note(
                    "server.managed_read_only_on_task", section.at("smtpServer"), f"the {what} uses the managed server"
                )
                return next(iter(names.values()))
            return ""
        if not server:
            checks.missing(
                section,
                "smtpServer",
                self._findings,
                f"the {what} must name its server",
                "write the name of a foreign system",
            )
        elif server.lower() not in names:
            near = checks.nearest(server, names.values())
            self._findings.refuse(
                f"server.unknown:{checks.shown(server)}",
                section.at("smtpServer"),
                f"the {what} names a server that is not among the foreign systems",
                f"did you mean {checks.shown(near)}?" if near else "add the foreign system, or name another one",
            )
        return names.get(server.lower(), "")

    def _installer(self) -> Iterator[ImportedMailbox]:
        for node, path in self._objects("installerEmailServer"):
            section = self._whole(node, path)
            if not node.members:
                continue
            checks.known_keys(section, _INSTALLER, self._findings)
            if not section.text("emailServer"):
                checks.missing(section, "emailServer", self._findings, "nothing says where mail goes", "write the host")
            address = checks.sender(section, "fromAddress", self._findings)[1]
            smtp = self._installed(section)
            if isinstance(smtp.login, Login):
                checks.office365(smtp.host, smtp.login, address, section.at("emailServer"), self._findings)
            yield ImportedMailbox(
                name=f"{self._wishes.prefix or _PREFIX}-installer",
                delivery=smtp,
                source=MappingProxyType({"server": "installer"}),
                sender=address,
            )

    def _installed(self, section: Section) -> Smtp:
        custom = checks.boolean(section, "useCustomPort", self._findings, default=False)
        if custom and not section.text("port"):
            checks.missing(section, "port", self._findings, "useCustomPort is true", "write the port")
        port = checks.port(section, "port", self._findings, checks.RELAY) if custom else checks.RELAY
        if not custom and checks.number_of(section.text("port")) not in {None, 0, checks.RELAY}:
            self._findings.warn(
                "port.not_in_use",
                section.at("port"),
                "a port is written, but useCustomPort is false, so port 25 is used",
                "set useCustomPort to true if the port is meant",
            )
        flag = checks.boolean(section, "useSsl", self._findings, default=False)
        tls = checks.flagged_tls(flag=flag, port=port, place=section.at("useSsl"), findings=self._findings)
        login = self._login(section)
        checks.protection(tls, section.at("useSsl"), self._findings, with_login=login is not None)
        return Smtp(checks.host(section, "emailServer", self._findings), port, tls, login)

    def _login(self, section: Section) -> Login | None:
        if not checks.boolean(section, "authenticationRequired", self._findings, default=False):
            return None
        if not section.text("userName"):
            checks.missing(section, "userName", self._findings, "authenticationRequired is true", "write the user name")
        login = checks.login(section, "userName", "password", self._findings)
        domain = section.text("domain")
        if login is None or not domain or "\\" in login.username or "@" in login.username:
            return login
        self._findings.warn(
            "auth.domain_login",
            section.at("domain"),
            "the login has a Windows domain; DOMAIN\\user is what the server is told",
            "nothing, or write the login as the server wants it into the mailbox (login.username)",
        )
        return Login(f"{domain}\\{login.username}", login.password)
