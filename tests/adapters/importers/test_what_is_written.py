"""What an import writes is a mailboxes file: once a person has entered what was missing, the worker reads it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from worker.importers import take_over
from worker.importers.mailbox import Login, OAuthLogin, Pickup, Smtp
from worker.importers.render import Placing, secret_files, toml
from worker.importers.source import Source
from worker.importers.wishes import Wishes
from worker.mailbox_file import load

SAMPLES = Path(__file__).parents[2] / "unit" / "importers" / "samples"
INDEX = tomllib.loads((SAMPLES / "expected.toml").read_text(encoding="utf-8"))["sample"]
TAKEN = [sample for sample in INDEX if sample["verdict"] != "reject"]


def still_to_do(delivery: Smtp | Pickup) -> str:
    """What the worker cannot do without and only a person knows, secrets and directories apart."""
    match delivery:
        case Smtp(host=""):
            return "host"
        case Smtp(login=OAuthLogin()):
            return "client_id"
        case Smtp(login=Login(username="")):
            return "username"
        case _:
            return ""


@pytest.mark.parametrize("sample", TAKEN, ids=lambda sample: sample["files"][0])
def test_taken_sample_is_read_by_the_worker_as_it_was_meant(sample: dict[str, Any], tmp_path: Path) -> None:
    sources = [Source(name, (SAMPLES / name).read_bytes()) for name in sample["files"]]
    places = {"iis": "/srv/iis", "../Mails": "/srv/mails", r"\\files\mail$": "/srv/files"}
    outcome = take_over(sample["product"], sources, Wishes(paths=places))
    open_questions = [question for item in outcome.mailboxes if (question := still_to_do(item.delivery))]
    if open_questions:
        assert all(f"# To do: {question}" in toml(outcome, Placing()) for question in open_questions)
        return
    for item in secret_files(outcome):
        (tmp_path / item.name).write_text(item.secret.get_secret_value() if item.secret else "entered")
    path = tmp_path / "mailboxes.toml"
    path.write_text(toml(outcome, Placing(("adatum",), "web@adatum.example", str(tmp_path))), encoding="utf-8")
    read = load(path, {}).mailboxes
    assert set(read) == {mailbox.name for mailbox in outcome.mailboxes}
    for mailbox in outcome.mailboxes:
        match mailbox.delivery:
            case Smtp(host=host, port=port):
                assert (read[mailbox.name].endpoint.host, read[mailbox.name].endpoint.port) == (host, port)
            case Pickup(path=directory):
                assert str(read[mailbox.name].endpoint.directory) == directory
        assert read[mailbox.name].enabled == (mailbox.enabled and mailbox.in_effect)
