"""`postlane template`, as an administrator calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.adapters.templates.conftest import Write


def postlane(*arguments: str, cwd: Path, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POSTLANE_")}
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        input=given,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**clean, **environment},
        check=False,
    )


def test_preview_shows_the_mail_and_writes_its_html(directory: Path, tmp_path: Path) -> None:
    data = json.dumps({"id": 7, "application": "<setup>", "base": "https://pm.contoso.com"})
    arguments = ("template", "preview", "approval", "--locale", "cs", "--to", "Jana <jana@x.de>", "--data", "-")
    done = postlane(
        *(*arguments, "--html", "out.html"), cwd=tmp_path, given=data, POSTLANE_TEMPLATES__DIRECTORY=str(directory)
    )
    assert done.returncode == 0, done.stderr
    assert "Žádost č. 7: <setup>" in done.stdout
    assert "Dobrý den, Jana," in done.stdout
    assert "&lt;setup&gt;" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_preview_of_what_cannot_be_rendered_says_why(directory: Path, tmp_path: Path) -> None:
    done = postlane("template", "preview", "approval", "--directory", str(directory), cwd=tmp_path)
    assert done.returncode == 1
    assert "approval/cs.html.j2, line" in done.stderr or "approval/cs.subject.j2, line 1" in done.stderr


def test_preview_without_a_directory_is_wrong_usage(tmp_path: Path) -> None:
    done = postlane("template", "preview", "approval", cwd=tmp_path)
    assert done.returncode == 2
    assert "POSTLANE_TEMPLATES__DIRECTORY" in done.stderr


def test_check_passes_what_is_well_and_names_what_is_not(directory: Path, tmp_path: Path, write: Write) -> None:
    arguments = ("template", "check", "--directory", str(directory))
    assert postlane(*arguments, cwd=tmp_path).returncode == 0
    write("approval/cs.txt.j2", "x\n{% if %}")
    done = postlane(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "approval/cs.txt.j2, line 2" in done.stdout


def test_list_is_machine_readable(directory: Path, tmp_path: Path) -> None:
    done = postlane("template", "list", "--directory", str(directory), "--json", cwd=tmp_path)
    assert [(item["template"], item["locale"]) for item in json.loads(done.stdout)] == [
        ("approval", "cs"),
        ("approval", "en"),
    ]
