"""Authentication exchanges without I/O (RFC 4954, RFC 4616, RFC 7628, the LOGIN draft, Microsoft's XOAUTH2 page)."""

from __future__ import annotations

import base64
from collections.abc import Generator
from dataclasses import dataclass, field

Responses = Generator[bytes, bytes, None]
"""Yields what to answer, is sent what the server asks; both without base64."""


@dataclass(frozen=True, slots=True)
class Login:
    """User name and password, one after the other, whatever words the server asks with."""

    username: str
    password: str = field(repr=False)
    name: str = "LOGIN"

    def responses(self) -> Responses:
        """Two answers, each to a challenge of the server."""
        yield self.username.encode()
        yield self.password.encode()

    @property
    def initial(self) -> bytes | None:
        """LOGIN has no initial response that all servers understand."""
        return None

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown, in every form in which it goes over the line."""
        return _forms(self.password, self.password.encode())


@dataclass(frozen=True, slots=True)
class Plain:
    """User name and password in one go."""

    username: str
    password: str = field(repr=False)
    name: str = "PLAIN"

    def responses(self) -> Responses:
        """One answer, to an empty challenge."""
        yield self.initial

    @property
    def initial(self) -> bytes:
        """RFC 4616 section 2, with the authorisation identity left out."""
        return b"\0" + self.username.encode() + b"\0" + self.password.encode()

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown, in every form in which it goes over the line."""
        return _forms(self.password, self.initial)


@dataclass(frozen=True, slots=True)
class Xoauth2:
    """A bearer token for a mailbox.

    A server may answer a bad token with a 334 that carries a JSON text; an empty answer then brings the real reply.
    """

    username: str
    token: str = field(repr=False)
    name: str = "XOAUTH2"

    def responses(self) -> Responses:
        """The token to the empty challenge, nothing to the error that may follow."""
        yield self.initial
        yield b""

    @property
    def initial(self) -> bytes:
        """`user=…^Aauth=Bearer …^A^A`."""
        return b"user=" + self.username.encode() + b"\x01auth=Bearer " + self.token.encode() + b"\x01\x01"

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown, in every form in which it goes over the line."""
        return _forms(self.token, self.initial)


@dataclass(frozen=True, slots=True)
class Oauthbearer:
    """A bearer token for a mailbox as RFC 7628 has it; the answer to an error is a single control-A (section 3.2.3)."""

    username: str
    token: str = field(repr=False)
    name: str = "OAUTHBEARER"

    def responses(self) -> Responses:
        """The token to the empty challenge, the least possible to the error that may follow."""
        yield self.initial
        yield b"\x01"

    @property
    def initial(self) -> bytes:
        """`n,a=…,^Aauth=Bearer …^A^A`, with the two signs that RFC 5801 section 4 reserves written otherwise."""
        name = self.username.replace("=", "=3D").replace(",", "=2C")
        return b"n,a=" + name.encode() + b",\x01auth=Bearer " + self.token.encode() + b"\x01\x01"

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown, in every form in which it goes over the line."""
        return _forms(self.token, self.initial)


def _forms(secret: str, sent: bytes) -> tuple[str, ...]:
    return (base64.b64encode(sent).decode(), secret)


Mechanism = Login | Plain | Xoauth2 | Oauthbearer
