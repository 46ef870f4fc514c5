"""Who sits at the terminal, for the audit trail."""

from __future__ import annotations

import getpass
import socket


def actor() -> str:
    """`login@host`."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        login = "unknown"
    return f"{login}@{socket.gethostname()}"
