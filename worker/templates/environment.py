"""Jinja2 as we let it be used: sandboxed, nothing random, nothing missing in silence, files from one directory only."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, Environment, StrictUndefined, TemplateNotFound, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_FILE = 256 * 1024  # octets of one template file
SUFFIX = ".j2"

_STEP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class Directory(BaseLoader):
    """Template files below one root, named by their path with slashes. A changed file is read again."""

    def __init__(self, root: Path) -> None:
        """Nothing is read yet."""
        self._root = root

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        """The text of a file.

        Raises:
            TemplateNotFound: there is none of this name, or the name leads out of the directory.
            OSError: it cannot be read.
        """
        del environment
        if not template.endswith(SUFFIX) or not all(map(_STEP.fullmatch, template.split("/"))):
            raise TemplateNotFound(template, f"{template!r} is no template file")
        path = self._root / template
        try:
            signature = _signature(path)
            with path.open("rb") as file:
                octets = file.read(MAX_FILE + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise TemplateNotFound(template, f"there is no file {template!r}") from error
        if len(octets) > MAX_FILE:
            raise TemplateNotFound(template, f"{template!r} is larger than {MAX_FILE} octets")
        try:
            text = octets.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise TemplateNotFound(template, f"{template!r} is not UTF-8 (octet {error.start})") from error
        return text, str(path), lambda: _unchanged(path, signature)

    def list_templates(self) -> list[str]:
        """Not by this way."""
        return []


def environment(root: Path, *, html: bool) -> ImmutableSandboxedEnvironment:
    """An environment for one kind of text; in html whatever comes from outside is escaped."""
    made = ImmutableSandboxedEnvironment(
        loader=Directory(root),
        autoescape=html,
        undefined=StrictUndefined,
        finalize=_printable,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    del made.filters["random"], made.globals["lipsum"]  # the same notification must give the same mail again
    return made


def _printable(value: Any) -> Any:
    """Nobody wants to read "None" or "{'a': 1}" in a mail: what is no text is as good as missing."""
    if value is None or isinstance(value, dict | list):
        kind = {type(None): "null", dict: "an object", list: "an array"}[type(value)]
        raise UndefinedError(f"the value of a placeholder is {kind}")
    return value


def _unchanged(path: Path, before: tuple[int, int, int]) -> bool:
    try:
        return _signature(path) == before
    except OSError:
        return False


def _signature(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_mtime_ns, state.st_size, state.st_ino
