"""`postlane store`, as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from worker.store.schema import REVISION


def postlane(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POSTLANE_")}
    return subprocess.run(
        [sys.executable, "-m", "worker", "store", *arguments],
        env={**environment, "POSTLANE_STORE__URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


def test_migrate_makes_the_tables_and_show_counts_what_is_in_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state' / 'store.sqlite3'}"
    made = postlane(url, "migrate")
    assert made.returncode == 0, made.stderr
    assert f"the tables are at {REVISION} now" in made.stdout
    shown = json.loads(postlane(url, "show", "--json").stdout)
    assert shown["store"] == f"SQLite {tmp_path / 'state' / 'store.sqlite3'}"
    assert shown["finished"] == 0
    assert "open doubts" in postlane(url, "show").stdout


def test_store_out_of_reach_is_told_in_words_without_its_password() -> None:
    refused = postlane("postgresql://postlane:s3cr3t@127.0.0.1:1/postlane", "show")
    assert refused.returncode == 2
    assert "nobody listens there" in refused.stderr
    assert "s3cr3t" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_store_in_memory_has_nothing_to_show() -> None:
    refused = postlane("memory://", "migrate")
    assert refused.returncode == 2
    assert "each worker keeps its own" in refused.stderr
