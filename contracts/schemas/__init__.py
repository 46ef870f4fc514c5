"""JSON Schemas (2020-12) of the contract, generated from the models by `make schemas`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from contracts.cancellation import Cancellation
from contracts.delivery import Result
from contracts.notification import Notification

DIRECTORY = Path(__file__).parent
_MODELS: dict[str, type[BaseModel]] = {
    "notification.v1": Notification,
    "cancel.v1": Cancellation,
    "result.v1": Result,
}


def generated() -> Iterator[tuple[str, str]]:
    """File name and content of every schema."""
    for name, model in _MODELS.items():
        yield f"{name}.json", json.dumps(schema(name, model), indent=2, ensure_ascii=False) + "\n"


def schema(name: str, model: type[BaseModel]) -> dict[str, Any]:
    """The schema of one message."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:postlane:schema:{name}",
        **model.model_json_schema(by_alias=True, mode="validation"),
    }
