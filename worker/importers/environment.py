"""Environment variables as .NET reads them: `__` stands for the section separator, case is ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator

from worker.importers.dotnet_json import Kind, Scalar
from worker.importers.finding import Place, Refusal
from worker.importers.source import too_large

_MOST = 5_000  # lines
_LINE = re.compile(r"(?:export\s+|set\s+|\$env:)?\s*([A-Za-z_][A-Za-z0-9_.:\-]*)\s*=(.*)", re.IGNORECASE | re.DOTALL)


def parse(text: str, file: str) -> Iterator[tuple[str, Scalar]]:
    """Key paths with `:` and their values.

    Raises:
        Refusal: a line is neither an assignment nor a comment.
    """
    lines = text.split("\n")
    if len(lines) > _MOST:
        raise too_large(file, f"the file has more than {_MOST} lines")
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if not stripped or stripped.startswith(("#", ";")):
            continue
        assignment = _LINE.fullmatch(stripped)
        if assignment is None:
            raise Refusal(
                "env.malformed",
                Place(file, line=number),
                "the line is no assignment NAME=value",
                "write one variable a line: SECTION__KEY=value",
            )
        yield assignment[1].replace("__", ":"), Scalar(_unquoted(assignment[2].strip()), Kind.STRING, number)


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value
