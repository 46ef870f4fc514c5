"""The rules that all five products share: what a host, a port, a login, a sender, a directory must be.

Each rule reads one key, says what it finds, and returns what is taken over. After a refusal the value is only a
filling: a refused import has no mailboxes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import TypeVar

import idna
from pydantic import SecretStr

from contracts.address import AddrSpec, parse
from worker.importers.dotnet_json import Kind
from worker.importers.finding import Findings, Place
from worker.importers.mailbox import Login, Pickup, SourceTls
from worker.importers.section import Section
from worker.importers.wishes import Wishes

_Choice = TypeVar("_Choice")

SMTPS, SUBMISSION, RELAY = 465, 587, 25
_HIGHEST_PORT = 65535
_NOT_SMTP = {993: "IMAP over TLS", 143: "IMAP", 995: "POP3 over TLS", 110: "POP3", 443: "HTTPS", 80: "HTTP"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_DOTTED_NUMBER = re.compile(r"[0-9.]+")
_DRIVE = re.compile(r"[A-Za-z]:([\\/]|$)")
_NAMED_ADDRESS = re.compile(r'(?:"((?:[^"\\]|\\.)*)"\s*|([^<>"]*))<([^<>]+)>')
_TIMESPAN = re.compile(r"([0-9]+|([0-9]{1,8}\.)?[0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,7})?)?)")
_MASK = re.compile(r"[*•●∙⬤]{3,}")
_PLACEHOLDER = re.compile(
    r"<[^<>@]*>|\[[A-Za-z _-]+\]|\{+[^{}]*\}+|#\{[^{}]*\}#?|\$[({][^(){}]*[)}]|%[A-Za-z_]+%|__[A-Za-z_]+__|x{3,}|X{3,}"
    r"|change[-_ ]?me|to[-_ ]?do|your[-_. ].*|.*\.your[-_]?(domain|company|host)\..*",
    re.IGNORECASE,
)
_PLACEHOLDER_LOGIN = {"user", "username", "user name", "login", "password"}
_OFFICE365 = re.compile(r"(^|\.)(office365\.(com|us)|outlook\.(com|cn|de)|office\.com)$", re.IGNORECASE)
_LONGEST = 1000  # characters of a value that a rule looks into
_LOOKED_AT = 100  # known names that are compared with an unknown one
_QUESTIONS = 20  # unknown keys for which the nearest known one is looked up

# Words by which products call the same thing: the proposal for a key that another product would understand.
_SYNONYMS = (
    {"host", "server", "hostname", "smtpserver", "smtphost", "mailserver", "servername", "relay"},
    {"user", "username", "login", "account", "loginname"},
    {"password", "pass", "pwd", "passwd", "secret"},
    {"from", "fromaddress", "sender", "senderaddress", "mailfrom", "defaultfrom"},
    {"fromname", "sendername", "displayname"},
    {"port", "smtpport", "serverport"},
    {"securesocketoption", "securesocketoptions", "usessl", "enablessl", "ssl", "tls", "usetls", "enabletls", "secure"},
    {"pickupdirectory", "pickupdirectorylocation", "pickupfolder", "pickuppath"},
)
_TELLING = re.compile(
    r"smtp|host|server|port|user|login|pass|pwd|secret|ssl|tls|secur|auth|credential|from|sender|pickup|directory|enabled"
    r"|deliver|catch|domain|recipient|bcc",
    re.IGNORECASE,
)


def slug(text: str) -> str:
    """Something of a name that the mailboxes file allows."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def shown(text: str) -> str:
    """A short value that may be repeated in a message."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= 40 else f"{plain[:40]}…"  # noqa: PLR2004 - what fits into a line


# Keys


def known_keys(
    section: Section, known: Iterable[str], findings: Findings, *, strict: bool = False, section_too: bool = False
) -> None:
    """Name every key that the product does not know.

    Args:
        section: where to look.
        known: what the product knows.
        findings: where to say it.
        strict: every unknown key is refused; else only one that looks as if it were meant to change something.
        section_too: subsections are looked at as well.
    """
    names = {name if section.exact else name.lower(): name for name in known}
    asked = 0
    for path, setting in section.settings.items():
        head, _, rest = path.partition(":")
        if head in names and not rest:
            continue
        if head in names:
            _wrong_type(section, names[head], findings)
            continue
        if rest and section_too:
            continue
        if findings.full:
            return
        name = setting.key if not rest else head
        asked += 1
        near = nearest(name, names.values()) if asked <= _QUESTIONS else ""
        _unknown(name, near, setting.place, findings, refused=strict or bool(near) or bool(_TELLING.search(name)))


def _unknown(name: str, near: str, place: Place, findings: Findings, *, refused: bool) -> None:
    code = f"key.unknown:{shown(name)}"
    reason = f"{shown(name)} is no key that the product knows; the product itself passes over it in silence"
    if refused:
        findings.refuse(code, place, reason, f"did you mean {near}? Correct or remove it" if near else "remove it")
    else:
        findings.warn(code, place, reason, "nothing was taken from it; remove it if it means nothing to you")
    if near:
        findings.note(f"key.did_you_mean:{near}", place, f"{near} is the known key that comes nearest")


def _wrong_type(section: Section, name: str, findings: Findings) -> None:
    findings.refuse(
        f"value.wrong_type:{name}",
        section.at(name),
        f"{name} is a list or an object, not a single value",
        f"write {name} as one text; lists with ; between the items",
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """The known key that was probably meant; empty if none comes near."""
    by_shape = {_shape(key): key for key in islice(known, _LOOKED_AT)}
    wanted = _shape(name[:80])
    if misspelt := get_close_matches(wanted, by_shape, n=1, cutoff=0.85):
        return by_shape[misspelt[0]]
    for same in _SYNONYMS:
        if wanted in same:
            for shape, key in by_shape.items():
                if shape in same:
                    return key
    close = get_close_matches(wanted, by_shape, n=1, cutoff=0.75)
    return by_shape[close[0]] if close else ""


def _shape(key: str) -> str:
    plain = "".join(letter for letter in key.lower() if letter.isalnum())
    for start in ("smtp", "cmssmtp"):
        if plain.startswith(start) and plain != start and not plain.startswith("smtpserver"):
            return plain.removeprefix(start)
    return plain


def missing(section: Section, key: str, findings: Findings, reason: str, proposal: str) -> None:
    """Refuse because a key is not there or blank."""
    findings.refuse(f"key.missing:{key}", section.at(key), f"{key} is missing or empty: {reason}", proposal)


# Single values


def port(section: Section, key: str, findings: Findings, default: int) -> int:
    """A port on which SMTP may be spoken; absent, blank and 0 mean the default, as the mail libraries have it."""
    text = section.text(key)
    number = number_of(text)
    if number == 0 or (not text and section.has(key)):
        findings.note(
            f"port.defaulted:{default}", section.at(key), f"{key} is empty or 0, which means port {default} there"
        )
    return smtp_port(text, section.at(key), findings) if text and number != 0 else default


def smtp_port(text: str, place: Place, findings: Findings) -> int:
    """Judge what stands for a port."""
    number = number_of(text)
    choices = "write 587 (STARTTLS), 465 (TLS from the first octet) or 25 (relay)"
    if number is None:
        findings.refuse("port.not_a_number", place, "the port is not a whole number", choices)
    elif not 1 <= number <= _HIGHEST_PORT:
        findings.refuse("port.out_of_range", place, f"port {number} does not exist", choices)
    elif number in _NOT_SMTP:
        findings.refuse(
            f"port.not_smtp:{number}",
            place,
            f"port {number} is {_NOT_SMTP[number]}, not SMTP; a client that waits there for an SMTP greeting hangs",
            choices,
        )
    else:
        return number
    return RELAY


def number_of(text: str) -> int | None:
    """A whole number, or None."""
    return int(text) if _INTEGER.fullmatch(text.strip()) else None


def boolean(section: Section, key: str, findings: Findings, *, default: bool) -> bool:
    """True and false as .NET and databases write them."""
    text = section.text(key).lower()
    if not text:
        return default
    if text in {"true", "1", "yes"}:
        return True
    if text not in {"false", "0", "no"}:
        findings.refuse(
            f"value.not_boolean:{key}", section.at(key), f"{key} is neither true nor false", "write true or false"
        )
        return default
    return False


def choice(section: Section, key: str, choices: Mapping[str, _Choice], findings: Findings, default: _Choice) -> _Choice:
    """One of the words (or numbers) of an enumeration, whatever its case."""
    text = section.text(key)
    if not text:
        return default
    folded = {name.lower(): value for name, value in choices.items()}
    if text.lower() in folded:
        return folded[text.lower()]
    words = [name for name in choices if number_of(name) is None] or list(choices)
    near = get_close_matches(text[:80].lower(), [word.lower() for word in words], n=1)
    meant = next((word for word in words if near and word.lower() == near[0]), "")
    # A word or a number may be repeated; anything else may be a secret that slipped into the wrong column.
    harmless = shown(text) if text.isalpha() or number_of(text) is not None else ""
    findings.refuse(
        f"enum.unknown:{key}={harmless}".rstrip("="),
        section.at(key),
        f"{harmless or 'what stands there'} is no value of {key}",
        f"did you mean {meant}? " * bool(meant) + f"Write one of {', '.join(words)}",
    )
    return default


def socket_option(section: Section, key: str, findings: Findings) -> str:
    """MailKit's SecureSocketOptions, by word or number."""
    words = ("None", "Auto", "SslOnConnect", "StartTls", "StartTlsWhenAvailable")
    return choice(
        section, key, dict(zip(words, words, strict=True)) | dict(zip("01234", words, strict=True)), findings, "Auto"
    )


def timespan(section: Section, key: str, findings: Findings) -> str:
    """A .NET TimeSpan, `[days.]hours:minutes[:seconds]` or days."""
    text = section.text(key)
    if text and not _TIMESPAN.fullmatch(text):
        findings.refuse(
            f"value.not_a_timespan:{key}",
            section.at(key),
            f"{key} is no length of time",
            "write [days.]hours:minutes:seconds, such as 3.00:00:00",
        )
    return text


def host(section: Section, key: str, findings: Findings) -> str:
    """A host name or an IP address and nothing else."""
    return host_name(section.text(key), section.at(key), findings)


def host_name(text: str, place: Place, findings: Findings) -> str:
    """Judge what stands for a host; blank is the caller's question."""
    separate = "write the name or address alone; the port has a place of its own"
    bare = text.strip("[]")
    if not text or _is_ip(bare):
        return bare
    text = text[:_LONGEST]
    if is_path(text):
        findings.refuse(
            "host.is_directory",
            place,
            "a directory stands where a host belongs",
            "write the host, or choose the pickup directory as the way of delivery",
        )
    elif _PLACEHOLDER.fullmatch(text):
        _placeholder(place, findings)
    elif "://" in text:
        findings.refuse("host.contains_scheme", place, "a URI stands where a host belongs", separate)
    elif ";" in text:
        findings.refuse("host.semicolon", place, "the host has a semicolon, it would never be found", separate)
    elif re.fullmatch(r"[^:\s]+:[0-9]*|\[[^\]\s]*\]:[0-9]*", text):
        findings.refuse(f"host.contains_port:{text.rpartition(':')[2]}", place, "the host has a port in it", separate)
    elif not is_host_name(text):
        findings.refuse(
            "host.invalid",
            place,
            "this is no host name and no IP address",
            "write a name such as smtp.contoso.com, or an address",
        )
    return text


def is_host_name(text: str) -> bool:
    """Whether a name could be looked up."""
    if _DOTTED_NUMBER.fullmatch(text):
        return False  # an address, and a wrong one
    name = text.removesuffix(".")
    if not name.isascii():
        try:
            name = idna.encode(name[:255], uts46=True, transitional=False).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return False
    return len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))  # noqa: PLR2004 - RFC 1035


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def is_path(text: str) -> bool:
    r"""Whether a value is a directory: `/…`, `C:…`, `\\…`, `./`, `../`, `~/`."""
    return bool(_DRIVE.match(text)) or text.replace("\\", "/").startswith(("/", "./", "../", "~/"))


def sender(section: Section, key: str, findings: Findings, *, required: bool = True) -> tuple[str, str]:
    """Display name and address of the default sender."""
    text = section.text(key)
    if text:
        return named_address(text, section.at(key), findings)
    if required:
        missing(section, key, findings, "mail needs a sender", f"write {key}, an address that the server may send as")
    return "", ""


def named_address(text: str, place: Place, findings: Findings) -> tuple[str, str]:
    """`name@domain` or `Name <name@domain>`, as display name and address."""
    text = text[:_LONGEST]  # what is longer than that is no address, nor is its beginning
    named = _NAMED_ADDRESS.fullmatch(text)
    name = re.sub(r"\\(.)", r"\1", named[1]) if named and named[1] is not None else (named[2] if named else "")
    if _PLACEHOLDER.fullmatch(text):
        _placeholder(place, findings)
        return "", ""
    try:
        address = parse((named[3] if named else text).strip())
    except ValueError as error:
        findings.refuse("address.invalid", place, f"the address {error}", "write name@domain or Name <name@domain>")
        return "", ""
    if str(address).lower() == "noreply@example.com":
        findings.refuse(
            "sender.vendor_placeholder",
            place,
            "noreply@example.com is the value that the product is delivered with; it belongs to nobody",
            "write an address of yours that the server may send as",
        )
    return name.strip(), str(address)


def addresses(text: str, place: Place, findings: Findings, *, separator: str, other: str) -> tuple[str, ...]:
    """A list of addresses with the product's separator; the other one is the usual mistake."""
    words = {",": "comma", ";": "semicolon"}
    found = []
    for item in filter(None, map(str.strip, _split(text[: 100 * _LONGEST], separator))):
        if findings.full:
            break
        if other in re.sub(r'"[^"]*"', "", item):
            findings.refuse(
                f"recipients.{words[other]}_in_{words[separator]}_list",
                place,
                f"the list is separated by {words[other]}s, the product reads {words[separator]}s",
                f"write {separator} between the items",
            )
            return ()
        found.append(named_address(item, place, findings)[1])
    return tuple(filter(None, found))


def _split(text: str, separator: str) -> list[str]:
    """At the separators outside of quotation marks."""
    parts = text.split('"')
    parts[::2] = [part.replace(separator, "\n") for part in parts[::2]]
    return '"'.join(parts).split("\n")


def domains(section: Section, key: str, findings: Findings) -> tuple[str, ...]:
    """Mail domains separated by semicolons."""
    found = []
    for item in filter(None, (item.strip().removeprefix("@") for item in section.text(key).split(";"))):
        if "," in item:
            findings.refuse(
                "recipients.comma_in_semicolon_list",
                section.at(key),
                f"{key} is separated by commas, the product reads semicolons",
                "write ; between the domains",
            )
            return ()
        try:
            found.append(AddrSpec("", parse(f"x@{item}").domain).domain)
        except ValueError:
            findings.refuse(
                "domain.invalid",
                section.at(key),
                f"{shown(item)} is no mail domain",
                "write domains such as contoso.com with ; between them",
            )
            return ()
    return tuple(found)


def _placeholder(place: Place, findings: Findings) -> None:
    findings.refuse(
        "value.placeholder",
        place,
        "here stands a placeholder of the manual or of a deployment tool",
        "write the real value, or import the file as it is after deployment",
    )


# Login and encryption


def login(section: Section, user: str, password: str, findings: Findings, *, in_effect: bool = True) -> Login | None:
    """User and password; a user without password is never sent to the server as if no login were needed."""
    name = section.text(user)
    given = section.get(password)
    secret = given.text if given else ""
    if not name:
        if secret.strip():
            missing(
                section,
                user,
                findings,
                f"{password} is set, so a login is meant, but nobody is named",
                f"write {user}, or remove {password} if the server wants no login",
            )
        return None
    if _PLACEHOLDER.fullmatch(name) or name.lower() in _PLACEHOLDER_LOGIN:
        _placeholder(section.at(user), findings)
    code, reason = _unusable(secret)
    if code:
        findings.ask(
            code,
            section.at(password),
            f"{user} is set, {reason}",
            "enter the password in the file that the mailbox names (password_file)",
            in_effect=in_effect,
        )
        return Login(name, None)
    if given and given.from_environment:
        findings.note("secret.from_environment", given.place, "the password comes from the environment")
    return Login(name, SecretStr(secret))


def _unusable(secret: str) -> tuple[str, str]:
    if not secret.strip():
        return "secret.missing", "but there is no password; mail would silently go without login, or not at all"
    if is_masked(secret):
        return "secret.masked", "but the password is only the mask that the product shows instead of it"
    if _PLACEHOLDER.fullmatch(secret.strip()) or "\n" in secret or "\0" in secret:
        return "value.placeholder", "but in the place of the password stands a placeholder"
    return "", ""


def is_masked(secret: str) -> bool:
    """Whether it is the mask that products show instead of a password."""
    return bool(_MASK.fullmatch(secret.strip()))


def windows_login(place: Place, findings: Findings) -> None:
    """The process's Windows account logs in there; there is none here."""
    findings.ask(
        "auth.default_credentials",
        place,
        "the product logs in as its Windows account (NTLM or Kerberos), which has no equal here",
        "enter user name and password of an account that the server knows, or switch the setting off and import again",
    )


def flagged_tls(*, flag: bool, port: int, place: Place, findings: Findings) -> SourceTls:
    """TLS of .NET's SmtpClient, whose only switch means STARTTLS required."""
    if port == SMTPS:
        code = "tls.implicit_port_with_starttls_flag" if flag else "tls.settings_disagree"
        said = "the switch means STARTTLS" if flag else "encryption is switched off"
        findings.warn(
            code,
            place,
            f"{said}, but port 465 is TLS from the first octet; this cannot have worked there",
            "nothing, if the server speaks TLS on 465, which is what we do; else change the port to 587 or 25",
        )
        return SourceTls.IMPLICIT
    return SourceTls.REQUIRED if flag else SourceTls.NONE


def mailkit_tls(option: str, port: int, place: Place, findings: Findings) -> SourceTls:
    """TLS of MailKit's SecureSocketOptions on a port."""
    if port == SMTPS:
        if option not in {"SslOnConnect", "Auto"}:
            code = "tls.settings_disagree" if option == "None" else "tls.implicit_port_with_starttls_flag"
            findings.warn(
                code,
                place,
                f"{option} does not fit port 465, which is TLS from the first octet",
                "nothing, if the server speaks TLS on 465, which is what we do; else change the port to 587 or 25",
            )
        return SourceTls.IMPLICIT
    if option == "SslOnConnect" and port in {SUBMISSION, RELAY}:
        findings.warn(
            "tls.settings_disagree",
            place,
            f"SslOnConnect does not fit port {port}, where servers expect STARTTLS; it is taken over as STARTTLS",
            "write StartTls, or port 465",
        )
        return SourceTls.REQUIRED
    return {
        "None": SourceTls.NONE,
        "SslOnConnect": SourceTls.IMPLICIT,
        "StartTls": SourceTls.REQUIRED,
    }.get(option, SourceTls.IF_OFFERED)


def protection(tls: SourceTls, place: Place, findings: Findings, *, with_login: bool) -> None:
    """Say what plain text means, above all for a password. We send none over a connection without TLS."""
    say = findings.warn if with_login else findings.note
    if tls is SourceTls.NONE:
        say("tls.off", place, "the connection is not encrypted", "switch TLS on if the server offers it")
        if with_login:
            findings.warn(
                "auth.over_plain_text",
                place,
                "the password crosses the network unencrypted",
                'we never do that: the mailbox is written with tls = "starttls"; or remove the login',
            )
    elif tls is SourceTls.IF_OFFERED:
        extra = ": a password may cross the network unencrypted" if with_login else ""
        remedy = (
            'we never do that: the mailbox is written with tls = "starttls", which the server must then offer'
            if with_login
            else "nothing; write StartTls if the server is to be held to it"
        )
        say("tls.opportunistic", place, f"encryption is used only if the server happens to offer it{extra}", remedy)


def office365(host: str, login: Login | None, address: str, place: Place, findings: Findings) -> None:
    """What an Office 365 mailbox asks for beyond its settings."""
    if login is None or not _OFFICE365.search(host):
        return
    findings.warn(
        "office365.basic_auth_ends",
        place,
        "Exchange Online is switching basic authentication for SMTP off, by default at the end of December 2026; until "
        "then SMTP AUTH must be enabled for the mailbox",
        "register an app and give the mailbox [oauth] instead of [login] (docs/mailboxes.md)",
    )
    if address and address.lower() != login.username.lower():
        findings.warn(
            "office365.send_as_needed",
            place,
            "the sender is not the mailbox that logs in; Exchange Online refuses that (5.2.252) without Send As",
            "grant the login Send As for the sender, or send as the login itself",
        )


# Pickup directories


def directory(
    text: str,
    place: Place,
    wishes: Wishes,
    findings: Findings,
    *,
    absolute: bool = False,
    writer: str = "",
    label: str = "",
) -> Pickup:
    """A pickup directory, on this machine if the person said where.

    Args:
        text: as the product has it.
        place: where it stands.
        wishes: with the map of directories.
        findings: where to say what is left to do.
        absolute: the product itself takes no relative one.
        writer: flavour of the files that the product's own library writes, if it is known.
        label: which of several servers it is.
    """
    mapped = wishes.mapped(text)
    if mapped is None and _PLACEHOLDER.fullmatch(text):
        _placeholder(place, findings)
    elif mapped is None and not text.startswith("/"):
        relative = not is_path(text) or text.startswith((".", "~"))
        remedy = f"say where it is mounted here: --map '{shown(text)}=/srv/pickup'"
        if relative:
            refuse_or_warn = findings.refuse if absolute else findings.warn
            refuse_or_warn(
                "path.relative",
                place,
                "the directory is relative to a place that is unknown here"
                + ("; the product refuses it when it sends" if absolute else ""),
                remedy,
            )
        findings.warn(
            f"path.needs_mapping:{label}".rstrip(":"),
            place,
            f"the directory {shown(text)} is not one of this machine",
            f"{remedy}; there IIS_IUSRS, here the group in pickup.group must be able to write",
        )
    found = mapped or text
    flavour = _flavour(text) or writer
    if not flavour:
        findings.note(
            "pickup.flavour_not_stated",
            place,
            "old settings do not say whose convention the directory follows",
            'set pickup.flavour to "exchange" if Exchange empties it; the default is "iis"',
        )
    return Pickup(found, flavour)


def _flavour(path: str) -> str:
    """The folders' usual names tell (inferred, Microsoft's defaults)."""
    folded = path.lower()
    if "mailroot" in folded:
        return "iis"
    return "exchange" if "transportroles" in folded else ""


def is_text(section: Section, key: str) -> bool:
    """Whether a value was written in quotation marks."""
    found = section.get(key)
    return found is not None and found.kind is Kind.STRING
