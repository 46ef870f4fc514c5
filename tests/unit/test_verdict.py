"""The catalogue against replies that servers really gave (collected in published logs and Microsoft's pages)."""

from dataclasses import dataclass
from datetime import timedelta

import pytest

from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.reply import Reply
from worker.domain.verdict import Action, Row, Scope, Verdict, _row, catalogue, of_fault, of_refusal, of_reply, of_token

ROWS = catalogue()

HOST = "[Hostname=AM0PR01MB1234.eurprd01.prod.exchangelabs.com]"
TRAIL = "[FR2P281CA0001.DEUP281.PROD.OUTLOOK.COM 2026-06-01T12:00:00.000Z 08DDA1B2C3D4E5F6]"
UNSUCCESSFUL = "535 5.7.139 Authentication unsuccessful"


@dataclass(frozen=True)
class Expected:
    """A verdict, as far as it matters."""

    kind: str
    scope: Scope
    action: Action
    says: str


@dataclass(frozen=True)
class Case:
    """Something that happens, and the verdict it must get."""

    what: Refused | Broken | TokenRefused
    expected: Expected

    def rows(self) -> list[int]:
        """Numbers of all rows that speak of it; the first is the one that decides."""
        return [number for number, row in enumerate(ROWS) if matches(row, self.what)]

    def verdict(self) -> Verdict:
        match self.what:
            case Refused():
                return of_refusal(ROWS, self.what)
            case Broken():
                return of_fault(ROWS, self.what)
            case TokenRefused():
                return of_token(ROWS, self.what)


def matches(row: Row, what: Refused | Broken | TokenRefused) -> bool:
    match what:
        case Refused(stage, reply, _, mechanism):
            return row.matches_reply(stage, reply, mechanism)
        case Broken():
            return row.matches_fault(what)
        case TokenRefused():
            return row.matches_token(what)


def said(stage: Stage, text: str, mechanism: str = "") -> Refused:
    return Refused(stage, Reply.parse(text), {}, mechanism)


def broke(stage: Stage, fault: Fault) -> Broken:
    return Broken(stage, fault, "as it happened")


def token(error: str, *hints: int) -> TokenRefused:
    return TokenRefused(error, "as Entra words it", hints)


MAILBOX, MESSAGE, RECIPIENT = Scope.MAILBOX, Scope.MESSAGE, Scope.RECIPIENT
SERVER, TENANT = Scope.SERVER, Scope.TENANT
PAUSE, FAIL, RETRY, DOUBT = Action.PAUSE, Action.FAIL, Action.RETRY, Action.DOUBT
CONNECT, AUTH, MAIL, RCPT, DATA, DOT = Stage.CONNECT, Stage.AUTH, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT

STOREDRV = "STOREDRV.Submission.Exception:"

CASES = {
    # connection
    "old-tls": Case(
        said(CONNECT, "421 4.7.66 TLS 1.0 and 1.1 are not supported. Please upgrade. See aka.ms/smtp_auth_tls"),
        Expected("auth-config", SERVER, PAUSE, "TLS version"),
    ),
    "too-many-connections": Case(
        said(
            CONNECT,
            "421 4.3.2 The maximum number of concurrent server connections has exceeded a limit, "
            "closing transmission channel",
        ),
        Expected("throttled-mailbox", MAILBOX, PAUSE, "Too many connections"),
    ),
    "dns": Case(broke(CONNECT, Fault.DNS), Expected("transient", SERVER, PAUSE, "could not be resolved")),
    "unreachable": Case(broke(CONNECT, Fault.UNREACHABLE), Expected("transient", SERVER, PAUSE, "Nothing answers")),
    "certificate": Case(
        broke(CONNECT, Fault.CERTIFICATE), Expected("auth-config", SERVER, PAUSE, "mail server's certificate")
    ),
    "certificate-of-the-authority": Case(
        broke(Stage.TOKEN, Fault.CERTIFICATE),
        Expected("auth-config", MAILBOX, PAUSE, "certificate of the token authority"),
    ),
    "tls": Case(broke(CONNECT, Fault.TLS), Expected("auth-config", SERVER, PAUSE, "could not be negotiated")),
    "no-starttls": Case(broke(CONNECT, Fault.NO_STARTTLS), Expected("auth-config", SERVER, PAUSE, "STARTTLS")),
    "no-mechanism": Case(broke(AUTH, Fault.NO_MECHANISM), Expected("auth-config", MAILBOX, PAUSE, "way of logging in")),
    "no-smtputf8": Case(broke(MAIL, Fault.NO_SMTPUTF8), Expected("message-permanent", MESSAGE, FAIL, "SMTPUTF8")),
    "too-large-for-size": Case(broke(MAIL, Fault.TOO_LARGE), Expected("message-permanent", MESSAGE, FAIL, "larger")),
    "too-many-for-pickup": Case(
        broke(Stage.FILE, Fault.TOO_MANY), Expected("message-permanent", MESSAGE, FAIL, "fewer recip")
    ),
    "lost-at-the-dot": Case(broke(DOT, Fault.DISCONNECTED), Expected("in-doubt", MESSAGE, DOUBT, "may or may not")),
    "silent-at-the-dot": Case(broke(DOT, Fault.TIMEOUT), Expected("in-doubt", MESSAGE, DOUBT, "may or may not")),
    "garbled-at-the-dot": Case(broke(DOT, Fault.GARBLED), Expected("in-doubt", MESSAGE, DOUBT, "may or may not")),
    "lost-in-the-body": Case(
        broke(DATA, Fault.DISCONNECTED), Expected("transient", SERVER, RETRY, "before the mail was handed")
    ),
    "graph-fails-with-the-mail-in-hand": Case(
        broke(DOT, Fault.SERVER_ERROR), Expected("in-doubt", MESSAGE, Action.DOUBT, "may or may not")
    ),
    "graph-would-send-it-again": Case(
        broke(Stage.GRAPH, Fault.NAMED_ALREADY), Expected("message-permanent", MESSAGE, FAIL, "already")
    ),
    "silent-greeting": Case(
        broke(CONNECT, Fault.TIMEOUT), Expected("transient", SERVER, RETRY, "before the mail was handed")
    ),
    "no-token-endpoint": Case(
        broke(Stage.TOKEN, Fault.TOKEN_ENDPOINT), Expected("transient", MAILBOX, PAUSE, "token authority")
    ),
    "no-directory": Case(
        broke(Stage.FILE, Fault.DIRECTORY), Expected("auth-config", MAILBOX, PAUSE, "pickup directory is miss")
    ),
    "disk-full": Case(broke(Stage.FILE, Fault.DISK), Expected("transient", MAILBOX, PAUSE, "disk is full")),
    "our-bug-at-the-dot": Case(broke(DOT, Fault.INTERNAL), Expected("in-doubt", MESSAGE, DOUBT, "Postlane itself")),
    "our-bug-before": Case(
        broke(CONNECT, Fault.INTERNAL), Expected("internal-error", MESSAGE, FAIL, "Postlane itself")
    ),
    # authentication
    "smtp-auth-off-tenant": Case(
        said(
            AUTH,
            f"{UNSUCCESSFUL}, SmtpClientAuthentication is disabled for the Tenant. "
            f"Visit https://aka.ms/smtp_auth_disabled for more information. {TRAIL}",
            "xoauth2",
        ),
        Expected("auth-config", MAILBOX, PAUSE, "whole Office 365 tenant"),
    ),
    "smtp-auth-off-mailbox": Case(
        said(AUTH, f"{UNSUCCESSFUL}, SmtpClientAuthentication is disabled for the Mailbox. {TRAIL}", "login"),
        Expected("auth-config", MAILBOX, PAUSE, "switched off for this mailbox"),
    ),
    "wrong-password": Case(
        said(AUTH, f"{UNSUCCESSFUL}, the user credentials were incorrect. {TRAIL}", "login"),
        Expected("credential", MAILBOX, PAUSE, "password is wrong"),
    ),
    "security-defaults": Case(
        said(
            AUTH,
            f"{UNSUCCESSFUL}, user is locked by your organization's security defaults policy. "
            "Contact your administrator.",
            "login",
        ),
        Expected("auth-config", MAILBOX, PAUSE, "Security defaults"),
    ),
    "basic-auth-disabled": Case(
        said(AUTH, f"{UNSUCCESSFUL}, basic authentication is disabled.", "login"),
        Expected("auth-config", MAILBOX, PAUSE, "Basic authentication is switched off"),
    ),
    "ad-fs-silent": Case(
        said(AUTH, f"{UNSUCCESSFUL}, federated STS service was unreachable.", "login"),
        Expected("transient", MAILBOX, PAUSE, "AD FS"),
    ),
    "policy": Case(
        said(
            AUTH,
            f"{UNSUCCESSFUL}, the request did not meet the criteria to be authenticated successfully. "
            f"Contact your administrator. {TRAIL}",
            "login",
        ),
        Expected("auth-config", MAILBOX, PAUSE, "policy of the tenant"),
    ),
    "token-refused": Case(
        said(AUTH, f"535 5.7.3 Authentication unsuccessful {TRAIL}", "xoauth2"),
        Expected("auth-config", MAILBOX, PAUSE, "fresh token"),
    ),
    "password-refused-without-a-word-why": Case(
        said(AUTH, f"535 5.7.3 Authentication unsuccessful {TRAIL}", "login"),
        Expected("credential", MAILBOX, PAUSE, "does not say which"),
    ),
    "basic-auth-retired": Case(
        said(AUTH, "550 5.7.30 Basic authentication is not supported for Client Submission."),
        Expected("auth-config", MAILBOX, PAUSE, "retired"),
    ),
    "plain-unknown": Case(
        said(AUTH, "504 5.7.4 Unrecognized authentication type", "plain"),
        Expected("auth-config", MAILBOX, PAUSE, "way of logging in"),
    ),
    "token-ends-too-soon": Case(
        said(AUTH, "501 5.5.127 Authentication failed. Token will expire soon", "xoauth2"),
        Expected("token-expired", MAILBOX, RETRY, "too little time"),
    ),
    "login-not-now": Case(
        said(
            AUTH,
            "451 4.7.3 Authentication unsuccessful due to temporary server error. Please try again later.",
            "login",
        ),
        Expected("transient", MAILBOX, RETRY, "cannot check logins"),
    ),
    "login-not-now-454": Case(
        said(AUTH, "454 4.7.0 Temporary authentication failure", "plain"),
        Expected("transient", MAILBOX, RETRY, "cannot check logins"),
    ),
    "password-refused-elsewhere": Case(
        said(AUTH, "535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6", "plain"),
        Expected("credential", MAILBOX, PAUSE, "refused the login"),
    ),
    "not-authenticated-mail": Case(
        said(MAIL, "530 5.7.57 Client not authenticated to send mail. [FR2P281CA0001.DEUP281.PROD.OUTLOOK.COM]"),
        Expected("auth-config", MAILBOX, PAUSE, "wants a login or TLS"),
    ),
    "starttls-first": Case(
        said(MAIL, "530 5.7.0 Must issue a STARTTLS command first"),
        Expected("auth-config", MAILBOX, PAUSE, "wants a login or TLS"),
    ),
    "authentication-required-rcpt": Case(
        said(RCPT, "530 Please log in before sending"), Expected("auth-config", MAILBOX, PAUSE, "wants a login or TLS")
    ),
    # sender and mailbox
    "send-as-refused-at-mail": Case(
        said(MAIL, f"550 5.7.60 SMTP; Client does not have permissions to send as this sender {TRAIL}"),
        Expected("auth-config/send-as", MESSAGE, FAIL, "may not send as"),
    ),
    "send-as-refused-older-text": Case(
        said(MAIL, "550 5.7.1 Client does not have permissions to send as this sender"),
        Expected("auth-config/send-as", MESSAGE, FAIL, "may not send as"),
    ),
    "send-on-behalf-refused": Case(
        said(DATA, "550 5.7.1 Client does not have permissions to send on behalf of the from address"),
        Expected("auth-config/send-as", MESSAGE, FAIL, "may not send as"),
    ),
    "send-as-denied-at-the-dot": Case(
        said(
            DOT,
            "554-5.2.252 SendAsDenied; robot@contoso.com not allowed to send as boss@contoso.com; "
            f"{STOREDRV}SendAsDeniedException.MapiExceptionSendAsDenied;\n"
            "554-5.2.252 Failed to process message due to a permanent exception with message [BeginDiagnosticData]\n"
            "554-5.2.252 Cannot submit message. 5.56248:DC04000053656E64417320636865636B[EndDiagnosticData]\n"
            f"554 5.2.252 {HOST}",
        ),
        Expected("auth-config/send-as", MESSAGE, FAIL, "login may not send as the From"),
    ),
    "send-as-denied-older-code": Case(
        said(DOT, f"554 5.2.0 {STOREDRV}SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process message"),
        Expected("auth-config/send-as", MESSAGE, FAIL, "login may not send as the From"),
    ),
    **{
        f"penalty-for-{name}": Case(
            said(MAIL, f"550 5.2.{code} Sender throttled due to continuous {text} errors"),
            Expected("throttled-mailbox", MAILBOX, PAUSE, "same error kept coming"),
        )
        for code, name, text in [
            (251, "full-mailbox", "mailbox full"),
            (252, "send-as", "send as denied"),
            (253, "licence", "invalid license"),
            (254, "many-recipients", "too many recipients"),
            (255, "bad-recipients", "invalid recipients"),
        ]
    },
    "three-connections": Case(
        said(
            MAIL,
            "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending "
            f"for more information. {HOST}",
        ),
        Expected("throttled-mailbox", MAILBOX, PAUSE, "More than three connections"),
    ),
    "three-connections-older-text-at-the-dot": Case(
        said(DOT, f"432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded {HOST}"),
        Expected("throttled-mailbox", MAILBOX, PAUSE, "More than three connections"),
    ),
    "thirty-a-minute": Case(
        said(MAIL, "421 4.4.2 Message submission rate for this client has exceeded the configured limit"),
        Expected("throttled-mailbox", MAILBOX, PAUSE, "30 messages"),
    ),
    "messages-per-account": Case(
        said(MAIL, "432 4.3.2 STOREDRV.ClientSubmit; exceeded the message limit per account"),
        Expected("throttled-mailbox", MAILBOX, PAUSE, "limit of messages"),
    ),
    "ten-thousand-a-day": Case(
        said(DOT, f"554 5.2.0 {STOREDRV}SubmissionQuotaExceededException; Failed to process message {HOST}"),
        Expected("throttled-mailbox", MAILBOX, PAUSE, "10,000 recipients"),
    ),
    "daily-limit-newer-text": Case(
        said(
            DOT, "550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients"
        ),
        Expected("throttled-mailbox", MAILBOX, PAUSE, "daily number"),
    ),
    "submission-quota": Case(
        said(DOT, "550 5.2.2 Submission quota exceeded"), Expected("throttled-mailbox", MAILBOX, PAUSE, "sending quota")
    ),
    "senders-mailbox-full": Case(
        said(
            DOT, f"554 5.2.2 mailbox full; {STOREDRV}QuotaExceededException.MapiExceptionShutoffQuotaExceeded; {HOST}"
        ),
        Expected("sender-blocked/mailbox-full", MAILBOX, PAUSE, "SENDER's mailbox"),
    ),
    "trial-account": Case(
        said(
            DOT,
            f"554 5.2.0 {STOREDRV}OutboundSpamException; Failed to process message due to a permanent exception with "
            "message [BeginDiagnosticData]WASCL UserAction verdict is not None. "
            "Actual verdict is RefuseQuota, ShowTierUpgrade. OutboundSpamException [EndDiagnosticData]",
        ),
        Expected("throttled-mailbox", MAILBOX, PAUSE, "trial or consumer"),
    ),
    "suspended-for-spam": Case(
        said(
            DOT,
            f"554 5.2.0 {STOREDRV}OutboundSpamException; Failed to process message due to a permanent exception with "
            "message [BeginDiagnosticData]WASCL UserAction verdict is not None. Actual verdict is Suspend.",
        ),
        Expected("sender-blocked", MAILBOX, PAUSE, "suspended"),
    ),
    "bad-outbound-sender": Case(
        said(RCPT, "550 5.1.8 Access denied, bad outbound sender AS(42004)"),
        Expected("sender-blocked", MAILBOX, PAUSE, "looked like spam"),
    ),
    "tenant-external-recipients": Case(
        said(
            RCPT,
            "550 5.7.232 Your message can't be sent because your trial tenant has exceeded its daily limit "
            "for sending email to external recipients",
        ),
        Expected("throttled-tenant", TENANT, PAUSE, "whole tenant"),
    ),
    "tenant-external-recipients-233": Case(
        said(DOT, "550 5.7.233 Your message can't be sent because your tenant exceeded its daily limit"),
        Expected("throttled-tenant", TENANT, PAUSE, "whole tenant"),
    ),
    "tenant-blocked": Case(
        said(DOT, "550 5.7.705 Access denied, tenant has exceeded threshold"),
        Expected("sender-blocked/tenant", TENANT, PAUSE, "blocks mail"),
    ),
    "tenant-bad-address": Case(
        said(RCPT, "550 5.7.708 Access denied, traffic not accepted from this IP"),
        Expected("sender-blocked/tenant", TENANT, PAUSE, "blocks mail"),
    ),
    "no-right-on-the-mailbox": Case(
        said(
            DOT,
            f"430 4.2.0 STOREDRV; mailbox logon failure; {STOREDRV}ConnectionFailedTransientException."
            "MapiExceptionLogonFailed; Failed to process message due to a transient exception with message "
            "Cannot open mailbox /o=ExchangeLabs/ou=Exchange Administrative Group",
        ),
        Expected("auth-config/mailbox-permission", MAILBOX, PAUSE, "no right on this mailbox"),
    ),
    "store-busy": Case(
        said(DOT, "432 4.3.2 STOREDRV.Storage; mailbox server is too busy"),
        Expected("transient", MAILBOX, RETRY, "busy or the mailbox is being moved"),
    ),
    "store-disk-full": Case(
        said(DATA, "431 4.3.1 STOREDRV; mailbox disk is full"),
        Expected("transient", MAILBOX, RETRY, "busy or the mailbox is being moved"),
    ),
    # recipients and content
    "too-many-in-one-transaction": Case(
        said(RCPT, "452 4.5.3 Too many recipients"),
        Expected("transient/too-many-recipients", RECIPIENT, RETRY, "rest follows"),
    ),
    "starttls-required-late": Case(
        said(MAIL, "451 5.7.3 STARTTLS is required to send mail"),
        Expected("auth-config", SERVER, PAUSE, "wants TLS"),
    ),
    "onmicrosoft-sender": Case(
        said(DOT, "550 5.7.236 Message rejected: limit of the onmicrosoft.com domain"),
        Expected("throttled-tenant", MAILBOX, PAUSE, "onmicrosoft.com"),
    ),
    "banned-sender": Case(
        said(DOT, "550 5.7.501 Access denied, spam abuse detected"),
        Expected("sender-blocked", MAILBOX, PAUSE, "banned this sender"),
    ),
    "banned-address": Case(
        said(CONNECT, "550 5.7.606 Access denied, banned sending IP [192.0.2.1]"),
        Expected("sender-blocked/address", SERVER, PAUSE, "network address"),
    ),
    "unregistered-domain": Case(
        said(DOT, "550 5.7.750 Client blocked from sending from unregistered domains"),
        Expected("sender-blocked/domain", MESSAGE, FAIL, "not registered"),
    ),
    "quarantined-mailbox": Case(
        said(DOT, "550 5.7.10 STOREDRV.Submit; Sender mailbox quarantined"),
        Expected("sender-blocked", MAILBOX, PAUSE, "quarantined"),
    ),
    "recipient-over-its-hour": Case(
        said(RCPT, "554 5.2.121 Recipient's per hour message receive limit from specific sender exceeded"),
        Expected("transient/recipient-busy", RECIPIENT, RETRY, "in this hour"),
    ),
    "relay-attribution": Case(
        said(RCPT, "550 5.7.64 TenantAttribution; Relay Access Denied [AM0EUR02FT001.eop-EUR02.prod.protection]"),
        Expected("auth-config/relay", RECIPIENT, FAIL, "does not relay"),
    ),
    "relay-attr": Case(
        said(RCPT, "550 5.7.1 Unable to relay. ATTR36"),
        Expected("auth-config/relay", RECIPIENT, FAIL, "does not relay"),
    ),
    **{
        f"no-such-recipient-{name}": Case(
            said(RCPT, text), Expected("recipient-permanent", RECIPIENT, FAIL, "no such recipient")
        )
        for name, text in [
            ("5.1.1", "550 5.1.1 <eve@x.de>: Recipient address rejected: User unknown in local recipient table"),
            ("5.1.10", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"),
            ("5.4.1", "550 5.4.1 Recipient address rejected: Access denied. AS(201806281)"),
            ("5.5.0", "550 5.5.0 Requested action not taken: mailbox unavailable"),
        ]
    },
    "recipient-full-for-now": Case(
        said(RCPT, "452 4.2.2 The email account that you tried to reach is over quota"),
        Expected("transient/recipient-full", RECIPIENT, RETRY, "recipient's mailbox is full"),
    ),
    "recipient-full": Case(
        said(RCPT, "552 5.2.2 Mailbox full"),
        Expected("transient/recipient-full", RECIPIENT, RETRY, "recipient's mailbox is full"),
    ),
    "mail-too-large": Case(
        said(MAIL, "552 5.3.4 Message size exceeds fixed maximum message size"),
        Expected("message-permanent", MESSAGE, FAIL, "larger than the server accepts"),
    ),
    # token requests
    "secret-expired": Case(
        token("invalid_client", 7000222), Expected("auth-config/secret-expired", MAILBOX, PAUSE, "has expired")
    ),
    "secret-wrong": Case(
        token("invalid_client", 7000215), Expected("auth-config/secret-wrong", MAILBOX, PAUSE, "Secret ID")
    ),
    "app-unknown": Case(
        token("unauthorized_client", 700016),
        Expected("auth-config/app-unknown", MAILBOX, PAUSE, "not known in this Entra"),
    ),
    "tenant-unknown": Case(
        token("invalid_request", 90002),
        Expected("auth-config/tenant-unknown", MAILBOX, PAUSE, "does not exist in this cloud"),
    ),
    "no-consent": Case(
        token("invalid_grant", 65001), Expected("auth-config/consent", MAILBOX, PAUSE, "no admin consent")
    ),
    "entra-busy": Case(token("server_error", 90033), Expected("transient", MAILBOX, RETRY, "problem of its own")),
    "authority-busy": Case(
        token("temporarily_unavailable"), Expected("transient", MAILBOX, RETRY, "token authority has a temporary")
    ),
    "authority-unknown": Case(
        token("unknown_authority"), Expected("auth-config/tenant-unknown", MAILBOX, PAUSE, "authority does not exist")
    ),
    "client-refused": Case(
        token("invalid_client"), Expected("auth-config/client", MAILBOX, PAUSE, "this client or its secret")
    ),
    "scope-refused": Case(
        token("invalid_scope", 70011), Expected("auth-config", MAILBOX, PAUSE, "refuses this request")
    ),
    "nobody-signed-in": Case(
        token("login_required"), Expected("auth-config/login-required", MAILBOX, PAUSE, "Nobody has signed in")
    ),
    "proof-unusable": Case(
        token("proof_unusable"), Expected("auth-config/proof", MAILBOX, PAUSE, "proves itself with cannot be used")
    ),
    "no-managed-identity": Case(
        token("no_managed_identity"), Expected("auth-config/managed-identity", MAILBOX, PAUSE, "no managed identity")
    ),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_known_trouble_gets_its_verdict(case: Case) -> None:
    found = case.verdict()
    expected = case.expected
    assert (found.kind, found.scope, found.action) == (expected.kind, expected.scope, expected.action)
    assert expected.says in found.explanation
    assert found.known
    assert found == ROWS[case.rows()[0]].verdict


def test_every_row_of_the_catalogue_decides_at_least_one_case() -> None:
    """A row that never decides is shadowed by one above it, or has no witness here: both are mistakes."""
    deciding = {case.rows()[0] for case in CASES.values()}
    assert [row.verdict.explanation for number, row in enumerate(ROWS) if number not in deciding] == []


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_row_is_of_use_to_a_person(row: Row) -> None:
    verdict = row.verdict
    assert verdict.explanation.endswith(".")
    assert (verdict.action is Action.PAUSE) == (verdict.pause > timedelta())
    if verdict.action is Action.PAUSE and verdict.kind != "transient":
        assert verdict.remedy or verdict.kind.startswith("throttled")
    assert verdict.link.startswith("https://") or not verdict.link


def test_only_what_is_lost_at_the_dot_is_in_doubt() -> None:
    doubtful = [row for row in ROWS if row.verdict.action is Action.DOUBT]
    assert doubtful
    assert all(row.stages == {Stage.DOT} and row.faults for row in doubtful)


@pytest.mark.parametrize(
    "fault", [each for each in Fault if each is not Fault.SERVER_ERROR]
)  # known only after the mail was sent
def test_every_fault_before_the_dot_has_a_row(fault: Fault) -> None:
    assert of_fault(ROWS, broke(CONNECT, fault)).known


BY_DIGIT = {
    CONNECT: ("auth-config", MAILBOX, PAUSE),
    Stage.TOKEN: ("auth-config", MAILBOX, PAUSE),
    AUTH: ("auth-config", MAILBOX, PAUSE),
    MAIL: ("message-permanent", MESSAGE, FAIL),
    RCPT: ("recipient-permanent", RECIPIENT, FAIL),
    DATA: ("message-permanent", MESSAGE, FAIL),
    DOT: ("message-permanent", MESSAGE, FAIL),
    Stage.FILE: ("message-permanent", MESSAGE, FAIL),
}


@pytest.mark.parametrize("stage", BY_DIGIT)
@pytest.mark.parametrize("text", ["550 Go away", "554 5.9.9 Never heard of", "599"])
def test_unknown_permanent_reply_is_judged_by_its_stage_and_marked(stage: Stage, text: str) -> None:
    found = of_reply(ROWS, stage, Reply.parse(text))
    assert (found.kind, found.scope, found.action) == BY_DIGIT[stage]
    assert not found.known


@pytest.mark.parametrize("stage", BY_DIGIT)
@pytest.mark.parametrize("text", ["450 4.9.9 Not now", "499", "421 Closing"])
def test_unknown_temporary_reply_is_tried_again_at_every_stage(stage: Stage, text: str) -> None:
    found = of_reply(ROWS, stage, Reply.parse(text))
    assert (found.kind, found.action) == ("transient", Action.RETRY)
    assert not found.known


@pytest.mark.parametrize(
    ("text", "kind", "action"),
    [
        pytest.param("400 ErrorNeverHeardOf: no", "message-permanent", FAIL, id="bad-request"),
        pytest.param("413 Content Too Large", "message-permanent", FAIL, id="too-large"),
        pytest.param("401 InvalidAuthenticationToken: no", "auth-config", PAUSE, id="unauthorized"),
        pytest.param("403 ErrorNeverHeardOf: no", "auth-config", PAUSE, id="forbidden"),
        pytest.param("404 ErrorNeverHeardOf: no", "auth-config", PAUSE, id="not-found"),
        pytest.param("429 ErrorNeverHeardOf: slower", "throttled-mailbox", PAUSE, id="too-many-requests"),
        pytest.param("503 ErrorNeverHeardOf: later", "transient", PAUSE, id="unavailable"),
    ],
)
def test_unknown_answer_of_graph_is_judged_by_its_http_status(text: str, kind: str, action: Action) -> None:
    found = of_reply((), Stage.GRAPH, Reply.parse(text))
    assert (found.kind, found.action, found.known) == (kind, action, False)


def test_wait_that_a_server_asks_for_is_how_long_the_mailbox_rests() -> None:
    asked = Refused(Stage.GRAPH, Reply.parse("429 ErrorNeverHeardOf: slower"), retry_after=timedelta(seconds=17))
    found = of_refusal((), asked)
    assert (found.action, found.pause) == (PAUSE, timedelta(seconds=17))


def test_wait_that_a_server_asks_for_does_not_revive_what_has_failed() -> None:
    asked = Refused(Stage.GRAPH, Reply.parse("400 ErrorNeverHeardOf: no"), retry_after=timedelta(seconds=17))
    assert of_refusal((), asked).action is FAIL


def test_unknown_oauth_error_pauses_the_mailbox_and_is_marked() -> None:
    found = of_token(ROWS, token("made_up_error"))
    assert (found.kind, found.action, found.known) == ("auth-config", Action.PAUSE, False)
    assert "made_up_error" in found.explanation
    assert found.pause > timedelta()


def test_code_of_a_row_must_be_the_whole_enhanced_code() -> None:
    # 5.7.3 is a login, 5.7.30 the end of basic authentication, 5.7.33 nobody's.
    found = of_reply(ROWS, AUTH, Reply.parse("535 5.7.33 no idea"), "xoauth2")
    assert "refused the login" in found.explanation


def test_long_reply_keeps_the_suffix_that_the_support_asks_for() -> None:
    what = CASES["send-as-denied-at-the-dot"].what
    assert isinstance(what, Refused)
    assert "[BeginDiagnosticData]" in what.reply.text
    assert what.reply.text.endswith(HOST)


def test_recipients_full_mailbox_is_not_taken_for_the_senders() -> None:
    assert of_reply(ROWS, RCPT, Reply.parse("554 5.2.2 mailbox full")).scope is Scope.RECIPIENT
    assert of_reply(ROWS, DOT, Reply.parse("554 5.2.2 mailbox full")).scope is Scope.MAILBOX


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        pytest.param({"class": "x", "scope": "mailbox", "action": "fail"}, "explanation", id="no-explanation"),
        pytest.param(
            {"class": "x", "scope": "house", "action": "fail", "explanation": "x."}, "not a valid Scope", id="scope"
        ),
        pytest.param(
            {"class": "x", "scope": "mailbox", "action": "wait", "explanation": "x."}, "not a valid Action", id="action"
        ),
        pytest.param(
            {"class": "x", "scope": "mailbox", "action": "fail", "explanation": "x.", "stage": "helo"},
            "not a valid Stage",
            id="stage",
        ),
        pytest.param(
            {"class": "x", "scope": "mailbox", "action": "fail", "explanation": "x.", "pattren": "y"},
            "pattren",
            id="misspelt-condition",
        ),
    ],
)
def test_mistake_in_the_data_file_is_found_when_it_is_loaded(entry: dict[str, object], problem: str) -> None:
    with pytest.raises((KeyError, ValueError), match=problem):
        _row(entry)


def test_host_name_with_relay_in_it_is_no_refusal_to_relay() -> None:
    found = of_reply(ROWS, RCPT, Reply.parse("550 5.7.1 Service unavailable, blocked by relays.example"))
    assert (found.kind, found.known) == ("recipient-permanent", False)
