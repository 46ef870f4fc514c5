"""What every message of the contract has in common: frozen, strict, nothing unknown."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints


class Contract(BaseModel):
    """Base of all contract types.

    Unknown fields are an error: a misspelt `expires_at` that is silently ignored is a mail sent too late.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNSENDABLE = re.compile(r"[\x00\ud800-\udfff]")


def one_line(text: str) -> str:
    """Refuse what could break out of a header line or be invisible in one.

    Raises:
        ValueError: on any control character, line separator or lone surrogate.
    """
    if _CONTROL.search(text):
        raise ValueError("must not contain CR, LF, NUL or another control character")
    return text


def sendable(text: str) -> str:
    """Refuse what no mail body can carry.

    Raises:
        ValueError: on NUL or a lone surrogate.
    """
    if _UNSENDABLE.search(text):
        raise ValueError("must not contain NUL or a lone surrogate")
    return text


HeaderText = Annotated[str, AfterValidator(one_line)]
BodyText = Annotated[str, AfterValidator(sendable)]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
TenantName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
PartName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
