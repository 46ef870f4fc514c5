"""The explanation is the courier's own decision, told before anything is sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from contracts.notification import Notification
from tests.factories import directory, mailbox, notification, verdict
from tests.unit.strategies import directories, routed
from worker.domain.explain import Fate, explain
from worker.domain.mailbox import Directory, Producer, Rank, Redirect, Restraint, Stop, Tenant
from worker.domain.routing import Refusal, Route, Unavailable, Wait, route
from worker.domain.verdict import Action

A = mailbox("a", tenants=frozenset({"contoso"}), rank=Rank.HIGH)
B = mailbox("b", tenants=frozenset({"contoso"}), allowed_domains=frozenset({"fabrikam.com"}))
OTHER = mailbox("other", tenants=frozenset({"fabrikam"}))
SHOP = mailbox("shop", tenants=frozenset({"contoso"}), sites=frozenset({"shop"}))
FALLBACK = mailbox("fallback", fallback_for=frozenset({"invite"}))
PLATFORM = mailbox("platform")
DOWN = Unavailable(verdict(Action.PAUSE, "unreachable"))


@pytest.mark.parametrize(
    ("fields", "known", "fate", "words"),
    [
        pytest.param({}, directory(A, B), Fate.SENT, "Priority high among 2 servers", id="sent"),
        pytest.param({}, directory(replace(A, enabled=False)), Fate.WAITS, "switched off", id="waits"),
        pytest.param({}, directory(A, restraint=Restraint(Stop.HOLD)), Fate.WAITS, "stop switch", id="held"),
        pytest.param({}, directory(A, restraint=Restraint(Stop.REFUSE)), Fate.REFUSED, "stop switch", id="stopped"),
        pytest.param({}, directory(replace(A, suppress=True)), Fate.SUPPRESSED, "Suppressed mode", id="suppressed"),
        pytest.param({}, directory(), Fate.REFUSED, "No server is configured", id="no-server"),
        pytest.param({"sender": "x@y.example"}, directory(A), Fate.REFUSED, "may not send as", id="foreign-from"),
        pytest.param({"to": ["x@y.example"]}, directory(B), Fate.REFUSED, "domains", id="nobody-inside"),
    ],
)
def test_fate_is_told_with_its_reason(fields: dict[str, Any], known: Directory, fate: Fate, words: str) -> None:
    decided = explain(notification(**fields), known).decided
    assert decided.fate is fate
    assert words in decided.words


def test_redirect_and_barred_recipients_are_named() -> None:
    redirected = explain(notification(), directory(replace(A, redirect=Redirect(A.address)))).decided
    assert redirected.redirected_to == (str(A.address),)
    inside = explain(notification(to=["jana@fabrikam.com", "x@y.example"]), directory(B)).decided
    assert (inside.fate, inside.barred) == (Fate.SENT, ("x@y.example",))


def test_producers_rights_are_looked_at_when_its_login_is_given() -> None:
    known = directory(A, producers=[Producer("crm", categories=frozenset({"invite"}))])
    assert explain(notification(), known).decided.fate is Fate.SENT
    refused = explain(notification(category="approval"), known, user="crm").decided
    assert refused.fate is Fate.REFUSED
    assert "'crm' may not publish" in refused.words


def test_every_mailbox_is_considered_once_the_scopes_own_first_in_their_order() -> None:
    wide = mailbox("wide", tenants=frozenset({"contoso"}), rank=Rank.DEFAULT)
    narrow = replace(wide, name="narrow", sites=frozenset({"blog"}))
    known = directory(PLATFORM, FALLBACK, OTHER, SHOP, B, A, wide, narrow, mailbox("news"), default="platform")
    found = explain(notification(site="blog"), known, {"a": DOWN}.get).considered
    assert [(each.place, each.mailbox, each.words) for each in found] == [
        (1, "narrow", "priority default"),
        (2, "a", "priority high, It is so."),
        (3, "b", "priority normal"),
        (None, "platform", "the platform's default"),
        (None, "fallback", "fall-back for invite"),
        (None, "other", "other tenants'"),
        (None, "shop", "for other sites or components of this tenant"),
        (None, "wide", "a wider default, replaced by a narrower one"),
        (None, "news", "the platform's, for those who name it"),
    ]


def test_server_that_does_not_suit_is_told_so() -> None:
    off = replace(A, enabled=False, purposes=frozenset({"invite"}))
    known = directory(off, tenants={"contoso": Tenant()})
    (only,) = explain(notification(sender="x@y.example"), known).considered
    assert only.words == "priority high, switched off, does not serve 'notification', may not send as this From"


@given(routed, directories())
def test_explanation_and_routing_agree(sent: Notification, known: Directory) -> None:
    decided = explain(sent, known).decided
    match route(sent, known):
        case Route(mailbox=chosen):
            assert (decided.fate, decided.mailbox) == (Fate.SENT, chosen.name)
        case Wait():
            assert decided.fate is Fate.WAITS
        case Refusal(explanation=words):
            assert (decided.fate, decided.words) == (Fate.REFUSED, words)
