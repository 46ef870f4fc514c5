"""Whose mailbox carries a notification."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.delivery import Because
from contracts.notification import Notification
from tests.factories import directory, mailbox, notification
from worker.domain.mailbox import Directory, Mailbox
from worker.domain.routing import Refusal, Route, check_sender, route

CONTOSO = mailbox("contoso-own", tenants=frozenset({"contoso"}))
FABRIKAM = mailbox("fabrikam-own", tenants=frozenset({"fabrikam"}))
PLATFORM = mailbox("platform")
NEWS = mailbox("news")
ALL = (FABRIKAM, CONTOSO, PLATFORM, NEWS)


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


TENANTS = ("contoso", "fabrikam", "woodgrove")
owners = st.frozensets(st.sampled_from(TENANTS), max_size=2)


@st.composite
def directories(draw: st.DrawFn) -> Directory:
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True))
    mailboxes = [mailbox(name, tenants=draw(owners)) for name in names]
    return directory(
        *mailboxes,
        default=draw(st.sampled_from(names or [None])),
        tenants=draw(st.none() | st.dictionaries(st.sampled_from(TENANTS), st.booleans())),
    )


notifications = st.builds(
    lambda tenant, name: notification(tenant=tenant, mailbox=name),
    st.sampled_from([*TENANTS, *map(str.upper, TENANTS), "stranger"]),
    st.sampled_from([None, "a", "b", "c", "d"]),
)


@settings(max_examples=300)
@given(notifications, directories())
def test_no_tenants_mail_ever_leaves_through_the_mailbox_of_another(sent: Notification, known: Directory) -> None:
    found = route(sent, known)
    if isinstance(found, Route):
        assert not found.mailbox.tenants or sent.tenant.lower() in found.mailbox.tenants


@given(notifications, directories())
def test_tenant_with_a_mailbox_of_its_own_never_gets_the_default(sent: Notification, known: Directory) -> None:
    owns = any(sent.tenant.lower() in each.tenants for each in known.mailboxes.values())
    found = route(sent, known)
    assert not (owns and isinstance(found, Route) and found.because is Because.DEFAULT)


@given(notifications, directories())
def test_named_mailbox_is_that_one_or_none(sent: Notification, known: Directory) -> None:
    found = route(sent, known)
    if sent.mailbox is not None and isinstance(found, Route):
        assert found.mailbox.name == sent.mailbox
        assert found.because is Because.NAMED


@given(notifications, directories())
def test_tenant_that_may_not_use_shared_mailboxes_uses_none(sent: Notification, known: Directory) -> None:
    found = route(sent, known)
    if known.tenants is not None and not known.tenants.get(sent.tenant.lower(), False) and isinstance(found, Route):
        assert sent.tenant.lower() in found.mailbox.tenants


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
