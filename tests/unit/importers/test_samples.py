"""Settings files, right and wrong, with what becomes of each: ours, and the project's shared ones where they are."""

import json
import os
import tomllib
from pathlib import Path

import pytest

from worker.importers import take_over
from worker.importers.finding import Finding
from worker.importers.mailbox import Import
from worker.importers.render import Placing, as_json, toml
from worker.importers.source import Source

HERE = Path(__file__).parent / "samples"
OURS = tomllib.loads((HERE / "expected.toml").read_text(encoding="utf-8"))["sample"]
SHARED = Path(os.environ.get("POSTLANE_SAMPLES") or Path(__file__).parents[4] / "shared" / "samples")
PRODUCTS = {"usercube": "netwrix"}
# A file that the other one completes; the index of the shared samples says so in words.
COMPANIONS = {
    "umbraco-appsettings-password-from-environment.json": ["umbraco-appsettings-password-from-environment.env"],
    "kentico-smtp-servers.csv": ["kentico-smtp-server-sites.csv"],
}


def imported(directory: Path, product: str, names: list[str]) -> Import:
    return take_over(product, [Source(name, (directory / name).read_bytes()) for name in names])


def codes(findings: tuple[Finding, ...]) -> set[str]:
    """Every code, and its family without what follows the colon."""
    return {form for finding in findings for form in (finding.code, finding.code.partition(":")[0])}


@pytest.mark.parametrize("sample", OURS, ids=lambda sample: sample["files"][0])
def test_our_sample_has_its_verdict_and_findings(sample: dict) -> None:
    outcome = imported(HERE, sample["product"], sample["files"])
    assert outcome.verdict == sample["verdict"], outcome.findings
    assert set(sample["codes"]) <= codes(outcome.findings)
    assert "Made-up-secret" not in json.dumps(as_json(outcome)) + toml(outcome, Placing()) + repr(outcome)


@pytest.mark.parametrize("sample", OURS, ids=lambda sample: sample["files"][0])
def test_every_finding_says_where_what_and_what_to_do(sample: dict) -> None:
    for finding in imported(HERE, sample["product"], sample["files"]).findings:
        assert finding.place.file in sample["files"]
        assert finding.reason
        assert finding.proposal or finding.weight == 0


def shared() -> list[dict]:
    index = SHARED / "expectations.json"
    if not index.is_file():
        return []
    samples = json.loads(index.read_text(encoding="utf-8"))["samples"]
    # A pickup file is mail, not settings; nothing of it can be imported.
    return [sample for sample in samples if sample["product"] != "pickup-file"]


@pytest.mark.parametrize("sample", shared(), ids=lambda sample: sample["file"])
def test_shared_sample_has_its_verdict_and_findings(sample: dict) -> None:
    names = [sample["file"], *COMPANIONS.get(sample["file"], [])]
    outcome = imported(SHARED, PRODUCTS.get(sample["product"], sample["product"]), names)
    assert outcome.verdict == sample["verdict"], outcome.findings
    wanted = {code for code in sample["findings"] if code != "per line below"}
    assert wanted <= codes(outcome.findings)
    assert "Sample-not-a-secret" not in json.dumps(as_json(outcome)) + toml(outcome, Placing()) + repr(outcome)


@pytest.mark.skipif(bool(shared()), reason="the shared samples are here and were tried")
def test_shared_samples_are_not_here() -> None:
    pytest.skip(f"no {SHARED}/expectations.json; POSTLANE_SAMPLES names another directory")


@pytest.mark.skipif(not shared(), reason="the shared samples are not here; POSTLANE_SAMPLES names their directory")
def test_every_wrong_uri_of_the_shared_list_has_its_own_finding() -> None:
    (sample,) = (item for item in shared() if item["file"] == "privilege-manager-uris-WRONG.txt")
    for uri, wanted in sample["expect"].items():
        outcome = take_over("privilege-manager", [Source("uri.txt", uri.encode())])
        assert {word for word in wanted.split() if word.startswith(("uri.", "port."))} <= codes(outcome.findings), uri
