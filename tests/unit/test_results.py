"""Result v1 as consumers read it."""

import json
from typing import Any

import jsonschema
import pytest

from contracts.delivery import DeliveryStatus, Reason, RecipientResult, RecipientStatus, Result
from contracts.wire import encode
from tests.factories import result


@pytest.mark.parametrize("status", DeliveryStatus)
def test_every_status_but_deferred_is_final(status: DeliveryStatus) -> None:
    assert status.final == (status != "deferred")


def test_result_goes_over_the_wire_under_its_documented_names() -> None:
    sent = result(
        recipients=(RecipientResult(address="a@x.de", status=RecipientStatus.FAILED, kind="recipient-permanent"),),
        reason=Reason(kind="recipient-permanent", explanation="There is no such recipient."),
    )
    fields = json.loads(encode(sent))
    assert fields["type"] == "postlane.result.v1"
    assert fields["reason"]["class"] == "recipient-permanent"
    assert fields["recipients"][0]["class"] == "recipient-permanent"
    assert "kind" not in fields["reason"]


def test_result_read_back_from_the_wire_is_the_same() -> None:
    sent = result(metadata={"a": [1, None, "\u017e"]}, message_id="<1@contoso.com>")
    assert Result.model_validate_json(encode(sent)) == sent


def test_null_in_metadata_is_echoed_and_not_left_out() -> None:
    assert json.loads(encode(result(metadata={"a": None})))["metadata"] == {"a": None}


SCHEMA = jsonschema.Draft202012Validator(Result.model_json_schema(by_alias=True))


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="usual"),
        # "null only if the message named none": whoever reads result["notification_id"] must find the field.
        pytest.param({"notification_id": None, "tenant": None}, id="about-a-nameless-message"),
    ],
)
def test_result_on_the_wire_satisfies_its_published_schema(fields: dict[str, Any]) -> None:
    SCHEMA.validate(json.loads(encode(result(**fields))))
