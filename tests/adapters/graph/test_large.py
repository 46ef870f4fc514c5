"""Mails above what one request carries: a draft, its files, then send."""

from __future__ import annotations

import base64
import hashlib
from email.parser import BytesParser
from email.policy import default
from typing import Any

import pytest

from tests.adapters.graph.conftest import Sender
from worker.domain.delivery import Accepted, Broken, Fault, Fenced, Refused, Stage
from worker.emulator.run import Emulator

MIB = 1024 * 1024


def described(name: str, content: bytes, **fields: Any) -> dict[str, Any]:
    """An attachment by reference: where it comes from is not this test's business."""
    digest = hashlib.sha256(content).hexdigest()
    return {
        "filename": name,
        "content_type": "application/pdf",
        "reference": name,
        "size": len(content),
        "sha256": digest,
        **fields,
    }


SMALL, MIDDLE, LARGE = b"s" * 1000, bytes(range(256)) * 8 * 1024, bytes(reversed(range(256))) * 16 * 1024


async def test_files_of_a_large_mail_arrive_whole_and_the_small_one_stays_where_it_was(
    sender: Sender, emulator: Emulator
) -> None:
    files = [SMALL, MIDDLE, LARGE]
    names = ["small.pdf", "middle.pdf", "účet-2026.pdf"]
    message = sender.mail(*files, attachments=[described(*each) for each in zip(names, files, strict=True)])
    outcome = await sender.send(message)
    assert isinstance(outcome, Accepted), outcome
    (path,) = emulator.accepted.directory.glob("*.eml")
    mail = BytesParser(policy=default).parsebytes(path.read_bytes())
    arrived = {part.get_filename(): part.get_payload(decode=True) for part in mail.iter_attachments()}
    assert arrived == dict(zip(names, files, strict=True))
    assert mail["Message-ID"] == message.message_id
    assert sender.marks == 1
    assert emulator.graph.drafts == 0


async def test_large_inline_image_stays_inline(sender: Sender, emulator: Emulator) -> None:
    image = described("logo.png", LARGE, content_type="image/png", content_id="logo@contoso")
    message = sender.mail(LARGE, html='<img src="cid:logo@contoso">', attachments=[image])
    assert isinstance(await sender.send(message), Accepted)
    (path,) = emulator.accepted.directory.glob("*.eml")
    parts = list(BytesParser(policy=default).parsebytes(path.read_bytes()).walk())
    (part,) = [part for part in parts if part.get_content_type() == "image/png"]
    assert (part["Content-ID"], part.get_content_disposition()) == ("<logo@contoso>", "inline")
    assert part.get_payload(decode=True) == LARGE


async def test_text_alone_above_the_limit_is_too_large_and_never_asked_for(sender: Sender, emulator: Emulator) -> None:
    outcome = await sender.send(sender.mail(text="a line of text\n" * 300_000))
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault, sender.marks) == (Stage.GRAPH, Fault.TOO_LARGE, 0)
    assert emulator.graph.drafts == 0


@pytest.mark.parametrize("rule", ["graph-throttled", "graph-send-as-denied"])
async def test_draft_that_is_refused_at_the_end_is_removed(sender: Sender, emulator: Emulator, rule: str) -> None:
    emulator.play(rule)
    outcome = await sender.send(sender.mail(LARGE, attachments=[described("a.pdf", LARGE)]))
    assert isinstance(outcome, Refused)
    assert emulator.graph.drafts == 0


async def test_draft_without_the_ledgers_leave_is_removed(sender: Sender, emulator: Emulator) -> None:
    sender.fenced = True
    assert isinstance(await sender.send(sender.mail(LARGE, attachments=[described("a.pdf", LARGE)])), Fenced)
    assert (emulator.graph.drafts, emulator.accepted.log.read_text()) == (0, "")


async def test_large_mail_whose_answer_is_lost_is_in_doubt(sender: Sender, emulator: Emulator) -> None:
    emulator.play("graph-lost")
    outcome = await sender.send(sender.mail(LARGE, attachments=[described("a.pdf", LARGE)]))
    assert isinstance(outcome, Broken)
    assert outcome.stage is Stage.DOT


def test_base64_of_the_largest_whole_mail_fits_into_one_request() -> None:
    assert len(base64.b64encode(bytes(3 * MIB))) <= 4 * MIB
