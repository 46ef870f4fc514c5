"""Whose mailbox carries a notification: the five rules, row by row, and what must never happen in any configuration."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.delivery import Because
from contracts.notification import Notification
from tests.factories import NOON, directory, mailbox, notification, verdict
from tests.unit.strategies import MAILBOXES, directories, routed
from worker.domain.mailbox import Directory, Mailbox, Rank, Tenant
from worker.domain.routing import Refusal, Route, Unavailable, Wait, check_sender, pool, presented, route, scope_of
from worker.domain.verdict import Action

CONTOSO = mailbox("contoso-own", tenants=frozenset({"contoso"}))
FABRIKAM = mailbox("fabrikam-own", tenants=frozenset({"fabrikam"}))
PLATFORM = mailbox("platform")
NEWS = mailbox("news")
ALL = (FABRIKAM, CONTOSO, PLATFORM, NEWS)
DOWN = Unavailable(verdict(Action.PAUSE, "unreachable"), NOON + timedelta(minutes=5))


def own(name: str, rank: str = "normal", **fields: Any) -> Mailbox:
    """One of Contoso's own servers."""
    return mailbox(name, tenants=frozenset({"contoso"}), rank=Rank(rank), **fields)


def at(*sites: str) -> frozenset[str]:
    return frozenset(sites)


# ---------------------------------------------------------------- the rules, one by one


@pytest.mark.parametrize(
    ("fields", "known", "chosen", "because"),
    [
        pytest.param({}, directory(*ALL, default="platform"), "contoso-own", "own", id="own"),
        pytest.param(
            {"tenant": "CONTOSO"}, directory(*ALL, default="platform"), "contoso-own", "own", id="own-in-caps"
        ),
        pytest.param({}, directory(CONTOSO, tenants={}), "contoso-own", "own", id="own-needs-no-listing"),
        pytest.param(
            {"tenant": "woodgrove"}, directory(*ALL, default="platform"), "platform", "default", id="default-for-all"
        ),
        pytest.param(
            {"tenant": "Woodgrove"},
            directory(*ALL, default="platform", tenants={"woodgrove": True}),
            "platform",
            "default",
            id="default-for-a-listed-one",
        ),
        pytest.param({"mailbox": "contoso-own"}, directory(*ALL), "contoso-own", "named", id="own-by-name"),
        pytest.param({"mailbox": "news"}, directory(*ALL), "news", "named", id="shared-by-name"),
        pytest.param(
            {"mailbox": "news", "tenant": "woodgrove"},
            directory(*ALL, tenants={"woodgrove": True}),
            "news",
            "named",
            id="shared-by-name-for-a-listed-one",
        ),
    ],
)
def test_rule_chooses_the_mailbox(fields: dict[str, str], known: Directory, chosen: str, because: str) -> None:
    found = route(notification(**fields), known)
    assert isinstance(found, Route)
    assert (found.mailbox.name, found.because) == (chosen, because)
    assert found.why


@pytest.mark.parametrize(
    ("fields", "known", "kind", "field"),
    [
        pytest.param({}, directory(PLATFORM), "no-mailbox", "tenant", id="no-default"),
        pytest.param({}, directory(FABRIKAM), "no-mailbox", "tenant", id="only-another-tenants"),
        pytest.param(
            {}, directory(PLATFORM, default="platform", tenants={}), "unknown-tenant", "tenant", id="not-listed"
        ),
        pytest.param(
            {},
            directory(PLATFORM, default="platform", tenants={"contoso": False}),
            "no-mailbox",
            "tenant",
            id="listed-without-the-default",
        ),
        pytest.param({"mailbox": "fabrikam-own"}, directory(*ALL), "unknown-mailbox", "mailbox", id="another-tenants"),
        pytest.param({"mailbox": "nowhere"}, directory(*ALL), "unknown-mailbox", "mailbox", id="no-such-name"),
        pytest.param({"mailbox": "News"}, directory(*ALL), "unknown-mailbox", "mailbox", id="names-have-a-case"),
        pytest.param(
            {"mailbox": "news"},
            directory(*ALL, tenants={"contoso": False}),
            "unknown-mailbox",
            "mailbox",
            id="shared-but-not-for-this-tenant",
        ),
        pytest.param(
            {"mailbox": "contoso-own"},
            directory(CONTOSO, tenants={"contoso": Tenant(choose=False)}),
            "not-allowed",
            "mailbox",
            id="managed-tenant-may-not-name-even-its-own",
        ),
        pytest.param(
            {"mailbox": "platform"},
            directory(*ALL, default="platform"),
            "unknown-mailbox",
            "mailbox",
            id="own-server-is-not-bypassed-by-naming-the-default",
        ),
        pytest.param(
            {"mailbox": "shop"},
            directory(own("shop", sites=at("shop"))),
            "unknown-mailbox",
            "mailbox",
            id="another-sites",
        ),
        pytest.param(
            {"mailbox": "news", "category": "invite"},
            directory(replace(NEWS, purposes=frozenset({"approval"}))),
            "no-mailbox",
            "category",
            id="named-one-does-not-serve-the-purpose",
        ),
    ],
)
def test_rule_refuses_with_the_field_to_blame(fields: dict[str, str], known: Directory, kind: str, field: str) -> None:
    found = route(notification(**fields), known)
    assert isinstance(found, Refusal)
    assert (found.kind, found.field) == (kind, field)
    assert found.explanation
    assert found.remedy


def test_mailbox_of_another_tenant_is_refused_like_one_that_does_not_exist() -> None:
    taken = route(notification(mailbox="fabrikam-own"), directory(*ALL))
    free = route(notification(mailbox="woodgrove-own"), directory(*ALL))
    assert isinstance(taken, Refusal)
    assert isinstance(free, Refusal)
    assert taken.explanation.replace("fabrikam-own", "") == free.explanation.replace("woodgrove-own", "")


def test_default_that_belongs_to_a_tenant_is_nobody_elses() -> None:
    # "A tenant's own mailbox": to make it the default is a mistake in the settings, and a leak if it is not noticed.
    found = route(notification(tenant="woodgrove"), directory(CONTOSO, default="contoso-own"))
    assert isinstance(found, Refusal)


# ---------------------------------------------------------------- five products, each with its row


A, B, C = own("a", "high"), own("b", "normal"), own("c", "low")
SERVER, AGENT = own("server", components=at("server")), own("agent", components=at("agent"))
D1, D2 = own("d1", "default", sites=at("one")), own("d2", "default", sites=at("two"))
GLOBAL_DEFAULT = own("d0", "default")
HIGH = own("high", "high")
FALLBACK = mailbox("fallback", fallback_for=frozenset({"invite"}))
PROJECTS = {"contoso": False, "fabrikam": False}


@pytest.mark.parametrize(
    ("fields", "known", "down", "expected"),
    [
        pytest.param({"component": "server"}, directory(SERVER, AGENT), "", "server own", id="NIM-by-component"),
        pytest.param({"component": "Agent"}, directory(SERVER, AGENT), "", "agent own", id="NIM-the-other-component"),
        pytest.param({"component": "server"}, directory(SERVER, AGENT), "server", "wait", id="NIM-waits-no-other"),
        pytest.param({"component": "agent"}, directory(SERVER, AGENT), "server", "agent own", id="NIM-others-flow"),
        pytest.param({}, directory(SERVER, AGENT), "", "no-mailbox", id="NIM-without-component"),
        pytest.param({}, directory(C, B, A), "", "a priority", id="KX-high-first"),
        pytest.param({}, directory(C, B, A), "a", "b priority", id="KX-then-normal"),
        pytest.param({}, directory(C, B, A), "a b", "c priority", id="KX-then-low"),
        pytest.param({}, directory(C, B, A), "a b c", "wait", id="KX-all-off-waits"),
        pytest.param({}, directory(C, B, replace(A, enabled=False)), "", "b priority", id="KX-disabled-is-skipped"),
        pytest.param({"site": "one"}, directory(D1, D2, HIGH), "", "d1 own", id="KX-default-of-the-site"),
        pytest.param({"site": "Two"}, directory(D1, D2, HIGH), "", "d2 own", id="KX-default-of-the-other-site"),
        pytest.param({"site": "one"}, directory(D1, D2, HIGH), "d1", "high priority", id="KX-default-busy"),
        pytest.param({"site": "three"}, directory(D1, D2, HIGH), "", "high own", id="KX-default-undefined"),
        pytest.param({"site": "one"}, directory(GLOBAL_DEFAULT, D1), "", "d1 own", id="KX-site-before-global-default"),
        pytest.param({"site": "one"}, directory(GLOBAL_DEFAULT, D1), "d1", "wait", id="KX-overridden-default-is-out"),
        pytest.param({}, directory(GLOBAL_DEFAULT, D1), "", "d0 own", id="KX-global-default-for-mail-without-site"),
        pytest.param({}, directory(D1), "", "no-mailbox", id="KX-mail-without-site-takes-no-sites-server"),
        pytest.param({"site": "two"}, directory(D1), "", "no-mailbox", id="KX-another-sites-server"),
        pytest.param({"site": "one"}, directory(own("x", sites=at())), "", "no-mailbox", id="KX-bound-to-no-site"),
        pytest.param({"mailbox": "b"}, directory(A, B), "", "b named", id="DPM-the-task-names-it"),
        pytest.param({"mailbox": "b"}, directory(A, B), "b", "wait", id="DPM-waits-by-name"),
        pytest.param({"mailbox": "b"}, directory(A, replace(B, enabled=False)), "", "wait", id="DPM-named-is-off"),
        pytest.param({}, directory(), "", "no-mailbox", id="DPM-no-server"),
        pytest.param(
            {"category": "invite"}, directory(FALLBACK, tenants=PROJECTS), "", "fallback purpose", id="UMB-invite"
        ),
        pytest.param(
            {"category": "password-reset"}, directory(FALLBACK, tenants=PROJECTS), "", "no-mailbox", id="UMB-reset"
        ),
        pytest.param({"category": "form"}, directory(FALLBACK, tenants=PROJECTS), "", "no-mailbox", id="UMB-form"),
        pytest.param(
            {"category": "invite"}, directory(FALLBACK, A, tenants=PROJECTS), "", "a own", id="UMB-configured"
        ),
        pytest.param(
            {"category": "invite"}, directory(FALLBACK, A, tenants=PROJECTS), "a", "wait", id="UMB-configured-but-down"
        ),
        pytest.param(
            {"category": "invite"},
            directory(replace(FALLBACK, tenants=at("fabrikam")), tenants=PROJECTS),
            "",
            "no-mailbox",
            id="UMB-fall-back-of-others",
        ),
        pytest.param(
            {"category": "invite"},
            directory(replace(FALLBACK, tenants=at("contoso")), tenants={}),
            "",
            "fallback purpose",
            id="UMB-fall-back-makes-the-tenant-known",
        ),
        pytest.param({}, directory(PLATFORM, default="platform"), "", "platform default", id="ELX-nothing-set"),
        pytest.param({}, directory(PLATFORM, default="platform"), "platform", "wait", id="ELX-default-is-down"),
        pytest.param(
            {"category": "mass"}, directory(PLATFORM, default="platform"), "", "no-mailbox", id="ELX-no-mass-mail"
        ),
        pytest.param(
            {"category": "mass", "mailbox": "platform"},
            directory(PLATFORM, default="platform"),
            "",
            "no-mailbox",
            id="ELX-no-mass-mail-by-name-either",
        ),
        pytest.param({"category": "mass"}, directory(A, PLATFORM, default="platform"), "", "a own", id="ELX-own-mass"),
        pytest.param({}, directory(A, PLATFORM, default="platform"), "a", "wait", id="ELX-own-down-never-the-default"),
        pytest.param(
            {}, directory(replace(A, enabled=False), PLATFORM, default="platform"), "", "wait", id="ELX-own-is-off"
        ),
        pytest.param(
            {"category": "form"},
            directory(replace(A, purposes=at("invite")), PLATFORM, default="platform"),
            "",
            "no-mailbox",
            id="ELX-own-does-not-serve-it",
        ),
        pytest.param(
            {"site": "misspelt"}, directory(D1, PLATFORM, default="platform"), "", "no-mailbox", id="unknown-site-stays"
        ),
        pytest.param(
            {"site": "three"},
            directory(D1, PLATFORM, default="platform", tenants={"contoso": True}),
            "",
            "platform default",
            id="unconfigured-site-that-was-given-the-default",
        ),
    ],
)
def test_row_of_the_products_table_holds(fields: dict[str, str], known: Directory, down: str, expected: str) -> None:
    match route(notification(**fields), known, dict.fromkeys(down.split(), DOWN).get):
        case Route(mailbox=chosen, because=because):
            assert f"{chosen.name} {because}" == expected
        case Wait():
            assert expected == "wait"
        case Refusal(kind=kind):
            assert kind == expected


# ---------------------------------------------------------------- order, waiting, words


def test_servers_of_one_rank_share_the_mail_evenly() -> None:
    known = directory(*(own(name) for name in ("one", "two", "three")))
    first = Counter(pool(notification(id=f"n-{n}"), known)[0].name for n in range(900))
    assert min(first.values()) > 250


def test_every_attempt_finds_the_same_order() -> None:
    known = directory(*(own(name) for name in ("one", "two", "three")))
    assert pool(notification(), known) == pool(notification(subject="other"), known)


def test_from_decides_among_servers_that_may_and_may_not_send_as_it() -> None:
    known = directory(A, own("b", "low", senders=frozenset({"*@fabrikam.com"})))
    found = route(notification(sender="shop@fabrikam.com"), known)
    assert isinstance(found, Route)
    assert found.mailbox.name == "b"


def test_choice_tells_whom_it_has_passed_over_and_why() -> None:
    found = route(notification(), directory(replace(A, enabled=False), B, C), {"b": DOWN}.get)
    assert isinstance(found, Route)
    assert found.why == (
        "Priority low among 3 servers of tenant 'contoso'. Passed over 'a': Mailbox 'a' is switched off. "
        "Passed over 'b' until 12:05:00 UTC: It is so."
    )


def test_wait_ends_when_the_first_of_them_may_be_back() -> None:
    later = replace(DOWN, until=NOON + timedelta(hours=1))
    found = route(notification(), directory(A, B), {"a": later, "b": DOWN}.get)
    assert isinstance(found, Wait)
    assert found.until == DOWN.until
    assert (found.route.mailbox, found.unavailable) == (A, later)


def test_wait_for_what_somebody_has_switched_off_has_no_end_of_its_own() -> None:
    found = route(notification(), directory(replace(A, enabled=False)))
    assert isinstance(found, Wait)
    assert found.until is None
    assert found.unavailable.verdict.kind == "disabled"


def test_wait_looks_at_what_comes_back_by_itself_before_what_is_switched_off() -> None:
    found = route(notification(), directory(replace(A, enabled=False), B), {"b": DOWN}.get)
    assert isinstance(found, Wait)
    assert found.route.mailbox == B


def test_fall_back_speaks_in_its_own_name_and_answers_go_to_the_one_who_invites() -> None:
    sent = notification(category="invite", sender="anna@contoso.com")
    found = route(sent, directory(replace(FALLBACK, address=PLATFORM.address, senders=frozenset({"p@contoso.com"}))))
    assert isinstance(found, Route)
    foreign = notification(category="invite", sender="anna@project.example")
    shown = presented(foreign, found)
    assert shown.sender is None
    assert [person.address for person in shown.reply_to] == ["anna@project.example"]
    assert presented(notification(category="invite", sender="p@contoso.com"), found).sender is not None


def test_only_a_fall_back_changes_the_sender() -> None:
    foreign = notification(sender="anna@project.example")
    assert presented(foreign, Route(PLATFORM, Because.DEFAULT)) is foreign


# ---------------------------------------------------------------- whatever is configured

outages = st.frozensets(st.sampled_from(MAILBOXES)).map(lambda names: dict.fromkeys(names, DOWN))


def carrier(found: Route | Refusal | Wait) -> Mailbox | None:
    """Which mailbox carries it, now or after waiting."""
    match found:
        case Route(mailbox=chosen):
            return chosen
        case Wait(route=Route(mailbox=chosen)):
            return chosen
        case Refusal():
            return None


@settings(max_examples=500)
@given(routed, directories(), outages)
def test_no_mail_ever_leaves_through_the_server_of_another_scope(
    sent: Notification, known: Directory, down: dict[str, Unavailable]
) -> None:
    chosen = carrier(route(sent, known, down.get))
    if chosen is None or not chosen.tenants:
        return
    assert sent.tenant.lower() in chosen.tenants
    if not chosen.fallback_for:
        assert chosen.sites is None or (sent.site or "").lower() in chosen.sites
        assert chosen.components is None or (sent.component or "").lower() in chosen.components


@settings(max_examples=500)
@given(routed, directories(), outages)
def test_scope_with_a_server_never_gets_the_default_or_a_fall_back(
    sent: Notification, known: Directory, down: dict[str, Unavailable]
) -> None:
    found = route(sent, known, down.get)
    because = found.because if isinstance(found, Route) else found.route.because if isinstance(found, Wait) else None
    if pool(sent, known):
        assert because not in (Because.DEFAULT, Because.PURPOSE)


@settings(max_examples=300)
@given(routed, directories(), outages)
def test_outages_change_when_and_through_which_of_its_own_but_never_whose_server(
    sent: Notification, known: Directory, down: dict[str, Unavailable]
) -> None:
    before, after = route(sent, known), route(sent, known, down.get)
    assert isinstance(before, Refusal) == isinstance(after, Refusal)
    one, other = carrier(before), carrier(after)
    if one is not None and other is not None:
        assert one.tenants & other.tenants or one.tenants == other.tenants or one.fallback_for


@given(routed, directories(), outages)
def test_named_mailbox_is_that_one_or_none(sent: Notification, known: Directory, down: dict[str, Unavailable]) -> None:
    chosen = carrier(route(sent, known, down.get))
    if sent.mailbox is not None and chosen is not None:
        assert chosen.name == sent.mailbox


@given(routed, directories(), outages)
def test_what_is_switched_off_or_unavailable_is_never_taken(
    sent: Notification, known: Directory, down: dict[str, Unavailable]
) -> None:
    found = route(sent, known, down.get)
    if isinstance(found, Route):
        assert found.mailbox.enabled
        assert found.mailbox.name not in down


@given(routed, directories())
def test_tenant_that_may_not_use_the_platforms_mailboxes_gets_fall_backs_at_most(
    sent: Notification, known: Directory
) -> None:
    found = route(sent, known)
    denied = known.tenants is not None and known.tenant(sent.tenant.lower()).use_default is False
    if denied and isinstance(found, Route) and found.because is not Because.PURPOSE:
        assert sent.tenant.lower() in found.mailbox.tenants


@given(routed, directories())
def test_mass_mail_never_leaves_through_the_default(sent: Notification, known: Directory) -> None:
    chosen = carrier(route(sent, known))
    if sent.category == "mass" and chosen is not None and not chosen.tenants and not chosen.fallback_for:
        assert chosen.name != known.default


@given(routed)
def test_scope_is_compared_in_lower_case(sent: Notification) -> None:
    scope = scope_of(sent)
    assert str(scope) == str(scope).lower()


# ---------------------------------------------------------------- From

SENDERS = mailbox(senders=frozenset({"help@contoso.com", "*@news.contoso.com"}))


@pytest.mark.parametrize(
    ("sender", "used", "allowed"),
    [
        pytest.param(None, SENDERS, True, id="left-out"),
        pytest.param("noreply@contoso.com", SENDERS, True, id="the-mailboxs-own"),
        pytest.param("noreply@CONTOSO.com", SENDERS, True, id="domain-in-caps"),
        pytest.param("help@contoso.com", SENDERS, True, id="listed"),
        pytest.param("anybody@news.contoso.com", SENDERS, True, id="by-domain"),
        pytest.param("boss@contoso.com", SENDERS, False, id="not-listed"),
        pytest.param("x@sub.news.contoso.com", SENDERS, False, id="subdomain"),
        pytest.param("x@evilnews.contoso.com", SENDERS, False, id="only-ends-alike"),
        pytest.param("*@news.contoso.com", SENDERS, True, id="star-is-a-legal-name"),
        pytest.param("noreply@fabrikam.com", mailbox(), False, id="another-domain"),
    ],
)
def test_from_is_what_the_mailbox_may_send_as(sender: str | None, used: Mailbox, *, allowed: bool) -> None:
    found = check_sender(notification(sender=sender), used)
    assert (found is None) == allowed
    if found is not None:
        assert found.field == "from"
        assert used.name in found.explanation
