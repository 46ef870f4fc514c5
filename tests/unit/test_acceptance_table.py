"""No acceptance row is forgotten, and the table in the docs is that of the tests."""

from __future__ import annotations

import re
from pathlib import Path

from tests.acceptance.table import Table, place, rows, unproved

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs" / "acceptance.md"


def written() -> str:
    """All tests' sources."""
    return "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))


def in_the_sources() -> set[str]:
    named = re.findall(r"def test_(nim|kx|dpm|umb|elx|all)_([sw]?\d+)_", written())
    marked = re.findall(r'"((?:NIM|KX|DPM|UMB|ELX|ALL)-[SW]?\d+)"', written())
    return {f"{product}-{number}".upper() for product, number in named} | set(marked)


def test_every_row_has_a_test_or_an_argument() -> None:
    assert unproved(in_the_sources()) == []


def test_every_row_that_a_test_names_is_in_the_table() -> None:
    assert in_the_sources() <= {row for of in rows().values() for row in of}


def test_table_in_the_docs_has_every_row_and_no_failure() -> None:
    text = TABLE.read_text(encoding="utf-8")
    assert [row for of in rows().values() for row in of if f"| {row} |" not in text] == []
    assert "**failed**" not in text
    assert "not run" not in text


def test_worst_result_of_a_tests_parameters_counts() -> None:
    table = Table()
    for outcome in ("passed", "failed", "passed"):
        table.note("tests/x.py::test_kx_s5_x[one]", ["KX-S5"], outcome)
    assert "`x.py::test_kx_s5_x` | **failed** |" in table.text()
    assert place("tests/x.py::test_kx_s5_x[one]") == "tests/x.py::test_kx_s5_x"
