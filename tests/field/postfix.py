"""Postfix with a configuration of its own: submission with SASL by Dovecot, a relay without, implicit TLS."""

from __future__ import annotations

import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.field.ground import Maildir, as_root, home, listens, program, until
from worker.emulator.authority import Certificates
from worker.sandbox.node import free_ports

_MASTER = """\
127.0.0.1:{submission} inet n - n - - smtpd -o syslog_name=submission
  -o smtpd_tls_security_level=encrypt -o smtpd_sasl_auth_enable=yes -o smtpd_tls_auth_only=yes
[::1]:{submission} inet n - n - - smtpd -o syslog_name=submission6
  -o smtpd_tls_security_level=encrypt -o smtpd_sasl_auth_enable=yes -o smtpd_tls_auth_only=yes
127.0.0.1:{smtps} inet n - n - - smtpd -o syslog_name=smtps -o smtpd_tls_wrappermode=yes -o smtpd_sasl_auth_enable=yes
127.0.0.1:{relay} inet n - n - - smtpd -o syslog_name=relay -o smtpd_tls_security_level=$relay_tls
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
virtual   unix - n n - - virtual
anvil     unix - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""

_MAIN = {
    "compatibility_level": "3.6",
    "inet_interfaces": "loopback-only",
    "myhostname": "mail.contoso.example",
    "mydestination": "",
    "mynetworks": "127.0.0.0/8 [::1]",
    "virtual_mailbox_domains": "contoso.example fabrikam.example",
    "virtual_mailbox_maps": "static:inbox/",
    "virtual_minimum_uid": "1",
    "relayhost": "",
    "default_transport": "error:nothing leaves this machine",
    "smtpd_sasl_type": "dovecot",
    "smtpd_tls_loglevel": "1",
    "smtpd_tls_received_header": "yes",
    "smtpd_sasl_authenticated_header": "yes",
    "relay_tls": "may",
    "maillog_file_prefixes": "/",
    "message_size_limit": "3000000",
    "smtpd_client_connection_count_limit": "50",
    "smtpd_recipient_restrictions": "check_recipient_access inline:{"
    " {unknown@contoso.example=550 5.1.1 No such user here}"
    " {full@contoso.example=452 4.2.2 Mailbox full}"
    " {grey@contoso.example=450 4.7.1 Greylisted, try again in 5 minutes}"
    " {later@contoso.example=450 4.3.0 Not now}"
    " {moved@contoso.example=551 5.1.6 User has moved}"
    " {busy@contoso.example=421 4.3.2 Too busy, closing}"
    "}, permit_mynetworks, permit_sasl_authenticated, reject",
    "smtpd_data_restrictions": "check_recipient_access inline:{ {data@contoso.example=550 5.7.1 Not with this data} }",
    "smtpd_client_restrictions": "",
}


class Postfix:
    """One instance.

    Attributes:
        submission, smtps, relay: its ports.
        inbox: where all mail for its domains goes, a copy for each recipient.
        log: what it has logged.
    """

    def __init__(self, home: Path, certificates: Certificates, settings: Mapping[str, str]) -> None:
        """Write the configuration; it does not run yet."""
        self._postfix = program("postfix")
        self.home, self._etc = home, home / "etc"
        self.submission, self.smtps, self.relay = free_ports(3)
        self.inbox = Maildir(home / "mail" / "inbox")
        self._log = home / "postfix.log"
        nobody = pwd.getpwnam("nobody")
        for name, owner in (("etc", None), ("queue", None), ("data", "postfix"), ("mail", "nobody")):
            (home / name).mkdir()
            shutil.chown(home / name, owner) if owner else None
        main = {
            **_MAIN,
            "queue_directory": str(home / "queue"),
            "data_directory": str(home / "data"),
            "virtual_mailbox_base": str(home / "mail"),
            "virtual_uid_maps": f"static:{nobody.pw_uid}",
            "virtual_gid_maps": f"static:{nobody.pw_gid}",
            "maillog_file": str(self._log),
            "smtpd_tls_cert_file": str(certificates.key_and_chain),
            "smtpd_tls_key_file": str(certificates.key_and_chain),
            **settings,
        }
        (self._etc / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in main.items()))
        master = _MASTER.format(submission=self.submission, smtps=self.smtps, relay=self.relay)
        (self._etc / "master.cf").write_text(master)

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._control("start")
        until(lambda: listens(self.submission))

    def stop(self, *, at_once: bool = False) -> None:
        """End it; transactions under way are broken off if it is `at_once`."""
        self._control("abort" if at_once else "stop", check=False)
        until(lambda: not listens(self.submission))

    def set(self, **settings: str) -> None:
        """Change settings of a running server."""
        edit = [f"{key}={value}" for key, value in settings.items()]
        subprocess.run([self._postfix.with_name("postconf"), "-c", self._etc, "-e", *edit], check=True)
        self._control("reload")

    def logged(self, pattern: str) -> list[str]:
        """Log lines in which a pattern is found."""
        return [line for line in self.log.splitlines() if re.search(pattern, line)]

    def _control(self, command: str, *, check: bool = True) -> None:
        done = subprocess.run([self._postfix, "-c", self._etc, command], check=False, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{done.stdout}{done.stderr}{self.log}"


@contextmanager
def postfix(certificates: Certificates, **settings: str) -> Iterator[Postfix]:
    """A running Postfix.

    Raises:
        Missing: there is none, or we may not start it.
    """
    as_root("Postfix")
    with home("postfix") as directory:
        server = Postfix(directory, certificates, settings)
        server.start()
        try:
            yield server
        finally:
            server.stop(at_once=True)
