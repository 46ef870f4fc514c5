"""Tasks, approval processes and reset mails of the old product as rules and templates of ours.

None of the products has a text that could be exported; each template begins with one of ours, in English and where the
product's users have chosen it in French, and is the administrator's from then on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from worker.importers.checks import slug
from worker.importers.mailbox import Import, ImportedMailbox, Rule

APPROVALS = "Manual Approval Process with E-mail Alerts"
APPROVAL_REQUESTED = "approval.requested"
RESET_REQUESTED = "password-reset.requested"
_MISSING_PROCESS = "process.missing"
_LONGEST_EVENT = 100

_TASK = {
    "en.subject.j2": "{{ task }}\n",
    "en.txt.j2": "{{ task }}{% if report is defined %}, report {{ report }}{% endif %}\n"
    "{% if text is defined %}\n{{ text }}\n{% endif %}{% if link is defined %}\n{{ link }}\n{% endif %}",
}
_APPROVAL = {
    "en.subject.j2": "Approval requested{% if requester is defined %} by {{ requester }}{% endif %}\n",
    "en.txt.j2": "{% if requester is defined %}{{ requester }}{% else %}Somebody{% endif %} asks for an approval"
    "{% if request is defined %}: {{ request }}{% endif %}.\n\nDecide here: {{ link }}\n",
}
_RESET = {
    "en.subject.j2": "Reset your password\n",
    "en.txt.j2": "Somebody, probably you, has asked to reset your password. Do it here:\n\n{{ link }}\n\n"
    "{% if valid_for is defined %}The link is valid for {{ valid_for }} (hours:minutes:seconds). {% endif %}"
    "If it was not you, you need do nothing.\n",
    "fr.subject.j2": "Réinitialisez votre mot de passe\n",
    "fr.txt.j2": "Une demande de réinitialisation de votre mot de passe a été faite, sans doute par vous :\n\n"
    "{{ link }}\n\n{% if valid_for is defined %}Le lien est valable {{ valid_for }} (heures:minutes:secondes). "
    "{% endif %}Si ce n'était pas vous, il n'y a rien à faire.\n",
}


@dataclass(frozen=True, slots=True)
class Wired:
    """A rule as it is written, and the template that it names.

    Attributes:
        added: the old product has no such thing, and should.
    """

    event: str
    template: str
    texts: Mapping[str, str]
    lines: tuple[str, ...]
    added: bool = False


def wired(outcome: Import, tenants: tuple[str, ...]) -> tuple[Wired, ...]:
    """The rules of an import. They hold for these tenants; with none, for all."""
    boxes = {str(box.source.get("server", "")).lower(): box for box in outcome.mailboxes}
    found = [_of(rule, boxes, tenants) for rule in outcome.rules]
    if any(finding.code == _MISSING_PROCESS for finding in outcome.findings):
        alone = next(iter(boxes), "") if len(boxes) == 1 else ""
        found.append(_of(Rule("process", APPROVALS, alone), boxes, tenants, added=True))
    found += [_reset(box, tenants) for box in outcome.mailboxes if "password-reset" in box.purposes and box.component]
    return tuple(_apart(found))


def toml(rules: tuple[Wired, ...]) -> str:
    """Their tables for rules.toml."""
    return "\n".join("".join(f"{line}\n" for line in ("[[rules]]", *rule.lines)) for rule in rules)


def templates(rules: tuple[Wired, ...]) -> Mapping[str, str]:
    """Path below the template directory → text."""
    return {f"{rule.template}/{name}": text for rule in rules for name, text in rule.texts.items()}


def _of(rule: Rule, boxes: Mapping[str, ImportedMailbox], tenants: tuple[str, ...], *, added: bool = False) -> Wired:
    approval = rule.kind == "process" and rule.name.lower() == APPROVALS.lower()
    event = APPROVAL_REQUESTED if approval else f"{rule.kind}.{slug(rule.name)}"[:_LONGEST_EVENT]
    template = "approval-requested" if rule.kind == "process" else "email-task"
    box = boxes.get(rule.server.lower())
    # A managed server is not the task's to choose.
    managed = box is None or bool(box.source.get("managed"))
    data = {"task": rule.name, "report": rule.fields.get("report") or None} if rule.kind == "task" else {}
    lines = _lines(
        event=event,
        tenants=tenants,
        template=template,
        mailbox="" if managed or box is None else box.name,
        sender=rule.fields.get("from", ""),
        to=rule.fields.get("to", ()),
        data={key: value for key, value in data.items() if value},
    )
    what = f"# {rule.kind} {_plain(rule.name)}" + ("; it was missing there" if added else "")
    return Wired(event, template, _TASK if rule.kind == "task" else _APPROVAL, (what, *lines), added)


def _reset(box: ImportedMailbox, tenants: tuple[str, ...]) -> Wired:
    valid = box.more.get("link_valid_for")
    cultures = box.more.get("cultures") or ("en",)
    wanted = tuple(str(each).split("-")[0].lower() for each in cultures) if isinstance(cultures, tuple) else ("en",)
    texts = {name: text for name, text in _RESET.items() if name.split(".")[0] in {"en", *wanted}}
    lines = _lines(
        event=RESET_REQUESTED,
        tenants=tenants,
        components=(box.component,),
        template="password-reset",
        locale=wanted[0] if wanted[0] in {"en", "fr"} else "",
        category="password-reset",
        data={"valid_for": valid} if valid else {},
    )
    return Wired(RESET_REQUESTED, "password-reset", texts, tuple(lines))


def _apart(found: list[Wired]) -> Iterator[Wired]:
    """Two tasks of one name would share an event, and the second would never be heard."""
    seen: dict[str, int] = {}
    for rule in found:
        seen[rule.event] = seen.get(rule.event, 0) + 1
        if seen[rule.event] == 1:
            yield rule
            continue
        event = f"{rule.event}-{seen[rule.event]}"
        before, after = f'event = "{rule.event}"', f'event = "{event}"'
        lines = tuple(after if line == before else line for line in rule.lines)
        yield Wired(event, rule.template, rule.texts, lines, rule.added)


def _lines(**fields: object) -> Iterator[str]:
    for key, value in fields.items():
        if not value:
            continue
        name = "from" if key == "sender" else key
        if isinstance(value, Mapping):
            yield f"{name} = {{ {', '.join(f'{inner} = {_text(each)}' for inner, each in value.items())} }}"
        elif isinstance(value, tuple):
            yield f"{name} = [{', '.join(map(_text, value))}]"
        else:
            yield f"{name} = {_text(value)}"


def _text(value: object) -> str:
    # A JSON text is a TOML basic string, but for DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
