"""Every rule of the emulator, met by our own clients over sockets: what they make of it is what `rules.txt` says.

A line there is: rule | row of the verdict catalogue | class | action. `accepted` stands for a mail that was taken, at
once or when a new token or connection had been tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from contracts.address import parse
from contracts.notification import OnDoubt
from tests.adapters.graph.conftest import graph_mailbox
from tests.factories import NOON, notification
from tests.fakes import Events
from worker.domain.delivery import Busy, Fenced, Stage, Submission
from worker.domain.envelope import Envelope
from worker.domain.judgement import judge
from worker.domain.mailbox import GraphEndpoint, Mailbox, OAuth, Password, SmtpEndpoint, Tls
from worker.domain.message import compose
from worker.domain.reply import Reply
from worker.domain.verdict import catalogue as verdicts
from worker.domain.verdict import of_graph, of_reply
from worker.emulator.entra import ERRORS
from worker.emulator.run import CLIENT_ID, Emulator
from worker.emulator.scenario import DROP, LOST, SILENT, Moment, Rule, catalogue
from worker.emulator.world import TokenTrouble
from worker.graph.conversation import Timeouts as GraphTimeouts
from worker.graph.transport import GraphTransport
from worker.oauth.tokens import MsalTokens
from worker.smtp.connect import Timeouts
from worker.smtp.transport import SmtpTransport

RULES = Path(__file__).with_name("rules.txt")
BEFORE_LOGIN = (Moment.CONNECT, Moment.EHLO, Moment.STARTTLS)
OF_THE_MAILBOX = (Moment.AUTH, Moment.MAIL, Moment.GRAPH_ACCESS)
UNSPOKEN = (DROP, LOST, SILENT)
AT_GRAPH = (Moment.GRAPH, Moment.GRAPH_ACCESS)
STAGES = {
    **dict.fromkeys(BEFORE_LOGIN, Stage.CONNECT),
    **{moment: Stage(moment) for moment in (Moment.AUTH, Moment.MAIL, Moment.RCPT, Moment.DATA, Moment.DOT)},
    Moment.BOUNCE: None,
}


def expected(prefix: str = "") -> Mapping[str, str]:
    """Rule to the rest of its line."""
    lines = (line.partition(" | ") for line in RULES.read_text(encoding="utf-8").splitlines() if line)
    return {name: rest for name, _, rest in lines if name.startswith("AADSTS") == bool(prefix)}


def smtp_mailbox(emulator: Emulator, address: str, *, token: bool, client_id: str = CLIENT_ID) -> Mailbox:
    """Of the emulated Office 365, by token or by password."""
    graph = graph_mailbox(emulator, address)
    assert isinstance(graph.endpoint, GraphEndpoint)
    scope = "https://outlook.office365.com/.default"
    oauth = replace(graph.endpoint.credentials, scope=scope, client_id=client_id)
    login: OAuth | Password = oauth if token else Password(address, SecretStr("emulated-password"))
    ca_file = str(emulator.certificates.ca_file)
    server = SmtpEndpoint("localhost", emulator.office365.port, Tls.STARTTLS, login, ca_file=ca_file)
    return graph.via(server)


async def always() -> bool:
    return True


async def met(emulator: Emulator, rule: Rule) -> Submission:
    """What our client brings home from a mail that meets a rule."""
    emulator.play(*([rule.name] if rule.moment in BEFORE_LOGIN else []))
    name = rule.name if rule.moment in OF_THE_MAILBOX else "notifications"
    address, rcpt = f"{name}@contoso.example", parse(f"{rule.name}@fabrikam.example")
    answer = 0.5 if rule.reply == SILENT else 10.0
    async with AsyncExitStack() as stack:
        tokens = MsalTokens(Events(), answer if rule.moment is Moment.TOKEN else 20)
        stack.callback(tokens.close)
        if rule.moment in AT_GRAPH:
            box = graph_mailbox(emulator, address)
            graph = GraphTransport(tokens, GraphTimeouts(connect=10, answer=answer, whole=20))
            stack.push_async_callback(graph.close)
            submit = graph.submit
        else:
            client_id = rule.name if rule.moment is Moment.TOKEN else CLIENT_ID
            box = smtp_mailbox(emulator, address, token=rule.mechanism != "login", client_id=client_id)
            smtp = SmtpTransport(tokens, Timeouts(answer if rule.moment in BEFORE_LOGIN else 10, 10, answer), Events())
            stack.push_async_callback(smtp.close)
            submit = smtp.submit
        message = compose(notification(id=rule.name, to=[str(rcpt)]), box, (), NOON)
        return await submit(box, Envelope.of(box.address, [rcpt]), message, always)


def meaning(submission: Submission, rcpt: str) -> str:
    """As a line of `rules.txt`."""
    assert not isinstance(submission, Busy | Fenced)
    verdict = judge(submission, (parse(rcpt),), verdicts(), OnDoubt.HOLD).verdict
    return "accepted" if verdict is None else f"{verdict.row} | {verdict.kind} | {verdict.action}"


@pytest.mark.parametrize("moment", Moment)
async def test_every_rule_is_understood_as_the_catalogue_says(emulator: Emulator, moment: Moment) -> None:
    rules = [rule for rule in catalogue().rules.values() if rule.moment is moment]
    at_once = asyncio.Semaphore(8 if moment is Moment.TOKEN else 1)

    async def understood(rule: Rule) -> str:
        async with at_once:
            return meaning(await met(emulator, rule), f"{rule.name}@fabrikam.example")

    found = await asyncio.gather(*map(understood, rules))
    assert dict(zip([rule.name for rule in rules], found, strict=True)) == {
        rule.name: expected()[rule.name] for rule in rules
    }


async def test_every_error_of_the_token_endpoint_is_understood_as_the_catalogue_says(emulator: Emulator) -> None:
    found = {}
    for number in ERRORS:
        emulator.authority.troubled(TokenTrouble(aadsts=number), emulator.plan.apps[0].client_id)
        submission = await met(emulator, Rule("token", Moment.DOT, ""))
        found[f"AADSTS{number}"] = meaning(submission, "token@fabrikam.example")
    assert found == expected("AADSTS")


def test_no_rule_is_missing_and_none_is_unknown_to_the_catalogue() -> None:
    assert expected().keys() == catalogue().rules.keys()
    known = {row.verdict.row for row in verdicts()} | {"accepted"}
    assert {line.partition(" | ")[0] for line in (*expected().values(), *expected("AADSTS").values())} <= known


def said_by(rule: Rule) -> str:
    """The row that decides what a rule says where it says it; a report later is read without knowing where."""
    if rule.moment in AT_GRAPH:
        status, code, message = rule.reply.split(" ", 2)
        return of_graph(verdicts(), int(status), (code,), message).row
    return of_reply(verdicts(), STAGES[rule.moment], Reply.parse(rule.reply), rule.mechanism).row


def test_every_row_about_microsofts_servers_has_a_rule_that_it_decides() -> None:
    speaking = [rule for rule in catalogue().rules.values() if rule.reply not in UNSPOKEN]
    spoken = {said_by(rule) for rule in speaking if rule.moment in {*STAGES, *AT_GRAPH}}
    rows = {row.verdict.row for row in verdicts("hve", "exchange-online", "graph")}
    assert rows - spoken - {line.partition(" | ")[0] for line in expected().values()} == set()
