"""`postlane explain`, as an administrator runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

SEND_AS_DENIED = (
    "554-5.2.252 SendAsDenied; robot@contoso.com not allowed to send as boss@contoso.com [BeginDiagnosticData]Cannot "
    "submit message. 5.56248:DC04000053656E64417320636865636B206661696C6564[EndDiagnosticData]\n"
    "554 5.2.252 [Hostname=AM0PR01MB1234.eurprd01.prod.exchangelabs.com]\n"
)


def explain(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker", "explain", *arguments]
    return subprocess.run(command, input=said, capture_output=True, text=True, check=False)


def facts(*arguments: str, said: str = "") -> dict[str, Any]:
    done = explain("--json", *arguments, said=said)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(
            ["535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant."],
            {"class": "auth-config/smtp-auth-off", "scope": "tenant", "action": "pause", "known": True},
            id="reply",
        ),
        pytest.param(
            ["535", "5.7.139", "Authentication", "unsuccessful,", "basic", "authentication", "is", "disabled."],
            {"class": "auth-config/basic-auth-off", "only": "password"},
            id="quotes-forgotten",
        ),
        pytest.param(["AADSTS7000215"], {"class": "credential/secret-wrong", "scope": "app"}, id="entra-number"),
        pytest.param(
            ['{"error":{"code":"ErrorSendAsDenied","message":"m"}}'],
            {"class": "auth-config/send-as", "scope": "sender", "action": "fail"},
            id="graph-json",
        ),
        pytest.param(["429"], {"class": "throttled-mailbox/rate", "throttle": True}, id="http-status"),
        pytest.param(["--stage", "graph", "503"], {"class": "transient/server", "reply": "HTTP 503"}, id="graph-stage"),
        pytest.param(
            ["--stage", "data", "554 5.2.2 mailbox full"], {"class": "sender-blocked/mailbox-full"}, id="data-stage"
        ),
        pytest.param(
            ["--stage", "rcpt", "554 5.2.2 mailbox full"], {"class": "transient/recipient-full"}, id="rcpt-stage"
        ),
        pytest.param(
            ["--stage", "auth", "--mechanism", "xoauth2", "535 5.7.3 Authentication unsuccessful"],
            {"class": "auth-config/token-refused"},
            id="mechanism",
        ),
        pytest.param(
            ["550 5.9.9 never heard of"],
            {"class": "message-permanent", "action": "fail", "known": False, "source": "RFC:5321"},
            id="unknown",
        ),
        pytest.param(["450 4.9.9 never heard of"], {"class": "transient", "action": "retry", "known": False}, id="4yz"),
    ],
)
def test_explanation_for_machines_is_one_object(arguments: list[str], expected: dict[str, object]) -> None:
    found = facts(*arguments)
    assert {name: found[name] for name in expected} == expected
    assert all(found[name] for name in ("class", "scope", "action", "explanation", "remedy", "source", "reply", "does"))


def test_reply_of_several_lines_comes_from_standard_input_and_is_decoded() -> None:
    found = facts("-", said=SEND_AS_DENIED)
    assert found["class"] == "auth-config/send-as"
    assert found["diagnostics"] == ["Cannot submit message.", "SendAs check failed"]
    assert found["suffix"] == "[Hostname=AM0PR01MB1234.eurprd01.prod.exchangelabs.com]"
    assert found["punished"]


def test_person_reads_what_it_means_whose_it_is_what_postlane_does_and_what_to_do() -> None:
    done = explain("-", said=SEND_AS_DENIED)
    assert done.returncode == 0
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert "may not send as" in done.stdout.splitlines()[0]
    assert lines["what"].startswith("auth-config/send-as")
    assert "sender address" in lines["whose"]
    assert "Fails the message" in lines["Postlane"]
    assert "Add-RecipientPermission" in lines["you"]
    assert lines["Exchange"] == "SendAs check failed"
    assert "[Hostname=" in lines["support"]
    assert lines["read"].startswith("https://")


def test_words_that_mean_something_else_elsewhere_say_so() -> None:
    done = explain("554 5.2.2 mailbox full")
    assert done.returncode == 0
    assert "said to DATA it would be sender-blocked/mailbox-full" in done.stdout


def test_unknown_reply_is_called_unknown() -> None:
    done = explain("550 5.9.9 never heard of")
    assert done.returncode == 0
    assert "No row of the catalogue knows these words" in done.stdout


@pytest.mark.parametrize("arguments", [["hello world"], ["-"], ["--json", "hello world"]])
def test_what_is_no_reply_ends_in_a_clear_sentence(arguments: list[str]) -> None:
    done = explain(*arguments)
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.startswith("Nothing to explain: ")
    assert "Traceback" not in done.stderr


def test_unknown_stage_is_a_mistake_of_usage() -> None:
    done = explain("--stage", "helo", "550 5.1.1 unknown")
    assert done.returncode == 2
    assert "helo" in done.stderr
