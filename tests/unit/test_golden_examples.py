"""The examples are the contract's memory: every one must stay valid for ever, and so must every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

import contracts
from contracts import schemas
from contracts.cancellation import Cancellation
from contracts.channels import notifications_exchange, results_exchange
from contracts.delivery import Result
from contracts.notification import Notification
from contracts.wire import CLOUDEVENT, Malformed, Properties, decode, encode

HOME = Path(contracts.__file__).parent
EXAMPLES = HOME / "examples"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(read(schemas.DIRECTORY / f"{name}.v1.json"))


def named(pattern: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted(EXAMPLES.glob(pattern))]


@pytest.mark.parametrize(("name", "content"), list(schemas.generated()))
def test_schema_on_disk_equals_the_models(name: str, content: str) -> None:
    assert (schemas.DIRECTORY / name).read_text(encoding="utf-8") == content, "run `make schemas`"


@pytest.mark.parametrize("path", named("notification-*.json"))
def test_golden_notification_is_accepted_by_schema_and_decoder(path: Path) -> None:
    validator("notification").validate(read(path))
    assert isinstance(decode(path.read_bytes(), Properties(), max_octets=1 << 20), Notification)


@pytest.mark.parametrize("path", named("notification-*.json"))
def test_golden_notification_survives_encoding(path: Path) -> None:
    once = decode(path.read_bytes(), Properties(), max_octets=1 << 20)
    assert isinstance(once, Notification)
    assert decode(encode(once), Properties(), max_octets=1 << 20) == once
    validator("notification").validate(json.loads(encode(once)))


def test_golden_cancellation_is_accepted_by_schema_and_decoder() -> None:
    path = EXAMPLES / "cancellation.json"
    validator("cancel").validate(read(path))
    found = decode(path.read_bytes(), Properties(), max_octets=1 << 20)
    assert isinstance(found, Cancellation)
    assert json.loads(encode(found)) == read(path)


def test_golden_cloudevent_is_unwrapped() -> None:
    body = (EXAMPLES / "cloudevent-notification.json").read_bytes()
    found = decode(body, Properties(content_type=CLOUDEVENT), max_octets=1 << 20)
    assert isinstance(found, Notification)
    assert found.id == "welcome-2"


@pytest.mark.parametrize("path", named("result-*.json"))
def test_golden_result_is_accepted_by_schema_and_model(path: Path) -> None:
    validator("result").validate(read(path))
    once = Result.model_validate_json(path.read_bytes())
    assert json.loads(encode(once)) == read(path)


@pytest.mark.parametrize("path", named("invalid/*.json"))
def test_golden_refusal_names_field_and_reason(path: Path) -> None:
    case = read(path)
    found = decode(json.dumps(case["message"]).encode(), Properties(), max_octets=1 << 20)
    assert isinstance(found, Malformed)
    assert case["problem"] in [f"{item.field} {item.problem}" for item in found.problems]


@pytest.mark.parametrize("name", ["unknown-field", "wrong-version", "no-recipient", "no-text", "wrong-type"])
def test_schema_alone_refuses_what_it_can_express(name: str) -> None:
    assert not validator("notification").is_valid(read(EXAMPLES / "invalid" / f"{name}.json")["message"])


def test_asyncapi_names_what_exists() -> None:
    document = yaml.safe_load((HOME / "asyncapi.yaml").read_text(encoding="utf-8"))
    assert document["asyncapi"] == "3.1.0"
    assert document["info"]["version"] == contracts.__version__
    addresses = {channel["address"] for channel in document["channels"].values()}
    exchanges = {channel["bindings"]["amqp"]["exchange"]["name"] for channel in document["channels"].values()}
    assert exchanges == {notifications_exchange(), results_exchange()}
    assert addresses == {"t.{tenant}", "r.{tenant}.{status}"}


def references(node: Any) -> list[str]:
    match node:
        case {"$ref": str(target), **rest}:
            return [target, *references(rest)]
        case dict():
            return [found for inner in node.values() for found in references(inner)]
        case list():
            return [found for inner in node for found in references(inner)]
        case _:
            return []


def test_asyncapi_references_resolve() -> None:
    document = yaml.safe_load((HOME / "asyncapi.yaml").read_text(encoding="utf-8"))
    for target in references(document):
        if target.startswith("#/"):
            node = document
            for step in target[2:].split("/"):
                node = node[step]
        else:
            assert (HOME / target).is_file(), target


def test_asyncapi_examples_are_the_golden_ones() -> None:
    document = yaml.safe_load((HOME / "asyncapi.yaml").read_text(encoding="utf-8"))
    for name, message in document["components"]["messages"].items():
        for example in message["examples"]:
            validator(name).validate(example["payload"])
