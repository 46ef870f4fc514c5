"""`postlane explain`: what a reply, an Entra error or an answer of Graph means, and what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from worker.domain.question import Question
    from worker.domain.verdict import Verdict


class _Where(StrEnum):
    CONNECT = "connect"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    TOKEN = "token"  # noqa: S105 - a stage, not a secret
    GRAPH = "graph"


class _How(StrEnum):
    XOAUTH2 = "xoauth2"
    OAUTHBEARER = "oauthbearer"
    LOGIN = "login"
    PLAIN = "plain"


def explain(
    *,
    text: Annotated[
        list[str], typer.Argument(help="Reply, AADSTS number, Graph error or HTTP status; - reads standard input.")
    ],
    stage: Annotated[_Where | None, typer.Option(help="Where it was said, if you know.")] = None,
    mechanism: Annotated[_How | None, typer.Option(help="How the session was logging in, if you know.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output, one object.")] = False,
) -> None:
    """Explain what a mail server, Entra or Microsoft Graph has said: what it means, whose fault, what to do next.

    Exit status: 0 explained (also if the reply is not known), 2 this is no reply.
    """
    from worker.domain.delivery import Stage
    from worker.domain.question import answer, understand
    from worker.domain.verdict import catalogue
    from worker.unusable import Unusable

    said = sys.stdin.read() if text == ["-"] else " ".join(text)
    where = Stage(stage) if stage else None
    try:
        question = understand(said, where)
    except ValueError as error:
        raise Unusable(f"Nothing to explain: {error}.") from error
    verdict = answer(catalogue(), question, where, mechanism or "")
    otherwise = _otherwise(question, verdict) if where is None else []
    facts = _facts(question, verdict, otherwise)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
    else:
        _show(facts)


def _facts(question: Question, verdict: Verdict, otherwise: list[dict[str, str]]) -> dict[str, Any]:
    from worker.domain.advice import does, whose
    from worker.domain.question import challenge
    from worker.domain.reply import Reply

    reply = question if isinstance(question, Reply) else None
    diagnostics = [*reply.diagnostics, challenge(reply)] if reply else []
    return {
        "class": verdict.kind,
        "scope": verdict.scope.value,
        "action": verdict.action.value,
        "explanation": verdict.explanation,
        "remedy": verdict.remedy,
        "source": verdict.source,
        "link": verdict.link,
        "known": verdict.known,
        "row": verdict.row,
        "reply": _said(question),
        "whose": whose(verdict),
        "does": does(verdict),
        "only": verdict.only.value if verdict.only else None,
        "pause_seconds": verdict.pause.total_seconds(),
        "wait_seconds": verdict.wait.total_seconds(),
        "throttle": verdict.throttle,
        "punished": verdict.punished,
        "diagnostics": [words for words in diagnostics if words],
        "suffix": reply.suffix if reply else "",
        "otherwise": otherwise,
    }


def _said(question: Question) -> str:
    from worker.domain.delivery import TokenRefused
    from worker.domain.question import GraphAnswer

    match question:
        case TokenRefused(error, _, hints):
            return " ".join([*([error] if error else []), *(f"AADSTS{number}" for number in hints)])
        case GraphAnswer(status, codes, _):
            return " ".join([*([f"HTTP {status}"] if status else []), *codes])
        case _:
            return str(question)


def _otherwise(question: Question, verdict: Verdict) -> list[dict[str, str]]:
    """What the same words mean elsewhere in the dialogue."""
    from worker.domain.delivery import Stage
    from worker.domain.question import answer
    from worker.domain.reply import Reply
    from worker.domain.verdict import catalogue

    if not isinstance(question, Reply):
        return []
    at_certain_stages = {row.verdict.row: row.stages for row in catalogue()}
    readings = (
        (stage, answer(catalogue(), question, stage))
        for stage in (Stage.CONNECT, Stage.AUTH, Stage.MAIL, Stage.RCPT, Stage.DATA)
    )
    return [
        {"stage": stage.value, "class": other.kind, "explanation": other.explanation}
        for stage, other in readings
        if other.row != verdict.row and stage in at_certain_stages.get(other.row, ())
    ]


def _show(facts: dict[str, Any]) -> None:
    typer.secho(facts["explanation"], bold=True)
    if not facts["known"]:
        typer.echo("No row of the catalogue knows these words; this is what the standard says of such a code.")
    for label, value in _lines(facts):
        typer.echo(f"{label:<10} {value}")
    for other in facts["otherwise"]:
        typer.echo(f"said to {other['stage'].upper()} it would be {other['class']}: {other['explanation']}")


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "what", f"{facts['class']} ({facts['reply']})"
    yield "whose", facts["whose"]
    yield "Postlane", facts["does"]
    if facts["remedy"]:
        yield "you", facts["remedy"]
    for words in facts["diagnostics"]:
        yield "Exchange", words
    if facts["suffix"]:
        yield "support", f"quote this to Microsoft Support: {facts['suffix']}"
    if facts["link"]:
        yield "read", facts["link"]
    if facts["source"]:
        yield "source", facts["source"]
