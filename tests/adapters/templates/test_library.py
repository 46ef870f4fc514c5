"""Real template files: what they come to, and what is said where they do not."""

from __future__ import annotations

import re
import shutil
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.adapters.templates.conftest import FILES, Write
from tests.factories import NOON, mailbox, notification
from worker.domain.mailbox import MailScope
from worker.domain.message import compose
from worker.domain.wording import Order, Rule, Unreadable, Unrenderable, Wording, worded
from worker.templates.library import Library

DATA = {"id": 7, "application": "setup.exe", "base": "https://pm.contoso.com"}
JANA = {"address": "jana@contoso.com", "name": "Jana Nováková"}
CONTOSO = MailScope("contoso")


@pytest.fixture
def library(directory: Path) -> Library:
    return Library(directory)


def order(template: str = "approval", locale: str | None = "cs-CZ", **fields: Any) -> Order:
    return Order(template, locale, fields.pop("data", DATA), fields.pop("recipient", JANA), **fields)


def written(found: object) -> Wording:
    assert isinstance(found, Wording), found
    return found


def fault(found: object) -> Unrenderable:
    assert isinstance(found, Unrenderable), found
    return found


# ---------------------------------------------------------------- what goes well


def test_czech_template_is_written_with_a_text_made_from_its_html(library: Library) -> None:
    found = written(library.render(order()))
    assert (found.locale, found.subject) == ("cs", "Žádost č. 7: setup.exe")
    assert found.text == ("Dobrý den, Jana Nováková,\n\nrozhodněte (https://pm.contoso.com/7) o žádosti setup.exe.\n")
    assert found.html is not None
    assert found.html.startswith("<html><body><p>Dobrý den")


@pytest.mark.parametrize(
    ("wanted", "taken"), [("cs", "cs"), ("en-GB", "en"), ("EN_us", "en"), ("fr", "cs"), (None, "cs")]
)
def test_nearest_locale_is_taken_else_the_first_listed(library: Library, wanted: str | None, taken: str) -> None:
    assert written(library.render(order(locale=wanted))).locale == taken


def test_subject_that_the_notification_gives_needs_no_file(library: Library, write: Write) -> None:
    write("bare/en.txt.j2", "Hello")
    assert written(library.render(order("bare", titled=True))).subject is None
    assert "has no subject: there is no en.subject.j2" in fault(library.render(order("bare"))).problem


def test_data_are_escaped_in_html_and_nowhere_else(library: Library, write: Write) -> None:
    write("page/en.subject.j2", "{{ a }}")
    write("page/en.txt.j2", "{{ a }}")
    write("page/en.html.j2", "{% include '_shared/name.txt.j2' %}{{ a }}")
    write("_shared/name.txt.j2", "{{ a }}")
    found = written(library.render(order("page", data={"a": "<b>&"})))
    assert (found.subject, found.text, found.html) == ("<b>&", "<b>&", "&lt;b&gt;&amp;" * 2)


def test_data_are_never_a_template_themselves(library: Library, write: Write) -> None:
    write("page/en.subject.j2", "S")
    write("page/en.txt.j2", "{{ a }}")
    assert written(library.render(order("page", data={"a": "{{ 7 * 7 }}{% include 'x' %}"}))).text.startswith("{{ 7")


def test_changed_file_and_changed_part_of_it_count_from_the_next_mail(library: Library, write: Write) -> None:
    written(library.render(order()))
    write("_shared/page.html.j2", "<html>{% block body %}{% endblock %}<p>Nová patička</p></html>")
    write("approval/cs.subject.j2", "Nový předmět")
    found = written(library.render(order()))
    assert found.subject == "Nový předmět"
    assert "Nová patička" in found.text


def test_removed_template_is_gone_and_a_new_one_is_there_at_once(library: Library, directory: Path) -> None:
    written(library.render(order()))
    shutil.rmtree(directory / "approval")
    assert "There is no template 'approval'" in fault(library.render(order())).problem
    for name in ("subject", "txt"):
        (directory / "approval").mkdir(exist_ok=True)
        (directory / "approval" / f"en.{name}.j2").write_text("back")
    assert written(library.render(order())).locale == "en"


# ---------------------------------------------------------------- what does not


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        pytest.param(
            "en.txt.j2", "\n\n{{ missing }}", r"file t/en\.txt\.j2, line 3\): 'missing' is undefined", id="name"
        ),
        pytest.param("en.txt.j2", "{{ a.b.c }}", r"line 1\): 'dict object' has no attribute 'b'", id="attribute"),
        pytest.param("en.txt.j2", "x\n{{ none }}", r"line 2\): the value of a placeholder is null", id="null"),
        pytest.param("en.txt.j2", "{{ a }}", r"the value of a placeholder is an object", id="object"),
        pytest.param("en.txt.j2", "x\n{% if %}", r"t/en\.txt\.j2, line 2\): Expected an expression", id="syntax"),
        pytest.param("en.html.j2", "{% for x in a %}", r"t/en\.html\.j2, line 1\): Unexpected end", id="unclosed"),
        pytest.param("en.txt.j2", "{{ a | nothing }}", r"No filter named 'nothing'", id="filter"),
        pytest.param("en.txt.j2", "{{ a | random }}", r"No filter named 'random'", id="dice"),
        pytest.param("en.txt.j2", "{{ 1 // 0 }}", r"ZeroDivisionError", id="arithmetic"),
        pytest.param("en.txt.j2", "{% include 'nowhere.j2' %}", r"there is no file 'nowhere\.j2'", id="include"),
        pytest.param("en.txt.j2", "{% include '../secret.j2' %}", r"no template file", id="parent"),
        pytest.param("en.txt.j2", "{% include '/etc/passwd' %}", r"no template file", id="absolute"),
        pytest.param("en.txt.j2", "{% include 'rules.toml' %}", r"no template file", id="no-template"),
        pytest.param("en.txt.j2", "{% include 't/en.txt.j2' %}", r"without end", id="itself"),
        pytest.param("en.txt.j2", "{{ ''.__class__.__mro__ }}", r"access to attribute '__class__'", id="sandbox"),
        pytest.param("en.txt.j2", "{{ a.update(b=1) }}", r"is not safely callable|access to attribute", id="mutation"),
        pytest.param("en.txt.j2", "{% for i in range(1000000) %}{% endfor %}", r"Range too big", id="range"),
        pytest.param(
            "en.txt.j2",
            "{% for i in range(1000) %}{% for j in range(1000) %}{{ j }}x{% endfor %}{% endfor %}",
            r"more than 1048576 characters",
            id="endless",
        ),
        pytest.param("en.txt.j2", "{{ '\\x00' }}", r"its text must not contain NUL", id="nul"),
        pytest.param("en.subject.j2", "  \n ", r"subject of template 't' \(locale en\) is empty", id="subject-empty"),
        pytest.param("en.subject.j2", "{{ 'x' * 999 }}", r"longer than 998", id="subject-long"),
        pytest.param("en.subject.j2", "a\x1bb", r"must not contain CR", id="subject-control"),
        pytest.param("en.txt.j2", b"caf\xe9", r"is not UTF-8 \(octet 3\)", id="latin-1"),
        pytest.param("en.txt.j2", "x" * 300_000, r"larger than 262144 octets", id="large-file"),
    ],
)
def test_template_that_does_not_work_is_named_with_place_and_remedy(
    library: Library, write: Write, name: str, text: str | bytes, problem: str
) -> None:
    for part in ("subject", "txt"):
        write(f"t/en.{part}.j2", "fine")
    write(f"t/{name}", text)
    found = fault(library.render(order("t", "en", data={"a": {"x": 1}, "none": None})))
    assert re.search(problem, found.problem), found.problem
    assert "'t'" in found.problem
    assert found.remedy.endswith("then replay the dead letter.")
    written(library.render(order()))


@pytest.mark.parametrize("name", ["nothing", "_shared", "approval.bak"])
def test_template_that_is_not_there_is_told_with_those_that_are(library: Library, name: str) -> None:
    assert fault(library.render(order(name))).problem.endswith("the directory has approval.")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        pytest.param(shutil.rmtree, "No such file or directory", id="gone"),
        pytest.param(lambda root: [shutil.rmtree(root), root.mkdir()], "is empty", id="not-mounted"),
        pytest.param(lambda root: [shutil.rmtree(root), root.write_text("")], "Not a directory", id="a-file"),
    ],
)
def test_directory_that_cannot_be_read_is_no_fault_of_the_mail(
    library: Library, directory: Path, spoil: Any, problem: str
) -> None:
    spoil(directory)
    for found in (library.render(order()), library.rule("approval.requested", CONTOSO), library.survey()):
        assert isinstance(found, Unreadable)
        assert problem in found.problem


NASTY = st.sampled_from(["a\r\nBcc: eve@evil.example", "\u2028", "\x1b[2J", "<p>", "=?utf-8?q?x?=", "{{ 7 * 7 }}"])
# The decoder lets neither NUL nor a lone surrogate through to any template.
TEXT = NASTY | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.fixed_dictionaries({"id": st.integers() | TEXT, "application": TEXT, "base": TEXT}))
def test_whatever_the_data_are_there_is_a_mail_of_one_subject_line_or_a_fault(
    directory: Path, data: dict[str, Any]
) -> None:
    found = Library(directory).render(order(data=data))
    if isinstance(found, Unrenderable):
        assert re.match(r"The subject of template 'approval' \(locale cs\) (must not|is longer)", found.problem)
        return
    made = worded(notification(template="approval", text=None, subject=None, data=data), written(found))
    mail = message_from_bytes(compose(made, mailbox(), [], NOON).content)
    assert mail.keys().count("Subject") == 1
    assert "Bcc" not in mail
    assert found.html is not None
    assert found.html.count("<p>") == 2


# ---------------------------------------------------------------- rules


def test_rule_is_read_with_its_people_and_data(library: Library) -> None:
    found = library.rule("approval.requested", CONTOSO)
    assert isinstance(found, Rule)
    assert [(person.name, person.address) for person in found.to] == [
        ("", "boss@contoso.com"),
        ("Omar", "omar@contoso.com"),
    ]
    assert found.data == {"base": "https://pm.contoso.com"}
    assert library.rule("other", CONTOSO) is None


def test_changed_rules_count_from_the_next_event(library: Library, write: Write) -> None:
    library.rule("approval.requested", CONTOSO)
    write("rules.toml", '[[rules]]\nevent = "other"\ntemplate = "approval"\nto = ["a@x.de"]\n')
    assert library.rule("approval.requested", CONTOSO) is None
    assert isinstance(library.rule("other", CONTOSO), Rule)


def test_directory_without_rules_has_none(library: Library, directory: Path) -> None:
    (directory / "rules.toml").unlink()
    assert library.rule("approval.requested", CONTOSO) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("[[rules]\n", "is not TOML: .*line 1", id="not-toml"),
        pytest.param("rule = []\n", "rule: is not a known key", id="misspelt"),
        pytest.param('[[rules]]\ntemplate = "a"\n', "rules.1.event: is missing", id="no-event"),
        pytest.param('[[rules]]\nevent = "a b"\ntemplate = "a"\n', "rules.1.event: ", id="event-form"),
        pytest.param('[[rules]]\nevent = "a"\n', "rules.1: says nothing", id="says-nothing"),
        pytest.param('[[rules]]\nevent = "a"\ntemplate = "../a"\n', "rules.1.template: ", id="template-path"),
        pytest.param(
            '[[rules]]\nevent = "a"\nto = "a@x.de; nobody"\n', r"rules.1.to.2.address: has no @", id="address"
        ),
        pytest.param('[[rules]]\nevent = "a"\nto = "a@x.de"\ncategory = "mass"\n', "mass mail", id="mass"),
        pytest.param('[[rules]]\nevent = "a"\ntemplat = "a"\n', "rules.1.templat: is not a known key", id="key"),
    ],
)
def test_wrong_rules_keep_events_waiting_and_say_where_the_mistake_is(
    library: Library, write: Write, text: str, problem: str
) -> None:
    write("rules.toml", text)
    found = library.rule("approval.requested", CONTOSO)
    assert isinstance(found, Unreadable)
    assert re.search(problem, found.problem), found.problem
    write("rules.toml", FILES["rules.toml"])
    assert isinstance(library.rule("approval.requested", CONTOSO), Rule)


def test_wrong_rules_hold_up_no_mail_that_needs_none(library: Library, write: Write) -> None:
    write("rules.toml", "locales = 7")
    assert written(library.render(order(locale="cs-CZ"))).locale == "cs"
    assert isinstance(library.render(order(locale="fr")), Unreadable)


# ---------------------------------------------------------------- survey


def test_survey_shows_placeholders_those_of_included_parts_too(library: Library) -> None:
    found = library.survey()
    assert isinstance(found, tuple)
    assert [(item.template, item.locale, item.placeholders, item.problems) for item in found] == [
        ("approval", "cs", ("application", "base", "id"), ()),
        ("approval", "en", ("application", "base", "id"), ()),
    ]


def test_survey_finds_every_mistake_at_once(library: Library, write: Write, directory: Path) -> None:
    write("broken/cs.txt.j2", "{% if %}")
    write("broken/en.html.j2", "{% include '_shared/gone.html.j2' %}")
    (directory / "empty").mkdir()
    write("rules.toml", FILES["rules.toml"] + '\n[[rules]]\nevent = "x"\ntemplate = "gone"\n')
    found = library.survey()
    assert isinstance(found, tuple)
    problems = {(item.template, item.locale): " / ".join(item.problems) for item in found if item.problems}
    assert "no subject" in problems["broken", "cs"]
    assert "line 1" in problems["broken", "cs"]
    assert "_shared/gone.html.j2" in problems["broken", "en"]
    assert "has no file" in problems["empty", ""]
    assert "'gone', which is not there" in problems["rules.toml", ""]
    assert ("approval", "cs") not in problems
