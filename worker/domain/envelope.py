"""The envelope: who sends and who receives, whatever the headers say (RFC 5321 section 2.3.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from contracts.address import AddrSpec


@dataclass(frozen=True, slots=True)
class Envelope:
    """Reverse-path and forward-paths of one submission.

    Attributes:
        rcpt_to: in the producer's order, each address once.
    """

    mail_from: AddrSpec
    rcpt_to: tuple[AddrSpec, ...]

    @classmethod
    def of(cls, mail_from: AddrSpec, rcpt_to: Iterable[AddrSpec]) -> Envelope:
        """Build an envelope, dropping doubles (domains compare in ASCII lower case, local parts exactly)."""
        return cls(mail_from, tuple(dict.fromkeys(rcpt_to)))

    def only(self, recipients: Iterable[AddrSpec]) -> Envelope:
        """The same envelope for some of its recipients."""
        wanted = frozenset(recipients)
        return Envelope(self.mail_from, tuple(rcpt for rcpt in self.rcpt_to if rcpt in wanted))

    @property
    def needs_smtputf8(self) -> bool:
        """Whether any address cannot be written in ASCII (RFC 6531)."""
        return self.mail_from.needs_smtputf8 or any(rcpt.needs_smtputf8 for rcpt in self.rcpt_to)
