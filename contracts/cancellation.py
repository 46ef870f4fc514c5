"""Cancellation v1: what a producer publishes to take a notification back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from contracts.model import Contract, Identifier, TenantName

CANCELLATION_TYPE = "postlane.cancel.v1"


class Cancellation(Contract):
    """Do not send the notification of this id, if it has not been handed over yet.

    Published like a notification. If it was in time, the notification's final result is `cancelled`, and whatever comes
    with this id later is answered with that. If it was too late, the notification's own final result is repeated.
    """

    type: Annotated[Literal["postlane.cancel.v1"], Field(description="names schema and version")]
    id: Annotated[Identifier, Field(description="of the notification", examples=["reset-7f3a"])]
    tenant: Annotated[TenantName, Field(description="whose mail it was", examples=["contoso"])]
