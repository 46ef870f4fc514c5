"""What keeps mail back, and that a redirected mail reaches the sandbox and nobody else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.address import AddrSpec, parse
from contracts.delivery import Because
from contracts.notification import Notification
from tests.factories import JANA, OMAR, directory, mailbox, notification
from worker.domain.delivery import Accepted, Broken, Fault, HandedOver, Refused, Stage
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Mailbox, MailScope, PickupFlavour, Redirect, Restraint, Stop, Tenant
from worker.domain.message import compose, sender_of
from worker.domain.pickup import pickup_file
from worker.domain.reply import Reply
from worker.domain.restraint import Outgoing, answered, noticed, outgoing, redirect_of, stopped, suppressed
from worker.domain.routing import Refusal, Route
from worker.domain.verdict import Verdict

SANDBOX, AUDIT, CATCHER = parse("sandbox@test.example"), parse("audit@test.example"), parse("catch@test.example")
BOX = mailbox()
FREE = Restraint()
SCOPE = MailScope("contoso", "shop", "agent")
OK = Reply.parse("250 2.0.0 OK")
NO = Reply.parse("550 5.1.1 unknown")


def left(sent: Notification, box: Mailbox = BOX, restraint: Restraint = FREE, *people: AddrSpec) -> Outgoing:
    found = outgoing(sent, Route(box, Because.OWN), restraint, people or [person.spec for person in sent.recipients()])
    assert isinstance(found, Outgoing)
    return found


# ---------------------------------------------------------------- switches


@pytest.mark.parametrize(
    ("restraint", "category", "expected"),
    [
        pytest.param(FREE, "invite", None, id="free"),
        pytest.param(Restraint(stop=Stop.HOLD), "invite", "hold", id="held"),
        pytest.param(Restraint(stop=Stop.REFUSE), "invite", "stopped", id="refused"),
        pytest.param(Restraint(purposes_off=frozenset({"invite"})), "invite", "purpose-off", id="purpose-off"),
        pytest.param(Restraint(purposes_off=frozenset({"invite"})), "approval", None, id="another-purpose-is-off"),
        pytest.param(
            Restraint(stop=Stop.HOLD, purposes_off=frozenset({"invite"})),
            "invite",
            "purpose-off",
            id="what-is-off-does-not-wait",
        ),
    ],
)
def test_switch_holds_refuses_or_lets_go(restraint: Restraint, category: str, expected: str | None) -> None:
    match stopped(notification(category=category), SCOPE, restraint):
        case None:
            assert expected is None
        case Verdict(kind=kind, explanation=explanation):
            assert (kind, expected) == ("stopped", "hold")
            assert str(SCOPE) in explanation
        case Refusal(kind=kind):
            assert kind == expected


PLATFORM, TENANT, SITE, PART = (Restraint(purposes_off=frozenset({name})) for name in ("p", "t", "s", "c"))
KNOWN = directory(
    tenants={"contoso": Tenant(restraint=TENANT, sites={"shop": SITE}, components={"agent": PART})}, restraint=PLATFORM
)


@pytest.mark.parametrize(
    ("scope", "off"),
    [
        pytest.param(MailScope("fabrikam"), "p", id="platform"),
        pytest.param(MailScope("contoso"), "pt", id="tenant"),
        pytest.param(MailScope("contoso", "shop"), "pst", id="site"),
        pytest.param(MailScope("contoso", "blog"), "pt", id="another-site"),
        pytest.param(MailScope("contoso", None, "agent"), "cpt", id="component"),
        pytest.param(SCOPE, "cpst", id="site-and-component"),
        pytest.param(MailScope("fabrikam", "shop", "agent"), "p", id="site-of-the-same-name-elsewhere"),
    ],
)
def test_restraints_add_up_from_the_platform_to_the_component(scope: MailScope, off: str) -> None:
    assert "".join(sorted(KNOWN.restraint_of(scope).purposes_off)) == off


def test_narrower_redirect_holds_and_refusing_is_stronger_than_holding() -> None:
    wide = Restraint(Stop.REFUSE, suppress=True, redirect=Redirect(CATCHER))
    narrow = Restraint(Stop.HOLD, redirect=Redirect(SANDBOX))
    assert narrow.within(wide) == Restraint(Stop.REFUSE, suppress=True, redirect=Redirect(SANDBOX))
    assert FREE.within(wide) == wide


def test_suppressed_mode_is_the_scopes_or_the_mailboxs() -> None:
    assert suppressed(BOX, Restraint(suppress=True))
    assert suppressed(replace(BOX, suppress=True), FREE)
    assert not suppressed(BOX, FREE)


# ---------------------------------------------------------------- redirect


def test_redirect_of_the_scope_wins_over_the_mailboxs_and_that_over_its_catch_all() -> None:
    box = replace(BOX, catch_all=Redirect(CATCHER, AUDIT))
    assert redirect_of(box, FREE) == Redirect(CATCHER, AUDIT)
    box = replace(box, redirect=Redirect(AUDIT))
    assert redirect_of(box, FREE) == Redirect(AUDIT)
    assert redirect_of(box, Restraint(redirect=Redirect(SANDBOX))) == Redirect(SANDBOX)


people = st.lists(st.sampled_from(["jana@fabrikam.com", "omar@fabrikam.com", "příjemce@fabrikam.com"]), max_size=3)
written = st.builds(
    lambda to, cc, bcc: notification(to=[*to, "eve@fabrikam.com"], cc=cc, bcc=bcc), people, people, people
)


@given(written, st.sampled_from([None, AUDIT]), st.sampled_from(PickupFlavour))
def test_redirected_mail_names_and_reaches_the_sandbox_alone(
    sent: Notification, cc: AddrSpec | None, flavour: PickupFlavour
) -> None:
    redirect = Redirect(SANDBOX, cc)
    out = left(sent, BOX, Restraint(redirect=redirect))
    assert out.rcpt_to == redirect.addresses
    mail = compose(out.notification, BOX, (), datetime(2026, 6, 1, tzinfo=UTC))
    read = cast("EmailMessage", message_from_bytes(mail.content, policy=policy.default))
    named = [str(read[name]) for name in ("To", "Cc") if read[name]]
    assert named == [str(rcpt) for rcpt in redirect.addresses]
    assert mail.visible == frozenset(redirect.addresses)
    assert not mail.smtputf8
    envelope = Envelope.of(sender_of(out.notification, BOX).spec, out.rcpt_to)
    lines = pickup_file(flavour, envelope, mail).decode().split("\r\n\r\n")[0].split("\r\n")
    orders = [line for line in lines if line.lower().startswith(("x-receiver:", "to:", "cc:", "bcc:"))]
    assert not [line for line in orders if "fabrikam.com" in line]


def test_original_recipients_are_named_in_headers_that_no_server_obeys() -> None:
    sent = notification(to=[str(JANA)], cc=[str(OMAR)], bcc=["eve@fabrikam.com"])
    mail = compose(left(sent, BOX, Restraint(redirect=Redirect(SANDBOX))).notification, BOX, (), datetime.now(UTC))
    read = message_from_bytes(mail.content)
    assert (read["X-Postlane-Original-To"], read["X-Postlane-Original-Cc"], read["X-Postlane-Original-Bcc"]) == (
        str(JANA),
        str(OMAR),
        "eve@fabrikam.com",
    )


def test_a_thousand_original_recipients_do_not_break_the_header_limit() -> None:
    sent = notification(to=[f"somebody-{n}@fabrikam.com" for n in range(1000)])
    mail = compose(left(sent, BOX, Restraint(redirect=Redirect(SANDBOX))).notification, BOX, (), datetime.now(UTC))
    assert mail.content.index(b"\r\n\r\n") < 16 * 1024
    assert message_from_bytes(mail.content)["X-Postlane-Original-To"].endswith("and 950 more")


@pytest.mark.parametrize(
    ("submission", "refused"),
    [
        pytest.param(Accepted(OK), set(), id="accepted"),
        pytest.param(Accepted(OK, {AUDIT: NO}), set(), id="copy-refused"),
        pytest.param(Accepted(OK, {SANDBOX: NO}), {JANA, OMAR}, id="only-the-copy-accepted"),
        pytest.param(Refused(Stage.RCPT, NO, {SANDBOX: NO}), {JANA, OMAR}, id="refused"),
        pytest.param(Broken(Stage.DATA, Fault.TIMEOUT, "", {AUDIT: NO}), set(), id="broken"),
    ],
)
def test_sandboxs_fate_is_the_recipients_fate(submission: Accepted | Refused | Broken, refused: set[AddrSpec]) -> None:
    out = left(notification(to=[str(JANA), str(OMAR)]), BOX, Restraint(redirect=Redirect(SANDBOX, AUDIT)))
    found = answered(submission, out)
    assert isinstance(found, Accepted | Refused | Broken)
    assert set(found.refused) == refused


def test_answer_to_a_mail_that_was_not_redirected_is_left_alone() -> None:
    said = Accepted(OK, {JANA: NO})
    assert answered(said, left(notification(to=[str(JANA), str(OMAR)]))) is said
    assert answered(HandedOver("f"), left(notification(), BOX, Restraint(redirect=Redirect(SANDBOX)))) == HandedOver(
        "f"
    )


# ---------------------------------------------------------------- allowed domains

INSIDE = replace(BOX, allowed_domains=frozenset({"contoso.com", "*.fabrikam.com"}))


@pytest.mark.parametrize(
    ("recipient", "allowed"),
    [
        ("a@contoso.com", True),
        ("a@CONTOSO.com", True),
        ("a@sub.contoso.com", False),
        ("a@fabrikam.com", False),
        ("a@eu.fabrikam.com", True),
        ("a@west.eu.fabrikam.com", True),
        ("a@evilcontoso.com", False),
        ("a@elsewhere.org", False),
    ],
)
def test_domain_is_allowed_exactly_or_by_what_is_above_it(recipient: str, *, allowed: bool) -> None:
    assert INSIDE.may_reach(parse(recipient)) == allowed
    assert BOX.may_reach(parse(recipient))


def test_recipients_outside_are_named_as_failed_and_stand_in_no_header() -> None:
    sent = notification(to=["a@contoso.com", "b@elsewhere.org"], cc=["c@elsewhere.org"])
    out = left(sent, INSIDE)
    assert out.rcpt_to == out.tried == (parse("a@contoso.com"),)
    assert {rcpt: each.verdict for rcpt, each in out.barred.items()} == {
        parse("b@elsewhere.org"): "recipient-not-allowed",
        parse("c@elsewhere.org"): "recipient-not-allowed",
    }
    assert b"elsewhere" not in compose(out.notification, INSIDE, (), datetime.now(UTC)).content


def test_second_attempt_has_the_same_headers_as_the_first() -> None:
    sent = notification(to=["a@contoso.com", "b@elsewhere.org"])
    again = left(sent, INSIDE, FREE, parse("a@contoso.com"))
    assert again.notification == left(sent, INSIDE).notification


def test_mail_to_nobody_inside_is_refused() -> None:
    found = outgoing(notification(to=["b@elsewhere.org"]), Route(INSIDE, Because.OWN), FREE, [parse("b@elsewhere.org")])
    assert isinstance(found, Refusal)
    assert found.kind == "recipient-not-allowed"


def test_redirected_mail_is_for_the_sandbox_whatever_domains_are_allowed() -> None:
    out = left(notification(to=["b@elsewhere.org"]), replace(INSIDE, catch_all=Redirect(CATCHER)))
    assert (out.rcpt_to, out.barred) == ((CATCHER,), {})


def test_mail_without_restraint_leaves_as_it_was_written() -> None:
    sent = notification(to=[str(JANA)], bcc=[str(OMAR)])
    out = left(sent)
    assert out.notification is sent
    assert out.rcpt_to == (JANA, OMAR)


# ---------------------------------------------------------------- what should not be forgotten


def test_everything_that_keeps_mail_back_is_noticed_with_whose_it_is() -> None:
    known = directory(
        replace(BOX, name="off", enabled=False),
        replace(BOX, name="nowhere", tenants=frozenset({"contoso"}), sites=frozenset()),
        replace(BOX, name="caught", catch_all=Redirect(CATCHER)),
        replace(BOX, name="dry", suppress=True),
        BOX,
        restraint=Restraint(redirect=Redirect(SANDBOX)),
        tenants={
            "contoso": Tenant(
                restraint=Restraint(Stop.HOLD),
                sites={"shop": Restraint(Stop.REFUSE)},
                components={"agent": Restraint(suppress=True, purposes_off=frozenset({"mass", "invite"}))},
            )
        },
    )
    assert list(noticed(known)) == [
        ("platform", "All mail goes to sandbox@test.example; no recipient gets any."),
        ("tenant contoso", "The stop switch is on: mail waits."),
        ("tenant contoso, site shop", "The stop switch is on: mail is refused."),
        ("tenant contoso, component agent", "Suppressed mode is on: mail is decided on and not sent."),
        ("tenant contoso, component agent", "Switched off: invite, mass."),
        ("mailbox off", "It is switched off."),
        ("mailbox nowhere", "It is bound to no site or component, so it is never used."),
        ("mailbox caught", "All its mail goes to catch@test.example; no recipient gets any."),
        ("mailbox dry", "Suppressed mode is on: its mail is decided on and not sent."),
    ]


def test_nothing_is_noticed_where_mail_flows() -> None:
    assert list(noticed(directory(BOX))) == []
