"""Notification v1: what a producer publishes."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from contracts.address import AddrSpec, parse
from contracts.headers import check_custom_header
from contracts.model import BodyText, Contract, HeaderText, Identifier, PartName, TenantName

NOTIFICATION_TYPE = "postlane.notification.v1"
MAX_RECIPIENTS = 1000
MAX_METADATA = 4096  # octets of JSON


class Priority(StrEnum):
    """How urgent a notification is beside the others that wait for the same mailbox."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class OnDoubt(StrEnum):
    """What to do when the connection was lost after the message and before the server's answer."""

    HOLD = "hold"
    RESEND = "resend"


class Address(Contract):
    """A person or a mailbox. A plain string stands for an address without a name."""

    address: Annotated[str, Field(description="name@domain", examples=["jana@contoso.com"])]
    name: Annotated[HeaderText, Field(max_length=200, description="display name")] = ""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"address": value} if isinstance(value, str) else value

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parse(value)
        return value

    @cached_property
    def spec(self) -> AddrSpec:
        """The address in parts, its domain in ASCII form."""
        return parse(self.address)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        as_object = handler.resolve_ref_schema(handler(core))
        return {
            "title": "Address",
            "description": "A person or a mailbox: an object, or just the address as a string.",
            "anyOf": [
                {"type": "string", "maxLength": 320, "pattern": "@"},
                {key: as_object[key] for key in ("type", "properties", "required", "additionalProperties")},
            ],
        }


class Attachment(Contract):
    """A file that travels with the mail: its bytes inline, or a reference to a file the workers can read.

    With `content_id` it is an inline image that the html shows by `<img src="cid:…">`.
    """

    filename: Annotated[HeaderText, Field(min_length=1, max_length=200, pattern=r"^[^/\\]+$", description="no path")]
    content_type: Annotated[
        str,
        StringConstraints(pattern=r"^[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}$"),
        Field(examples=["application/pdf"]),
    ] = "application/octet-stream"
    content: Annotated[str | None, Field(description="the bytes in base64 (RFC 4648 section 4)")] = None
    reference: Annotated[
        str | None,
        StringConstraints(min_length=1, max_length=500),
        Field(description="path below the workers' attachment directory; needs size and sha256"),
    ] = None
    size: Annotated[int | None, Field(ge=0, description="octets; required with reference")] = None
    sha256: Annotated[
        str | None,
        StringConstraints(pattern=r"^[0-9a-f]{64}$"),
        Field(description="hex digest; required with reference, checked if given with content"),
    ] = None
    content_id: Annotated[
        str | None,
        StringConstraints(pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~@-]{1,120}$"),
        Field(description="makes it an inline image, without the angle brackets"),
    ] = None

    @field_validator("content_type")
    @classmethod
    def _leaf(cls, value: str) -> str:
        if value.lower().startswith(("multipart/", "message/")):
            raise ValueError("must be the type of a single file, not of a message or a multipart")
        return value

    @field_validator("content")
    @classmethod
    def _decodable(cls, value: str | None) -> str | None:
        if value is not None:
            _from_base64(value)
        return value

    @field_validator("reference")
    @classmethod
    def _below_its_root(cls, value: str | None) -> str | None:
        if value is not None and (
            value.startswith(("/", "\\", "~")) or ".." in value.replace("\\", "/").split("/") or not value.isprintable()
        ):
            raise ValueError("must be a relative path without ..")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.content is None) == (self.reference is None):
            raise ValueError("give either content or reference")
        if self.reference is not None and (self.size is None or self.sha256 is None):
            raise ValueError("a reference needs size and sha256")
        return self

    def inline_bytes(self) -> bytes:
        """The bytes given in `content`; empty for a reference."""
        return _from_base64(self.content) if self.content is not None else b""


class Notification(Contract):
    """One mail that a producer wants sent, whoever will send it."""

    type: Annotated[Literal["postlane.notification.v1"], Field(description="names schema and version")]
    id: Annotated[
        Identifier,
        Field(
            description="idempotency key, unique per tenant; repeat it to ask again, never reuse it for other content",
            examples=["reset-7f3a"],
        ),
    ]
    tenant: Annotated[TenantName, Field(description="whose mail this is", examples=["contoso"])]
    site: Annotated[
        PartName | None, Field(description="website or project of the tenant, where it has several", examples=["shop"])
    ] = None
    component: Annotated[
        PartName | None,
        Field(description="part of the product that speaks, where they have rules of their own", examples=["agent"]),
    ] = None
    category: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$"),
        Field(description="purpose of the mail", examples=["password-reset", "approval", "invite"]),
    ] = "notification"
    priority: Priority = Priority.NORMAL
    mailbox: Annotated[
        str | None,
        StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
        Field(description="send through this mailbox and no other"),
    ] = None
    sender: Annotated[Address | None, Field(alias="from", description="left out: the address of the mailbox")] = None
    reply_to: Annotated[tuple[Address, ...], Field(max_length=20)] = ()
    to: Annotated[tuple[Address, ...], Field(max_length=MAX_RECIPIENTS)] = ()
    cc: Annotated[tuple[Address, ...], Field(max_length=MAX_RECIPIENTS)] = ()
    bcc: Annotated[tuple[Address, ...], Field(max_length=MAX_RECIPIENTS)] = ()
    subject: Annotated[HeaderText, Field(min_length=1, max_length=998)]
    text: BodyText | None = None
    html: BodyText | None = None
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=100)] = ()
    headers: Annotated[
        dict[str, HeaderText], Field(max_length=50, description="X-…, List-… and a few more; others are refused")
    ] = Field(default_factory=dict)
    not_before: Annotated[AwareDatetime | None, Field(description="send no earlier (RFC 3339)")] = None
    expires_at: Annotated[AwareDatetime | None, Field(description="worthless later: not sent after this")] = None
    on_doubt: Annotated[
        OnDoubt,
        Field(description="hold: a person decides; resend: a second copy does no harm"),
    ] = OnDoubt.HOLD
    metadata: Annotated[
        dict[str, JsonValue], Field(description="echoed in every result, at most 4096 octets of JSON")
    ] = Field(default_factory=dict)

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {"anyOf": [{"required": ["text"]}, {"required": ["html"]}]},
                {
                    "anyOf": [
                        {"required": [field], "properties": {field: {"minItems": 1}}} for field in ("to", "cc", "bcc")
                    ]
                },
            ]
        }
    )

    @field_validator("to", "cc", "bcc", "reply_to", "attachments", mode="before")
    @classmethod
    def _array(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("headers")
    @classmethod
    def _allowed_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            check_custom_header(name, text)
        if len({name.lower() for name in value}) != len(value):
            raise ValueError("names the same header twice")
        return value

    @field_validator("metadata")
    @classmethod
    def _echoable(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise ValueError("contains a number that JSON cannot express") from error
        if len(text.encode()) > MAX_METADATA:
            raise ValueError(f"is larger than {MAX_METADATA} octets of JSON")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        recipients = len(self.to) + len(self.cc) + len(self.bcc)
        if not recipients:
            raise ValueError("needs at least one recipient in to, cc or bcc")
        if recipients > MAX_RECIPIENTS:
            raise ValueError(f"has {recipients} recipients; at most {MAX_RECIPIENTS} are allowed")
        if self.text is None and self.html is None:
            raise ValueError("needs text or html")
        if self.not_before and self.expires_at and self.expires_at <= self.not_before:
            raise ValueError("expires before it may be sent")
        return self

    def recipients(self) -> Iterator[Address]:
        """Every recipient, visible ones first, in the order given, doubles included."""
        yield from self.to
        yield from self.cc
        yield from self.bcc

    def expired(self, now: datetime) -> bool:
        """Whether sending it at `now` would be too late."""
        return self.expires_at is not None and now >= self.expires_at


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not valid base64") from error
