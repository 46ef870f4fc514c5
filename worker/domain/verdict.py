"""A reply means something: which class of trouble it is, whose, what to do, and what to tell a person.

The rows are data (`verdicts.toml`); the first that matches decides, so special rows stand above general ones. What no
row knows falls back on the reply code's first digit (RFC 5321 section 4.2.1) and is marked as unknown.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from functools import cache
from importlib.resources import files

from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.reply import Reply

_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_NO_ENTRY = {401, 403, 404}


class Scope(StrEnum):
    """Whose fault it is: what to pause or to fail."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    MAILBOX = "mailbox"
    TENANT = "tenant"
    SERVER = "server"


class Action(StrEnum):
    """What follows.

    FAIL is final. RETRY spends an attempt of the message. PAUSE holds the whole mailbox and spends none.
    DOUBT leaves the decision to a person or to the producer's `on_doubt`.
    """

    FAIL = "fail"
    RETRY = "retry"
    PAUSE = "pause"
    DOUBT = "doubt"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reply or a fault means.

    Attributes:
        kind: class, such as `auth-config` or `recipient-permanent`.
        pause: how long the mailbox rests, if the action is PAUSE.
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


@dataclass(frozen=True, slots=True)
class Row:
    """A verdict and what it applies to; an empty condition matches everything."""

    verdict: Verdict
    stages: frozenset[Stage]
    codes: frozenset[int]
    enhanced: re.Pattern[str] | None
    pattern: re.Pattern[str] | None
    faults: frozenset[Fault]
    errors: frozenset[str]
    hints: frozenset[int]
    mechanism: str

    def matches_reply(self, stage: Stage, reply: Reply, mechanism: str) -> bool:
        """Whether the row speaks of this reply."""
        return (
            not self.faults
            and not self.errors
            and not self.hints
            and (not self.stages or stage in self.stages)
            and (not self.codes or reply.code in self.codes)
            and (self.enhanced is None or bool(self.enhanced.fullmatch(str(reply.enhanced or ""))))
            and (self.pattern is None or bool(self.pattern.search(reply.text)))
            and (not self.mechanism or self.mechanism == mechanism)
        )

    def matches_fault(self, broken: Broken) -> bool:
        """Whether the row speaks of this fault."""
        return broken.fault in self.faults and (not self.stages or broken.stage in self.stages)

    def matches_token(self, refused: TokenRefused) -> bool:
        """Whether the row speaks of this OAuth error. A number picks the words; a row for the error stands below."""
        if self.hints:
            return bool(self.hints.intersection(refused.hints))
        return refused.error in self.errors


def of_reply(rows: Sequence[Row], stage: Stage, reply: Reply, mechanism: str = "") -> Verdict:
    """What a negative reply means."""
    row = next((row for row in rows if row.matches_reply(stage, reply, mechanism)), None)
    return row.verdict if row else _by_digit(stage, reply)


def of_refusal(rows: Sequence[Row], refused: Refused) -> Verdict:
    """What a refused command means for the message as a whole; a wait that the server asked for is granted."""
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
    """What a refused token request means."""
    row = next((row for row in rows if row.matches_token(refused)), None)
    if row:
        return row.verdict
    return Verdict(
        "auth-config",
        Scope.MAILBOX,
        Action.PAUSE,
        f"The token authority refused with {refused.error!r}.",
        "Look up the error in the Entra sign-in log of the app registration.",
        pause=timedelta(minutes=15),
        known=False,
    )


@cache
def catalogue() -> tuple[Row, ...]:
    """The rows that come with Postlane, in order."""
    text = files(__package__).joinpath("verdicts.toml").read_text(encoding="utf-8")
    return tuple(_row(entry) for entry in tomllib.loads(text)["row"])


def _row(entry: Mapping[str, object]) -> Row:
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

    row = Row(
        verdict=Verdict(
            kind=str(fields.pop("class")),
            scope=Scope(str(fields.pop("scope"))),
            action=Action(str(fields.pop("action"))),
            explanation=str(fields.pop("explanation")),
            remedy=str(fields.pop("remedy", "")),
            link=str(fields.pop("link", "")),
            pause=timedelta(minutes=float(str(fields.pop("pause_minutes", 0)))),
        ),
        stages=frozenset(Stage(str(item)) for item in take("stage")),
        codes=frozenset(int(str(item)) for item in take("code")),
        enhanced=pattern("enhanced"),
        pattern=pattern("pattern", re.IGNORECASE),
        faults=frozenset(Fault(str(item)) for item in take("fault")),
        errors=frozenset(str(item) for item in take("oauth_error")),
        hints=frozenset(int(str(item)) for item in take("aadsts")),
        mechanism=str(fields.pop("mechanism", "")),
    )
    if fields.keys() - {"source"}:
        raise ValueError(f"unknown keys in a verdict row: {sorted(fields)}")
    return row


def _by_digit(stage: Stage, reply: Reply) -> Verdict:
    """RFC 5321 section 4.2.1: 4yz may succeed later, 5yz will not; who is to blame follows from the stage."""
    if stage is Stage.GRAPH:
        return _by_status(reply.code)
    if reply.temporary:
        return Verdict(
            "transient", Scope.SERVER, Action.RETRY, "The server cannot do it now, perhaps later.", known=False
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
            )
        case Stage.RCPT:
            return Verdict(
                "recipient-permanent", Scope.RECIPIENT, Action.FAIL, "The server refuses this recipient.", known=False
            )
        case _:
            return Verdict(
                "message-permanent", Scope.MESSAGE, Action.FAIL, "The server refuses this message.", known=False
            )


def _by_status(status: int) -> Verdict:
    """RFC 9110 section 15: an HTTP status has a meaning of its own, a 4xx is not SMTP's "later"."""
    if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
        return Verdict(
            "throttled-mailbox" if status == _TOO_MANY_REQUESTS else "transient",
            Scope.MAILBOX if status == _TOO_MANY_REQUESTS else Scope.SERVER,
            Action.PAUSE,
            "Microsoft Graph cannot take more at the moment.",
            pause=timedelta(minutes=1),
            known=False,
        )
    if status in _NO_ENTRY:
        return Verdict(
            "auth-config",
            Scope.MAILBOX,
            Action.PAUSE,
            "Microsoft Graph refuses this app or this mailbox.",
            "Check the app's permission Mail.Send, its reach over this mailbox, and the address with `postlane check`.",
            pause=timedelta(minutes=15),
            known=False,
        )
    return Verdict(
        "message-permanent", Scope.MESSAGE, Action.FAIL, "Microsoft Graph refuses this message.", known=False
    )
