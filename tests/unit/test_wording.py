"""Rules for events, and what a template's wording does to a notification."""

from typing import Any

import pytest

from contracts.notification import Address, Notification, Priority
from tests.factories import notification
from worker.domain.mailbox import MailScope
from worker.domain.routing import Refusal
from worker.domain.wording import Order, Rule, Wording, filled, ordered, rule_for, worded

BOSS, OMAR = Address(address="boss@contoso.com"), Address(address="omar@contoso.com", name="Omar")
CONTOSO = MailScope("contoso")


def event(**fields: Any) -> Notification:
    least = {"type": "postlane.notification.v1", "id": "e-1", "tenant": "contoso", "event": "approval.requested"}
    return Notification.model_validate({**least, **fields}, strict=False)


APPROVAL = Rule(
    "approval.requested",
    template="approval",
    locale="cs",
    mailbox="approvals",
    category="approval",
    priority=Priority.HIGH,
    sender=OMAR,
    reply_to=(OMAR,),
    to=(BOSS,),
    bcc=(OMAR,),
    data={"link_base": "https://pm.contoso.com", "team": "IT"},
)


def test_rule_gives_all_that_the_event_leaves_out() -> None:
    whole = filled(event(data={"id": 7, "team": "Sales"}), APPROVAL)
    assert isinstance(whole, Notification)
    assert (whole.template, whole.locale, whole.mailbox) == ("approval", "cs", "approvals")
    assert (whole.category, whole.priority, whole.sender) == ("approval", Priority.HIGH, OMAR)
    assert (whole.reply_to, whole.to, whole.bcc) == ((OMAR,), (BOSS,), (OMAR,))
    assert whole.data == {"id": 7, "team": "Sales", "link_base": "https://pm.contoso.com"}


def test_what_the_notification_says_itself_stands() -> None:
    given = {
        "template": "own",
        "locale": "en",
        "mailbox": "own",
        "category": "invite",
        "priority": "low",
        "from": "me@contoso.com",
        "reply_to": ["me@contoso.com"],
        "cc": ["jana@contoso.com"],
    }
    said = event(**given)
    whole = filled(said, APPROVAL)
    assert isinstance(whole, Notification)
    assert whole.model_copy(update={"data": {}}) == said


def test_default_that_a_client_writes_out_says_nothing() -> None:
    whole = filled(event(category="notification", priority="normal"), APPROVAL)
    assert isinstance(whole, Notification)
    assert (whole.category, whole.priority) == ("approval", Priority.HIGH)


def test_event_with_a_text_of_its_own_gets_no_template() -> None:
    whole = filled(event(subject="S", text="T"), APPROVAL)
    assert isinstance(whole, Notification)
    assert (whole.template, whole.to) == (None, (BOSS,))


def test_event_that_says_everything_itself_needs_no_rule() -> None:
    said = event(subject="S", text="T", to=["a@x.de"])
    assert filled(said, None) == said


@pytest.mark.parametrize(
    ("said", "rule", "field"),
    [
        pytest.param(event(), None, "event", id="no-rule"),
        pytest.param(event(to=["a@x.de"]), Rule("e", mailbox="m"), "template", id="nothing-to-say"),
        pytest.param(event(to=["a@x.de"], text="T"), Rule("e", mailbox="m"), "subject", id="no-subject"),
        pytest.param(event(), Rule("e", template="t"), "to", id="nobody-to-tell"),
        pytest.param(event(category="mass"), APPROVAL, "event", id="mass-mail"),
    ],
)
def test_event_that_cannot_be_made_whole_is_refused_by_name(said: Notification, rule: Rule | None, field: str) -> None:
    refusal = filled(said, rule)
    assert isinstance(refusal, Refusal)
    assert (refusal.kind, refusal.field) == ("no-rule", field)
    assert "approval.requested" in refusal.explanation


def test_rules_add_nothing_to_mass_mail() -> None:
    said = event(category="mass", template="news", to=["a@x.de", "b@x.de"])
    assert filled(said, APPROVAL) == said


@pytest.mark.parametrize(
    ("scope", "to"),
    [
        pytest.param(CONTOSO, "contoso", id="tenant"),
        pytest.param(MailScope("fabrikam", None, "agent"), "agent", id="component"),
        pytest.param(MailScope("fabrikam", "shop"), "shop", id="site"),
        pytest.param(MailScope("zlin"), "all", id="all"),
    ],
)
def test_first_rule_that_holds_for_the_scope_is_taken(scope: MailScope, to: str) -> None:
    rules = [
        Rule("*", template="rest"),
        Rule("reset", tenants=("contoso",), template="contoso"),
        Rule("reset", components=("agent",), template="agent"),
        Rule("reset", sites=("shop",), template="shop"),
        Rule("reset", template="all"),
        Rule("reset", template="never"),
    ]
    found = rule_for("reset", scope, rules)
    assert found is not None
    assert found.template == to


def test_event_without_a_rule_of_its_own_gets_the_rest_or_none() -> None:
    assert rule_for("other", CONTOSO, [Rule("reset"), Rule("*", template="rest")]) == Rule("*", template="rest")
    assert rule_for("other", CONTOSO, [Rule("reset"), Rule("*", tenants=("fabrikam",))]) is None


def template(**fields: Any) -> Notification:
    return notification(**{"text": None, "subject": None, "template": "reset", "data": {"a": 1}, **fields})


def test_single_recipient_can_be_addressed_by_name() -> None:
    jana = {"address": "jana@x.de", "name": "Jana"}
    assert ordered(template(to=[jana], cc=["jana@x.de"])) == Order("reset", None, {"a": 1}, jana)
    several = ordered(template(to=[jana, "omar@x.de"]))
    assert several is not None
    assert several.recipient is None
    assert ordered(notification()) is None


def test_wording_takes_the_place_of_the_template() -> None:
    made = worded(template(), Wording("cs", "Předmět", "Text", "<p>Text</p>"))
    assert (made.subject, made.text, made.html, made.template) == ("Předmět", "Text", "<p>Text</p>", None)


def test_subject_of_the_notification_stands() -> None:
    order = ordered(template(subject="Mine"))
    assert order is not None
    assert order.titled
    assert worded(template(subject="Mine"), Wording("cs", None, "T", None)).subject == "Mine"
