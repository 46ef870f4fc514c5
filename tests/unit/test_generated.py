"""What is made from the code is in the repository as the code makes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.generate import FILES
from worker.settings import Settings


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_generated_file_is_as_the_generator_makes_it(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path](), "run `make schemas`"


def test_definitions_are_those_that_the_command_prints(tmp_path: Path) -> None:
    (committed,) = (path for path in FILES if path.name == "definitions.json")
    printed = subprocess.run(
        [sys.executable, "-m", "worker", "topology", "definitions"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("POSTLANE_")},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert json.loads(printed.stdout) == json.loads(committed.read_text(encoding="utf-8"))


def test_definitions_hold_no_password() -> None:
    (committed,) = (path for path in FILES if path.name == "definitions.json")
    users = json.loads(committed.read_text(encoding="utf-8"))["users"]
    assert {user["name"]: user["password_hash"] for user in users} == {"postlane-worker": "", "postlane-producer": ""}
    assert all("password" not in user for user in users)


def test_example_names_every_setting_and_sets_none() -> None:
    (example,) = (path for path in FILES if path.name == "worker.env.example")
    lines = example.read_text(encoding="utf-8").splitlines()
    names = {line[1:].partition("=")[0] for line in lines if line.startswith("#POSTLANE_")}
    paths = {
        f"{section}.{name}" for section, values in Settings.model_construct().model_dump().items() for name in values
    }
    assert names == {f"POSTLANE_{path.replace('.', '__').upper()}" for path in paths}
    assert all(line.startswith("#") or not line for line in lines)
