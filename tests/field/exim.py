"""Exim: PLAIN and LOGIN after STARTTLS, CHUNKING, refusals for single recipients."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.field.dovecot import PASSWORD, USER
from tests.field.ground import Maildir, Process, account, as_root, home, program
from worker.emulator.authority import Certificates
from worker.sandbox.node import free_ports

OWNER = "Debian-exim"  # compiled in

_CONFIGURATION = r"""
exim_path = {program}
exim_user = {owner}
exim_group = {owner}
primary_hostname = mail.contoso.example
spool_directory = {home}/spool
log_file_path = {home}/spool/log/%slog
pid_file_path = {home}/spool/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {submission} : {smtps}
tls_on_connect_ports = {smtps}
tls_advertise_hosts = *
tls_certificate = {certificates.key_and_chain}
tls_privatekey = {certificates.key_and_chain}
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
chunking_advertise_hosts = *
smtputf8_advertise_hosts = *
acl_smtp_rcpt = rcpt
acl_smtp_data = data
domainlist ours = contoso.example : fabrikam.example
message_size_limit = 3M
log_selector = +all
host_lookup =
keep_environment =
deliver_drop_privilege = true
queue_run_in_order = true

begin acl
rcpt:
  deny message = 5.1.1 No such user here
       local_parts = unknown
  defer message = 4.2.2 Mailbox full
       local_parts = full
  drop message = 4.3.2 Too busy
       local_parts = dropped
  accept authenticated = *
         domains = +ours
  deny message = 5.7.0 Log in first
data:
  deny message = 5.7.1 Not this
       condition = ${{if match{{$h_subject:}}{{Forbidden}}}}
  defer message = 4.7.1 Come back with this later
       condition = ${{if match{{$h_subject:}}{{Later}}}}
  accept

begin routers
inbox:
  driver = accept
  domains = +ours
  transport = maildir

begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = {home}/spool/inbox
  create_directory
  delivery_date_add
  envelope_to_add
  return_path_add
  user = {owner}

begin retry
* * F,1h,1m

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{ {{eq{{$auth2}}{{{user}}}}} {{eq{{$auth3}}{{{password}}}}} }}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = User Name : Password
  server_condition = ${{if and{{ {{eq{{$auth1}}{{{user}}}}} {{eq{{$auth2}}{{{password}}}}} }}}}
  server_set_id = $auth1
"""


class Exim:
    """One daemon.

    Attributes:
        submission, smtps: its ports.
        inbox: where all mail for its domains goes, one file for each recipient.
    """

    def __init__(self, home: Path, certificates: Certificates) -> None:
        """Write the configuration; it does not run yet."""
        self._home, self._program = home, program("exim4")
        self.submission, self.smtps = free_ports(2)
        (home / "spool").mkdir()
        shutil.chown(home / "spool", OWNER, OWNER)
        self.inbox = Maildir(home / "spool" / "inbox")
        text = _CONFIGURATION.format(
            program=self._program,
            owner=OWNER,
            home=home,
            certificates=certificates,
            submission=self.submission,
            smtps=self.smtps,
            user=USER,
            password=PASSWORD,
        )
        (home / "exim.conf").write_text(text, encoding="utf-8")
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [self._program, "-C", self._home / "exim.conf", "-bdf", "-q1m"]
        self._process = Process(command, self._home / "console.log", self.submission)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()

    def logged(self, pattern: str) -> list[str]:
        """Log lines in which a pattern is found."""
        lines = (self._home / "spool/log/mainlog").read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if re.search(pattern, line)]


@contextmanager
def exim(certificates: Certificates) -> Iterator[Exim]:
    """A running Exim.

    Raises:
        Missing: there is none, or we may not start it.
    """
    as_root("Exim")
    program("exim4")
    account(OWNER)
    with home("exim") as directory:
        server = Exim(directory, certificates)
        try:
            server.start()
            yield server
        finally:
            server.stop()
