"""The same settings, written otherwise, have the same verdict; what is no settings file is refused in words."""

import json
import tomllib
from pathlib import Path

import pytest

from worker.importers import PRODUCTS, take_over
from worker.importers.mailbox import Import, Verdict
from worker.importers.source import MOST, Source
from worker.importers.wishes import Wishes

HERE = Path(__file__).parent / "samples"
SAMPLES = tomllib.loads((HERE / "expected.toml").read_text(encoding="utf-8"))["sample"]
PLAIN = [sample for sample in SAMPLES if len(sample["files"]) == 1]
JSON = [sample for sample in PLAIN if sample["files"][0].endswith(".json") and "twice" not in sample["files"][0]]


def text(sample: dict) -> str:
    content = (HERE / sample["files"][0]).read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return content.decode(encoding).removeprefix("\ufeff")


def imported(sample: dict, content: bytes) -> Import:
    return take_over(sample["product"], [Source(sample["files"][0], content)])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("sample", PLAIN, ids=lambda sample: sample["files"][0])
def test_encoding_and_line_ends_do_not_matter(sample: dict, encoding: str) -> None:
    lines = text(sample).replace("\r\n", "\n")
    for ends in ("\n", "\r\n"):
        assert imported(sample, lines.replace("\n", ends).encode(encoding)).verdict == sample["verdict"]


def backwards(node: object) -> object:
    return {key: backwards(value) for key, value in reversed(node.items())} if isinstance(node, dict) else node


@pytest.mark.parametrize("sample", JSON, ids=lambda sample: sample["files"][0])
def test_order_of_keys_does_not_matter(sample: dict) -> None:
    if "comments" not in sample["files"][0]:
        turned = json.dumps(backwards(json.loads(text(sample))))
        assert imported(sample, turned.encode()).verdict == sample["verdict"]


def louder(node: object) -> object:
    return {key.upper(): louder(value) for key, value in node.items()} if isinstance(node, dict) else node


@pytest.mark.parametrize(
    "sample", [sample for sample in JSON if sample["product"] in {"netwrix", "umbraco"}], ids=lambda s: s["files"][0]
)
def test_case_of_net_keys_does_not_matter(sample: dict) -> None:
    if "comments" not in sample["files"][0]:
        assert imported(sample, json.dumps(louder(json.loads(text(sample)))).encode()).verdict == sample["verdict"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separator_quotes_and_order_of_columns_do_not_matter(separator: str) -> None:
    columns = ["ServerPriority", "ServerName", "ServerIsGlobal", "ServerEnabled", "ServerUseSSL", "ServerID"]
    cells = ['"-1"', '"mail.northwind.example:26"', "True", '"1"', "false", "3"]
    content = f"{separator.join(columns)}\n{separator.join(cells)}\n\n"
    (mailbox,) = take_over("kentico", [Source("dump.csv", content.encode())]).mailboxes
    assert (mailbox.delivery.host, mailbox.delivery.port, mailbox.priority) == ("mail.northwind.example", 26, "Low")


def test_variables_override_files_whatever_their_order() -> None:
    settings = {"Umbraco:CMS:Global:Smtp": {"From": "a@a.example", "Host": "old.example", "Port": 25}}
    variables = b"UMBRACO__CMS__GLOBAL__SMTP__HOST=new.example\n"
    outcome = take_over("umbraco", [Source("x.env", variables), Source("a.json", json.dumps(settings).encode())])
    assert [mailbox.delivery.host for mailbox in outcome.mailboxes] == ["new.example"]


REFUSED = {
    "empty": (b"", "file.empty"),
    "blank": (b"\xef\xbb\xbf \r\n\t", "file.empty"),
    "nul": (b'{"MailSettings": {"Host": "a\x00b"}}', "file.not_text"),
    "picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "file.not_text"),
    "half-a-character": (b"\xff\xfe{", "file.not_text"),
    "too-large": (b"[" * (MOST + 1), "file.too_large"),
}


@pytest.mark.parametrize(("content", "code"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("product", PRODUCTS)
def test_what_is_no_text_is_refused(product: str, content: bytes, code: str) -> None:
    outcome = take_over(product, [Source("x", content)])
    assert (outcome.verdict, outcome.findings[0].code, outcome.mailboxes) == (Verdict.REJECT, code, ())


MALFORMED = {
    "nested": (b"[" * 100_000, "json.too_deep"),
    "cut": (b'{"MailSettings": {"Host": "a', "json.malformed"),
    "two": (b"{}{}", "json.malformed"),
    "no-comma": (b'{"a": 1 "b": 2}', "json.malformed"),
    "no-comma-before-object": (b'{"a": 1 {"b": 2}}', "json.malformed"),
    "two-commas": (b'{"a": 1,, "b": 2}', "json.malformed"),
    "single-quotes": (b"{'a': 1}", "json.malformed"),
    "open-comment": (b'{"a": 1 /* }', "json.malformed"),
    "half-surrogate": (b'{"a": "\\ud800"}', "json.malformed"),
    "bad-escape": (b'{"a": "C:\\Mail"}', "json.malformed"),
    "list": (b"[1]", "json.no_object"),
    "word": (b"/", "env.malformed"),
}


@pytest.mark.parametrize(("content", "code"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_json_is_refused_with_its_line(content: bytes, code: str) -> None:
    outcome = take_over("netwrix", [Source("appsettings.json", content)])
    assert (outcome.verdict, [finding.code for finding in outcome.findings]) == (Verdict.REJECT, [code])
    assert outcome.findings[0].place.line == 1


XML = {
    "nested": ("<a>" * 1000, "xml.too_deep"),
    "cut": ("<configuration><system.net>", "xml.malformed"),
    "external": ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "xml.doctype"),
    "laughs": ('<!DOCTYPE a [<!ENTITY b "&b;&b;">]><a>&b;</a>', "xml.doctype"),
    "entity": ("<a>&b;</a>", "xml.malformed"),
}


@pytest.mark.parametrize(("content", "code"), XML.values(), ids=XML)
@pytest.mark.parametrize("product", ["umbraco", "kentico"])
def test_dangerous_xml_is_refused(product: str, content: str, code: str) -> None:
    outcome = take_over(product, [Source("web.config", content.encode())])
    assert (outcome.verdict, [finding.code for finding in outcome.findings]) == (Verdict.REJECT, [code])


def test_one_refused_file_refuses_them_all() -> None:
    good = Source("a.json", b'{"MailSettings": {"Host": "a.example", "FromAddress": "a@a.example"}}')
    assert take_over("netwrix", [good]).verdict == Verdict.ACCEPT
    both = take_over("netwrix", [good, Source("b.json", b"{")])
    assert (both.verdict, both.mailboxes) == (Verdict.REJECT, ())


def test_directory_is_mapped_with_what_lies_below_it() -> None:
    row = b"ServerID,ServerName,ServerIsGlobal,ServerEnabled,ServerDeliveryMethod,ServerPickupDirectory\n"
    dump = Source("x.csv", row + rb"1,localhost,1,1,1,d:\Mail\Pickup\Shop")
    outcome = take_over("kentico", [dump], Wishes(paths={r"D:\Mail\Pickup": "/srv/pickup"}))
    assert (outcome.verdict, outcome.mailboxes[0].delivery.path) == (Verdict.ACCEPT, "/srv/pickup/Shop")


def test_site_table_without_numbers_binds_each_server_to_its_own_site_and_the_global_default_to_all() -> None:
    dumps = {
        "servers.csv": "ServerID,ServerName,ServerEnabled,ServerIsGlobal\n1,a.example,1,0\n2,b.example,1,0\n",
        "sites.csv": "ServerID,SiteName\n1,Shop\n2,Blog\n",
        "keys.csv": "KeyName,SiteName,KeyValue\nCMSSMTPServer,,c.example\n",
    }
    taken = take_over("kentico", [Source(name, text.encode()) for name, text in dumps.items()], Wishes()).mailboxes
    assert {mailbox.name: mailbox.sites for mailbox in taken} == {
        "kentico-default": None,
        "kentico-1": ("Shop",),
        "kentico-2": ("Blog",),
    }
