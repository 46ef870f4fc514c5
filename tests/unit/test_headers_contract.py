"""Which headers a producer may set: nothing that steers delivery, nothing that Postlane writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.headers import MAX_VALUE, MAX_WORD, check_custom_header


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("X-Campaign", "spring", id="x-family"),
        pytest.param("x-campaign", "jaro \U0001f33c", id="x-family-may-be-unicode"),
        pytest.param("List-Unsubscribe", "<https://contoso.com/u>, <mailto:u@contoso.com>", id="list-family"),
        pytest.param("Auto-Submitted", "no", id="auto-submitted"),
        pytest.param("References", "<a@contoso.com> <b@contoso.com>", id="references"),
        pytest.param("IMPORTANCE", "high", id="upper-case"),
        pytest.param("X-Priority", "", id="empty-value"),
        pytest.param("X-Senior", "yes", id="only-looks-like-a-reserved-name"),
        pytest.param("X-" + "a" * 62, "x" * MAX_VALUE, id="longest"),
        pytest.param("List-Id", "x" * MAX_WORD, id="longest-word"),
    ],
)
def test_header_of_the_producers_own_is_accepted(name: str, value: str) -> None:
    check_custom_header(name, value)


STEERING = """
From Sender To Cc Bcc Reply-To Subject Date Message-ID Return-Path
MIME-Version Content-Type Content-Transfer-Encoding Content-Disposition DKIM-Signature
Received Resent-To Return-Receipt-To Disposition-Notification-To Errors-To
X-Sender X-Receiver x-RECEIVER X-CreatedBy X-EndOfInjectedXHeaders X-HeloDomain X-Source
X-MS-Exchange-Organization-SCL X-Postlane-Id x-postlane-anything
"""


@pytest.mark.parametrize("name", STEERING.split())
def test_header_that_steers_delivery_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"may not set {name}"):
        check_custom_header(name, "x")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("X Campaign", id="blank"),
        pytest.param("X-Campaign:", id="colon"),
        pytest.param("X-Campaign\r\nBcc", id="line-break"),
        pytest.param("X-Campaign\n", id="newline-at-the-end"),
        pytest.param("X-Kampa\u0148", id="not-ascii"),
        pytest.param("X-" + "a" * 63, id="too-long"),
        pytest.param("X_Campaign", id="underscore"),
    ],
)
def test_header_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits and hyphens"):
        check_custom_header(name, "x")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        pytest.param("X-Long", "x" * (MAX_VALUE + 1), "longer than 2000", id="too-long"),
        pytest.param("List-Unsubscribe", "<https://m\u00fcnchen.example>", "not ASCII", id="list-not-ascii"),
        pytest.param("References", "<\u00e9@contoso.com>", "not ASCII", id="references-not-ascii"),
        pytest.param("List-Id", "x" * (MAX_WORD + 1), "no mail line can hold", id="word-too-long"),
    ],
)
def test_header_value_that_no_mail_can_hold_is_refused(name: str, value: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_custom_header(name, value)


RESERVED = st.sampled_from(["x-postlane-", "x-ms-exchange-", "x-receiver", "x-sender"])


@given(RESERVED, st.text("abcXYZ019-", max_size=20))
def test_reserved_family_is_refused_whatever_follows_and_however_written(family: str, rest: str) -> None:
    for name in (family + rest, family.upper() + rest, family.title() + rest):
        with pytest.raises(ValueError, match="may not set"):
            check_custom_header(name, "x")
