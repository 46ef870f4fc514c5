"""The catalogue against replies that servers really gave (collected in published logs and on Microsoft's pages)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain import verdict as verdicts
from worker.domain.delivery import Broken, Fault, Refused, Stage, TokenRefused
from worker.domain.question import answer, understand
from worker.domain.reply import Reply
from worker.domain.verdict import (
    Action,
    Only,
    Row,
    Scope,
    Verdict,
    catalogue,
    of_fault,
    of_graph,
    of_refusal,
    of_reply,
    of_token,
    sources,
)

ROWS = catalogue()
BY_ID = {row.verdict.row: row for row in ROWS}

CLASSES = {
    "auth-config",
    "credential",
    "token-expired",
    "throttled-mailbox",
    "throttled-tenant",
    "recipient-permanent",
    "message-permanent",
    "transient",
    "sender-blocked",
    "in-doubt",
    "internal-error",
}
TEMPORARY_CODES = (420, 421, 430, 432, 435, 441, 450, 451, 452, 454, 499)
PERMANENT_CODES = (500, 501, 503, 504, 521, 530, 535, 538, 550, 551, 552, 553, 554, 556, 599)


@dataclass(frozen=True)
class Witness:
    """A line of replies.txt: what happened, and the row that must decide it."""

    row: str
    stage: Stage
    mechanism: str
    text: str

    def verdict(self) -> Verdict:
        if self.text.startswith("fault "):
            return of_fault(ROWS, Broken(self.stage, Fault(self.text.removeprefix("fault ")), "as it happened"))
        return answer(ROWS, understand(self.text, self.stage), self.stage, self.mechanism)


def witnesses() -> Iterator[Witness]:
    for line in (Path(__file__).parent / "replies.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            row, where, text = line.split(" | ", 2)
            stage, _, mechanism = where.partition("/")
            yield Witness(row, Stage(stage), mechanism, text)


WITNESSES = tuple(witnesses())


def said(stage: Stage | None, text: str, mechanism: str = "") -> Verdict:
    return of_reply(ROWS, stage, Reply.parse(text), mechanism)


@pytest.mark.parametrize("witness", WITNESSES, ids=lambda witness: f"{witness.row}-{witness.text[:24]}")
def test_real_reply_is_decided_by_its_row(witness: Witness) -> None:
    found = witness.verdict()
    assert found.row == witness.row
    assert found.known


def test_every_row_of_the_catalogue_has_a_witness() -> None:
    """A row that never decides is shadowed by one above it, or nobody has ever seen it: both are mistakes."""
    assert BY_ID.keys() - {witness.row for witness in WITNESSES} == set()


def test_every_row_has_a_name_of_its_own() -> None:
    assert len(BY_ID) == len(ROWS)


@pytest.mark.parametrize("row", [row for row in ROWS if row.speaks_of_replies], ids=lambda row: row.verdict.row)
def test_example_that_administrators_read_is_decided_by_its_row(row: Row) -> None:
    stage, mechanism = min(row.stages, default=None), min(row.mechanisms, default="")
    assert said(stage, row.example, mechanism).row == row.verdict.row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.verdict.row)
def test_row_is_of_use_to_a_person(row: Row) -> None:
    verdict = row.verdict
    assert verdict.kind.partition("/")[0] in CLASSES
    assert verdict.explanation.endswith(".")
    assert verdict.remedy.endswith(".")
    assert (verdict.action is Action.PAUSE) == (verdict.pause > timedelta())
    assert verdict.wait == timedelta() or verdict.action is Action.RETRY
    assert verdict.only is None or verdict.scope is Scope.TENANT
    assert set(verdict.source.split(", ")) <= sources().keys()
    assert verdict.link.startswith("https://") or not verdict.link


def test_every_source_is_used() -> None:
    used = {tag for row in ROWS for tag in row.verdict.source.split(", ")}
    answers = {"RFC:5321", "RFC:6749", "RFC:9110"}  # where no row decides
    assert sources().keys() - used - answers == set()


def test_what_wants_less_of_us_is_marked_for_pacing() -> None:
    assert {row for row, found in BY_ID.items() if found.verdict.throttle} >= {
        "three-connections",
        "thirty-a-minute",
        "server-connections",
        "tenant-external",
        "graph-429",
        "graph-mailbox-concurrency",
    }


@pytest.mark.parametrize(
    ("row", "only"),
    [
        ("tenant-external", Only.EXTERNAL),
        ("trial-tenant-external", Only.EXTERNAL),
        ("onmicrosoft-sender", Only.ONMICROSOFT),
        ("basic-auth-retired", Only.PASSWORD),
        ("security-defaults", Only.PASSWORD),
        ("smtp-auth-off-tenant", Only.ONE_BY_ONE),
        ("tenant-threshold", None),
    ],
)
def test_fault_of_a_tenant_says_which_part_of_it_is_meant(row: str, only: Only | None) -> None:
    verdict = BY_ID[row].verdict
    assert verdict.scope is Scope.TENANT
    assert verdict.only is only
    assert verdict.whole_tenant == (only is None)


@pytest.mark.parametrize(
    "text",
    [
        "550 5.7.30 Basic authentication is not supported for Client Submission.",
        "550 5.7.30",
        "550 Basic authentication is not supported for Client Submission. [AM0PR01MB1234.eurprd01.prod.outlook.com]",
        "550-5.7.30 Basic authentication is not\n550 5.7.30 supported for Client Submission.",
        "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
        "535 5.7.139 Authentication unsuccessful, basic authentication has been disabled for this tenant",
        "535 5.7.139 Authentication unsuccessful, basic auth is blocked",
        "535 Authentication unsuccessful, basic authentication is disabled.",
    ],
)
@pytest.mark.parametrize("stage", [None, Stage.AUTH, Stage.MAIL])
def test_end_of_basic_authentication_is_recognised_with_its_dates(stage: Stage | None, text: str) -> None:
    found = said(stage, text, "login")
    assert found.kind.startswith("auth-config/basic-auth")
    assert (found.scope, found.only) == (Scope.TENANT, Only.PASSWORD)
    assert "December 2026" in found.remedy
    assert "second half of 2027" in found.remedy
    assert "OAuth" in found.remedy


@pytest.mark.parametrize("text", ["535 5.7.139", "535 5.7.139 Authentication unsuccessful, something new in 2027."])
def test_form_of_5_7_139_that_nobody_knows_yet_is_a_policy_of_the_tenant(text: str) -> None:
    found = said(Stage.AUTH, text, "login")
    assert (found.row, found.known) == ("sign-in-policy", True)


def test_only_what_is_lost_after_the_last_word_is_in_doubt() -> None:
    doubtful = [row for row in ROWS if row.verdict.action is Action.DOUBT]
    assert doubtful
    assert all(row.stages <= {Stage.DOT, Stage.GRAPH} for row in doubtful)
    assert all(row.stages for row in doubtful if row.faults)


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_before_the_dot_has_a_row(fault: Fault) -> None:
    assert of_fault(ROWS, Broken(Stage.CONNECT, fault, "as it happened")).known


BY_DIGIT = {
    Stage.CONNECT: ("auth-config", Scope.MAILBOX, Action.PAUSE),
    Stage.TOKEN: ("auth-config", Scope.MAILBOX, Action.PAUSE),
    Stage.AUTH: ("auth-config", Scope.MAILBOX, Action.PAUSE),
    Stage.RCPT: ("recipient-permanent", Scope.RECIPIENT, Action.FAIL),
}


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("text", ["550 Go away", "554 5.9.9 Never heard of", "599"])
def test_unknown_permanent_reply_is_judged_by_its_stage_and_marked(stage: Stage, text: str) -> None:
    found = said(stage, text)
    expected = BY_DIGIT.get(stage, ("message-permanent", Scope.MESSAGE, Action.FAIL))
    assert (found.kind, found.scope, found.action) == expected
    assert not found.known


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("text", ["450 4.9.9 Not now", "499", "421 Closing"])
def test_unknown_temporary_reply_is_tried_again_at_every_stage(stage: Stage, text: str) -> None:
    found = said(stage, text)
    assert (found.kind, found.action) == ("transient", Action.RETRY)
    assert not found.known


fragments = st.lists(
    st.sampled_from([word for witness in WITNESSES for word in witness.text.split()]) | st.text(max_size=12), max_size=8
).map(" ".join)
enhanced = st.one_of(
    st.just(""),
    st.builds("{}.{}.{} ".format, st.sampled_from([2, 4, 5]), st.integers(0, 9), st.integers(0, 999)),
    st.sampled_from([f"{w.text.split()[1]} " for w in WITNESSES if w.text[:3].isdigit() and " " in w.text]),
)
stages = st.sampled_from([None, *Stage])
mechanisms = st.sampled_from(["", "login", "plain", "xoauth2"])


@given(stages, mechanisms, st.integers(400, 599), enhanced, fragments)
def test_every_reply_gets_a_verdict_that_a_person_can_use(
    stage: Stage | None, mechanism: str, code: int, written: str, text: str
) -> None:
    found = of_reply(ROWS, stage, Reply.of(code, [written + text]), mechanism)
    assert found.explanation
    assert found.action is not Action.NONE
    assert found.known == bool(found.row)
    assert found.action is not Action.DOUBT


@given(stages, mechanisms, st.sampled_from(TEMPORARY_CODES), enhanced, fragments)
def test_temporary_reply_fails_nothing_unless_a_row_says_so(
    stage: Stage | None, mechanism: str, code: int, written: str, text: str
) -> None:
    found = of_reply(ROWS, stage, Reply.of(code, [written + text]), mechanism)
    assert found.action is not Action.FAIL or found.row


@given(stages, mechanisms, st.sampled_from(TEMPORARY_CODES), st.integers(0, 9), st.integers(0, 999))
def test_temporary_reply_without_words_never_fails_anything(
    stage: Stage | None, mechanism: str, code: int, subject: int, detail: int
) -> None:
    found = of_reply(ROWS, stage, Reply.parse(f"{code} 4.{subject}.{detail}"), mechanism)
    assert found.action is not Action.FAIL or found.row == "expired-there"


def test_app_that_may_make_no_draft_is_no_fault_of_the_mailbox() -> None:
    """Else one large mail would stop all the small ones."""
    said = Reply.parse("403 ErrorAccessDenied: Access is denied. Check credentials and try again.")
    large, small = (of_refusal(ROWS, Refused(stage, said)) for stage in (Stage.DRAFT, Stage.GRAPH))
    assert (large.scope, large.action) == (Scope.MESSAGE, Action.FAIL)
    assert "Mail.ReadWrite" in large.explanation
    assert (small.scope, small.action) == (Scope.MAILBOX, Action.PAUSE)


@pytest.mark.parametrize(
    "text",
    [
        "421-4.7.0 [192.0.2.1] Our system has detected that this message is suspicious. - gsmtp",
        "421-4.7.0 [192.0.2.1] To best protect our users from spam, the message has been blocked. - gsmtp",
        "451 4.7.1 SpamAssassin temporarily unavailable, try again later",
        "451 4.7.1 Temporary failure: virus scanner not responding",
        "450 4.7.1 Message temporarily deferred: spam check pending",
        "451 Administrative prohibition, try later",
        "450 4.7.1 <robot@contoso.com>: Sender address rejected: not allowed at this time",
    ],
)
def test_servers_opinion_for_now_fails_no_mail(text: str) -> None:
    assert said(Stage.DATA, text).action is Action.RETRY


@pytest.mark.parametrize(
    "text",
    [
        "554 5.6.0 Corrupt message content; Subject: Basic authentication is disabled, act now",
        "554 5.6.0 Corrupt message content; subject 'SmtpClientAuthentication is disabled for the Tenant'",
        '554 5.6.0 Corrupt message content; subject "mailbox quota exceeded"',
    ],
)
def test_subject_that_is_quoted_is_no_reason(text: str) -> None:
    assert said(Stage.DATA, text).scope is Scope.MESSAGE


@given(mechanisms, st.sampled_from(["1.1", "1.2", "1.3", "1.6", "1.10", "2.1"]), fragments)
def test_what_is_said_of_a_recipient_stops_no_mailbox(mechanism: str, code: str, text: str) -> None:
    found = of_reply(ROWS, Stage.RCPT, Reply.of(550, [f"5.{code} {text}"]), mechanism)
    assert found.scope not in (Scope.MAILBOX, Scope.APP, Scope.TENANT)


@given(st.sampled_from([Stage.CONNECT, Stage.AUTH]), mechanisms, st.integers(400, 599), enhanced, fragments)
def test_no_mail_is_to_blame_before_there_is_one(
    stage: Stage, mechanism: str, code: int, written: str, text: str
) -> None:
    found = of_reply(ROWS, stage, Reply.of(code, [written + text]), mechanism)
    assert found.action not in (Action.FAIL, Action.SPLIT)


@pytest.mark.parametrize("row", [row for row in ROWS if row.speaks_of_replies], ids=lambda row: row.verdict.row)
@pytest.mark.parametrize("stage", [Stage.CONNECT, Stage.AUTH])
def test_no_row_blames_a_mail_before_there_is_one(row: Row, stage: Stage) -> None:
    assert said(stage, row.example).action not in (Action.FAIL, Action.SPLIT)


@given(stages, mechanisms, st.sampled_from(PERMANENT_CODES), st.text(max_size=20))
def test_unknown_permanent_reply_is_not_tried_again(stage: Stage | None, mechanism: str, code: int, text: str) -> None:
    found = of_reply(ROWS, stage, Reply.of(code, [text]), mechanism)
    assert found.known or found.action in (Action.FAIL, Action.PAUSE)


def test_unknown_oauth_error_pauses_the_mailbox_and_is_marked() -> None:
    found = of_token(ROWS, TokenRefused("made_up_error", "as it was worded"))
    assert (found.kind, found.action, found.known) == ("auth-config", Action.PAUSE, False)
    assert "made_up_error" in found.explanation
    assert found.pause > timedelta()


def test_unknown_number_alone_is_named() -> None:
    found = of_token(ROWS, TokenRefused("", "", (424242,)))
    assert "AADSTS424242" in found.explanation
    assert not found.known


@pytest.mark.parametrize(
    ("error", "hint", "row", "action", "kind"),
    [
        pytest.param(
            "invalid_client", 7000222, "secret-expired", Action.PAUSE, "credential/secret-expired", id="agree"
        ),
        pytest.param("invalid_grant", 90033, "entra-busy", Action.PAUSE, "token-expired/grant", id="number-hopes"),
        pytest.param("temporarily_unavailable", 7000215, "secret-wrong", Action.RETRY, "transient/", id="error-hopes"),
        pytest.param(
            "invalid_grant", 424242, "grant-refused", Action.PAUSE, "token-expired/grant", id="number-unknown"
        ),
        pytest.param("odd_error", 53003, "conditional-access", Action.PAUSE, "auth-config/", id="error-unknown"),
    ],
)
def test_error_decides_whether_to_try_again_and_the_number_picks_the_words(
    error: str, hint: int, row: str, action: Action, kind: str
) -> None:
    found = of_token(ROWS, TokenRefused(error, "", (hint,)))
    assert found.explanation == BY_ID[row].verdict.explanation
    assert found.action is action
    assert found.kind.startswith(kind)


@pytest.mark.parametrize(
    ("status", "kind", "action"), [(418, "message-permanent", Action.FAIL), (599, "transient/in-doubt", Action.DOUBT)]
)
def test_unknown_answer_of_graph_is_judged_by_its_status(status: int, kind: str, action: Action) -> None:
    found = of_graph(ROWS, status, ("NeverHeardOf",))
    assert (found.kind, found.action, found.known) == (kind, action, False)


def test_code_of_graph_says_more_than_its_status() -> None:
    assert of_graph(ROWS, 403, ("ErrorSendAsDenied",)).row == "graph-send-as"
    assert of_graph(ROWS, 429, ("ErrorSubmissionQuotaExceeded",)).row == "graph-daily"


def test_code_of_a_row_must_be_the_whole_enhanced_code() -> None:
    # 5.7.3 is a login, 5.7.30 the end of basic authentication, 5.7.33 nobody's.
    assert said(Stage.AUTH, "535 5.7.33 no idea", "xoauth2").row == "login-failed"


def test_enhanced_code_that_stands_elsewhere_in_the_text_counts() -> None:
    assert said(Stage.DOT, "550 Message rejected (5.7.233)").row == "tenant-external"
    assert said(Stage.RCPT, "550 #5.1.10 not there").row == "recipient-not-found"
    assert not said(Stage.RCPT, "550 Go away, 5.1.10.7").known  # a network address


def test_recipients_full_mailbox_is_not_taken_for_the_senders() -> None:
    assert said(Stage.RCPT, "554 5.2.2 mailbox full").scope is Scope.RECIPIENT
    assert said(Stage.DOT, "554 5.2.2 mailbox full").scope is Scope.MAILBOX


def test_host_name_with_relay_in_it_is_no_refusal_to_relay() -> None:
    found = said(Stage.RCPT, "550 5.7.1 Service unavailable, blocked by relays.example")
    assert (found.kind, found.action) == ("recipient-permanent/restricted", Action.FAIL)


def test_5_7_30_of_google_is_about_dkim_and_not_about_passwords() -> None:
    assert said(Stage.DOT, "550 5.7.30 sending domain requires DKIM - gsmtp").scope is Scope.SENDER


GOOD = {"id": "x", "class": "x", "scope": "mailbox", "action": "fail", "explanation": "x.", "source": "OWN"}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        pytest.param({"explanation": None}, "explanation", id="no-explanation"),
        pytest.param({"scope": "house"}, "not a valid Scope", id="scope"),
        pytest.param({"action": "wait"}, "not a valid Action", id="action"),
        pytest.param({"stage": "helo"}, "not a valid Stage", id="stage"),
        pytest.param({"only": "some"}, "not a valid Only", id="only"),
        pytest.param({"source": "HEARSAY"}, "HEARSAY", id="source"),
        pytest.param({"pattren": "y"}, "pattren", id="misspelt-condition"),
    ],
)
def test_mistake_in_the_data_file_is_found_when_it_is_loaded(entry: dict[str, str | None], problem: str) -> None:
    fields = {name: value for name, value in {**GOOD, **entry}.items() if value is not None}
    with pytest.raises((KeyError, ValueError), match=problem):
        verdicts.row(fields, sources())
