"""The template directory: what there is, and a template made into a mail's text.

NAME/LOCALE.subject.j2    one line
NAME/LOCALE.txt.j2        plain text, made from the html where it is missing
NAME/LOCALE.html.j2       html
_ANYTHING/…               parts that templates include or extend
rules.toml                what is sent to whom on which event
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateNotFound, TemplateSyntaxError, UndefinedError, meta
from jinja2.exceptions import SecurityError

from contracts.model import one_line, sendable
from worker.domain.locale import matching, nearest
from worker.domain.mailbox import MailScope
from worker.domain.plain import plain_text
from worker.domain.wording import Order, Rule, Unreadable, Unrenderable, Wording, rule_for
from worker.templates.environment import SUFFIX, environment
from worker.templates.rules import FILE, Rules, RulesError

MAX_OUTPUT = 1024 * 1024  # characters of one part
MAX_SUBJECT = 998
_FILE_NAME = re.compile(r"([A-Za-z]{2,3}(?:[_-][A-Za-z0-9]{1,8}){0,4})\.(subject|txt|html)\.j2")
_TEMPLATE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REPLAY = "then replay the dead letter."
_LONGEST = 300  # characters of what Jinja2 says


class _Fault(Exception):  # noqa: N818 - a way out, never seen outside this module
    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.found = Unrenderable(problem, remedy)


@dataclass(frozen=True, slots=True)
class Survey:
    """One template in one locale, as far as it can be judged without data."""

    template: str
    locale: str
    parts: tuple[str, ...]
    placeholders: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())


class Library:
    """Reads the directory at each call; what has changed there counts from then on."""

    def __init__(self, root: Path) -> None:
        """Nothing is read yet."""
        self._root = root
        self._rules = Rules(root)
        self._environments = {"html": environment(root, html=True), "txt": environment(root, html=False)}

    def rule(self, event: str, scope: MailScope) -> Rule | Unreadable | None:
        """The rule of an event, if there is one."""
        try:
            self._present()
            return rule_for(event, scope, self._rules.current())
        except (OSError, RulesError) as error:
            return self._unreadable(error)

    def render(self, order: Order) -> Wording | Unrenderable | Unreadable:
        """Write what was ordered."""
        try:
            self._present()
            return self._render(order)
        except _Fault as fault:
            return fault.found
        except (OSError, RulesError) as error:
            return self._unreadable(error)

    def survey(self) -> tuple[Survey, ...] | Unreadable:
        """Compile everything."""
        try:
            self._present()
            return tuple(self._surveyed())
        except OSError as error:
            return self._unreadable(error)

    def _present(self) -> None:
        """A volume that is not mounted often looks like an empty directory.

        Raises:
            OSError: the directory cannot be used.
        """
        if not any(self._root.iterdir()):
            raise FileNotFoundError(2, "is empty")

    def _unreadable(self, error: OSError | RulesError) -> Unreadable:
        if isinstance(error, RulesError):
            return Unreadable(f"The rules cannot be used. {error}", f"Correct {FILE}; waiting mail goes on by itself.")
        return Unreadable(
            f"The template directory cannot be read: {error.strerror or error}.",
            "Look at POSTLANE_TEMPLATES__DIRECTORY, its volume and its rights; waiting mail goes on by itself.",
        )

    # ---------------------------------------------------------------- one mail

    def _render(self, order: Order) -> Wording:
        files = self._files(order.template)
        bodies = [tag for tag, parts in files.items() if parts & {"txt", "html"}]
        if not bodies:
            raise self._no_template(order.template)
        # Only a fall-back needs the rules' order of languages: a mistake in the rules holds up no other mail.
        tag = matching(order.locale, bodies) or nearest(order.locale, bodies, self._rules.locales())
        if "subject" not in files[tag] and not order.titled:
            raise _Fault(
                f"Template {order.template!r} (locale {tag}) has no subject: there is no {tag}.subject.j2.",
                f"Add {order.template}/{tag}.subject.j2, {_REPLAY}",
            )
        data = {"recipient": order.recipient, **order.data} if order.recipient else dict(order.data)
        stem = f"{order.template}/{tag}"
        html = self._part(f"{stem}.html", tag, data) if "html" in files[tag] else None
        text = self._part(f"{stem}.txt", tag, data) if "txt" in files[tag] else plain_text(html or "")
        subject = None if order.titled else _subject(self._part(f"{stem}.subject", tag, data), order.template, tag)
        return Wording(tag, subject, text, html)

    def _part(self, name: str, tag: str, data: Mapping[str, Any]) -> str:
        """One file, rendered piece by piece so that it can be stopped in time."""
        kind = self._environments["html" if name.endswith(".html") else "txt"]
        try:
            return sendable("".join(_bounded(kind.get_template(name + SUFFIX).generate(data))))
        except Exception as error:  # whatever a template does is the template's fault, never the worker's
            if _not_the_templates(error):
                raise
            raise self._fault(name.partition("/")[0], tag, name + SUFFIX, error) from error

    def _fault(self, template: str, tag: str, file: str, error: Exception) -> _Fault:
        place, line = self._place(error, file)
        where = f"Template {template!r} (locale {tag}, file {place}{f', line {line}' if line else ''})"
        match error:
            case UndefinedError():
                remedy = "Give the value in `data`, or write {{ name | default('…') }} in the template"
            case TemplateNotFound():
                remedy = "Files are named from the template directory down: {% include '_shared/footer.html.j2' %}"
            case _:
                remedy = "Correct the template; `postlane template check` shows what is wrong with it"
        return _Fault(f"{where}: {_said(error)}.", f"{remedy}, {_REPLAY}")

    def _place(self, error: Exception, file: str) -> tuple[str, int | None]:
        """File and line of the template in which it went wrong."""
        if isinstance(error, TemplateSyntaxError):
            return error.name or file, error.lineno
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            path = Path(frame.filename)
            if path.is_relative_to(self._root) and frame.filename.endswith(SUFFIX):
                return path.relative_to(self._root).as_posix(), frame.lineno
        return file, None

    def _no_template(self, name: str) -> _Fault:
        names = ", ".join(self._names()) or "none"
        return _Fault(
            f"There is no template {name!r} with a text: the directory has {names}.",
            f"Add {name}/LOCALE.txt.j2 or {name}/LOCALE.html.j2, or correct the name, {_REPLAY}",
        )

    # ---------------------------------------------------------------- what there is

    def _names(self) -> list[str]:
        return sorted(
            path.name for path in self._root.iterdir() if _TEMPLATE_NAME.fullmatch(path.name) and path.is_dir()
        )

    def _files(self, name: str) -> dict[str, set[str]]:
        """Parts by locale."""
        found: dict[str, set[str]] = {}
        folder = self._root / name
        if not folder.is_dir():
            return found
        for path in folder.iterdir():
            if known := _FILE_NAME.fullmatch(path.name):
                found.setdefault(known[1], set()).add(known[2])
        return found

    def _surveyed(self) -> Iterator[Survey]:
        try:
            preferred, rules = self._rules.locales(), self._rules.current()
        except RulesError as error:
            preferred, rules = (), ()
            yield Survey(FILE, "", (), (), tuple(str(error).splitlines()))
        names = self._names()
        for rule in rules:
            if rule.template is not None and rule.template not in names:
                problem = f"the rule for {rule.event!r} names template {rule.template!r}, which is not there"
                yield Survey(FILE, "", (), (), (problem,))
        for name in names:
            files = self._files(name)
            for tag in sorted({*files, *preferred} if files else files):
                yield self._judged(name, tag, files.get(tag, set()))
            if not files:
                yield Survey(name, "", (), (), ("has no file LOCALE.subject.j2, LOCALE.txt.j2 or LOCALE.html.j2",))

    def _judged(self, name: str, tag: str, parts: set[str]) -> Survey:
        if not parts:
            return Survey(name, tag, (), (), (f"is missing, though `locales` in {FILE} names it",))
        problems = [] if parts & {"txt", "html"} else ["has neither txt nor html"]
        if "subject" not in parts:
            problems.append("has no subject")
        placeholders: set[str] = set()
        for part in sorted(parts):
            kind = self._environments["html" if part == "html" else "txt"]
            try:
                placeholders |= _placeholders(kind, f"{name}/{tag}.{part}{SUFFIX}", set())
            except Exception as error:  # one broken template must not hide the others
                if _not_the_templates(error):
                    raise
                problems.append(self._fault(name, tag, f"{name}/{tag}.{part}{SUFFIX}", error).found.problem)
        return Survey(name, tag, tuple(sorted(parts)), tuple(sorted(placeholders)), tuple(problems))


def _not_the_templates(error: Exception) -> bool:
    """Whether it is the disk's or the memory's fault. Jinja2 counts a missing file among the errors of the system."""
    return isinstance(error, OSError | MemoryError) and not isinstance(error, TemplateNotFound)


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > MAX_OUTPUT:
            raise OverflowError(f"it gives more than {MAX_OUTPUT} characters")
        yield piece


def _subject(text: str, template: str, tag: str) -> str:
    """One line, whatever the data were: a line break would begin a header of its own."""
    line = " ".join(text.split())
    problem = ""
    try:
        one_line(line)
    except ValueError as error:
        problem = str(error)
    if not 0 < len(line) <= MAX_SUBJECT:
        problem = f"is longer than {MAX_SUBJECT} characters" if line else "is empty"
    if problem:
        raise _Fault(f"The subject of template {template!r} (locale {tag}) {problem}.", f"Correct it, {_REPLAY}")
    return line


def _placeholders(kind: Environment, name: str, seen: set[str]) -> set[str]:
    """Names that the data must give, those of included files too."""
    seen.add(name)
    loader = kind.loader
    assert loader is not None  # noqa: S101 - ours always has one
    tree = kind.parse(loader.get_source(kind, name)[0], name)
    found = meta.find_undeclared_variables(tree) - set(kind.globals) - {"recipient"}
    kind.get_template(name)
    for other in meta.find_referenced_templates(tree):
        if other is not None and other not in seen:
            found |= _placeholders(kind, other, seen)
    return found


def _said(error: Exception) -> str:
    match error:
        case TemplateNotFound() | TemplateSyntaxError() | UndefinedError() | SecurityError() | OverflowError():
            text = error.message if isinstance(error, TemplateSyntaxError | UndefinedError) else str(error)
        case RecursionError():
            text = "it includes or calls itself without end"
        case ValueError() if str(error).startswith("must not"):
            text = f"its text {error}"
        case _:
            text = f"{type(error).__name__}: {error}"
    return (text or type(error).__name__)[:_LONGEST].rstrip(".")
