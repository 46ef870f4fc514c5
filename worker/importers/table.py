"""CSV as database tools write it: any of the usual separators, quotes, NULL for nothing."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

from worker.importers.finding import Place, Refusal
from worker.importers.source import too_large

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ .]{0,99}")
_MOST_ROWS, _MOST_COLUMNS = 20_000, 500
_SEPARATORS = ",;\t|"


@dataclass(frozen=True, slots=True)
class Row:
    """Cells by column, as the header spells them; what the database has as NULL is missing."""

    cells: dict[str, str]
    line: int


@dataclass(frozen=True, slots=True)
class Table:
    """A header and its rows."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def parse(text: str, file: str) -> Table:
    """Read a table.

    Raises:
        Refusal: no header, a column twice, a row that does not fit the header, an open quotation mark.
    """
    separator, body, skipped = _separator(text)
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, strict=True)
    rows: list[Row] = []
    columns: tuple[str, ...] = ()
    try:
        for cells in reader:
            line = reader.line_num + skipped
            if not any(cell.strip() for cell in cells) or _is_rule(cells):
                continue
            if not columns:
                columns = _header(cells, file, line)
            elif len(rows) == _MOST_ROWS:
                raise too_large(file, f"the table has more than {_MOST_ROWS} rows")
            else:
                rows.append(_row(columns, cells, file, line))
    except csv.Error as error:
        raise Refusal(
            "csv.malformed",
            Place(file, line=reader.line_num + skipped),
            f"the file is not CSV: {error}",
            "export the table again, with a header line and quoted texts",
        ) from None
    return Table(columns, tuple(rows))


def _separator(text: str) -> tuple[str, str, int]:
    first, _, rest = text.partition("\n")
    if first.lower().startswith("sep=") and first[4:5] in _SEPARATORS and len(first) == len("sep=,"):
        return first[4], rest, 1
    head = next((line for line in text.split("\n") if line.strip()), "")
    return max(_SEPARATORS, key=head.count), text, 0


def _is_rule(cells: list[str]) -> bool:
    """The line of dashes that sqlcmd draws under the header."""
    return all(cell.strip() and not cell.strip().strip("-") for cell in cells)


def _header(cells: list[str], file: str, line: int) -> tuple[str, ...]:
    if len(cells) > _MOST_COLUMNS:
        raise too_large(file, f"the table has more than {_MOST_COLUMNS} columns")
    columns = tuple(cell.strip().strip("[]") for cell in cells)
    if not all(_NAME.fullmatch(column) for column in columns):
        raise Refusal(
            "csv.header_missing",
            Place(file, line=line),
            "the first line is no line of column names",
            "export the table with its column names in the first line",
        )
    folded = [column.lower() for column in columns]
    for column in columns:
        if folded.count(column.lower()) > 1:
            raise Refusal(
                f"key.duplicate_by_case:{column}",
                Place(file, column, line),
                f"the column {column} is there twice",
                "export the table again with every column once",
            )
    return columns


def _row(columns: tuple[str, ...], cells: list[str], file: str, line: int) -> Row:
    if len(cells) != len(columns):
        raise Refusal(
            "csv.row_length",
            Place(file, line=line),
            f"the row has {len(cells)} cells, the header {len(columns)}",
            "export the table again with quoted texts; a separator inside a text splits it",
        )
    kept = {column: cell for column, cell in zip(columns, cells, strict=True) if cell.strip().upper() != "NULL"}
    return Row(kept, line)
