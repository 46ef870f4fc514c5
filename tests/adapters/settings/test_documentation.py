"""What the documents say about mailboxes is what the file takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from worker import mailbox_file
from worker.domain.health import State
from worker.mailbox_file import load

DOCS = Path(__file__).resolve().parents[3] / "docs"
EXAMPLES = re.findall(r"```toml\n(.*?)```", (DOCS / "routing.md").read_text(encoding="utf-8"), re.DOTALL)
TABLES = [
    each for each in vars(mailbox_file).values() if isinstance(each, type) and issubclass(each, mailbox_file._Table)
]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_of_a_products_rule_is_a_mailboxes_file(number: int, tmp_path: Path) -> None:
    path = tmp_path / "mailboxes.toml"
    path.write_text(EXAMPLES[number], encoding="utf-8")
    directory = load(path, {})
    assert directory.mailboxes or directory.restraint.redirect


def test_every_product_has_its_example() -> None:
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_every_key_of_the_file_is_documented(table: type[BaseModel]) -> None:
    text = (DOCS / "mailboxes.md").read_text(encoding="utf-8")
    missing = [name for name in table.model_fields if not re.search(rf"[`.\[]{name}\b", text)]
    assert missing == []


def test_every_state_of_a_server_is_documented() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    assert [state for state in State if f"`{state}`" not in text] == []
