"""Whom the processes of a test connect to and what they look up, as Python itself reports it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_HOOK = """
import sys

sys.modules["uvloop"] = None  # its loop connects by libuv, which no audit hook hears of


def _noticed(event, arguments):
    if event == "socket.connect":
        _write("connect", *arguments[1][:2] if isinstance(arguments[1], tuple) else (arguments[1], ""))
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        _write("look-up", arguments[0], arguments[1] if len(arguments) > 1 else "")


def _write(*words):
    with open(FILE, "a", encoding="utf-8") as file:
        file.write("\\t".join(map(str, words)) + "\\n")


sys.addaudithook(_noticed)
"""


class Trace:
    """What `settings` are given to writes down its connections and look-ups here."""

    def __init__(self, directory: Path) -> None:
        """Make the directory, with nothing noticed yet."""
        directory.mkdir()
        self._file = directory / "noticed"
        self._file.touch()
        hook = f"FILE = {str(self._file)!r}\n{_HOOK}"
        (directory / "sitecustomize.py").write_text(hook, encoding="utf-8")
        self.settings = {"PYTHONPATH": os.pathsep.join([str(directory), *sys.path])}

    def noticed(self, what: str) -> set[tuple[str, str]]:
        """Hosts and ports of every `connect` or `look-up`."""
        lines = [line.split("\t") for line in self._file.read_text(encoding="utf-8").splitlines()]
        return {(host, port) for kind, host, port in lines if kind == what}
