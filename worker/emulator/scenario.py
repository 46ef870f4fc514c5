"""Scenarios as data: what is said instead of yes, to whom, at which moment, and within which limits.

A rule is one reply at one moment. A scenario is a set of rules with limits. Both have names; the catalogue that comes
with Postlane is `scenarios.toml`, and a file of one's own has the same form.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from worker.emulator.tables import checked, tables
from worker.unusable import Unusable

DROP = "drop"
LOST = "lost"
SILENT = "silent"
YES = ""


class Moment(StrEnum):
    """When a rule speaks.

    GRAPH_ACCESS is at every request to Graph before it is looked at, GRAPH when a mail is to be sent; BOUNCE is after
    the acceptance: a non-delivery report; TOKEN is at every request for a token, where the client's id stands for the
    mailbox (`<client id>@<tenant>`).
    """

    CONNECT = "connect"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"
    GRAPH_ACCESS = "graph-access"
    GRAPH = "graph"
    BOUNCE = "bounce"
    TOKEN = "token"  # noqa: S105 - a moment


@dataclass(frozen=True, slots=True)
class Rule:
    """One reply.

    Attributes:
        reply: an SMTP reply; for Graph `<status> <ErrorCode> <message>`; for a token `<status> <error> <text>`, or a
            status alone. `drop` hangs up without a word, `lost` accepts and hangs up, `silent` never answers.
            Empty: yes, after the delay.
        says: what it means, for the list.
        mailbox: whose login, with `*`; empty: everybody's.
        recipient: one of the mail's recipients, with `*`; empty: whoever they are.
        mechanism: of authentication, `login` or `xoauth2`; empty: any.
        times: so often and no more; 0: always.
        retry_after: seconds, of Graph and of the token endpoint.
        accepts: the mail is taken all the same.
        delay: seconds before it is said.
    """

    name: str
    moment: Moment
    reply: str = YES
    says: str = ""
    mailbox: str = ""
    recipient: str = ""
    mechanism: str = ""
    times: int = 0
    retry_after: int = 0
    accepts: bool = False
    delay: float = 0

    def concerns(self, login: str, recipients: Sequence[str]) -> bool:
        """Whether it speaks to this login about one of these recipients."""
        return (not self.mailbox or fnmatchcase(login.lower(), self.mailbox.lower())) and (
            not self.recipient or any(fnmatchcase(rcpt.lower(), self.recipient.lower()) for rcpt in recipients)
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one mailbox; 0: none.

    Attributes:
        connections: that submit at once; more get 432.
        per_minute: messages over SMTP in any window of `minute` seconds.
        over: what happens above it. Microsoft's pages contradict each other: `reject` answers 421 and hangs up,
            `delay` keeps the client waiting for its 250.
        recipients_per_day: in any window of `day` seconds.
        recipients_per_message: more get 452.
        octets: of one message.
        mailbox_octets: of all messages together, because each is kept in Sent Items.
        graph_requests: at once; more get 429.
        graph_rate: requests of one mailbox in any window of `graph_window` seconds; more get 429 and count as well.
            Microsoft's numbers are 10,000 and 600.
        graph_octets: of one request to Graph.
    """

    connections: int = 1000
    per_minute: int = 0
    over: Literal["reject", "delay"] = "reject"
    minute: float = 60
    recipients_per_day: int = 0
    day: float = 24 * 3600
    recipients_per_message: int = 0
    octets: int = 157286400
    mailbox_octets: int = 0
    graph_requests: int = 4
    graph_rate: int = 0
    graph_window: float = 600
    graph_octets: int = 4 * 1024 * 1024

    @property
    def in_force(self) -> Limits:
        """With bounds that nobody reaches in place of none."""
        return replace(
            self,
            connections=self.connections or sys.maxsize,
            octets=self.octets or sys.maxsize,
            graph_requests=self.graph_requests or sys.maxsize,
            graph_octets=self.graph_octets or sys.maxsize,
        )


EXCHANGE_ONLINE = Limits(connections=3)
"""What is never switched off: the other limits are scenarios."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Rules that hold for everybody they concern, and limits that differ from the usual ones."""

    name: str
    title: str
    rules: tuple[Rule, ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that has a name."""

    rules: Mapping[str, Rule]
    scenarios: Mapping[str, Scenario]

    def find(self, name: str) -> Scenario:
        """A scenario by its name, or a rule by its own as a scenario of one; `NAME:PATTERN` narrows it.

        The pattern is a mailbox for what is said before the recipients are known, else a recipient.

        Raises:
            Unusable: there is none, or what it says is everybody's.
        """
        wanted, _, pattern = name.partition(":")
        found = self.scenarios.get(wanted)
        if found is None and wanted in self.rules:
            found = Scenario(wanted, self.rules[wanted].says, (self.rules[wanted],))
        if found is None:
            raise Unusable(f"There is no scenario {wanted!r}. Names: postlane emulator --list-scenarios")
        return _narrowed(found, pattern) if pattern else found


BEFORE_LOGIN = (Moment.CONNECT, Moment.EHLO, Moment.STARTTLS)
_BEFORE_RECIPIENTS = (*BEFORE_LOGIN, Moment.AUTH, Moment.MAIL, Moment.GRAPH_ACCESS, Moment.TOKEN)


def _narrowed(scenario: Scenario, pattern: str) -> Scenario:
    alone = f"{scenario.name!r} cannot be narrowed to {pattern!r}:"
    if scenario.limits:
        raise Unusable(f"{alone} its limits are every mailbox's.")
    if early := [rule.name for rule in scenario.rules if rule.moment in BEFORE_LOGIN]:
        raise Unusable(f"{alone} {', '.join(early)} is said before anybody has logged in.")
    return replace(scenario, rules=tuple(_only(rule, pattern) for rule in scenario.rules))


def _only(rule: Rule, pattern: str) -> Rule:
    early = rule.moment in _BEFORE_RECIPIENTS
    return replace(rule, mailbox=pattern) if early else replace(rule, recipient=pattern)


@cache
def catalogue() -> Catalogue:
    """What comes with Postlane."""
    return _catalogue(files(__package__).joinpath("scenarios.toml").read_text(encoding="utf-8"), Catalogue({}, {}))


def load(path: Path) -> Catalogue:
    """Read a file of one's own; its scenarios may name the catalogue's rules.

    Raises:
        Unusable: it cannot be read or is wrong; says where.
    """
    try:
        return _catalogue(path.read_text(encoding="utf-8"), catalogue())
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        raise Unusable(f"{path}: {error}") from error


def _catalogue(text: str, base: Catalogue) -> Catalogue:
    tree = tomllib.loads(text)
    if unknown := tree.keys() - {"rule", "scenario"}:
        raise ValueError(f"{sorted(unknown)} are no tables of a scenario file: they are [[rule]] and [scenario.NAME]")
    own: dict[str, Rule] = {}
    for entry in tables(tree, "rule"):
        rule = _rule(entry)
        if rule.name in own:
            raise ValueError(f"there are two rules of the name {rule.name!r}")
        own[rule.name] = rule
    rules = {**base.rules, **own}
    entries = tree.get("scenario", {})
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError("scenarios are tables [scenario.NAME]")
    own_scenarios = {name: _scenario(name, entry, rules) for name, entry in entries.items()}
    return Catalogue(rules, {**base.scenarios, **own_scenarios})


def _rule(entry: Mapping[str, Any]) -> Rule:
    what = f"rule {entry.get('name', 'without a name')!r}"
    rule = Rule(**checked(what, entry, Rule))
    if problem := unspeakable(rule):
        raise ValueError(f"{what}: {problem}")
    return rule


def _scenario(name: str, entry: Mapping[str, Any], rules: Mapping[str, Rule]) -> Scenario:
    what = f"scenario {name!r}"
    if unknown := entry.keys() - {"title", "rules", "limits"}:
        raise ValueError(f"{what} has unknown keys {sorted(unknown)}")
    limits, named = entry.get("limits", {}), entry.get("rules", [])
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise ValueError(f"{what}: rules must be a list of names")
    if missing := [each for each in named if each not in rules]:
        raise ValueError(f"{what} names rules that do not exist: {missing}")
    title = str(entry.get("title", ""))
    return Scenario(name, title, tuple(rules[each] for each in named), checked(f"{what}: limits", limits, Limits))


_SMTP = (*BEFORE_LOGIN, Moment.AUTH, Moment.MAIL, Moment.RCPT, Moment.DATA, Moment.DOT)
_SMTP_REPLY = re.compile(r"[345]\d\d(?: \S[^\r]*)?")
_TOKEN_REPLY = re.compile(r"200|[45]\d\d(?: [a-z_]+(?: \S.*)?)?")
_GRAPH_REPLY = re.compile(r"[45]\d\d \S+ \S.*")


def unspeakable(rule: Rule) -> str:
    """Why a rule could never be said, or not as it is meant; empty if it can."""
    moment = rule.moment
    misplaced = {
        "mailbox": rule.mailbox and moment in BEFORE_LOGIN,
        "recipient": rule.recipient and moment in _BEFORE_RECIPIENTS,
        "mechanism": rule.mechanism and moment is not Moment.AUTH,
        "retry_after": rule.retry_after and moment in (*_SMTP, Moment.BOUNCE),
        "accepts": rule.accepts and moment is not Moment.GRAPH,
        "delay": rule.delay and moment is Moment.BOUNCE,
    }
    if keys := [key for key, wrong in misplaced.items() if wrong]:
        return f"{', '.join(keys)} says nothing at the moment {moment}"
    if rule.mechanism not in {"", "login", "xoauth2"}:
        return f"mechanism must be login or xoauth2, not {rule.mechanism!r}"
    if rule.reply == YES:
        return "" if rule.delay else "reply is missing; only a rule with a delay may have none"
    return _unsaid(rule)


def _unsaid(rule: Rule) -> str:
    words = {DROP, SILENT}
    match rule.moment:
        case Moment.GRAPH | Moment.GRAPH_ACCESS:
            form, example = _GRAPH_REPLY, "429 ErrorCode message"
        case Moment.BOUNCE:
            form, example, words = _SMTP_REPLY, "550 5.1.1 text", set()
        case Moment.TOKEN:
            form, example, words = _TOKEN_REPLY, "401 invalid_client AADSTS7000222: text", {DROP, LOST, SILENT}
        case moment if moment in _SMTP:
            form, example = _SMTP_REPLY, "451 4.3.2 text"
        case _:
            return ""
    if rule.moment in {Moment.DOT, Moment.GRAPH}:
        words |= {LOST}
    if rule.reply in words or form.fullmatch(rule.reply):
        return ""
    others = f", or {', '.join(sorted(words))}" if words else ""
    return f"reply must be like {example!r}{others} at the moment {rule.moment}, not {rule.reply!r}"


class Play:
    """The rules in force, and how often each has spoken.

    Besides those of the scenarios every rule of the catalogue speaks to the mailbox and about the recipient whose
    local part is its name: one running emulator shows all replies.
    """

    def __init__(self, known: Catalogue, scenarios: Iterable[Scenario] = ()) -> None:
        """Nobody has been spoken to."""
        self._known = known
        self._active: tuple[Rule, ...] = ()
        self._spoken: Counter[Rule] = Counter()
        self.now_play(scenarios)

    def now_play(self, scenarios: Iterable[Scenario]) -> None:
        """Change the scenarios; counting begins anew."""
        self._active = tuple(rule for scenario in scenarios for rule in scenario.rules)
        self.forget()

    def forget(self) -> None:
        """Nobody has been spoken to."""
        self._spoken.clear()

    def knows(self, name: str) -> bool:
        """Whether it is a rule's name."""
        return name in self._known.rules

    def answer(
        self, moment: Moment, login: str = "", recipients: Sequence[str] = (), mechanism: str = ""
    ) -> Rule | None:
        """What is said now, if it is not yes."""
        candidates = self._candidates(login, recipients)
        rule = next((rule for rule in candidates if self._speaks(rule, moment, mechanism)), None)
        if rule is not None:
            self._spoken[rule] += 1
        return rule

    def _candidates(self, login: str, recipients: Sequence[str]) -> Iterable[Rule]:
        yield from (rule for rule in self._active if rule.concerns(login, recipients))
        for address in (*recipients, login):
            named = self._known.rules.get(address.rpartition("@")[0].lower())
            if named is not None:
                yield named

    def _speaks(self, rule: Rule, moment: Moment, mechanism: str) -> bool:
        return (
            rule.moment is moment
            and rule.mechanism in ("", mechanism.lower())
            and (not rule.times or self._spoken[rule] < rule.times)
        )
