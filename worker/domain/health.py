"""How a mail server is: the states that an administrator tells apart, and how long a finding is believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from worker.domain import verdict as verdicts
from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.mailbox import Endpoint, Mailbox, Password, SmtpEndpoint
from worker.domain.verdict import Verdict, catalogue

GOOD = timedelta(seconds=60)  # how long a good finding is believed
BAD = timedelta(seconds=15)
_LONGEST_AFTER_LOGIN = timedelta(minutes=15)
_DOUBLINGS = 6
_MICROSOFT = (".office365.com", ".outlook.com", ".office365.us")
_LOGINS = frozenset({"credential", "token-expired"})
_MAYBE_LOGINS = frozenset({"auth-config", "auth-config/login-refused", "auth-config/sign-in-policy"})
_RETIREMENT = (
    "Microsoft switches basic authentication for SMTP AUTH off by default at the end of December 2026: "
    "move the mailbox to OAuth."
)
_CHECKLIST = (
    "Check in Microsoft 365: the mailbox's user may sign in, has a licence, and Authenticated SMTP is ticked (user > "
    "Mail > Manage email apps); security defaults or an authentication policy do not forbid it; SMTP AUTH is not "
    "switched off for the whole tenant (Get-TransportConfig)."
)


class State(StrEnum):
    """What a look at a server comes to. Everything but WELL and DISABLED needs somebody."""

    WELL = "ok"
    DISABLED = "disabled"
    NOT_CONFIGURED = "not-configured"
    NO_HOST = "no-host"
    DNS = "dns"
    PORT_CLOSED = "port-closed"
    NO_GREETING = "no-greeting"
    NOT_SMTP = "not-smtp"
    TURNED_AWAY = "turned-away"
    TLS = "tls"
    NO_ANSWER = "no-answer"
    TOKEN_REFUSED = "token-refused"  # noqa: S105 - a state, not a secret
    LOGIN_REFUSED = "login-refused"
    DIRECTORY = "directory"
    CHECKING = "checking"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one server came to.

    Attributes:
        explanation: for a person; the server's own words stand in it.
        warning: what will be a trouble one day.
    """

    state: State
    explanation: str
    remedy: str = ""
    warning: str = ""

    @property
    def well(self) -> bool:
        """Whether nobody needs to act."""
        return self.state in (State.WELL, State.DISABLED)


@dataclass(frozen=True, slots=True)
class Checked:
    """A finding and its age.

    Attributes:
        seconds: that the look took.
        refusals: looks in a row that ended with a refused login, this one included.
    """

    finding: Finding
    checked_at: datetime
    seconds: float
    refusals: int = 0

    @property
    def believed_until(self) -> datetime:
        """When it is looked at again.

        A login that was refused again and again is tried less and less often: a health check must not lock an account.
        """
        if self.refusals > 1:
            longer = BAD * float(2 ** min(self.refusals - 1, _DOUBLINGS))
            return self.checked_at + min(longer, _LONGEST_AFTER_LOGIN)
        return self.checked_at + (GOOD if self.finding.well else BAD)


def refuses_logins(verdict: Verdict) -> bool:
    """Whether it is the login that was refused: each further one might lock the account."""
    return verdict.kind.partition("/")[0] in _LOGINS or verdict.kind in _MAYBE_LOGINS


def found(failure: Refused | TokenRefused | Broken, endpoint: Endpoint) -> Finding:
    """What a failure says about the server."""
    rows = catalogue()
    match failure:
        case Refused(stage=stage, reply=reply):
            login = stage is Stage.AUTH or (stage is Stage.GRAPH and reply.code in _NO_RIGHT)
            state = State.LOGIN_REFUSED if login else State.TURNED_AWAY
            meaning, said = verdicts.of_refusal(rows, failure), str(reply)
        case TokenRefused(error=error, description=description):
            state, meaning, said = State.TOKEN_REFUSED, verdicts.of_token(rows, failure), description or error
        case Broken(fault=fault, detail=detail):
            state = _BY_FAULT.get(fault, State.NO_ANSWER)
            meaning, said = verdicts.of_fault(rows, failure), detail
    finding = Finding(state, f"{meaning.explanation} ({said})" if said else meaning.explanation, meaning.remedy)
    if state is State.LOGIN_REFUSED and (_at_microsoft(endpoint) or _speaks_as_exchange(endpoint, meaning)):
        return replace(finding, remedy=" ".join(filter(None, (finding.remedy, _CHECKLIST))))
    return finding


def warned(finding: Finding, mailbox: Mailbox) -> Finding:
    """With the warning that the mailbox's configuration deserves, however it is today."""
    basic = [
        endpoint
        for endpoint in mailbox.channels
        if isinstance(endpoint, SmtpEndpoint) and isinstance(endpoint.credentials, Password)
    ]
    return replace(finding, warning=_RETIREMENT) if any(map(_at_microsoft, basic)) else finding


def together(findings: Sequence[Finding]) -> Finding:
    """One word for a mailbox with several ways out: the first that does not work, and whether another one does."""
    wrong = next((finding for finding in findings if not finding.well), None)
    if wrong is None:
        return findings[0]
    working = next((finding for finding in findings if finding.well), None)
    return replace(wrong, warning=f"Mail still leaves another way. {working.explanation}") if working else wrong


def _at_microsoft(endpoint: Endpoint) -> bool:
    return isinstance(endpoint, SmtpEndpoint) and endpoint.host.lower().endswith(_MICROSOFT)


def _speaks_as_exchange(endpoint: Endpoint, meaning: Verdict) -> bool:
    """Whether the words are Exchange Online's, under whatever name a company reaches it."""
    rows = catalogue("exchange-online")
    return isinstance(endpoint, SmtpEndpoint) and meaning.row in {row.verdict.row for row in rows}


_NO_RIGHT = (401, 403)
_BY_FAULT = {
    Fault.DNS: State.DNS,
    Fault.UNREACHABLE: State.PORT_CLOSED,
    Fault.CERTIFICATE: State.TLS,
    Fault.TLS: State.TLS,
    Fault.NO_STARTTLS: State.TLS,
    Fault.GARBLED: State.NOT_SMTP,
    Fault.NO_MECHANISM: State.LOGIN_REFUSED,
    Fault.TOKEN_ENDPOINT: State.TOKEN_REFUSED,
}
