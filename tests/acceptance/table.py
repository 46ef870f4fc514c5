"""The acceptance table: row → tests → result, from a run of the tests that name rows.

    pytest -m row --acceptance-table=docs/acceptance.md tests

A test proves the rows of its mark `row`, or the one in its name: `test_kx_s8_…` proves KX-S8.
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROWS = Path(__file__).with_name("rows.toml")
_NAMED = re.compile(r"test_(nim|kx|dpm|umb|elx|all)_([sw]?\d+)_")
_RESULT = {"passed": "passed", "failed": "**failed**", "skipped": "skipped"}
_WORST_FIRST = ["failed", "skipped", "passed"]
_HEAD = """# Acceptance of the five products

Made by `make acceptance`; do not edit. A row is what a product does with mail today and must still be so with Postlane;
its tests run against real RabbitMQ, real SMTP sockets and real directories.
"""


def rows() -> Mapping[str, Mapping[str, str | Mapping[str, str]]]:
    """Product → row → requirement, or a table with `requirement` and `argued`."""
    return tomllib.loads(ROWS.read_text(encoding="utf-8"))


def proved(item: pytest.Item) -> list[str]:
    """Rows that a test proves."""
    named = [f"{product}-{number}".upper() for product, number in _NAMED.findall(item.name)[:1]]
    marked = [str(row) for mark in item.iter_markers("row") for row in mark.args]
    return list(dict.fromkeys([*named, *marked]))


def place(nodeid: str) -> str:
    """File and function, without parameters."""
    return nodeid.partition("[")[0]


class Table:
    """Collects which test proves what, and how it ended."""

    def __init__(self) -> None:
        self.tests: dict[str, list[str]] = defaultdict(list)
        self._results: dict[str, str] = {}

    def note(self, nodeid: str, rows: Iterable[str], outcome: str) -> None:
        """A test of these rows ended; the worst of its parameters counts."""
        test = place(nodeid)
        for row in rows:
            if test not in self.tests[row]:
                self.tests[row].append(test)
        self._results[test] = min(outcome, self._results.get(test, outcome), key=_WORST_FIRST.index)

    def text(self) -> str:
        """In Markdown."""
        return "\n".join([_HEAD, *(line for product, of in rows().items() for line in self._product(product, of))])

    def _product(self, product: str, of: Mapping[str, str | Mapping[str, str]]) -> Iterator[str]:
        yield from (f"## {product.replace('-', ' ').title()}", "", "| row | requirement | test | result |")
        yield "|---|---|---|---|"
        for row, said in of.items():
            requirement = said if isinstance(said, str) else said["requirement"]
            argued = "" if isinstance(said, str) else said["argued"]
            tests = sorted(self.tests.get(row, []))
            results = [_RESULT[self._results[test]] for test in tests if test in self._results]
            shown = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in tests)
            # What its tests do not prove of a row is argued beside them.
            proof = "<br>".join(filter(None, (shown, argued)))
            yield f"| {row} | {requirement} | {proof} | {'<br>'.join(results) or ('argued' if argued else 'not run')} |"
        yield ""


def unproved(tests: Iterable[str]) -> list[str]:
    """Rows without a test and without an argument."""
    known = set(tests)
    return [row for of in rows().values() for row, said in of.items() if isinstance(said, str) and row not in known]
