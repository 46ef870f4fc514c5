"""The emulated Office 365 as others see it: every reply of the catalogue at its moment, and the limits."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.parser import BytesParser
from email.policy import default
from pathlib import Path

import httpx2
import pytest

from tests.adapters.emulator.client import Client, Gone
from tests.adapters.emulator.cloud import BOX, cloud_of
from worker.emulator.audit import Allowed, audit, main, read
from worker.emulator.run import Emulator, Plan, emulating
from worker.emulator.scenario import DROP, LOST, SILENT, Limits, Moment, Rule, catalogue, load
from worker.unusable import Unusable

JANA = "jana@fabrikam.example"
UNSPOKEN = (DROP, LOST, SILENT)


@asynccontextmanager
async def playing(directory: Path, *scenarios: str, **limits: object) -> AsyncIterator[Emulator]:
    """An emulator with these scenarios and limits."""
    async with emulating(Plan(directory, scenarios=scenarios, limits=Limits(**limits))) as running:  # type: ignore[arg-type]
        yield running


def rules(*moments: Moment) -> list[Rule]:
    return [rule for rule in catalogue().rules.values() if rule.moment in moments and rule.reply not in UNSPOKEN]


async def test_mailbox_named_like_a_rule_of_login_meets_its_reply(emulator: Emulator) -> None:
    said = {}
    for rule in rules(Moment.AUTH):
        async with Client(emulator) as client:
            await client.secured()
            said[rule.name] = await client.login(f"{rule.name}@contoso.example")
    assert said == {rule.name: rule.reply for rule in rules(Moment.AUTH)}


async def test_mailbox_named_like_a_rule_of_the_sender_meets_its_reply(emulator: Emulator) -> None:
    said = {}
    for rule in rules(Moment.MAIL):
        async with Client(emulator) as client:
            await client.secured()
            address = f"{rule.name}@contoso.example"
            assert (await client.login(address)).startswith("235")
            said[rule.name] = await client.say(f"MAIL FROM:<{address}>")
    assert said == {rule.name: rule.reply for rule in rules(Moment.MAIL)}


async def test_recipient_named_like_a_rule_meets_its_reply(emulator: Emulator) -> None:
    wanted = rules(Moment.RCPT, Moment.DATA, Moment.DOT)
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        said = {}
        for rule in wanted:
            said[rule.name] = await client.submit(f"{rule.name}@fabrikam.example")
            await client.say("RSET")
    assert said == {rule.name: rule.reply for rule in wanted}
    assert emulator.accepted.log.read_text() == ""


@pytest.mark.parametrize("rule", rules(Moment.CONNECT), ids=lambda rule: rule.name)
async def test_refused_connection_is_closed_with_the_reply(emulator: Emulator, rule: Rule) -> None:
    emulator.play(rule.name)
    async with Client(emulator) as client:
        assert await client.hear() == rule.reply
        assert await client.closed()


async def test_lost_answer_is_lost_after_the_mail_was_taken(emulator: Emulator) -> None:
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        with pytest.raises(Gone):
            await client.submit("lost-at-dot@fabrikam.example")
    assert len(emulator.accepted.log.read_text().splitlines()) == 1


async def test_retired_basic_authentication_leaves_tokens_alone(emulator: Emulator) -> None:
    emulator.play("basic-retired")
    async with Client(emulator) as client:
        await client.secured()
        assert (await client.login()).startswith("550 5.7.30")
        assert (await client.say("AUTH XOAUTH2 eA==")).startswith("535 5.7.3")


async def test_scenario_for_one_mailbox_leaves_the_others_alone(emulator: Emulator) -> None:
    emulator.play("auth-tenant-off:billing@*")
    async with Client(emulator) as client:
        await client.secured()
        assert (await client.login()).startswith("235")


async def test_rule_that_speaks_once_is_silent_then(emulator: Emulator) -> None:
    emulator.play("auth-refused-once")
    async with Client(emulator) as client:
        await client.secured()
        assert (await client.login()).startswith("535")
        assert (await client.login()).startswith("235")


async def test_message_above_the_rate_is_rejected_with_421_and_the_window_slides(tmp_path: Path) -> None:
    async with playing(tmp_path, per_minute=2, minute=0.5) as emulator:
        async with Client(emulator) as client:
            await client.secured()
            await client.login()
            assert [(await client.submit(JANA))[:3] for _ in range(3)] == ["250", "250", "421"]
            assert await client.closed()
        assert audited(emulator, per_minute=2, minute=0.5).throttled == {"421": 1}


async def test_message_above_the_rate_is_delayed_until_the_window_has_room(tmp_path: Path) -> None:
    async with playing(tmp_path, per_minute=2, minute=0.5, over="delay") as emulator:
        async with Client(emulator) as client:
            await client.secured()
            await client.login()
            assert [(await client.submit(JANA))[:3] for _ in range(5)] == ["250"] * 5
        found = audited(emulator, per_minute=2, minute=0.45)
        assert (found.accepted, found.windows_over, dict(found.throttled)) == (5, 0, {})


async def test_fourth_connection_that_submits_is_refused_with_432(emulator: Emulator) -> None:
    clients = [Client(emulator) for _ in range(4)]
    said = []
    for client in clients:
        await client.__aenter__()
        await client.secured()
        await client.login()
        said.append((await client.say("MAIL FROM:<notifications@contoso.example>"))[:3])
    for client in clients:
        await client.__aexit__()
    assert said == ["250", "250", "250", "432"]
    found = audited(emulator)
    assert (found.most_connections, found.most_submitting, found.throttled) == (4, 3, {"432": 1})
    assert not found.keeps(Allowed())


@pytest.mark.parametrize(
    ("limits", "mails", "last"),
    [
        pytest.param({"recipients_per_day": 3}, [2, 2], "554 5.2.0 STOREDRV", id="recipients-per-day"),
        pytest.param({"recipients_per_message": 2}, [3], "452 4.5.3", id="recipients-per-message"),
        pytest.param({"mailbox_octets": 150}, [1, 1], "554 5.2.2 mailbox full", id="sent-items"),
        pytest.param({"octets": 50}, [1], "552 5.3.4", id="size"),
    ],
)
async def test_limit_is_kept(tmp_path: Path, limits: dict[str, object], mails: list[int], last: str) -> None:
    async with playing(tmp_path, **limits) as emulator, Client(emulator) as client:
        await client.secured()
        await client.login()
        said = [await client.submit(*(f"r{n}@fabrikam.example" for n in range(count))) for count in mails]
        assert [reply[:3] for reply in said[:-1]] == ["250"] * (len(mails) - 1)
        assert said[-1].startswith(last)


async def test_size_that_is_announced_is_refused_before_the_mail_is_sent(tmp_path: Path) -> None:
    async with playing(tmp_path, octets=50) as emulator, Client(emulator) as client:
        await client.secured()
        await client.login()
        assert (await client.say("MAIL FROM:<notifications@contoso.example> SIZE=51")).startswith("552 5.3.4")


async def test_bounce_is_a_report_that_names_the_mail_and_the_recipient(emulator: Emulator) -> None:
    async with Client(emulator) as client:
        await client.secured()
        await client.login()
        assert (await client.submit("ndr-unknown@fabrikam.example", JANA)).startswith("250")
    (line,) = emulator.backstage.bounces.log.read_text().splitlines()
    told = json.loads(line)
    assert (told["recipient"], told["message_id"]) == ("ndr-unknown@fabrikam.example", "<1@contoso.example>")
    report = BytesParser(policy=default).parsebytes(Path(told["path"]).read_bytes())
    assert (report.get_content_type(), report.get_param("report-type")) == ("multipart/report", "delivery-status")
    assert b"Status: 5.1.1" in Path(told["path"]).read_bytes()


async def test_scenarios_are_changed_over_http_while_it_runs(emulator: Emulator) -> None:
    context = ssl.create_default_context(cafile=str(emulator.certificates.ca_file))
    async with httpx2.AsyncClient(verify=context) as http:
        address = f"{emulator.graph_url}/_emulator/scenarios"
        assert "throttled" in (await http.get(address)).json()["scenarios"]
        assert (await http.post(address, json=["service-unavailable"])).status_code == 200
        assert (await http.post(address, json=["no-such"])).status_code == 400
    async with Client(emulator) as client:
        assert (await client.hear()).startswith("421 4.3.2")


async def test_limits_of_a_scenario_are_changed_over_http_too_and_forgotten(emulator: Emulator) -> None:
    context = ssl.create_default_context(cafile=str(emulator.certificates.ca_file))
    async with httpx2.AsyncClient(verify=context, base_url=f"{emulator.graph_url}/_emulator/") as http:
        await http.post("scenarios", json=["day-quota", "few-recipients"])
        async with Client(emulator) as client:
            await client.secured()
            await client.login()
            assert (await client.submit(*[JANA] * 4)).startswith("452 4.5.3")
            await http.post("scenarios", json=["day-quota"])
            await client.say("RSET")
            assert (await client.submit(*[JANA] * 20)).startswith("250")
            assert (await client.submit(JANA)).startswith("554 5.2.0")
            assert (await http.post("reset")).status_code == 200
            assert (await client.submit(JANA)).startswith("250")
            await http.post("scenarios", json=[])
            assert (await client.submit(*[JANA] * 30)).startswith("250")


@pytest.mark.parametrize("body", ['{"outage": 1}', '"outage"', "[1]", "no json", '["throttled:a@*"]'])
async def test_what_is_no_list_of_names_is_not_played(emulator: Emulator, body: str) -> None:
    context = ssl.create_default_context(cafile=str(emulator.certificates.ca_file))
    async with httpx2.AsyncClient(verify=context) as http:
        answer = await http.post(f"{emulator.graph_url}/_emulator/scenarios", content=body)
    assert answer.status_code == 400
    assert answer.json()["problem"]


async def test_json_message_of_another_producer_is_taken_by_graph(emulator: Emulator) -> None:
    assert (await sent_over_graph(emulator)).status_code == 202
    assert json.loads(emulator.accepted.log.read_text())["rcpt_to"] == [JANA, "hidden@fabrikam.example"]


async def sent_over_graph(emulator: Emulator, mails: int = 1) -> httpx2.Response:
    """The answer to the last of so many mails."""
    body = {
        "message": {
            "subject": "Hello",
            "body": {"contentType": "HTML", "content": "<p>Hello</p>"},
            "toRecipients": [{"emailAddress": {"address": JANA}}],
            "bccRecipients": [{"emailAddress": {"address": "hidden@fabrikam.example"}}],
        }
    }
    async with cloud_of(emulator) as cloud:
        token = (await cloud.app()).json()["access_token"]
        return [await cloud.post(f"/users/{BOX}/sendMail", body, token) for _ in range(mails)][-1]


def audited(emulator: Emulator, **allowed: object):  # type: ignore[no-untyped-def] # noqa: ANN201
    """What the only login did."""
    findings = audit(read(emulator.backstage.journal.path), Allowed(**allowed))  # type: ignore[arg-type]
    (found,) = findings
    return found


# ---------------------------------------------------------------- files of one's own


def test_own_scenario_names_rules_of_its_own_and_of_the_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        '[[rule]]\nname = "ours"\nmoment = "dot"\nreply = "554 5.0.0 ours"\n'
        '[scenario.friday]\ntitle = "Friday"\nrules = ["ours", "mailbox-full"]\nlimits = { per_minute = 5 }\n'
    )
    friday = load(path).find("friday")
    assert [rule.name for rule in friday.rules] == ["ours", "mailbox-full"]
    assert friday.limits == {"per_minute": 5}


def test_example_of_the_documentation_can_be_played(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "emulator.md").read_text(encoding="utf-8")
    path = tmp_path / "own.toml"
    path.write_text(page.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    friday = load(path).find("friday")
    assert [rule.name for rule in friday.rules] == ["printer-throttled", "store-busy"]
    assert Limits(**friday.limits).over == "delay"
    assert {rule.name for rule in load(path).rules.values()} > {"printers-password", "slow-graph"}


def test_every_name_in_the_documentation_exists() -> None:
    page = (Path(__file__).parents[3] / "docs" / "emulator.md").read_text(encoding="utf-8")
    tables = page.partition("## Meeting a reply")[2].partition("Without a scenario")[0]
    named = set(re.findall(r"`([a-z0-9-]+)`", tables))
    known = catalogue().rules.keys() | catalogue().scenarios.keys()
    assert named - known - {str(moment) for moment in Moment} - {"fast"} == set()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[rule]]\nname = "x"\nmoment = "lunch"\nreply = "4"\n', "lunch"),
        ('[[rule]]\nname = "x"\nmoment = "dot"\nreplay = "4"\n', "replay"),
        ('[[rule]]\nname = "x"\nreply = "4"\n', "moment"),
        ('[scenario.x]\nrules = ["no-such"]\n', "no-such"),
        ("[scenario.x.limits]\nper_hour = 1\n", "per_hour"),
        ("[scenarios.x]\n", "scenarios"),
        ("no toml", "own.toml"),
        ("[rule]\nname = 1\n", r"\[\[rule\]\]"),
        ("[[scenario]]\n", r"\[scenario.NAME\]"),
        ("scenario = 1\n", r"\[scenario.NAME\]"),
        ('[scenario.x]\nrulez = ["store-busy"]\n', "rulez"),
        ('[scenario.x]\nrules = "throttled"\n', "scenario 'x': rules must be a list of names"),
        ("[scenario.x]\nlimits = 3\n", "scenario 'x': limits must be a table"),
        ('[scenario.x.limits]\nper_minute = "30"\n', "per_minute must be a whole number"),
        ("[scenario.x.limits]\nper_minute = -1\n", "per_minute must be a whole number from 0"),
        ("[scenario.x.limits]\nper_minute = true\n", "per_minute must be a whole number"),
        ('[scenario.x.limits]\nover = "dealy"\n', "over must be one of reject, delay"),
        (2 * '[[rule]]\nname = "x"\nmoment = "dot"\nreply = "drop"\n', "two rules of the name 'x'"),
        *(
            (f'[[rule]]\nname = "x"\n{rule}\n', f"own.toml: rule 'x': {problem}")
            for rule, problem in (
                ('moment = "dot"', "reply is missing"),
                ('moment = "dot"\nreply = "hello"', "reply must be like '451 4.3.2 text', or drop, lost, silent"),
                ('moment = "dot"\nreply = "250 2.0.0 Yes"', "reply must be like"),
                ('moment = "mail"\nreply = "lost"', "reply must be like"),
                ('moment = "graph"\nreply = "429 Throttled"', "reply must be like '429 ErrorCode message'"),
                ('moment = "graph-access"\nreply = "lost"', "reply must be like"),
                ('moment = "bounce"\nreply = "drop"', "reply must be like"),
                ('moment = "dot"\nreply = "drop"\ntimes = "three"', "times must be a whole number"),
                ('moment = "dot"\nreply = "drop"\ndelay = "long"', "delay must be a number"),
                ('moment = "connect"\nreply = "drop"\nmailbox = "a@*"', "mailbox says nothing at the moment connect"),
                ('moment = "auth"\nreply = "drop"\nrecipient = "a@*"', "recipient says nothing at the moment auth"),
                ('moment = "mail"\nreply = "drop"\nmechanism = "login"', "mechanism says nothing"),
                ('moment = "auth"\nreply = "drop"\nmechanism = "plain"', "mechanism must be login or xoauth2"),
                ('moment = "dot"\nreply = "drop"\nretry_after = 3', "retry_after says nothing"),
                ('moment = "dot"\nreply = "drop"\naccepts = true', "accepts says nothing"),
                ('moment = "bounce"\nreply = "550 5.1.1 x"\ndelay = 1', "delay says nothing"),
            )
        ),
    ],
)
def test_mistake_in_an_own_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(Unusable, match=problem):
        load(path)


@pytest.mark.parametrize("name", ["no-greeting:billing@*", "outage:billing@*", "throttled:billing@*"])
def test_what_everybody_meets_is_not_narrowed_to_somebody(name: str) -> None:
    with pytest.raises(Unusable, match="cannot be narrowed to"):
        catalogue().find(name)


async def test_limit_of_nought_is_none(tmp_path: Path) -> None:
    async with playing(tmp_path, connections=0, octets=0, graph_requests=0, graph_octets=0) as emulator:
        async with Client(emulator) as client:
            await client.secured()
            await client.login()
            assert (await client.submit(JANA)).startswith("250")
        assert emulator.backstage.governor.limits.graph_requests > 4


# ---------------------------------------------------------------- delays


@pytest.mark.parametrize(
    ("moment", "reply", "told"),
    [
        ("dot", "", "250 2.0.0"),
        ("dot", "451 4.3.2 Later", "451 4.3.2"),
        ("rcpt", "", "250 2.0.0"),
        ("mail", "", "250 2.0.0"),
        ("connect", "", "250 2.0.0"),
    ],
)
async def test_reply_is_kept_back_as_long_as_a_rule_says(tmp_path: Path, moment: str, reply: str, told: str) -> None:
    slow = Rule("slow", Moment(moment), reply, delay=0.3)
    known = replace(catalogue(), rules={**catalogue().rules, "slow": slow})
    began = asyncio.get_running_loop().time()
    async with emulating(Plan(tmp_path, catalogue=known, scenarios=("slow",))) as emulator, Client(emulator) as client:
        await client.secured()
        await client.login()
        assert (await client.submit(JANA)).startswith(told)
    assert asyncio.get_running_loop().time() - began >= 0.3


@pytest.mark.parametrize(("reply", "status"), [("", 202), ("503 ErrorServerBusy The server is busy.", 503)])
async def test_graph_keeps_its_answer_back_as_long_as_a_rule_says(tmp_path: Path, reply: str, status: int) -> None:
    slow = Rule("slow", Moment.GRAPH, reply, delay=0.3)
    known = replace(catalogue(), rules={**catalogue().rules, "slow": slow})
    async with emulating(Plan(tmp_path, catalogue=known, scenarios=("slow",))) as emulator:
        began = asyncio.get_running_loop().time()
        assert (await sent_over_graph(emulator)).status_code == status
        assert asyncio.get_running_loop().time() - began >= 0.3


# ---------------------------------------------------------------- the audit


def events(*times: float, recipients: int = 1) -> list[dict[str, object]]:
    return [{"time": time, "event": "accepted", "login": "a@b", "recipients": recipients} for time in times]


def test_audit_counts_windows_that_hold_more_than_allowed() -> None:
    (found,) = audit(events(0, 10, 59.9, 60, 130), Allowed(per_minute=3, minute=60))
    assert (found.fullest_window, found.windows_over) == (3, 0)
    (found,) = audit(events(0, 10, 59.9, 59.95, 130), Allowed(per_minute=3, minute=60))
    assert (found.fullest_window, found.windows_over) == (4, 1)


def test_audit_counts_recipients_of_a_day() -> None:
    (found,) = audit(events(0, 10, 20, recipients=4), Allowed(recipients=10))
    assert (found.recipients, found.days_over) == (12, 1)


def test_audit_tells_how_much_of_the_rate_was_used() -> None:
    (found,) = audit(events(*range(0, 61, 2)), Allowed(per_minute=30, minute=60))
    assert found.used == pytest.approx(1.0)


def test_audit_from_the_command_line_fails_where_a_limit_was_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events(0, 1, 2)))
    assert main([str(path), "--per-minute", "3"]) == 0
    assert main([str(path), "--per-minute", "2"]) == 1
    assert "OVER a@b: 3 accepted" in capsys.readouterr().out


def test_audit_counts_over_smtp_what_is_limited_there_and_over_both_what_is_limited_for_both() -> None:
    told = [{**event, "mechanism": "graph"} for event in events(*range(35), recipients=2)]
    (found,) = audit([*events(0), *told], Allowed(per_minute=30, recipients=71))
    assert (found.accepted, found.fullest_window, found.recipients, found.windows_over) == (36, 1, 71, 0)
    assert found.keeps(Allowed())


def test_audit_allows_graph_its_own_number_of_requests() -> None:
    told = [
        {"time": 0, "event": event, "login": "a@b", "connection": number, "mechanism": "graph"}
        for number in range(4)
        for event in ("login", "submitting")
    ]
    (found,) = audit(told, Allowed())
    assert (found.most_submitting, found.most_requests) == (0, 4)
    assert (found.keeps(Allowed()), found.keeps(Allowed(graph_requests=3))) == (True, False)


def test_audit_judges_every_run_by_itself() -> None:
    opened = [{"time": 0, "event": "submitting", "login": "a@b", "connection": number} for number in range(3)]
    again = [{"time": 1, "event": "submitting", "login": "a@b", "connection": number} for number in range(3, 6)]
    start = {"time": 1, "event": "start"}
    (found,) = audit([start, *opened, *events(0, 0.5), start, *again, *events(1, 2)], Allowed(per_minute=2))
    assert (found.accepted, found.most_submitting, found.fullest_window) == (4, 3, 2)


async def test_sessions_that_a_server_ends_are_closed_in_its_journal(tmp_path: Path) -> None:
    slow = Rule("slow", Moment.DOT, delay=3600)
    known = replace(catalogue(), rules={**catalogue().rules, "slow": slow})
    clients = []
    async with emulating(Plan(tmp_path, catalogue=known, scenarios=("slow",))) as emulator:
        for _ in range(3):
            clients.append(await Client(emulator).__aenter__())
            await clients[-1].secured()
            await clients[-1].login()
            await clients[-1].say("MAIL FROM:<notifications@contoso.example>")
        await clients[0].say(f"RCPT TO:<{JANA}>")
        await clients[0].say("DATA")
        clients[0].put(b"From: notifications@contoso.example\r\n\r\n.\r\n")
    for client in clients:
        await client.__aexit__()
    told = [event["event"] for event in read(emulator.backstage.journal.path)]
    assert [told.count(event) for event in ("start", "open", "close")] == [1, 3, 3]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--per-minute", "2"], 1),
        (["--per-minute", "0"], 0),
        (["--per-minute", "2", "--minute", "1"], 0),
        (["--per-minute", "0", "--recipients", "2"], 1),
        (["--per-minute", "0", "--recipients", "2", "--day", "1"], 0),
    ],
)
def test_audit_knows_limits_and_windows_of_every_width(tmp_path: Path, options: list[str], status: int) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events(0, 1, 2)) + '{"time": 3, "eve')
    assert main([str(path), *options]) == status


@pytest.mark.parametrize("text", [None, "no json\n", "[1]\n", "{}\n"])
def test_audit_says_in_words_that_there_is_nothing_to_audit(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main([str(path)])
    assert "events.jsonl" in capsys.readouterr().err


async def test_delayed_senders_of_one_mailbox_share_its_window(tmp_path: Path) -> None:
    async with playing(tmp_path, per_minute=3, minute=0.5, over="delay") as emulator:

        async def sends() -> None:
            async with Client(emulator) as client:
                await client.secured()
                await client.login()
                for _ in range(3):
                    assert (await client.submit(JANA)).startswith("250")

        await asyncio.gather(sends(), sends(), sends())
        assert audited(emulator, per_minute=3, minute=0.45).windows_over == 0
