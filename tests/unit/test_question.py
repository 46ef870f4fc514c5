"""What administrators paste: whatever the log around it looked like, it is understood, or refused in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.delivery import Stage, TokenRefused
from worker.domain.question import GraphAnswer, answer, challenge, understand
from worker.domain.reply import Reply
from worker.domain.verdict import Action, catalogue

ROWS = catalogue()


@pytest.mark.parametrize(
    ("text", "code", "enhanced"),
    [
        pytest.param("550 5.1.1 unknown", 550, "5.1.1", id="plain"),
        pytest.param("550-5.1.1 unknown\n550 5.1.1 user", 550, "5.1.1", id="lines"),
        pytest.param("550-5.1.1 unknown\r\n550 5.1.1 user", 550, "5.1.1", id="crlf"),
        pytest.param(r"550-5.1.1 unknown\r\n550 5.1.1 user", 550, "5.1.1", id="line-ends-as-a-log-writes-them"),
        pytest.param("'550 5.1.1 unknown'", 550, "5.1.1", id="quoted"),
        pytest.param("#550 5.1.1 unknown", 550, "5.1.1", id="hash"),
        pytest.param("<- 535 5.7.3 Authentication unsuccessful", 535, "5.7.3", id="arrow"),
        pytest.param("S: 535 5.7.3 Authentication unsuccessful", 535, "5.7.3", id="transcript"),
        pytest.param("smtp;550 5.7.60 SMTP; no permission", 550, "5.7.60", id="delivery-report"),
        pytest.param("Remote Server returned '550 5.1.8 Access denied'", 550, "5.1.8", id="exchange-report"),
        pytest.param("host mx[192.0.2.1] said: 550 #5.1.1 gone (in reply to RCPT TO command)", 550, None, id="postfix"),
        pytest.param("SMTP error after RCPT TO:<x@y.de>: 550 no such user", 550, None, id="exim"),
        pytest.param("The server response was: 5.7.57 Client not authenticated", 550, "5.7.57", id="dot-net"),
        pytest.param("5.7.705 Access denied, tenant has exceeded threshold", 550, "5.7.705", id="code-left-out"),
        pytest.param("4.3.111 Temporary server error", 451, "4.3.111", id="temporary-code-left-out"),
        pytest.param("ErrorInfo: 535 Incorrect authentication data", 535, None, id="phpmailer"),
        pytest.param('{"level":"error","error":"504 5.7.4 Unrecognized authentication type"}', 504, "5.7.4", id="log"),
        pytest.param("Status code: 550 5.1.1", 550, "5.1.1", id="status-code-in-a-report"),
        pytest.param(
            "AuthenticationException: ErrorInProcessing: 4.7.0 Temporary server error. PRX4", 451, "4.7.0", id="mailkit"
        ),
        pytest.param("AuthenticationException: 535: 5.7.3 Authentication unsuccessful", 535, "5.7.3", id="colon"),
        pytest.param(
            "SMTPAuthenticationError: (534, b'5.7.9 Application-specific password')", 534, "5.7.9", id="python"
        ),
        pytest.param("reply: retcode (535); Msg: b'5.7.3 Authentication unsuccessful'", 535, "5.7.3", id="smtplib-log"),
        pytest.param("SMTPDataError: (554, 'DT:SPM 126 smtp')", 554, None, id="python-without-enhanced-code"),
        pytest.param("{ message: 'Server responded with 451 Timeout waiting' }", 451, None, id="responded-with"),
        pytest.param("The sender's submission quota was exceeded", 550, None, id="words-alone"),
        pytest.param("Not delivering to previously bounced address", 550, None, id="providers-words-alone"),
        pytest.param("599", 599, None, id="bare"),
        pytest.param("503", 503, None, id="smtp-unless-said-otherwise"),
    ],
)
def test_reply_is_found_in_what_stands_around_it(text: str, code: int, enhanced: str | None) -> None:
    found = understand(text)
    assert isinstance(found, Reply)
    assert found.code == code
    assert (str(found.enhanced) if found.enhanced else None) == enhanced


@pytest.mark.parametrize(
    ("text", "error", "hints"),
    [
        pytest.param("AADSTS7000215", "", (7000215,), id="number"),
        pytest.param("aadsts7000215: Invalid client secret", "", (7000215,), id="lower-case"),
        pytest.param("7000215", "", (7000215,), id="digits-alone"),
        pytest.param("invalid_client", "invalid_client", (), id="error"),
        pytest.param("invalid_grant: AADSTS50126: Error", "invalid_grant", (50126,), id="error-and-number"),
        pytest.param(
            '{"error":"invalid_client","error_description":"AADSTS7000222: expired","error_codes":[7000222]}',
            "invalid_client",
            (7000222,),
            id="json",
        ),
        pytest.param('HTTP 400 {"error":"invalid_scope"}', "invalid_scope", (), id="json-after-its-status"),
        pytest.param('{"error":"invalid_client","error_codes":"odd"}', "invalid_client", (), id="odd-json"),
    ],
)
def test_error_of_a_token_authority_is_found(text: str, error: str, hints: tuple[int, ...]) -> None:
    found = understand(text)
    assert isinstance(found, TokenRefused)
    assert (found.error, found.hints) == (error, hints)


@pytest.mark.parametrize("text", ["429 Too Many Requests", "HTTP 503 Service Unavailable", "503", "Read timed out"])
def test_token_authority_that_has_no_time_is_asked_again(text: str) -> None:
    assert answer(ROWS, understand(text, Stage.TOKEN), Stage.TOKEN).action is Action.RETRY


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.DATA])
def test_status_that_only_http_has_is_smtps_where_smtp_was_spoken(stage: Stage) -> None:
    """SendGrid's relay answers so."""
    assert isinstance(understand("403 You are not authorized to send from that email address", stage), Reply)


@pytest.mark.parametrize(
    ("text", "stage", "status", "codes"),
    [
        pytest.param("429", None, 429, (), id="status-that-smtp-has-not"),
        pytest.param("503", Stage.GRAPH, 503, (), id="status-by-its-stage"),
        pytest.param("HTTP/1.1 503 Service Unavailable", None, 503, (), id="status-line"),
        pytest.param("503 Service Unavailable", None, 503, (), id="status-by-its-words"),
        pytest.param("HTTP status code: 500", None, 500, (), id="status-in-words"),
        pytest.param("HTTP 503 Service Unavailable", Stage.GRAPH, 503, (), id="status-line-with-its-stage"),
        pytest.param("ServiceException: Code: 429", None, 429, (), id="csharp"),
        pytest.param("The remote server returned an error: (403) Forbidden.", None, 403, (), id="dot-net"),
        pytest.param(
            "503 ServiceUnavailable ErrorServerBusy", None, 503, ("ServiceUnavailable", "ErrorServerBusy"), id="both"
        ),
        pytest.param("At least one recipient isn't valid.", None, 0, ("ErrorInvalidRecipients",), id="words-alone"),
        pytest.param("ErrorSendAsDenied", None, 0, ("ErrorSendAsDenied",), id="code"),
        pytest.param("Made.Up", Stage.GRAPH, 0, ("Made.Up",), id="code-that-nobody-knows"),
        pytest.param("Access to OData is disabled: [RAOP]", None, 0, ("ErrorAccessDenied",), id="access-policy"),
        pytest.param(
            '429 {"error":{"code":"ApplicationThrottled","message":"m","innerError":{"code":"MailboxConcurrency"}}}',
            None,
            429,
            ("MailboxConcurrency", "ApplicationThrottled"),
            id="json-with-an-inner-error",
        ),
    ],
)
def test_answer_of_graph_is_found(text: str, stage: Stage | None, status: int, codes: tuple[str, ...]) -> None:
    found = understand(text, stage)
    assert isinstance(found, GraphAnswer)
    assert (found.status, found.codes) == (status, codes)


@pytest.mark.parametrize(
    "text",
    ["", "  ", "hello", "we sent 250 mails", "600 no", "12", "{}", '{"error":5}', "[]", "it is 5.1 now", "{" * 5000],
)
def test_what_nobody_says_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"(nothing to explain|this is no reply)"):
        understand(text)


@given(st.text(max_size=80), st.sampled_from([None, *Stage]), st.sampled_from(["", "login", "xoauth2"]))
def test_whatever_is_pasted_is_explained_or_refused(text: str, stage: Stage | None, mechanism: str) -> None:
    try:
        question = understand(text, stage)
    except ValueError:
        return
    assert answer(ROWS, question, stage, mechanism).explanation


@pytest.mark.parametrize("text", ["250 2.0.0 OK <1@contoso.com> [Hostname=AM0]", "354 Start mail input", "HTTP 202"])
def test_what_is_no_refusal_is_called_accepted_and_not_delivered(text: str) -> None:
    found = answer(ROWS, understand(text))
    assert (found.kind, found.action) == ("accepted", Action.NONE)
    assert "not yet delivered" in found.explanation


def test_reason_inside_a_challenge_is_decoded() -> None:
    reply = Reply.parse("334 eyJzdGF0dXMiOiI0MDAiLCJzY2hlbWVzIjoiQmVhcmVyIn0=")
    assert challenge(reply) == '{"status":"400","schemes":"Bearer"}'
    assert not challenge(Reply.parse("334 odd="))
    assert not challenge(Reply.parse("550 5.1.1 unknown"))
