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
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from contracts.address import AddrSpec, parse
from contracts.headers import check_custom_header
from contracts.model import BodyText, Contract, HeaderText, Identifier, PartName, TenantName
from contracts.recipients import split

NOTIFICATION_TYPE = "postlane.notification.v1"
MAX_RECIPIENTS = 1000
MAX_METADATA = 4096  # octets of JSON
MAX_DATA = 256 * 1024  # octets of JSON
_MAX_LIST = MAX_RECIPIENTS * 320  # characters of a recipient list in one string
MASS = "mass"  # the category of which every recipient gets a mail of their own


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


def _people(most: int) -> FieldInfo:
    """A list of recipients, which may also come as one string."""
    as_text = {"type": "string", "description": "one string with `;` or `,` between the addresses"}

    def either(schema: dict[str, Any]) -> None:
        array = {key: schema.pop(key) for key in ("type", "items", "maxItems")}
        schema["anyOf"] = [array, as_text]

    return Field(max_length=most, json_schema_extra=either)  # type: ignore[no-any-return]


def _somebody_in(field: str) -> JsonValue:
    return {"required": [field], "properties": {field: {"minItems": 1, "minLength": 1}}}


class Notification(Contract):
    """One mail that a producer wants sent, whoever will send it.

    What it says is given by subject and text or html, or by a template of the workers', or by the rule that the workers
    have for an event. A rule fills in what is left out and changes nothing that is given.
    """

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
    reply_to: Annotated[tuple[Address, ...], _people(20)] = ()
    to: Annotated[tuple[Address, ...], _people(MAX_RECIPIENTS)] = ()
    cc: Annotated[tuple[Address, ...], _people(MAX_RECIPIENTS)] = ()
    bcc: Annotated[tuple[Address, ...], _people(MAX_RECIPIENTS)] = ()
    subject: Annotated[
        HeaderText | None, Field(min_length=1, max_length=998, description="may be left out with template or event")
    ] = None
    text: BodyText | None = None
    html: BodyText | None = None
    event: Annotated[
        str | None,
        StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,99}$"),
        Field(
            description="what happened; the workers' rule for it gives what is left out: template, mailbox, recipients",
            examples=["approval.requested"],
        ),
    ] = None
    template: Annotated[
        str | None,
        StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
        Field(description="name of a template of the workers', in place of text and html", examples=["approval"]),
    ] = None
    locale: Annotated[
        str | None,
        StringConstraints(pattern=r"^[A-Za-z]{2,3}([_-][A-Za-z0-9]{1,8}){0,4}$"),
        Field(description="language tag (BCP 47); the nearest that the template has is taken", examples=["cs-CZ"]),
    ] = None
    data: Annotated[
        dict[str, JsonValue], Field(description="what the template's placeholders stand for, at most 256 KiB of JSON")
    ] = Field(default_factory=dict)
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
                {"anyOf": [{"required": [field]} for field in ("text", "html", "template", "event")]},
                {"anyOf": [{"required": [field]} for field in ("subject", "template", "event")]},
                {
                    "anyOf": [
                        *[_somebody_in(field) for field in ("to", "cc", "bcc")],
                        {"required": ["event"]},
                    ]
                },
            ]
        }
    )

    @field_validator("to", "cc", "bcc", "reply_to", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, str):
            if len(value) > _MAX_LIST:
                raise ValueError(f"is longer than {_MAX_LIST} characters")
            value = split(value)
        return tuple(value) if isinstance(value, list) else value

    @field_validator("attachments", mode="before")
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
        return _bounded(value, MAX_METADATA)

    @field_validator("data")
    @classmethod
    def _fillable(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return _bounded(value, MAX_DATA)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        self._check_content()
        recipients = len(self.to) + len(self.cc) + len(self.bcc)
        if not recipients and self.event is None:
            raise ValueError("needs at least one recipient in to, cc or bcc")
        if recipients > MAX_RECIPIENTS:
            raise ValueError(f"has {recipients} recipients; at most {MAX_RECIPIENTS} are allowed")
        if self.not_before and self.expires_at and self.expires_at <= self.not_before:
            raise ValueError("expires before it may be sent")
        return self

    def _check_content(self) -> None:
        written = self.text is not None or self.html is not None
        if not written and self.template is None and self.event is None:
            raise ValueError("needs text or html")
        if written and self.template is not None:
            raise ValueError("needs either a template or text and html of its own, not both")
        if self.subject is None and self.template is None and self.event is None:
            raise ValueError("needs a subject")
        if self.template is None and self.event is None and (self.locale is not None or self.data):
            raise ValueError("has locale or data, which only a template or an event makes use of")

    def recipients(self) -> Iterator[Address]:
        """Every recipient, visible ones first, in the order given, doubles included."""
        yield from self.to
        yield from self.cc
        yield from self.bcc

    def expired(self, now: datetime) -> bool:
        """Whether sending it at `now` would be too late."""
        return self.expires_at is not None and now >= self.expires_at


def _bounded(value: dict[str, JsonValue], most: int) -> dict[str, JsonValue]:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError("contains a number that JSON cannot express") from error
    if len(text.encode()) > most:
        raise ValueError(f"is larger than {most} octets of JSON")
    return value


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not valid base64") from error
