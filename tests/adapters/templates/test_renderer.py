"""Templates in a process of their own: whatever they do there, an answer comes and the worker goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.templates.conftest import Write
from worker.domain.mailbox import MailScope
from worker.domain.wording import Order, Rule, Unreadable, Unrenderable, Wording
from worker.templates.none import NoTemplates
from worker.templates.renderer import Renderer

DATA = {"id": 7, "application": "setup.exe", "base": "https://pm.contoso.com"}
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"

unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no processor timer for processes")


@pytest.fixture
async def renderer(directory: Path) -> AsyncIterator[Renderer]:
    made = Renderer(directory, os.environ)
    yield made
    await made.close()


def order(template: str = "approval", **fields: Any) -> Order:
    recipient = {"address": "jana@contoso.com", "name": "Jana"}
    return Order(template, "cs", fields.pop("data", DATA), recipient)


async def test_mail_is_written_in_the_other_process(renderer: Renderer) -> None:
    found = await renderer.render(order())
    assert isinstance(found, Wording)
    assert (found.locale, found.subject) == ("cs", "Žádost č. 7: setup.exe")


async def test_rule_comes_over_whole(renderer: Renderer) -> None:
    found = await renderer.rule("approval.requested", MailScope("contoso"))
    assert isinstance(found, Rule)
    assert (found.template, found.to[1].name, found.data) == ("approval", "Omar", {"base": "https://pm.contoso.com"})
    assert await renderer.rule("other", MailScope("contoso", "site", "agent")) is None


async def test_many_at_once_get_each_their_own(renderer: Renderer) -> None:
    found = await asyncio.gather(*(renderer.render(order(data={**DATA, "id": n})) for n in range(50)))
    assert [item.subject for item in found if isinstance(item, Wording)] == [
        f"Žádost č. {n}: setup.exe" for n in range(50)
    ]


@unix
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(LOOPS, "processor time", id="loops"),
        pytest.param("{{ n ** (n ** 8) }}", "processor time", id="one-long-calculation"),
        pytest.param("{{ 'x' * 10 ** n }}", "MiB of memory", id="memory"),
    ],
)
async def test_template_without_end_is_stopped_and_the_next_mail_goes_through(
    renderer: Renderer, write: Write, text: str, problem: str
) -> None:
    for part, what in (("subject", "S"), ("txt", text)):
        write(f"bomb/cs.{part}.j2", what)
    found = await renderer.render(order("bomb", data={"n": 10}))
    assert isinstance(found, Unrenderable)
    assert problem in found.problem
    assert isinstance(await renderer.render(order()), Wording)


@unix
async def test_template_that_took_too_long_keeps_nobody_else_waiting_until_it_behaves(
    renderer: Renderer, write: Write
) -> None:
    write("bomb/cs.subject.j2", "S")
    write("bomb/cs.txt.j2", "{% if slow %}" + LOOPS + "{% endif %}")
    await renderer.render(order("bomb", data={"slow": True}))
    again = asyncio.create_task(renderer.render(order("bomb", data={"slow": True})))
    await asyncio.sleep(0)  # let it take its place
    assert isinstance(await renderer.render(order()), Wording)
    assert not again.done()
    beside = await renderer.render(order("bomb", data={"slow": False}))
    assert isinstance(beside, Unreadable)
    assert "one at a time" in beside.problem
    assert isinstance(await again, Unrenderable)
    assert isinstance(await renderer.render(order("bomb", data={"slow": False})), Wording)
    first, second = await asyncio.gather(*(renderer.render(order("bomb", data={"slow": False})) for _ in range(2)))
    assert isinstance(first, Wording)
    assert isinstance(second, Wording)


async def test_process_that_is_killed_is_replaced(renderer: Renderer) -> None:
    await renderer.render(order())
    process = renderer._quick._process
    assert process is not None
    process.kill()
    await process.wait()
    assert isinstance(await renderer.render(order()), Wording)


async def test_answer_for_somebody_who_has_left_is_not_taken_for_another(renderer: Renderer) -> None:
    await renderer.render(order())
    leaving = asyncio.create_task(renderer.render(order(data={**DATA, "id": 1})))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    found = await renderer.render(order(data={**DATA, "id": 2}))
    assert isinstance(found, Wording)
    assert found.subject == "Žádost č. 2: setup.exe"


@unix
async def test_disk_that_hangs_is_told_as_templates_out_of_reach(tmp_path: Path) -> None:
    root = tmp_path / "templates"
    root.mkdir()
    os.mkfifo(root / "rules.toml")  # opening it waits for somebody to write
    renderer = Renderer(root, os.environ, wall=1.5)
    for _ in range(2):
        found = await renderer.rule("approval.requested", MailScope("contoso"))
        assert isinstance(found, Unreadable)
        assert "no answer within 1.5 s" in found.problem
    await renderer.close()


async def test_directory_that_vanishes_and_comes_back_is_noticed_both_times(
    renderer: Renderer, directory: Path, tmp_path: Path
) -> None:
    assert isinstance(await renderer.render(order()), Wording)
    shutil.move(directory, tmp_path / "elsewhere")
    assert isinstance(await renderer.render(order()), Unreadable)
    shutil.move(tmp_path / "elsewhere", directory)
    assert isinstance(await renderer.render(order()), Wording)


@unix
async def test_secrets_of_the_worker_are_not_in_the_other_process(directory: Path) -> None:
    renderer = Renderer(
        directory, {**os.environ, "POSTLANE_BROKER__URL": "amqp://u:s3cret@h/", "MAIL_PASSWORD": "s3cret"}
    )
    await renderer.render(order())
    process = renderer._quick._process
    assert process is not None
    assert b"s3cret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    await renderer.close()


async def test_closing_leaves_no_process_behind(renderer: Renderer) -> None:
    await renderer.render(order())
    process = renderer._quick._process
    assert process is not None
    await renderer.close()
    assert process.returncode is not None


async def test_installation_without_templates_says_so() -> None:
    none = NoTemplates()
    assert await none.rule("approval.requested", MailScope("contoso")) is None
    assert "POSTLANE_TEMPLATES__DIRECTORY" in (await none.render(order())).remedy
    await none.close()
