"""Dovecot: checks logins for Postfix, passwords and bearer tokens, and has a submission service of its own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.field.ground import Process, as_root, home, program
from worker.emulator.authority import Certificates
from worker.sandbox.node import free_ports

USER, PASSWORD = "notifications@contoso.example", "p\u0159\u00edli\u0161-secret"

_CONFIGURATION = """\
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/dovecot.log
protocols = {protocols}
listen = 127.0.0.1
ssl = required
ssl_cert = <{certificates.key_and_chain}
ssl_key = <{certificates.key_and_chain}
auth_mechanisms = {mechanisms}
auth_verbose = yes
auth_debug = yes
auth_failure_delay = 0
{oauth}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {home}/users
  mechanisms = plain login
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={home}/mail/%u
}}
service auth {{
  inet_listener sasl {{
    address = 127.0.0.1
    port = {sasl}
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
mail_location = maildir:{home}/mail/%u
submission_relay_host = 127.0.0.1
submission_relay_port = {relay}
submission_relay_trusted = yes
submission_client_workarounds =
hostname = mail.contoso.example
service submission-login {{
  chroot =
  inet_listener submission {{
    address = 127.0.0.1
    port = {submission}
  }}
}}
"""

_OAUTH = """\
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {home}/oauth2.conf
}}
"""


class Dovecot:
    """One instance.

    Attributes:
        sasl: port where Postfix asks.
        submission: port of its own SMTP service, which passes mail on to `relay`.
    """

    def __init__(
        self,
        home: Path,
        certificates: Certificates,
        *,
        mechanisms: str = "plain login",
        relay: int = 0,
        oauth: str | None = None,
    ) -> None:
        """Write the configuration; it does not run yet.

        Args:
            home: where it lives.
            certificates: what it shows.
            mechanisms: that it offers.
            relay: port to which its submission service passes mail on; 0: there is none.
            oauth: how tokens are checked, a file in Dovecot's language.
        """
        self._home = home
        self.sasl, self.submission = free_ports(2)
        (home / "users").write_text(f"{USER}:{PASSWORD}\n", encoding="utf-8")
        (home / "mail").mkdir()
        shutil.chown(home / "mail", "nobody")
        if oauth is not None:
            (home / "oauth2.conf").write_text(oauth, encoding="utf-8")
        text = _CONFIGURATION.format(
            home=home,
            certificates=certificates,
            mechanisms=mechanisms,
            protocols="submission" if relay else "",
            relay=relay or 25,
            sasl=self.sasl,
            submission=self.submission,
            oauth=_OAUTH.format(home=home) if oauth is not None else "",
        )
        (home / "dovecot.conf").write_text(text, encoding="utf-8")
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [program("dovecot"), "-F", "-c", self._home / "dovecot.conf"]
        self._process = Process(command, self._home / "console.log", self.sasl)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()

    @property
    def log(self) -> str:
        return (self._home / "dovecot.log").read_text(encoding="utf-8", errors="replace")

    def logged(self, pattern: str) -> list[str]:
        """Log lines in which a pattern is found."""
        return [line for line in self.log.splitlines() if re.search(pattern, line)]


@contextmanager
def dovecot(
    certificates: Certificates, *, mechanisms: str = "plain login", relay: int = 0, oauth: str | None = None
) -> Iterator[Dovecot]:
    """A running Dovecot.

    Raises:
        Missing: there is none, or we may not start it.
    """
    as_root("Dovecot")
    program("dovecot")
    with home("dovecot") as directory:
        server = Dovecot(directory, certificates, mechanisms=mechanisms, relay=relay, oauth=oauth)
        try:
            server.start()
            yield server
        finally:
            server.stop()
