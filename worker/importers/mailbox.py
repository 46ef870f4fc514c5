"""What an import yields: mailboxes in our terms, before they become lines of a mailboxes file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import SecretStr

from worker.importers.finding import Finding, Findings, Weight


class Verdict(StrEnum):
    """What becomes of the files as a whole."""

    ACCEPT = "accept"
    ACCEPT_WARN = "accept_warn"
    NEEDS_SECRET = "needs_secret"  # noqa: S105 - the name of a verdict
    INACTIVE = "inactive"
    REJECT = "reject"


class SourceTls(StrEnum):
    """How the old product secured the connection."""

    REQUIRED = "starttls-required"
    IF_OFFERED = "starttls-if-offered"
    IMPLICIT = "implicit"
    NONE = "none"


class Priority(StrEnum):
    """In which order the servers of one scope are taken."""

    HIGH = "High"
    NORMAL = "Normal"
    LOW = "Low"


@dataclass(frozen=True, slots=True)
class Login:
    """Basic SMTP AUTH; without a password a person must still enter it."""

    username: str
    password: SecretStr | None


@dataclass(frozen=True, slots=True)
class OAuthLogin:
    """OAuth 2.0; `credentials` is what the old product calls the app registration."""

    username: str
    credentials: str


@dataclass(frozen=True, slots=True)
class Smtp:
    """A submission server."""

    host: str
    port: int
    tls: SourceTls
    login: Login | OAuthLogin | None = None
    ehlo: str = ""


@dataclass(frozen=True, slots=True)
class Pickup:
    """A pickup directory.

    Attributes:
        path: as the old product has it, or already mapped to this machine; empty: only IIS knows.
        flavour: `iis` or `exchange`; empty: not known.
        from_iis: the path was IIS's own setting.
    """

    path: str
    flavour: str = ""
    from_iis: bool = False


@dataclass(frozen=True, slots=True)
class Recipients:
    """Who may get mail at all.

    Attributes:
        allowed_domains: only these; empty: all.
        catch_all_to: every mail goes here instead; empty: no.
        catch_all_cc: and here.
        most: per mail; 0: no limit.
    """

    allowed_domains: tuple[str, ...] = ()
    catch_all_to: str = ""
    catch_all_cc: str = ""
    most: int = 0


@dataclass(frozen=True, slots=True)
class ImportedMailbox:
    """One server of the old product.

    Attributes:
        name: as it will be called in the mailboxes file.
        source: what identifies it in the old product, in that product's words.
        sender: default From; empty: every message brings its own.
        enabled: switched on there.
        in_effect: whether the old product would ever have used it.
        sites: whose it is; None: no question of sites, or all of them.
        site_default: the first choice of its sites, before every priority.
        component: program that sends through it.
        purposes: which mails it takes; empty: all.
        connections: at most so many at once; 0: our default.
        suppress: nothing is really sent.
        more: what else the old settings say, for people.
        advice: what the person may want to write into the mailboxes file besides, a line each.
    """

    name: str
    delivery: Smtp | Pickup
    source: Mapping[str, str | int | bool | None] = field(default_factory=dict)
    sender: str = ""
    display_name: str = ""
    senders: tuple[str, ...] = ()
    enabled: bool = True
    in_effect: bool = True
    priority: Priority | None = None
    sites: tuple[str, ...] | None = None
    site_default: bool = False
    component: str = ""
    purposes: tuple[str, ...] = ()
    recipients: Recipients = Recipients()
    connections: int = 0
    suppress: bool = False
    more: Mapping[str, str | int | bool | tuple[str, ...]] = field(default_factory=dict)
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """An event or task of the old product that names its server; rules are no mailboxes and are only reported."""

    kind: str
    name: str
    server: str
    fields: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a product's reader makes of its files."""

    mailboxes: tuple[ImportedMailbox, ...] = ()
    rules: tuple[Rule, ...] = ()
    without_effect: bool = False


@dataclass(frozen=True, slots=True)
class Import:
    """The outcome. A rejected import has no mailboxes."""

    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    mailboxes: tuple[ImportedMailbox, ...] = ()
    rules: tuple[Rule, ...] = field(default=())


def judged(findings: Findings, taken: Taken) -> Import:
    """The heaviest finding decides; what would never have been used is `inactive` whatever else is to say about it."""
    found = tuple(sorted(findings.all(), key=lambda finding: -finding.weight))
    heaviest = max((finding.weight for finding in found), default=Weight.NOTE)
    if heaviest is Weight.REFUSAL:
        return Import(Verdict.REJECT, found)
    idle = taken.without_effect or (
        bool(taken.mailboxes) and not any(mailbox.enabled and mailbox.in_effect for mailbox in taken.mailboxes)
    )
    verdict = {
        Weight.NOTE: Verdict.ACCEPT,
        Weight.WARNING: Verdict.ACCEPT_WARN,
        Weight.SECRET: Verdict.NEEDS_SECRET,
    }[heaviest]
    return Import(Verdict.INACTIVE if idle else verdict, found, taken.mailboxes, taken.rules)
