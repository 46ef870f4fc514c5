"""How a mail server is: the states that an administrator tells apart, and how long a finding is believed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from worker.domain import verdict as verdicts
from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.mailbox import Mailbox, Password, SmtpEndpoint
from worker.domain.verdict import catalogue

GOOD = timedelta(seconds=60)  # how long a good finding is believed
BAD = timedelta(seconds=15)
_LONGEST_AFTER_LOGIN = timedelta(minutes=15)
_DOUBLINGS = 6
_MICROSOFT = (".office365.com", ".outlook.com", ".office365.us")
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


def found(failure: Refused | TokenRefused | Broken, endpoint: SmtpEndpoint) -> Finding:
    """What a failure says about the server, once the port had answered and greeted."""
    rows = catalogue()
    match failure:
        case Refused(stage=stage, reply=reply):
            state = State.LOGIN_REFUSED if stage is Stage.AUTH else State.TURNED_AWAY
            meaning, said = verdicts.of_refusal(rows, failure), str(reply)
        case TokenRefused(error=error, description=description):
            state, meaning, said = State.TOKEN_REFUSED, verdicts.of_token(rows, failure), description or error
        case Broken(fault=fault, detail=detail):
            state = _BY_FAULT.get(fault, State.NO_ANSWER)
            meaning, said = verdicts.of_fault(rows, failure), detail
    finding = Finding(state, f"{meaning.explanation} ({said})" if said else meaning.explanation, meaning.remedy)
    if state is State.LOGIN_REFUSED and _at_microsoft(endpoint):
        return replace(finding, remedy=" ".join(filter(None, (finding.remedy, _CHECKLIST))))
    return finding


def warned(finding: Finding, mailbox: Mailbox) -> Finding:
    """With the warning that the mailbox's configuration deserves, however it is today."""
    endpoint = mailbox.endpoint
    if isinstance(endpoint, SmtpEndpoint) and isinstance(endpoint.credentials, Password) and _at_microsoft(endpoint):
        return replace(finding, warning=_RETIREMENT)
    return finding


def _at_microsoft(endpoint: SmtpEndpoint) -> bool:
    return endpoint.host.lower().endswith(_MICROSOFT)


_BY_FAULT = {
    Fault.CERTIFICATE: State.TLS,
    Fault.TLS: State.TLS,
    Fault.NO_STARTTLS: State.TLS,
    Fault.GARBLED: State.NOT_SMTP,
    Fault.NO_MECHANISM: State.LOGIN_REFUSED,
    Fault.TOKEN_ENDPOINT: State.TOKEN_REFUSED,
}
