"""The mail settings of five products: what is taken over, what is refused, and that nothing leaks or is half done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain.mailbox import PickupDirectory, SmtpEndpoint, Tls
from worker.importers import PRODUCTS, take_over
from worker.importers.mailbox import Verdict
from worker.importers.source import Source
from worker.importers.wishes import Wishes
from worker.mailbox_file import load

SAMPLES = Path(os.environ.get("POSTLANE_SAMPLES", Path(__file__).parents[4] / "shared" / "samples"))
SECRET = "Tr0ub4dor&3-of-the-test"
NETWRIX = {
    "MailSettings": {
        "FromAddress": "identity@contoso.example",
        "Host": "mail.contoso.example",
        "Port": 587,
        "EnableSsl": True,
        "UserName": "svc-identity",
        "Password": SECRET,
    }
}
UMBRACO = {
    "Umbraco": {
        "CMS": {
            "Global": {
                "Smtp": {
                    "From": "web@contoso.example",
                    "Host": "mail.contoso.example",
                    "Port": 587,
                    "SecureSocketOptions": "StartTls",
                    "Username": "web",
                    "Password": SECRET,
                }
            }
        }
    }
}


def imported(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker", "import", *arguments]
    home = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": home}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def expected() -> Iterator[Any]:
    """Every file of the real configurations with the verdict that it must get; needs them beside the repository."""
    path = SAMPLES / "expectations.json"
    if not path.is_file():
        reason = f"the samples are not at {SAMPLES} (POSTLANE_SAMPLES)"
        yield pytest.param("", {}, marks=pytest.mark.skip(reason=reason), id="none")
        return
    for sample in json.loads(path.read_text(encoding="utf-8"))["samples"]:
        product = {"usercube": "netwrix"}.get(sample["product"], sample["product"])
        if product in PRODUCTS:
            yield pytest.param(product, sample, id=sample["file"])


@pytest.mark.parametrize(("product", "sample"), list(expected()))
def test_real_configuration_gets_its_verdict(product: str, sample: dict[str, Any]) -> None:
    file = SAMPLES / sample["file"]
    names = [file.name]
    if "from-environment" in file.name:  # the settings and the environment of one installation
        names = sorted(path.name for path in SAMPLES.glob(f"{file.stem}.*"))
    sources = [Source(name, (SAMPLES / name).read_bytes()) for name in names]
    outcome = take_over(product, sources, Wishes())
    assert outcome.verdict == sample["verdict"], outcome.findings
    if outcome.verdict is Verdict.REJECT:
        assert outcome.findings
        assert all(finding.reason and finding.place.file for finding in outcome.findings)
        assert outcome.mailboxes == ()


@pytest.mark.parametrize(("product", "document"), [("netwrix", NETWRIX), ("umbraco", UMBRACO)])
def test_what_is_written_is_a_mailboxes_file_and_a_second_time_changes_nothing(
    product: str, document: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "appsettings.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    dry = imported(product, file.name, "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(dry.stdout)["verdict"] in {"accept", "accept_warn"}, dry.stdout + dry.stderr
    assert not (tmp_path / "mailboxes.toml").exists()

    done = imported(product, file.name, "--json", "--tenant", "contoso", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (mailbox,) = load(tmp_path / "mailboxes.toml", {}).mailboxes.values()
    assert isinstance(mailbox.endpoint, SmtpEndpoint)
    assert (mailbox.endpoint.host, mailbox.endpoint.port, mailbox.endpoint.tls) == (
        "mail.contoso.example",
        587,
        Tls.STARTTLS,
    )
    (secret,) = (tmp_path / "secrets").iterdir()
    assert secret.read_text(encoding="utf-8").strip() == SECRET
    assert secret.stat().st_mode & 0o777 == 0o600

    written = (tmp_path / "mailboxes.toml").read_text(encoding="utf-8")
    again = imported(product, file.name, "--json", "--tenant", "contoso", cwd=tmp_path)
    assert json.loads(again.stdout)["output"].startswith("unchanged")
    assert (tmp_path / "mailboxes.toml").read_text(encoding="utf-8") == written
    shown = imported(product, file.name, "--dry-run", cwd=tmp_path)
    for text in (dry.stdout, dry.stderr, done.stdout, done.stderr, again.stdout, shown.stdout, shown.stderr, written):
        assert SECRET not in text


def test_pickup_directory_is_taken_over(tmp_path: Path) -> None:
    section = {"FromAddress": "a@b.example", "UseSpecifiedPickupDirectory": True, "PickupDirectory": r"C:\Mail\Pickup"}
    (tmp_path / "a.json").write_text(json.dumps({"MailSettings": section}), encoding="utf-8")
    done = imported("netwrix", "a.json", "--map", rf"C:\Mail={tmp_path}", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (mailbox,) = load(tmp_path / "mailboxes.toml", {}).mailboxes.values()
    assert isinstance(mailbox.endpoint, PickupDirectory)
    assert str(mailbox.endpoint.directory).startswith(str(tmp_path))


WRONG = {
    "imap-port": ("netwrix", json.dumps({"MailSettings": {**NETWRIX["MailSettings"], "Port": 993}}).encode()),
    "key-twice-by-case": ("netwrix", b'{"MailSettings": {"Host": "a.example", "host": "b.example"}}'),
    "not-json": ("netwrix", b"{"),
    "nul": ("netwrix", b"\0" * 100),
    "deep": ("umbraco", b"[" * 100_000),
    "entities": (
        "umbraco",
        b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><configuration>&c;</configuration>',
    ),
    "encrypted-section": (
        "umbraco",
        (
            b"<configuration><system.net><mailSettings><smtp configProtectionProvider='X'><EncryptedData/></smtp>"
            b"</mailSettings></system.net></configuration>"
        ),
    ),
    "large": ("elixeum", b" " * 30_000_000),
}


@pytest.mark.parametrize(("product", "content"), WRONG.values(), ids=WRONG.keys())
def test_wrong_file_is_refused_with_a_reason_and_nothing_is_written(
    product: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "settings").write_bytes(content)
    done = imported(product, "settings", "--json", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["verdict"], outcome["mailboxes"]) == ("reject", [])
    assert all(finding["reason"] and finding["file"] == "settings" for finding in outcome["findings"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["settings"]


settings_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.dictionaries(
            st.sampled_from(
                ["MailSettings", "Umbraco", "CMS", "Global", "Smtp", "Host", "Port", "From", "Password", "x"]
            ),
            inner,
            max_size=5,
        )
        | st.lists(inner, max_size=3)
    ),
    max_leaves=15,
)


@settings(max_examples=60)
@given(content=st.binary(max_size=300) | settings_like.map(lambda it: json.dumps(it).encode()))
@pytest.mark.parametrize("product", PRODUCTS)
def test_whatever_the_octets_there_is_a_verdict(product: str, content: bytes) -> None:
    outcome = take_over(product, [Source("file", content)], Wishes())
    assert outcome.verdict in Verdict
