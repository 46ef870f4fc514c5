"""OpenSMTPD as a relay without TLS, which Debian 12's cannot speak: built for OpenSSL 1, it finds no private key in 3.

Its queue has a place that is compiled in.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.field.ground import Maildir, Process, account, as_root, home, program
from worker.sandbox.node import free_ports

_CONFIGURATION = """\
table people {{ "@contoso.example" = "nobody", "@fabrikam.example" = "nobody" }}
table unknown {{ "unknown@contoso.example" }}
smtp max-message-size 3M
listen on 127.0.0.1 port {port} hostname mail.contoso.example
action "keep" mda "umask 022; cat > {home}/mail/new/$$.$(date +%N)" virtual <people>
match from any for rcpt-to <unknown> reject
match from any for domain {{ "contoso.example", "fabrikam.example" }} action "keep"
"""


class OpenSmtpd:
    """One instance.

    Attributes:
        port: without TLS, so without logins.
        inbox: where all mail for its domains goes, one file for each recipient.
    """

    def __init__(self, home: Path) -> None:
        """Write the configuration; it does not run yet."""
        self._home, self._program = home, program("smtpd")
        (self.port,) = free_ports(1)
        (home / "mail/new").mkdir(parents=True)
        shutil.chown(home / "mail/new", "nobody")
        self.inbox = Maildir(home / "mail")
        text = _CONFIGURATION.format(home=home, port=self.port)
        (home / "smtpd.conf").write_text(text)
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [self._program, "-dv", "-f", self._home / "smtpd.conf"]
        self._process = Process(command, self._home / "console.log", self.port)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()

    def logged(self, pattern: str) -> list[str]:
        """Log lines in which a pattern is found."""
        lines = (self._home / "console.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if re.search(pattern, line)]


@contextmanager
def opensmtpd() -> Iterator[OpenSmtpd]:
    """A running OpenSMTPD.

    Raises:
        Missing: there is none, or we may not start it.
    """
    as_root("OpenSMTPD")
    program("smtpd")
    account("opensmtpd")
    account("opensmtpq")
    with home("opensmtpd") as directory:
        server = OpenSmtpd(directory)
        try:
            server.start()
            yield server
        finally:
            server.stop()
