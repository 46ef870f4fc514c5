"""Which producer may speak for which tenant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.wire import Properties
from tests.factories import directory, notification
from worker.domain.mailbox import Producer
from worker.domain.permission import authorise

CRM = Producer("crm", tenants=frozenset({"contoso", "fabrikam"}), categories=frozenset({"invite"}))
PORTAL = Producer("portal")
LISTED = directory(producers=[CRM, PORTAL])


@pytest.mark.parametrize(
    ("fields", "properties", "blamed"),
    [
        pytest.param({"category": "invite"}, {"user_id": "crm"}, None, id="all-is-well"),
        pytest.param({"category": "invite", "tenant": "CONTOSO"}, {"user_id": "crm"}, None, id="tenant-in-caps"),
        pytest.param({"tenant": "anybody"}, {"user_id": "portal"}, None, id="producer-for-everybody"),
        pytest.param({"category": "invite"}, {"user_id": None}, "user_id", id="anonymous"),
        pytest.param({"category": "invite"}, {"user_id": ""}, "user_id", id="empty-login"),
        pytest.param({"category": "invite"}, {"user_id": "eve"}, "user_id", id="unlisted"),
        pytest.param({"category": "invite"}, {"user_id": "CRM"}, "user_id", id="logins-have-a-case"),
        pytest.param({"category": "invite", "tenant": "woodgrove"}, {"user_id": "crm"}, "tenant", id="other-tenant"),
        pytest.param({"category": "mass"}, {"user_id": "crm"}, "category", id="other-category"),
        pytest.param(
            {"category": "invite"}, {"user_id": "crm", "routing_key": "t.contoso"}, None, id="routing-key-agrees"
        ),
        pytest.param(
            {"category": "invite"}, {"user_id": "crm", "routing_key": "t.Contoso"}, None, id="routing-key-in-caps"
        ),
        pytest.param(
            {"category": "invite"}, {"user_id": "crm", "routing_key": "t.fabrikam"}, "tenant", id="routing-key-differs"
        ),
    ],
)
def test_producer_speaks_for_its_own_tenants_only(
    fields: dict[str, str], properties: dict[str, str], blamed: str | None
) -> None:
    found = authorise(notification(**fields), Properties(**properties), LISTED)
    assert (found.field if found else None) == blamed
    assert found is None or (found.kind == "not-allowed" and found.explanation and found.remedy)


@pytest.mark.parametrize(
    ("sender", "allowed"),
    [
        pytest.param(None, True, id="left-out"),
        pytest.param("shop@contoso.com", True, id="listed"),
        pytest.param("x@news.contoso.com", True, id="by-domain"),
        pytest.param("boss@contoso.com", False, id="not-listed"),
    ],
)
def test_producer_writes_in_names_that_it_was_granted(sender: str | None, *, allowed: bool) -> None:
    shop = Producer("shop", senders=frozenset({"shop@contoso.com", "*@news.contoso.com"}))
    found = authorise(notification(sender=sender), Properties(user_id="shop"), directory(producers=[shop]))
    assert (found.field if found else None) == (None if allowed else "from")


@pytest.mark.parametrize("user_id", [None, "", "anybody"])
def test_without_a_list_of_producers_the_exchange_is_trusted(user_id: str | None) -> None:
    assert authorise(notification(), Properties(user_id=user_id), directory()) is None


def test_routing_key_of_another_tenant_is_refused_even_without_a_list() -> None:
    # The broker's topic permissions hold a producer to its key; the body must not undo that.
    found = authorise(notification(tenant="fabrikam"), Properties(routing_key="t.contoso"), directory())
    assert found is not None
    assert found.field == "tenant"


def test_empty_list_of_producers_lets_nobody_through() -> None:
    assert authorise(notification(), Properties(user_id="crm"), directory(producers=[])) is not None


TENANTS = ["contoso", "fabrikam", "woodgrove"]
producers = st.builds(
    Producer,
    st.sampled_from(["crm", "portal", ""]),
    st.frozensets(st.sampled_from(TENANTS)),
    st.frozensets(st.sampled_from(["invite", "mass"])),
)


@given(
    tenant=st.sampled_from([*TENANTS, "CONTOSO"]),
    category=st.sampled_from(["invite", "mass"]),
    user_id=st.sampled_from([None, "", "crm", "portal", "eve"]),
    key=st.sampled_from(["", "t.", "t.contoso", "t.fabrikam", "x"]),
    listed=st.lists(producers, unique_by=lambda each: each.user),
)
def test_nobody_publishes_for_a_tenant_that_was_not_granted(
    tenant: str, category: str, user_id: str | None, key: str, listed: list[Producer]
) -> None:
    found = authorise(
        notification(tenant=tenant, category=category),
        Properties(user_id=user_id, routing_key=key),
        directory(producers=listed),
    )
    if found is None:
        (producer,) = (each for each in listed if each.user == user_id)
        assert not producer.tenants or tenant.lower() in producer.tenants
        assert not producer.categories or category in producer.categories
        assert not key.startswith("t.c") or tenant.lower() == "contoso"
        assert not key.startswith("t.f") or tenant.lower() == "fabrikam"


def test_category_that_a_rule_may_give_is_looked_at_once_it_is_given() -> None:
    left_out = notification(event="user.invited")
    portal = Properties(user_id="crm")
    assert authorise(left_out, portal, LISTED) is None
    refused = authorise(left_out, portal, LISTED, by_rule=True)
    assert refused is not None
    assert refused.field == "category"
    outright = authorise(notification(event="user.invited", category="mass"), portal, LISTED)
    assert outright is not None
    assert outright.field == "category"
