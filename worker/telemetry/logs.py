"""One line per outcome, on standard error, as JSON unless a person is watching.

No recipient, subject or content ever stands in a log, and nothing that could be a secret is handed to it.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from typing import Literal, assert_never

import structlog

from contracts.delivery import Result
from worker.domain.office365 import HVE_RETIREMENT, RETIREMENT
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
    DoubtEnded,
    Draining,
    Event,
    MailboxesChanged,
    MailboxPaused,
    MailboxResumed,
    MailboxUnusable,
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

_SOME = 20  # names in one line

# The library logs a traceback for every lost connection; `BrokerDown` says it in one line.
_NOISY = {
    "aio_pika": logging.CRITICAL,
    "aiormq": logging.CRITICAL,
    "msal": logging.CRITICAL,  # it logs an answer that it does not understand, the token in it included
    "uvicorn.error": logging.WARNING,
}


def configure(level: str, form: Literal["auto", "json", "console"]) -> None:
    """Set up logging for the process."""
    readable = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name, quieter in _NOISY.items():
        logging.getLogger(name).setLevel(quieter)


class LogEvents:
    """The operator's vocabulary: one method call per event, one format each."""

    def __init__(self, worker: str) -> None:
        """Every line carries the worker's name."""
        self._log = structlog.get_logger("postlane").bind(worker=worker)

    def __call__(self, event: Event) -> None:
        """Write the event down."""
        log = self._log
        match event:
            case Concluded(result, seconds):
                log.info("result", **_told(result), seconds=round(seconds, 3))
            case Submitting() | Submitted():
                pass  # one line per mail is enough: its result
            case MailboxPaused(mailbox, kind, explanation, remedy, until, found_by):
                log.warning(
                    "mailbox paused",
                    mailbox=mailbox,
                    found_by=found_by or mailbox,
                    until=until.isoformat(timespec="seconds"),
                    explanation=explanation,
                    remedy=remedy,
                    **{"class": kind},
                )
            case MailboxResumed(mailbox):
                log.info("mailbox resumed", mailbox=mailbox)
            case MailboxesChanged(number, changed):
                log.info("mailboxes changed", number=number, changed=len(changed), some=list(changed[:_SOME]))
            case MailboxUnusable(mailbox, why, remedy):
                log.warning("mailbox unusable", mailbox=mailbox, explanation=why, remedy=remedy)
            case ChannelRested(mailbox, transport, kind, explanation, until):
                log.warning(
                    "channel rests",
                    mailbox=mailbox,
                    transport=transport,
                    until=until.isoformat(timespec="seconds"),
                    explanation=explanation,
                    **{"class": kind},
                )
            case PickupLeft(mailbox, directory, 0, 0):
                log.info("pickup files collected", mailbox=mailbox, directory=directory)
            case PickupLeft(mailbox, directory, uncollected, refused):
                log.warning(
                    "pickup files not collected",
                    mailbox=mailbox,
                    directory=directory,
                    uncollected=uncollected,
                    refused=refused,
                    remedy="Look whether the mail server that empties the directory runs and may read the files.",
                )
            case UnknownReply(mailbox, stage, reply):
                log.warning("unknown reply", mailbox=mailbox, stage=stage, reply=reply)
            case SessionOpened(mailbox, tls, mechanism, seconds):
                log.debug("session opened", mailbox=mailbox, tls=tls, auth=mechanism, seconds=round(seconds, 3))
            case TokenFetched(mailbox, ok, seconds):
                log.log(
                    logging.INFO if ok else logging.WARNING,
                    "token fetched" if ok else "token refused",
                    mailbox=mailbox,
                    seconds=round(seconds, 3),
                )
            case CredentialEnds() | CredentialEndForgotten() | BasicAuthRetiring():
                self._credentials(event)
            case BrokerUp(lanes, ()):
                log.info("broker connected", lanes=lanes)
            case BrokerUp(lanes, missing):
                remedy = "Run: postlane topology apply"
                log.warning("broker connected", lanes=lanes, missing=list(missing), remedy=remedy)
            case BrokerDown(problem, retry_in):
                log.warning("broker lost", problem=problem, retry_in=round(retry_in, 1))
            case BrokerBlocked(problem):
                log.warning("broker blocked", problem=problem)
            case BrokerUnblocked():
                log.info("broker unblocked")
            case ConsumerSilent(lane, seconds):
                log.warning("consumer silent", lane=lane, seconds=seconds)
            case ReplyFailed(notification_id, problem):
                log.warning("reply_to not served", notification_id=notification_id, problem=problem)
            case Overtaken(notification_id, status):
                log.warning("taken for dead while sending", notification_id=notification_id, status=status)
            case DoubtEnded(notification_id):
                log.info("doubt ended", notification_id=notification_id, status="accepted")
            case StoreLost(problem, retry_in):
                log.warning("store lost", problem=problem, retry_in=round(retry_in, 1))
            case Relayed(notification_id, status):
                log.info("result relayed", notification_id=notification_id, status=status)
            case Crashed(where, notification_id, error):
                log.error("internal error", where=where, notification_id=notification_id, exc_info=error)
            case Draining(in_flight):
                log.info("stopping", in_flight=in_flight)
            case unknown:
                assert_never(unknown)

    def _credentials(self, event: CredentialEnds | CredentialEndForgotten | BasicAuthRetiring) -> None:
        match event:
            case CredentialEnds(mailbox, what, at, days, urgent):
                self._log.log(
                    logging.WARNING if urgent else logging.DEBUG,
                    "credential ends",
                    mailbox=mailbox,
                    what=what,
                    at=at.date().isoformat(),
                    days=days,
                )
            case BasicAuthRetiring(()) | CredentialEndForgotten():
                self._log.debug("credentials need no attention any more")
            case BasicAuthRetiring(mailboxes):
                self._log.warning(
                    "basic authentication is being retired",
                    dates=f"{RETIREMENT} {HVE_RETIREMENT}",
                    mailboxes=len(mailboxes),
                    some=list(mailboxes[:_SOME]),
                    remedy="`postlane check` lists them with the steps; `postlane office365 setup` prints those.",
                )


def _told(result: Result) -> dict[str, object]:
    counts = Counter(str(recipient.status) for recipient in result.recipients)
    fields = {
        "notification_id": result.notification_id,
        "tenant": result.tenant,
        "category": result.category,
        "status": str(result.status),
        "final": result.final,
        "mailbox": result.mailbox.name if result.mailbox else None,
        "because": str(result.mailbox.because) if result.mailbox else None,
        "transport": result.mailbox.transport if result.mailbox else None,
        "attempt": result.attempt,
        "recipients": dict(counts),
        "message_id": result.message_id,
        "reply": result.server_reply,
        "class": result.reason.kind if result.reason else None,
        "explanation": result.reason.explanation if result.reason else None,
        "next_attempt_at": result.next_attempt_at.isoformat(timespec="seconds") if result.next_attempt_at else None,
    }
    return {name: value for name, value in fields.items() if value not in (None, {})}
