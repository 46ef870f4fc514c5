"""What goes wrong on the way to a complete draft: nothing has been sent by then, and nothing is in doubt."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from contracts.notification import OnDoubt
from tests.adapters.graph.drafts import MIB, Draft, Drafts, Said, graph_with_drafts, sent
from tests.factories import JANA
from worker.domain.delivery import Accepted, Broken, Refused, Stage
from worker.domain.judgement import Judgement, judge
from worker.domain.verdict import Action, catalogue
from worker.emulator.authority import Certificates
from worker.ports import Token

FILE = bytes(range(256)) * 4 * 4096  # 4 MiB: an upload of two pieces
FILES = [FILE, b"m" * 2 * MIB, b"n" * 2 * MIB]  # the last one may stay in the draft


async def meaning(graph: Drafts, *files: bytes) -> Judgement:
    """What came of a mail that was not sent."""
    outcome = await sent(graph, *files)
    assert isinstance(outcome, Refused | Broken)
    return judge(outcome, [JANA], catalogue(), OnDoubt.HOLD)


async def test_server_of_these_tests_takes_a_mail_and_all_its_files(certificates: Certificates) -> None:
    async with graph_with_drafts(certificates) as graph:
        assert isinstance(await sent(graph, *FILES), Accepted)
    assert graph.asked == ["find", "draft", "session", "put", "put", "attach", "send"]
    assert (graph.sent[0] == FILES[:2], graph.drafts, graph.marks) == (True, {}, 1)


@pytest.mark.parametrize("request_", ["draft", "attach", "session", "put"])
@pytest.mark.parametrize(
    "said",
    [
        Said.error(500, "UnknownError"),
        Said.error(500, "ErrorInternalServerError"),
        Said.error(502, "BadGateway"),
        Said.error(503, "ErrorServerBusy"),
        Said.error(504, "UnknownError"),
        Said.error(507, "UnknownError"),
        Said.error(429, "UnknownError"),
        Said.error(408, "ErrorTimeoutExpired"),
        Said(599),
    ],
    ids=lambda said: f"{said.status}-{said.content['error']['code']}" if said.content else str(said.status),
)
async def test_trouble_before_send_is_tried_again_and_never_a_doubt(
    certificates: Certificates, request_: str, said: Said
) -> None:
    async with graph_with_drafts(certificates, instead={request_: [said] * 9}) as graph:
        found = await meaning(graph, *FILES)
    assert found.verdict is not None
    assert found.verdict.action in (Action.RETRY, Action.PAUSE), found.verdict
    assert found.verdict.known
    assert "may or may not" not in found.verdict.explanation
    assert (graph.marks, graph.sent, graph.drafts) == (0, [], {})


async def test_wait_that_is_asked_for_before_send_is_granted(certificates: Certificates) -> None:
    busy = Said.error(503, "ErrorServerBusy", Retry_After="7")
    async with graph_with_drafts(certificates, instead={"draft": [busy]}) as graph:
        found = await meaning(graph, FILE)
    assert found.pause is not None
    assert (found.pause.action, found.pause.pause.total_seconds()) == (Action.PAUSE, 7)


@pytest.mark.parametrize("said", [Said.error(500, "UnknownError"), Said.error(429, "ApplicationThrottled")])
async def test_trouble_with_send_itself_is_a_doubt_and_its_draft_stays_to_be_seen(
    certificates: Certificates, said: Said
) -> None:
    async with graph_with_drafts(certificates, instead={"send": [said]}) as graph:
        outcome = await sent(graph, FILE)
    assert isinstance(outcome, Broken)
    assert (outcome.stage, graph.marks, len(graph.drafts)) == (Stage.DOT, 1, 1)


@pytest.mark.parametrize("name", ["nextExpectedRanges", "NextExpectedRanges"])
@pytest.mark.parametrize("form", ["{}", "{}-", "{}-99999999"])
@pytest.mark.parametrize("keeps", [MIB, 100_000])
async def test_upload_goes_on_where_the_server_expects_it(
    certificates: Certificates, keeps: int, form: str, name: str
) -> None:
    async with graph_with_drafts(certificates, keeps=keeps, form=form, name=name) as graph:
        assert isinstance(await sent(graph, FILE), Accepted)
    assert graph.sent == [[FILE]]
    assert graph.asked.count("put") == -(-len(FILE) // keeps)


@pytest.mark.parametrize("status", [416, 500, 503, 504])
async def test_upload_goes_on_after_a_piece_that_failed(certificates: Certificates, status: int) -> None:
    trouble = Said.error(status, "UnknownError")
    async with graph_with_drafts(certificates, instead={"put": [trouble, trouble]}) as graph:
        assert isinstance(await sent(graph, FILE), Accepted)
    assert graph.asked == ["find", "draft", "session", "put", "look", "put", "look", "put", "put", "send"]
    assert graph.sent == [[FILE]]


@pytest.mark.parametrize(
    ("answers", "pieces"),
    [
        pytest.param({"put": [Said.error(416, "ErrorInvalidRange")] * 9}, 3, id="416"),
        pytest.param({"put": [Said.error(500, "UnknownError")] * 9}, 3, id="500"),
        pytest.param({"put": [Said(200, {"nextExpectedRanges": ["0"]})] * 9}, 3, id="keeps-nothing"),
        pytest.param({"put": [Said(200, {"nextExpectedRanges": ["9999999"]})]}, 1, id="wants-what-it-was-not-given"),
        pytest.param({"put": [Said.error(404, "itemNotFound")]}, 1, id="session-gone"),
        pytest.param({"put": [Said(401)]}, 1, id="address-has-ended"),
        pytest.param({"put": [Said(403)]}, 1, id="address-is-for-nobody"),
        pytest.param({"put": [Said(500)], "look": [Said(405)]}, 1, id="does-not-say"),
    ],
)
async def test_upload_that_comes_to_no_end_is_begun_anew_another_time(
    certificates: Certificates, answers: dict[str, list[Said]], pieces: int
) -> None:
    async with graph_with_drafts(certificates, instead=answers) as graph:
        found = await meaning(graph, FILE)
    assert found.verdict is not None
    assert (found.verdict.action, found.pause) == (Action.RETRY, None)
    assert (graph.asked.count("put"), graph.marks, graph.drafts) == (pieces, 0, {})


@dataclass
class NewTokens:
    """Each token is a new one."""

    fetched: int = 0

    async def token(self, *_: object, **__: object) -> Token:
        self.fetched += 1
        return Token(f"token-{self.fetched}", fresh=True)


NOT_GOOD = Said.error(401, "InvalidAuthenticationToken")


async def test_token_that_ends_in_the_middle_of_a_large_mail_is_replaced(certificates: Certificates) -> None:
    tokens = NewTokens()
    async with graph_with_drafts(certificates, instead={"send": [NOT_GOOD]}) as graph:
        assert isinstance(await sent(graph, FILE, tokens=tokens), Accepted)
    assert (tokens.fetched, graph.marks) == (2, 1)


@pytest.mark.parametrize(("requests", "asked", "fetched"), [(["find", "draft"], 1, 1), (["send"], 2, 2)])
async def test_token_is_replaced_once_and_not_if_it_was_new(
    certificates: Certificates, requests: list[str], asked: int, fetched: int
) -> None:
    tokens = NewTokens()
    async with graph_with_drafts(certificates, instead={each: [NOT_GOOD] * 9 for each in requests}) as graph:
        outcome = await sent(graph, FILE, tokens=tokens)
    assert isinstance(outcome, Refused)
    assert (outcome.reply.code, graph.asked.count(requests[-1]), tokens.fetched) == (401, asked, fetched)
    assert graph.drafts == {}


async def test_draft_that_an_earlier_attempt_left_behind_is_removed_by_the_next_one(certificates: Certificates) -> None:
    async with graph_with_drafts(certificates, instead={"send": [Said.error(504, "UnknownError")]}) as graph:
        await sent(graph, FILE)
        (left,) = graph.drafts.values()
        graph.drafts["another"] = Draft(left.mime.replace(b"Message-ID: <", b"Message-ID: <another-"))
        assert isinstance(await sent(graph, FILE), Accepted)
    assert list(graph.drafts) == ["another"]
    assert graph.sent == [[FILE]]


@pytest.mark.parametrize("said", [Said.error(403, "ErrorAccessDenied"), Said.error(500, "UnknownError"), Said(200)])
async def test_drafts_that_cannot_be_looked_through_keep_no_mail_from_being_sent(
    certificates: Certificates, said: Said
) -> None:
    async with graph_with_drafts(certificates, instead={"find": [said]}) as graph:
        assert isinstance(await sent(graph, FILE), Accepted)
    assert graph.sent == [[FILE]]
