"""Whatever the octets are, an importer answers with a verdict, and what it writes can be read."""

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.importers import PRODUCTS, take_over
from worker.importers.block import placed
from worker.importers.mailbox import Verdict
from worker.importers.render import Placing, as_json, toml
from worker.importers.source import Source
from worker.importers.wishes import Wishes

HERE = Path(__file__).parent / "samples"
SAMPLES = sorted(path for path in HERE.iterdir() if path.suffix != ".toml")
KEYS = """
    MailSettings Host Port FromAddress UserName Password PasswordResetSettings AllowedDomains Umbraco CMS Global Smtp
    From Username SecureSocketOptions DeliveryMethod SMTP.Server SMTP.Port SMTP.Username SMTP.Password foreignSystems
    emailTasks approvalProcesses installerEmailServer baseUri name smtpServer parameters toAddress fromAddress edition
    origin ServerName ServerID ServerIsGlobal ServerPriority KeyName KeyValue SiteName
"""
VALUES = "a.example a@a.example smtp://a.example:25 587 True C:\\Mail ../x ******** {{x}} [::1]:25 a;b,c"
WORDS = st.sampled_from(KEYS.split() + VALUES.split())
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS | st.text(max_size=12)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6), max_leaves=20
)


def answered(product: str, content: bytes, wishes: Wishes | None = None) -> None:
    outcome = take_over(product, [Source("x.json", content)], wishes)
    json.dumps(as_json(outcome)).encode()
    assert (outcome.verdict is Verdict.REJECT) == any(finding.weight == 3 for finding in outcome.findings)
    assert outcome.verdict is not Verdict.REJECT or not outcome.mailboxes
    written = placed("", product, toml(outcome, Placing(tenants=("a",))), force=False)
    assert set(tomllib.loads(written).get("mailboxes", {})) == {mailbox.name for mailbox in outcome.mailboxes}
    assert placed(written, product, toml(outcome, Placing(tenants=("a",))), force=False) == written


@pytest.mark.parametrize("product", PRODUCTS)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_noise_has_a_verdict(product: str, content: bytes) -> None:
    answered(product, content)


@pytest.mark.parametrize("product", PRODUCTS)
@given(tree=TREES)
def test_any_json_has_a_verdict(product: str, tree: object) -> None:
    answered(product, json.dumps(tree).encode(), Wishes(paths={"iis": "/srv/iis"}))


@pytest.mark.parametrize("product", PRODUCTS)
@given(data=st.data())
def test_damaged_samples_have_a_verdict(product: str, data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(SAMPLES)).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 30)))
    put = data.draw(st.binary(max_size=8) | WORDS.map(str.encode) | st.sampled_from([b'"', b"{", b"<", b",", b"\n"]))
    answered(product, content[:start] + put + content[end:])


@pytest.mark.parametrize("product", ["kentico", "umbraco"])
@given(cells=st.lists(st.tuples(WORDS, st.text(max_size=10) | WORDS), max_size=8))
def test_any_row_has_a_verdict(product: str, cells: list[tuple[str, str]]) -> None:
    header = ",".join(name for name, _ in cells)
    row = ",".join('"' + value.replace('"', '""') + '"' for _, value in cells)
    answered(product, f"{header}\n{row}\n".encode())
