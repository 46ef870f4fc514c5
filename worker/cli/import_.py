"""`postlane import`: take over the mail settings of another product."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.unusable import Unusable

if TYPE_CHECKING:
    from worker.importers.mailbox import Import, ImportedMailbox
    from worker.importers.render import Placing, SecretFile
    from worker.importers.source import Source

_REJECTED = 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_MARKS = {"note": ("·", None), "warning": ("!", "yellow"), "secret": ("?", "yellow"), "refusal": ("✗", "red")}
_MEANING = {
    "accept": "taken over complete",
    "accept_warn": "taken over, with findings that you must see",
    "needs_secret": "taken over except for a secret that you must enter",
    "inactive": "taken over, but by the product's own rule it has no effect",
    "reject": "not taken over",
}


class Product(StrEnum):
    """Whose settings are read."""

    NETWRIX = "netwrix"
    KENTICO = "kentico"
    PRIVILEGE_MANAGER = "privilege-manager"
    UMBRACO = "umbraco"
    ELIXEUM = "elixeum"


def import_(
    product: Annotated[Product, typer.Argument(help="Whose settings they are.")],
    files: Annotated[list[Path], typer.Argument(help="All files of one installation; they are judged together.")],
    *,
    output: Annotated[Path, typer.Option("--output", help="Mailboxes file to write into.")] = Path("mailboxes.toml"),
    secrets: Annotated[
        Path | None,
        typer.Option("--secrets", help="Directory of the secret files; default: `secrets` beside the output."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Beginning of the mailboxes' names; default: the product.")] = "",
    tenant: Annotated[list[str] | None, typer.Option("--tenant", help="Whose mailboxes they are; repeatable.")] = None,
    address: Annotated[
        str, typer.Option("--address", help="Sender of mailboxes for which the product has none of its own.")
    ] = "",
    path_map: Annotated[
        list[str] | None,
        typer.Option("--map", help=r"Pickup directory there=here (C:\Mail=/srv/mail); iis=/srv/pickup; repeatable."),
    ] = None,
    component: Annotated[
        str, typer.Option("--component", help="netwrix: the file is the server's or the agent's.")
    ] = "",
    templates: Annotated[
        Path | None,
        typer.Option("--templates", help="Template directory: tasks, approvals and reset mails become rules there."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite edits and secrets made after an import.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Take over the mail settings of Netwrix Identity Manager, Kentico, Privilege Manager, Umbraco or Elixeum.

    Exit status: 0 taken over (see the findings), 2 not taken over or wrong usage. Nothing is sent or connected to.
    """
    from worker.importers import render, take_over
    from worker.importers.wishes import Wishes

    if name and not _NAME.fullmatch(name):
        raise typer.BadParameter("use letters, digits, - and _ (at most 40)", param_hint="--name")
    if component not in {"", "server", "agent"}:
        raise typer.BadParameter("is server or agent", param_hint="--component")
    wishes = Wishes(paths=_paths(path_map or []), prefix=name, component=component)
    outcome = take_over(product.value, [_source(file) for file in files], wishes)
    placing = render.Placing(
        tenants=tuple(tenant or ()),
        address=_address(address),
        secrets=str((secrets or output.parent / "secrets").absolute()),
    )
    label = f"{product.value} as {wishes.prefix}" if wishes.prefix else product.value
    # The rules first: what is wrong with them must leave the mailboxes file as it is.
    prepared = _prepared(outcome, placing, templates, label, force=force)
    state = _written(product, outcome, output, placing, wishes.prefix, force=force, dry_run=dry_run)
    wiring = _wired(prepared, templates, dry_run=dry_run) if templates is not None and prepared is not None else ""
    if as_json:
        more = {"wiring": wiring} if wiring else {}
        typer.echo(json.dumps({**render.as_json(outcome), "output": state, **more}, ensure_ascii=False))
    else:
        _tell(outcome, state)
        if wiring:
            typer.echo(wiring)
    if outcome.verdict == "reject":
        raise typer.Exit(_REJECTED)


# In


def _source(path: Path) -> Source:
    """The file, not more of it than can be settings; a pipe or a device is none."""
    from worker.importers.source import MOST, Source

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Source(path.name, b"", "it is a directory or a device, not a file")
        with path.open("rb") as file:
            return Source(path.name, file.read(MOST + 1))
    except (OSError, ValueError) as error:
        return Source(path.name, b"", f"it cannot be read: {getattr(error, 'strerror', None) or error}")


def _paths(maps: list[str]) -> dict[str, str]:
    paths = {}
    for item in maps:
        old, found, new = item.rpartition("=")
        if not found or not old or not new.startswith("/"):
            raise typer.BadParameter("write there=here, with an absolute directory of this machine", param_hint="--map")
        paths[old.lower() if old.lower() == "iis" else old] = new
    return paths


def _address(text: str) -> str:
    from contracts.address import parse

    try:
        return str(parse(text)) if text else ""
    except ValueError as error:
        raise typer.BadParameter(f"the address {error}", param_hint="--address") from error


# Out


def _written(
    product: Product, outcome: Import, output: Path, placing: Placing, prefix: str, *, force: bool, dry_run: bool
) -> str:
    """Write all or nothing, and say what was done."""
    from worker.importers import block, render

    if outcome.verdict == "reject":
        return "nothing written: a file was refused"
    if not outcome.mailboxes:
        return "nothing to write: no server of their own in these files"
    output = output.resolve()
    before = _text(output)
    label = f"{product.value} as {prefix}" if prefix else product.value
    after = block.placed(before, label, render.toml(outcome, placing), force=force)
    files, kept = _secrets(render.secret_files(outcome), Path(placing.secrets), force=force)
    remark = (
        f"; kept as they are, because they hold another secret (--force replaces): {', '.join(kept)}" if kept else ""
    )
    if after == before and not files:
        return f"unchanged: {output}{remark}"
    if dry_run:
        return f"dry run, nothing written: would write {output}{remark}"
    try:
        for path, content in files.items():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(path, content, 0o600)
        if after != before:
            mode = stat.S_IMODE(output.stat().st_mode) if output.exists() else 0o644
            _replace(output, after, mode)
    except OSError as error:
        raise Unusable(
            f"{error.filename or output} cannot be written: {error.strerror}. The mailboxes file is as it was."
        ) from error
    return f"written: {output}{remark}"


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is to be written into the template directory.

    Attributes:
        files: path → text; what is there already is not among them.
        added: events of rules that the old product should have had.
    """

    files: dict[Path, str]
    added: tuple[str, ...]


def _prepared(
    outcome: Import, placing: Placing, directory: Path | None, label: str, *, force: bool
) -> _Prepared | None:
    """Nothing is written yet. None: there is no rule, or nobody wants them."""
    from worker.importers import block, rules

    if directory is None or outcome.verdict == "reject" or not (found := rules.wired(outcome, placing.tenants)):
        return None
    table = directory / "rules.toml"
    before = _text(table)
    after = block.placed(before, label, rules.toml(found), force=force)
    files = {directory / name: text for name, text in rules.templates(found).items()}
    # A template that is there is the administrator's, whatever it says.
    wanted = {path: text for path, text in files.items() if not path.exists()}
    if after != before:
        wanted[table] = after
    return _Prepared(wanted, tuple(rule.event for rule in found if rule.added))


def _wired(prepared: _Prepared, directory: Path, *, dry_run: bool) -> str:
    """Write rules and templates, and say so."""
    added = f"; added, for it was missing: rule for {', '.join(prepared.added)}" if prepared.added else ""
    if not prepared.files:
        return f"rules unchanged: {directory}{added}"
    if dry_run:
        return f"dry run, nothing written: would write rules into {directory}{added}"
    try:
        for path, text in prepared.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, text, stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644)
    except OSError as error:
        raise Unusable(f"{error.filename or directory} cannot be written: {error.strerror}. Import again.") from error
    return f"rules and templates written: {directory}{added}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path} cannot be read: {error}. Nothing is written.") from error


def _secrets(wanted: tuple[SecretFile, ...], directory: Path, *, force: bool) -> tuple[dict[Path, str], list[str]]:
    """What to write. What a person entered is never overwritten unasked; an empty file waits for its secret."""
    files: dict[Path, str] = {}
    kept: list[str] = []
    for item in wanted:
        path = directory / item.name
        imported = item.secret.get_secret_value() if item.secret else ""
        there = _text(path).rstrip("\r\n") if path.exists() else None
        if there is None or (imported and not there) or (imported and imported != there and force):
            files[path] = imported
        elif imported and imported != there:
            kept.append(str(path))
    return files, kept


def _replace(path: Path, content: str, mode: int) -> None:
    """In one step: whoever reads sees the old file or the new one."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def _tell(outcome: Import, state: str) -> None:
    for finding in outcome.findings:
        mark, colour = _MARKS[finding.weight.name.lower()]
        typer.secho(f"{mark} ", fg=colour, nl=False)
        typer.echo(f"{finding.place}: {finding.reason} [{finding.code}]")
        if finding.proposal:
            typer.echo(f"    {finding.proposal}")
    for mailbox in outcome.mailboxes:
        typer.echo(f"  {_line(mailbox)}")
    for rule in outcome.rules:
        typer.echo(f"  {rule.kind} {rule.name}: server {rule.server or 'as managed'}")
    typer.secho(f"{outcome.verdict}: {_MEANING[outcome.verdict]}", bold=True)
    typer.echo(state)


def _line(mailbox: ImportedMailbox) -> str:
    from worker.importers.mailbox import Pickup

    match mailbox.delivery:
        case Pickup(path=path):
            way = f"pickup directory {path or '(not known)'}"
        case smtp:
            way = f"{smtp.host or '(no host)'} port {smtp.port}, {smtp.tls}"
            way += f", login {smtp.login.username}" if smtp.login else ""
    state = "" if mailbox.enabled else ", switched off"
    return f"{mailbox.name}: {way}{f', from {mailbox.sender}' if mailbox.sender else ''}{state}"
