"""Names that producers' permissions are made of."""

import pytest

from contracts import channels
from contracts.delivery import DeliveryStatus


@pytest.mark.parametrize(
    ("key", "tenant"),
    [
        pytest.param("t.contoso", "contoso", id="tenant"),
        pytest.param("t.con.to-so_1", "con.to-so_1", id="dots-belong-to-the-name"),
        pytest.param("t.", None, id="empty"),
        pytest.param("", None, id="none"),
        pytest.param("anything", None, id="another-form"),
        pytest.param("T.contoso", None, id="case-matters"),
    ],
)
def test_routing_key_names_a_tenant_or_none(key: str, tenant: str | None) -> None:
    assert channels.tenant_of(key) == tenant


def test_key_of_a_notification_leads_back_to_its_tenant() -> None:
    assert channels.tenant_of(channels.notification_key("Contoso-1.eu")) == "Contoso-1.eu"


def test_exchanges_carry_the_prefix_of_the_installation() -> None:
    assert channels.notifications_exchange("mail") == "mail.notifications"
    assert channels.results_exchange("mail") == "mail.results"
    assert channels.notifications_exchange() == "postlane.notifications"


def test_result_without_a_tenant_is_still_reachable_by_a_binding_for_all() -> None:
    assert channels.result_key(None, DeliveryStatus.REJECTED) == "r.-.rejected"
    assert channels.result_key("contoso", DeliveryStatus.ACCEPTED) == "r.contoso.accepted"
