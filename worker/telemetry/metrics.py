"""Prometheus metrics. Labels are things there are few of: never a recipient, a subject or an id."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from contracts import __version__
from worker.events import (
    BasicAuthRetiring,
    BrokerBlocked,
    BrokerDown,
    BrokerUnblocked,
    BrokerUp,
    ChannelRested,
    Concluded,
    ConsumerSilent,
    Crashed,
    CredentialEndForgotten,
    CredentialEnds,
    Event,
    MailboxPaused,
    MailboxResumed,
    Overtaken,
    PickupLeft,
    Relayed,
    ReplyFailed,
    SessionOpened,
    StoreLost,
    Submitted,
    Submitting,
    TokenFetched,
    UnknownReply,
)

_FEW = 1_000  # mailboxes that are counted by name; each costs three kilobytes here, and a dozen lines of every answer
_OTHERS = "(others)"
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counts events."""

    def __init__(self, in_flight: Callable[[], float]) -> None:
        """A registry of its own, so that two workers in one process do not mix."""
        self._named: set[str] = set()
        self._resting: dict[str, set[str]] = {}
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry, namespace="postlane")
        gauge = partial(Gauge, registry=self.registry, namespace="postlane")
        histogram = partial(Histogram, registry=self.registry, namespace="postlane")
        self._results = counter(
            "results_total", "Results by mailbox, status and reason class", ("mailbox", "status", "reason")
        )
        self._seconds = histogram(
            "delivery_seconds", "From taking a message to its result", ("transport",), buckets=_BUCKETS
        )
        self._replies = counter(
            "smtp_replies_total", "Last replies of mail servers per recipient", ("mailbox", "code", "enhanced")
        )
        self._unknown = counter("unknown_replies_total", "Replies that no row of the catalogue knows", ("mailbox",))
        self._paused = gauge("mailbox_paused", "1 while a mailbox rests; of the others, how many do", ("mailbox",))
        self._flying = gauge("mailbox_in_flight", "Mails that are going out by a mailbox", ("mailbox",))
        self._rested = counter(
            "channel_rested_total", "Mails that went on to a mailbox's next channel", ("mailbox", "transport")
        )
        self._left = gauge("pickup_files_left", "Files that lie in a pickup directory too long", ("mailbox", "why"))
        self._sessions = counter("smtp_sessions_opened_total", "Connections opened and logged in", ("mailbox",))
        self._tokens = counter("token_requests_total", "Requests to token authorities", ("mailbox", "outcome"))
        self._ends = gauge(
            "credential_end_timestamp_seconds", "When the client secret or certificate of a mailbox ends", ("mailbox",)
        )
        self._basic = gauge(
            "mailbox_basic_auth",
            "1 for a mailbox that logs in at Microsoft's with a password, which ends by default at the end of December "
            "2026 (High Volume Email: in September 2028); how many of the others",
            ("mailbox",),
        )
        self._connected = gauge("broker_connected", "1 while our consumers exist on the broker")
        self._lost = counter("broker_lost_total", "Lost or failed broker connections")
        self._stores_lost = counter("store_lost_total", "Times that the store was out of reach")
        self._overtaken = counter("overtaken_total", "Mails whose worker had been taken for dead while sending")
        self._relayed = counter("results_relayed_total", "Results published in place of the worker that recorded them")
        self._blocked = gauge("broker_blocked", "1 while the broker takes no results and no mail is begun")
        self._missing = gauge("lanes_missing", "Lanes that do not exist though there are some behind them")
        self._silent = counter("consumers_silent_total", "Lanes that held messages which the broker did not send")
        self._unanswered = counter("reply_to_failed_total", "Copies of results that reply_to could not get")
        self._crashes = counter("internal_errors_total", "Bugs of Postlane's own")
        gauge("in_flight", "Notifications being worked on").set_function(in_flight)
        gauge("build_info", "Version of this worker", ("version",)).labels(__version__).set(1)

    def __call__(self, event: Event) -> None:
        """Count the event."""
        match event:
            case Concluded():
                self._concluded(event)
            case MailboxPaused(mailbox=mailbox):
                self._rests(mailbox, rests=True)
            case MailboxResumed(mailbox):
                self._rests(mailbox, rests=False)
            case Submitting(mailbox):
                self._flying.labels(self._name(mailbox)).inc()
            case Submitted(mailbox=mailbox):
                self._flying.labels(self._name(mailbox)).dec()
            case ChannelRested(mailbox=mailbox, transport=transport):
                self._rested.labels(self._name(mailbox), transport).inc()
            case PickupLeft(mailbox, _, uncollected, refused):
                self._left.labels(mailbox, "uncollected").set(uncollected)
                self._left.labels(mailbox, "refused").set(refused)
            case UnknownReply(mailbox=mailbox):
                self._unknown.labels(self._name(mailbox)).inc()
            case SessionOpened(mailbox=mailbox):
                self._sessions.labels(self._name(mailbox)).inc()
            case TokenFetched(mailbox=mailbox, ok=ok):
                self._tokens.labels(self._name(mailbox), "fetched" if ok else "refused").inc()
            case CredentialEnds(mailbox=mailbox, at=at):
                self._ends.labels(mailbox).set(at.timestamp())
            case CredentialEndForgotten(mailbox):
                self._ends.remove(mailbox)
            case BasicAuthRetiring(mailboxes):
                self._basic.clear()
                for name, count in Tally(map(self._name, mailboxes)).items():
                    self._basic.labels(name).set(count)
            case BrokerUp(missing=missing):
                self._connected.set(1)
                self._missing.set(len(missing))
            case BrokerBlocked():
                self._blocked.set(1)
            case BrokerUnblocked():
                self._blocked.set(0)
            case ConsumerSilent():
                self._silent.inc()
            case BrokerDown():
                self._connected.set(0)
                self._lost.inc()
            case StoreLost():
                self._connected.set(0)
                self._stores_lost.inc()
            case Overtaken():
                self._overtaken.inc()
            case Relayed():
                self._relayed.inc()
            case ReplyFailed():
                self._unanswered.inc()
            case Crashed():
                self._crashes.inc()
            case _:
                pass

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _name(self, mailbox: str) -> str:
        """Its own as long as there are few: a platform of fifty thousand would drown whoever reads the metrics."""
        if mailbox not in self._named:
            if len(self._named) >= _FEW:
                return _OTHERS
            self._named.add(mailbox)
        return mailbox

    def _rests(self, mailbox: str, *, rests: bool) -> None:
        name = self._name(mailbox)
        resting = self._resting.setdefault(name, set())
        (resting.add if rests else resting.discard)(mailbox)
        self._paused.labels(name).set(len(resting))

    def _concluded(self, event: Concluded) -> None:
        result = event.result
        mailbox = self._name(result.mailbox.name) if result.mailbox else ""
        self._results.labels(mailbox, result.status, result.reason.kind if result.reason else "").inc()
        if result.mailbox:
            self._seconds.labels(result.mailbox.transport).observe(event.seconds)
        for recipient in result.recipients:
            if recipient.code is not None:
                self._replies.labels(mailbox, recipient.code, recipient.enhanced or "").inc()
