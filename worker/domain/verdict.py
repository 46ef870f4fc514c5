"""A reply means something: which class of trouble it is, whose, what to do, and what to tell a person.

The rows are data (`verdicts/*.toml`, read in the order of `CHAPTERS`); the first that matches decides, so special rows
stand above general ones. What no row knows falls back on the reply code's first digit (RFC 5321 section 4.2.1) and is
marked as unknown.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from functools import cache
from importlib.resources import files

from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.reply import EnhancedStatusCode, Reply

CHAPTERS = ("faults", "hve", "exchange-online", "providers", "graph", "oauth", "rfc")
"""The data files, special ones before general ones."""


class Scope(StrEnum):
    """Whose fault it is: what to pause or to fail.

    SENDER is one From address (or its domain) of a mailbox, APP an app registration with all mailboxes that log in by
    it.
    """

    RECIPIENT = "recipient"
    MESSAGE = "message"
    SENDER = "sender"
    CONNECTION = "connection"
    MAILBOX = "mailbox"
    APP = "app"
    TENANT = "tenant"
    SERVER = "server"


class Only(StrEnum):
    """Which part of a tenant is meant, if not all of it."""

    EXTERNAL = "external"  # recipients outside the tenant's own domains
    ONMICROSOFT = "onmicrosoft"  # senders in *.onmicrosoft.com, and of those the external recipients
    PASSWORD = "password"  # noqa: S105 - mailboxes that log in by password
    ONE_BY_ONE = "one-by-one"  # mailboxes may be excepted, so each finds out for itself


class Action(StrEnum):
    """What follows. NONE is for what was no refusal.

    FAIL is final. RETRY spends an attempt of the message. PAUSE holds the whole mailbox and spends none. SPLIT tries
    the recipients again in smaller groups. REFRESH fetches a new token, once. RECONNECT opens a new session, at once if
    a used one had ended; a new one that hears the same waits like RETRY. DOUBT leaves the decision to a person or to
    the producer's `on_doubt`.
    """

    FAIL = "fail"
    RETRY = "retry"
    PAUSE = "pause"
    SPLIT = "split"
    REFRESH = "refresh"
    RECONNECT = "reconnect"
    DOUBT = "doubt"
    NONE = "none"


# Names are no statements: a recipient spam@..., a server mx-spf.example, a subject that is quoted.
_ADDRESS = re.compile(r"(?<![^\s<>()\[\]:;,\"'`=])[^\s<>()\[\]:;,\"'`=@]+@[\w-]+(?:\.[\w-]+)+")
_OWN_NAME = re.compile(r"^(?:[\w-]+\.)+(?:[a-z]{2,}|[A-Z]{2,})(?=:? )")
_SUBJECT = re.compile(r"\bsubject( line)?\b\W{0,3}(['\"]).*?\2|\bsubject:\s.*", re.IGNORECASE)

# No mail can be to blame for what is said before there is one; else all that wait would fail, one after the other.
_BEFORE_ANY_MAIL = frozenset({Stage.CONNECT, Stage.AUTH})
_OF_A_MAIL = frozenset({Action.FAIL, Action.SPLIT})

_LOGIN_RESTS = timedelta(minutes=15)
_NO_PERMISSION = "auth-config/permission"

# What is said of a recipient's address or mailbox must not stop ours: "550 5.2.1 account is suspended".
_RECIPIENTS_OWN = frozenset(EnhancedStatusCode(5, *said) for said in ((1, 1), (1, 2), (1, 3), (1, 6), (1, 10), (2, 1)))
_OURS = frozenset({Scope.MAILBOX, Scope.APP, Scope.TENANT})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reply or a fault means.

    Attributes:
        kind: class, such as `auth-config` or `recipient-permanent`.
        only: narrows the scope TENANT.
        pause: how long the mailbox rests, if the action is PAUSE.
        wait: shortest wait before the next attempt, if the action is RETRY; the usual schedule may wait longer.
        throttle: the server wants less: connections or rate of the scope should come down.
        punished: the server blocks a mailbox that keeps doing this, so it must not be repeated.
        source: where this is known from, tags of `verdicts/sources.toml`.
        row: id of the row that decided, empty if none did.
        known: False if no row matched.
    """

    kind: str
    scope: Scope
    action: Action
    explanation: str
    remedy: str = ""
    link: str = ""
    pause: timedelta = timedelta()
    known: bool = True
    only: Only | None = None
    wait: timedelta = timedelta()
    throttle: bool = False
    punished: bool = False
    source: str = ""
    row: str = ""

    @property
    def whole_tenant(self) -> bool:
        """Whether every mailbox of the tenant is stopped by it, for every recipient."""
        return self.scope is Scope.TENANT and self.only is None


@dataclass(frozen=True, slots=True)
class Row:
    """A verdict and what it applies to; an empty condition matches everything.

    Attributes:
        example: what an administrator sees; this row's own words.
        digit: first digit of the reply code.
        words: identify the reply where a server leaves out the enhanced status code.
        statuses: of HTTP.
    """

    verdict: Verdict
    example: str
    stages: frozenset[Stage]
    digit: int | None
    codes: frozenset[int]
    enhanced: re.Pattern[str] | None
    words: re.Pattern[str] | None
    pattern: re.Pattern[str] | None
    mechanisms: frozenset[str]
    faults: frozenset[Fault]
    errors: frozenset[str]
    hints: frozenset[int]
    graph_codes: tuple[str, ...]
    statuses: frozenset[int]

    @property
    def graph_errors(self) -> frozenset[str]:
        """Graph's codes in lower case: it does not write them the same way everywhere."""
        return frozenset(code.lower() for code in self.graph_codes)

    @property
    def speaks_of_replies(self) -> bool:
        """Whether it is about what an SMTP server says."""
        return not (self.faults or self.errors or self.hints or self.graph_codes or self.statuses)

    def matches_reply(self, stage: Stage | None, reply: Reply, mechanism: str) -> bool:
        """Whether the row speaks of this reply. Without a stage all of them are thought possible."""
        return (
            self.speaks_of_replies
            and self.digit in (None, reply.code // 100)
            and (not self.codes or reply.code in self.codes)
            and (not self.stages or stage is None or stage in self.stages)
            and (not self.mechanisms or mechanism in self.mechanisms)
            and self._matches_enhanced(reply)
            and (self.pattern is None or bool(self.pattern.search(reply.text)))
        )

    def _matches_enhanced(self, reply: Reply) -> bool:
        """Decided by the enhanced status code; by words only where there is none."""
        stated = reply.enhanced or EnhancedStatusCode.quoted(reply.text)
        if stated is None and self.words is not None:
            return bool(self.words.search(reply.text))
        return self.enhanced is None or bool(self.enhanced.fullmatch(str(stated or "")))

    def matches_fault(self, broken: Broken) -> bool:
        """Whether the row speaks of this fault."""
        return broken.fault in self.faults and (not self.stages or broken.stage in self.stages)

    def matches_graph(self, status: int, codes: Iterable[str], message: str) -> bool:
        """Whether the row speaks of this answer of Microsoft Graph."""
        named = not self.graph_errors or not self.graph_errors.isdisjoint(code.lower() for code in codes)
        return (
            bool(self.graph_errors or self.statuses)
            and named
            and (not self.statuses or status in self.statuses)
            and (self.pattern is None or bool(self.pattern.search(message)))
        )


def of_reply(rows: Sequence[Row], stage: Stage | None, reply: Reply, mechanism: str = "") -> Verdict:
    """What a negative reply means.

    Args:
        rows: the catalogue.
        stage: of the command that was refused; None if nobody knows any more.
        reply: what the server said.
        mechanism: of authentication, in lower case, if that was the stage.
    """
    said = essence(reply)
    apt = rows
    if stage in _BEFORE_ANY_MAIL:
        apt = [row for row in rows if row.verdict.action not in _OF_A_MAIL]
    elif stage is Stage.RCPT and reply.enhanced in _RECIPIENTS_OWN:
        apt = [row for row in rows if row.verdict.scope not in _OURS]
    row = next((row for row in apt if row.matches_reply(stage, said, mechanism)), None)
    return row.verdict if row else _by_digit(stage, reply)


def essence(reply: Reply) -> Reply:
    """The reply without what it merely names or quotes, so that no row takes a name for a reason.

    Rows see every address as `a@b.c`.
    """
    text = _OWN_NAME.sub("host", _ADDRESS.sub("a@b.c", reply.text))
    return replace(reply, text=_SUBJECT.sub("subject", text))


def of_refusal(rows: Sequence[Row], refused: Refused) -> Verdict:
    """What a refused command means for the message as a whole; a wait that the server asked for is granted."""
    match refused.stage:
        case Stage.GRAPH:
            found = _by_graph(rows, refused.reply)
        case Stage.DRAFT:
            found = _before_it_was_sent(rows, refused.reply)
        case _:
            found = of_reply(rows, refused.stage, refused.reply, refused.mechanism)
    if refused.retry_after is None or found.action not in (Action.RETRY, Action.PAUSE):
        return found
    return replace(found, action=Action.PAUSE, pause=refused.retry_after)


def of_fault(rows: Sequence[Row], broken: Broken) -> Verdict:
    """What a broken-off attempt means."""
    row = next((row for row in rows if row.matches_fault(broken)), None)
    if row:
        return row.verdict
    return Verdict("transient", Scope.SERVER, Action.RETRY, f"The attempt broke off: {broken.detail}.", known=False)


def of_token(rows: Sequence[Row], refused: TokenRefused) -> Verdict:
    """What a refused token request means.

    Microsoft asks software to go by the error alone, so it has the last word on whether trying again may help; a
    number picks the words and the finer class.
    """
    hint = next((row.verdict for row in rows if row.hints.intersection(refused.hints)), None)
    error = next((row.verdict for row in rows if refused.error in row.errors), None)
    if hint is None or error is None:
        return hint or error or _token_unknown(refused)
    if (hint.action is Action.RETRY) == (error.action is Action.RETRY):
        return hint
    return replace(error, explanation=hint.explanation, remedy=hint.remedy, link=hint.link, row=hint.row)


def of_graph(rows: Sequence[Row], status: int, codes: Sequence[str], message: str = "") -> Verdict:
    """What Microsoft Graph means by refusing to send a mail.

    Args:
        rows: the catalogue.
        status: of HTTP; 0 if nobody knows it any more.
        codes: `error.code` of the answer and those of the errors inside it.
        message: `error.message`.
    """
    row = next((row for row in rows if row.matches_graph(status, codes, message)), None)
    return row.verdict if row else _graph_unknown(status)


def without_renewal(found: Verdict) -> Verdict:
    """A token that was refused although it was new is not fetched and shown again with every mail: it is a pause."""
    if found.action is not Action.REFRESH:
        return found
    return replace(found, action=Action.PAUSE, pause=max(found.pause, _LOGIN_RESTS))


def for_others(verdict: Verdict, rows: Sequence[Row], what: str) -> Verdict:
    """The verdict without anything of the reply that it was found by: that is another mailbox's, perhaps a tenant's."""
    known = next((row.verdict for row in rows if row.verdict.row == verdict.row), None) if verdict.row else None
    plain = known.explanation if known else "Another mailbox has found it out of order."
    return replace(verdict, explanation=f"{plain} (All mail that needs it waits: {what}.)")


@cache
def catalogue(*chapters: str) -> tuple[Row, ...]:
    """The rows that come with Postlane, in order; those of some chapters only, if they are named."""
    return tuple(row(entry, sources()) for chapter in chapters or CHAPTERS for entry in _data(chapter)["row"])


@cache
def sources() -> Mapping[str, str]:
    """Where the catalogue's knowledge comes from: tag to address, or to a description where there is no address."""
    return {str(tag): str(place) for tag, place in _data("sources").items()}


def _data(chapter: str) -> dict[str, list[dict[str, object]]]:
    return tomllib.loads(files(__package__).joinpath("verdicts", f"{chapter}.toml").read_text(encoding="utf-8"))


def row(entry: Mapping[str, object], places: Mapping[str, str]) -> Row:
    """Build a row.

    Raises:
        KeyError, ValueError: the data file is wrong; a test loads it.
    """
    fields = dict(entry)

    def take(name: str) -> list[object]:
        value = fields.pop(name, [])
        return list(value) if isinstance(value, list) else [value]

    def pattern(name: str, flags: int = 0) -> re.Pattern[str] | None:
        value = fields.pop(name, None)
        return re.compile(str(value), flags) if value is not None else None

    def minutes(name: str) -> timedelta:
        return timedelta(minutes=float(str(fields.pop(name, 0))))

    only, digit = fields.pop("only", None), fields.pop("digit", None)
    source = str(fields.pop("source"))
    linked = (places[tag] for tag in source.split(", "))
    verdict = Verdict(
        kind=str(fields.pop("class")),
        scope=Scope(str(fields.pop("scope"))),
        action=Action(str(fields.pop("action"))),
        explanation=str(fields.pop("explanation")),
        remedy=str(fields.pop("remedy", "")),
        link=next((place for place in linked if place.startswith("https://")), ""),
        pause=minutes("pause_minutes"),
        only=Only(str(only)) if only is not None else None,
        wait=minutes("wait_minutes"),
        throttle=bool(fields.pop("throttle", False)),
        punished=bool(fields.pop("punished", False)),
        source=source,
        row=str(fields.pop("id")),
    )
    built = Row(
        verdict=verdict,
        example=str(fields.pop("reply", "")),
        stages=frozenset(Stage(str(item)) for item in take("stage")),
        digit=int(str(digit)) if digit is not None else None,
        codes=frozenset(int(str(item)) for item in take("code")),
        enhanced=pattern("enhanced"),
        words=pattern("words", re.IGNORECASE),
        pattern=pattern("pattern", re.IGNORECASE),
        mechanisms=frozenset(str(item) for item in take("mechanism")),
        faults=frozenset(Fault(str(item)) for item in take("fault")),
        errors=frozenset(str(item) for item in take("oauth_error")),
        hints=frozenset(int(str(item)) for item in take("aadsts")),
        graph_codes=tuple(str(item) for item in take("graph_error")),
        statuses=frozenset(int(str(item)) for item in take("status")),
    )
    if fields:
        raise ValueError(f"unknown keys in a verdict row: {sorted(fields)}")
    if Stage.DATA in built.stages and built.speaks_of_replies:  # no server tells which of the two it is refusing
        return replace(built, stages=built.stages | {Stage.DOT})
    return built


def _by_graph(rows: Sequence[Row], reply: Reply) -> Verdict:
    code, _, message = reply.text.partition(": ")
    return of_graph(rows, reply.code, (code,), message)


def _before_it_was_sent(rows: Sequence[Row], reply: Reply) -> Verdict:
    """Whatever an error has been seen to mean of a mail that was to be sent, a draft goes nowhere by itself."""
    found = _by_graph([row for row in rows if row.verdict.action is not Action.DOUBT], reply)
    if found.kind == _NO_PERMISSION:
        return _no_draft(found)
    if found.action is not Action.DOUBT:
        return found
    return of_fault(rows, Broken(Stage.DRAFT, Fault.SERVER_ERROR, str(reply)))


def _no_draft(found: Verdict) -> Verdict:
    """An app that may send but make no draft is in order for all mails but large ones: the mailbox need not rest."""
    return replace(
        found,
        scope=Scope.MESSAGE,
        action=Action.FAIL,
        explanation="A mail of this size goes by a draft, which the app may not make: it lacks Mail.ReadWrite. Smaller "
        "mails are not concerned.",
        remedy="Entra admin center > App registrations > the app > API permissions > Microsoft Graph > Application "
        "permissions > Mail.ReadWrite, then grant admin consent (or the role Application Mail.ReadWrite by RBAC for "
        "Applications); then replay the dead letter. Or send a link instead of the attachment.",
    )


def _by_digit(stage: Stage | None, reply: Reply) -> Verdict:
    """RFC 5321 section 4.2.1: 4yz may succeed later, 5yz will not; who is to blame follows from the stage."""
    source = "RFC:5321"
    if reply.temporary:
        return Verdict(
            "transient",
            Scope.SERVER,
            Action.RETRY,
            "The server cannot do it now, perhaps later.",
            "Nothing to do at first; if it lasts, the server's own words or its administrator say more.",
            known=False,
            source=source,
        )
    match stage:
        case Stage.CONNECT | Stage.AUTH | Stage.TOKEN:
            return Verdict(
                "auth-config",
                Scope.MAILBOX,
                Action.PAUSE,
                "The server refuses this connection or login.",
                "Check host, port, TLS and login of the mailbox with `postlane check`.",
                pause=timedelta(minutes=15),
                known=False,
                source=source,
            )
        case Stage.RCPT:
            return Verdict(
                "recipient-permanent",
                Scope.RECIPIENT,
                Action.FAIL,
                "The server refuses this recipient.",
                "The server's own words say why; correct the address or ask the server's administrator, then replay.",
                known=False,
                source=source,
            )
        case _:
            return Verdict(
                "message-permanent",
                Scope.MESSAGE,
                Action.FAIL,
                "The server refuses this message.",
                "The server's own words say why; correct the cause, then replay the dead letter.",
                known=False,
                source=source,
            )


def _token_unknown(refused: TokenRefused) -> Verdict:
    named = repr(refused.error) if refused.error else ", ".join(f"AADSTS{number}" for number in refused.hints)
    return Verdict(
        "auth-config",
        Scope.MAILBOX,
        Action.PAUSE,
        f"The token authority refused with {named}.",
        "Look up the error in the Entra sign-in log of the app registration.",
        pause=timedelta(minutes=15),
        known=False,
        source="RFC:6749",
    )


def _graph_unknown(status: int) -> Verdict:
    """RFC 9110 section 15: 4xx is ours to mend; after any other answer nobody knows whether the mail went out."""
    if 400 <= status < 500:  # noqa: PLR2004 - the RFC's own range
        return Verdict(
            "message-permanent",
            Scope.MESSAGE,
            Action.FAIL,
            "Microsoft Graph refuses this request.",
            "The error's own words say why; correct the cause, then replay the dead letter.",
            known=False,
            source="RFC:9110",
        )
    return Verdict(
        "transient/in-doubt",
        Scope.MESSAGE,
        Action.DOUBT,
        "Microsoft Graph gave an answer that leaves open whether the mail was accepted.",
        "Look for the Message-ID in the mailbox's Sent Items or in the message trace before sending it again.",
        known=False,
        source="RFC:9110",
    )
