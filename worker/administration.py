"""Mailboxes at run time: the directory that holds now, and everything that may be done to it.

What the mailboxes file says is managed there and stays as it is; the store adds to it. The very same checks apply to
both. A mailbox in the store that cannot be used keeps its place, so that its tenants' mail waits and never leaves
through somebody else's server; a draft has no place until nothing is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from contracts.address import parse
from worker import mailbox_file
from worker.domain import part
from worker.domain.document import (
    lacking,
    led_astray,
    masked,
    merged,
    new_references,
    parted,
    plain,
    reconnects,
    supposed,
    wanted,
    whole,
)
from worker.domain.mailbox import Directory, Held, Mailbox, SmtpEndpoint, Stop, Tls
from worker.domain.sharing import senders_of, shared_by, shown
from worker.events import Crashed, MailboxesChanged, MailboxUnusable
from worker.mailbox_file import MailboxFileError
from worker.ports import Observe, StoreDown
from worker.sealing import CannotOpen, Keyring
from worker.store.mailboxes import Contents, Entry, KeptPart, Line, Pause, Rest, SqlMailboxes, Stale
from worker.unusable import Unusable

LOOK = 1.0  # seconds between looks at the number of the latest change
_AGAIN = timedelta(minutes=1)
_NOWHERE = parse("nobody@invalid.invalid")
_PLACEHOLDER = "not set"
_NO_KEY = (
    "POSTLANE_SECRETS__KEY is not set, so secrets cannot be kept in the store. Make a key with `postlane secret key`, "
    "give it to all workers, or write a reference, file:PATH, env:NAME or keyvault:ADDRESS, in place of the secret."
)
_ELSEWHERE = "give it again: the server or authority was changed, and a kept secret is never shown to another one"
_NO_REFERENCE = (
    "files, variables and key vaults of the workers cannot be named over the API; give the secret itself, or set "
    "POSTLANE_API__REFERENCES=true"
)


class NotThere(Unusable):
    """There is no such mailbox."""


class Managed(Unusable):
    """It is the mailboxes file's, and changed there."""


class Taken(Unusable):
    """There is one of this name."""


class Changed(Unusable):
    """Somebody else has changed it meanwhile."""


class Invalid(Unusable):
    """What is asked for would be no mailbox. The text has a line for each mistake."""


@dataclass(frozen=True, slots=True)
class Base:
    """What the mailboxes file says.

    Attributes:
        tree: its keys.
        environment: for secrets named by `…_env`.
        made: what it comes to, if that is known; a file of thousands of mailboxes is not checked twice.
    """

    tree: Mapping[str, Any]
    environment: Mapping[str, str]
    made: Directory | None = None

    @property
    def mailboxes(self) -> Mapping[str, Mapping[str, Any]]:
        """By name."""
        found: Mapping[str, Mapping[str, Any]] = self.tree.get("mailboxes", {})
        return found

    @property
    def directory(self) -> Directory:
        """What it comes to.

        Raises:
            MailboxFileError: it is wrong.
        """
        return self.made or mailbox_file.assembled(self.tree, self.environment)

    def named(self, name: str) -> str | None:
        """Its mailbox of this name, by whatever capital letters."""
        return next((each for each in self.mailboxes if each.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Shown:
    """A mailbox as it may be shown.

    Attributes:
        source: `file` or `store`; what is the file's cannot be changed here.
        state: `ok`, `disabled`, `paused`, `resting` (workers have met a fault), `unusable`, `incomplete` (a draft) or
            `shadowed` (the file has one of this name).
        settings: its keys as in the mailboxes file; of a secret only whether it is set.
        missing: keys that a draft lacks.
    """

    name: str
    source: str
    state: str
    explanation: str
    remedy: str
    paused: Pause | None
    settings: Mapping[str, Any]
    revision: int | None = None
    changed_at: datetime | None = None
    changed_by: str | None = None
    missing: tuple[str, ...] = ()

    @property
    def managed(self) -> bool:
        """Whether it is the file's."""
        return self.source == "file"


class Directories:
    """The directory as it holds at the moment; changes in the store are taken up within seconds."""

    def __init__(
        self,
        base: Base,
        kept: SqlMailboxes | None,
        keyring: Keyring,
        observe: Observe,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            base: the mailboxes file.
            kept: the store's mailboxes; None: it keeps none.
            keyring: for their secrets.
            observe: told of changes.
            before: done before a change holds, so that what was mended does not wait for a pause that is over.
        """
        self._before = before
        self._base = base
        self._kept = kept
        self._keyring = keyring
        self._observe = observe
        self._number: int | None = None
        self._until: datetime | None = None
        self._complained: str = ""
        self._turn = asyncio.Lock()
        self.current = base.directory

    async def loaded(self) -> Directory:
        """The directory; the first time it is read.

        Raises:
            StoreDown: it was never read, and cannot be now. What is the file's alone must not be used: mail of tenants
                whose mailboxes are in the store would take other ways.
        """
        if self._number is None and self._kept is not None:
            await self.look()
        return self.current

    async def look(self) -> None:
        """Take up what has changed since the last look.

        Raises:
            StoreDown: the store is out of reach.
        """
        if self._kept is None:
            return
        async with self._turn:
            number, now = await self._kept.number()
            if number == self._number and (self._until is None or now < self._until):
                return
            contents = await self._kept.contents()
            made = await asyncio.to_thread(effective, self._base, contents, self._keyring)
            if self._before is not None and self._number is not None:
                await self._before()
            before, self.current = self.current, made
            if self._number is not None and contents.number != self._number:
                self._observe(MailboxesChanged(contents.number, tuple(_differing(before, made))))
            for mailbox in made.mailboxes.values():
                held = mailbox.held
                if held is not None and held.unusable and before.mailboxes.get(mailbox.name) != mailbox:
                    self._observe(MailboxUnusable(mailbox.name, held.why, held.remedy))
            self._number = contents.number
            ends = [each.until for each in contents.pauses if each.until is not None]
            if any(each.held is not None and each.held.unusable for each in made.mailboxes.values()):
                ends.append(now + _AGAIN)  # a file or a key vault that was out of reach may be back
            self._until = min(ends, default=None)

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            try:
                await self.look()
                self._complained = ""
            except StoreDown:
                pass  # the ledger is there too, and says so
            except Exception as error:  # noqa: BLE001 - the boundary: the last directory holds, and somebody must know
                if self._complained != (said := repr(error)):
                    self._observe(Crashed("mailboxes", None, error))
                self._complained = said
            await asyncio.sleep(LOOK)


class Administration:
    """What people and portals do to mailboxes. Every change is checked, written down with its author, and told."""

    def __init__(self, base: Base, kept: SqlMailboxes, keyring: Keyring) -> None:
        """Nothing is read yet."""
        self._base = base
        self._kept = kept
        self._keyring = keyring

    async def everything(self) -> list[Shown]:
        """All mailboxes, the file's first.

        Raises:
            StoreDown: the store is out of reach; so from all that follow.
        """
        contents = await self._kept.contents()
        made = await asyncio.to_thread(effective, self._base, contents, self._keyring)
        pauses = {pause.mailbox: pause for pause in contents.pauses}
        holding, _ = amended(self._base, contents.parts)
        kept = {each.name: each for each in contents.parts}
        of_file = [
            _of_file(
                _shown(made.mailboxes[name], pauses.get(name), "file", masked(document, ())),
                kept.get(str(part.mailbox(name))),
            )
            for name, document in holding.mailboxes.items()
        ]
        everything = of_file + [self._of_store(entry, made, pauses.get(entry.name)) for entry in contents.entries]
        return [_resting(each, made.mailboxes.get(each.name), contents.rests) for each in everything]

    async def one(self, name: str) -> Shown:
        """One of them.

        Raises:
            NotThere: or none.
        """
        found = next((each for each in await self.everything() if each.name == name), None)
        if found is None:
            raise NotThere(f"There is no mailbox {name!r}: postlane mailbox list shows them.")
        return found

    async def directory(self) -> Directory:
        """What workers go by from now on."""
        return await asyncio.to_thread(effective, self._base, await self._kept.contents(), self._keyring)

    async def add(self, name: str, document: Mapping[str, Any], actor: str, *, references: bool = True) -> Shown:
        """Make a mailbox.

        Args:
            name: its name.
            document: its keys as in the mailboxes file.
            actor: for the audit trail.
            references: whether secrets may be taken from files and variables of the workers.

        Raises:
            Managed: the file has one of this name.
            Taken: the store has.
            Invalid: it would be none.
        """
        self._not_of_file(name)
        contents = await self._kept.contents()
        if taken := next((each.name for each in contents.entries if each.name.lower() == name.lower()), None):
            raise Taken(f"There is a mailbox {taken!r} already: change it, or choose another name.")
        await self._put(name, document, None, contents, Line(actor, "mailbox add", name), references=references)
        return await self.one(name)

    async def replace(
        self, name: str, document: Mapping[str, Any], actor: str, expected: int | None, *, references: bool = True
    ) -> Shown:
        """Give a mailbox other settings, all of them; secrets that are not given stay.

        Raises:
            Changed: its revision is not as expected (None: any will do).
            NotThere, Managed, Invalid: as above.
        """
        if self._base.named(name) == name:
            shown = (await self.one(name)).settings
            keys = [key for key in {**shown, **document} if shown.get(key) != document.get(key)]
            return await self._edit(name, {key: document.get(key) for key in keys}, "mailbox set", actor, expected)
        contents, entry = await self._mine(name, expected)
        await self._put(name, document, entry, contents, Line(actor, "mailbox set", name), references=references)
        return await self.one(name)

    async def change(
        self, name: str, patch: Mapping[str, Any], actor: str, expected: int | None = None, *, references: bool = True
    ) -> Shown:
        """Change some settings by a merge patch (RFC 7396); of a mailbox of the file's those that it calls editable.

        Raises:
            Changed, NotThere, Managed, Invalid: as above.
        """
        if self._base.named(name) == name:
            return await self._edit(name, patch, "mailbox set", actor, expected)
        contents, entry = await self._mine(name, expected)
        document = merged(entry.document, patch)
        await self._put(name, document, entry, contents, Line(actor, "mailbox set", name), references=references)
        return await self.one(name)

    async def switch(self, name: str, actor: str, expected: int | None = None, *, on: bool) -> Shown:
        """Switch a mailbox on or off.

        Raises:
            Changed, NotThere, Managed, Invalid: as above.
        """
        action = "mailbox enable" if on else "mailbox disable"
        if self._base.named(name) == name:
            return await self._edit(name, {"enabled": on}, action, actor, expected)
        contents, entry = await self._mine(name, expected)
        line = Line(actor, action, name)
        await self._put(name, {**entry.document, "enabled": on}, entry, contents, line)
        return await self.one(name)

    async def forget(self, name: str, place: str, actor: str, expected: int | None = None) -> Shown:
        """Remove a secret; until there is a new one the mailbox's mail waits.

        Raises:
            NotThere: it has none of that name either.
            Changed, Managed: as above.
        """
        _, entry = await self._mine(name, expected)
        if place not in entry.secrets:
            raise NotThere(f"Mailbox {name!r} has no secret {place!r} in the store.")
        line = Line(actor, "mailbox forget secret", name, place)
        rest = entry.secrets.keys() - {place}
        try:
            await self._kept.put(name, entry.document, line, expected=entry.revision, seal={}, keep=rest)
        except Stale:
            raise _changed(name) from None
        return await self.one(name)

    async def remove(self, name: str, actor: str, expected: int | None = None) -> None:
        """Remove a mailbox and its secrets.

        Raises:
            Changed, NotThere, Managed: as above.
        """
        _, entry = await self._mine(name, expected)
        try:
            await self._kept.remove(name, Line(actor, "mailbox remove", name), expected=entry.revision)
        except Stale:
            raise _changed(name) from None

    async def pause(self, name: str, because: str, actor: str, lasting: timedelta | None = None) -> Shown:
        """Let a mailbox rest on all workers, the file's too.

        Raises:
            NotThere: there is none.
        """
        await self.one(name)
        words = f"for {lasting}" if lasting is not None else "until resumed"
        line = Line(actor, "mailbox pause", name, f"{words}: {because}" if because else words)
        await self._kept.pause(name, because, line, lasting)
        return await self.one(name)

    async def resume(self, name: str, actor: str) -> Shown:
        """End a pause by hand.

        Raises:
            NotThere: there is no such mailbox.
        """
        await self.one(name)
        found = (await self.directory()).mailboxes.get(name)
        ways = map(found.via, found.channels) if found is not None else ()
        shared = {each for way in ways for each in shared_by(way)}
        await self._kept.resume(name, Line(actor, "mailbox resume", name), shared)
        return await self.one(name)

    async def rotate(self, actor: str) -> tuple[int, int]:
        """Seal every secret under the newest key.

        Returns:
            How many were sealed anew, and how many no key at hand can open.

        Raises:
            Unusable: there is no key.
        """
        if self._keyring.newest is None:
            raise Unusable(_NO_KEY)

        def anew(mailbox: str, place: str, sealed: Any) -> Any:
            try:
                return self._keyring.seal(self._keyring.open(sealed, where(mailbox, place)), where(mailbox, place))
            except CannotOpen:
                return None

        return await self._kept.reseal(self._keyring.newest, anew, actor)

    async def audit(self, limit: int = 100, before: int | None = None) -> Sequence[tuple[int, Line]]:
        """The latest lines of the audit trail, the newest first."""
        return await self._kept.audit(limit, before)

    async def note(self, actor: str, action: str, subject: str, detail: str = "") -> None:
        """Write a line into the audit trail."""
        await self._kept.note(Line(actor, action, subject, detail))

    def _of_store(self, entry: Entry, made: Directory, pause: Pause | None) -> Shown:
        settings = masked(entry.document, entry.secrets.keys())
        if (other := self._base.named(entry.name)) is not None:
            why = f"The mailboxes file has {other!r}, which is used in its place."
            remedy = "Remove one of the two."
            shown = Shown(entry.name, "store", "shadowed", why, remedy, paused=pause, settings=settings)
        elif missing := lacking(entry.document, entry.secrets.keys()):
            why = f"It is not used until nothing is missing: {', '.join(missing)}."
            remedy = f"Give what is missing: postlane mailbox set {entry.name}"
            shown = Shown(entry.name, "store", "incomplete", why, remedy, pause, settings, missing=missing)
        else:
            shown = _shown(made.mailboxes[entry.name], pause, "store", settings)
        return replace(shown, revision=entry.revision, changed_at=entry.changed_at, changed_by=entry.changed_by)

    def _not_of_file(self, name: str) -> None:
        if (other := self._base.named(name)) is not None:
            raise Managed(f"Mailbox {other!r} is managed in the mailboxes file: change it there.")

    async def _edit(self, name: str, patch: Mapping[str, Any], action: str, actor: str, expected: int | None) -> Shown:
        """Change editable keys of a mailbox of the file's; a key that is taken away is the file's again."""
        editable = self._base.mailboxes[name].get("editable", ())
        if barred := [key for key in patch if key not in editable]:
            words = f"only {', '.join(editable)} may be changed here" if editable else "change it there"
            raise Managed(f"Mailbox {name!r} is managed in the mailboxes file, {', '.join(barred)} too: {words}.")
        where_kept, contents = part.mailbox(name), await self._kept.contents()
        kept = next((each for each in contents.parts if each.name == str(where_kept)), None)
        if expected is not None and expected != (kept.revision if kept else 0):
            raise _changed(name)
        document = merged(kept.document if kept else {}, patch)
        await asyncio.to_thread(self._check_edited, name, document, contents)
        mended = name if patch.keys() & {"host", "port", "tls"} else None
        line, revision = Line(actor, action, name, ", ".join(sorted(patch))), kept.revision if kept else None
        try:
            await self._kept.put_part(str(where_kept), document, line, expected=revision, mended=mended)
        except Stale:
            raise _changed(name) from None
        return await self.one(name)

    def _check_edited(self, name: str, document: Mapping[str, Any], contents: Contents) -> None:
        others, _ = amended(self._base, [each for each in contents.parts if each.name != str(part.mailbox(name))])
        try:
            mailbox_file.assembled(part.within(others.tree, part.mailbox(name), document), others.environment)
        except MailboxFileError as error:
            raise Invalid(_lines(name, error)) from None

    async def _mine(self, name: str, expected: int | None) -> tuple[Contents, Entry]:
        contents = await self._kept.contents()
        entry = next((each for each in contents.entries if each.name == name), None)
        if entry is None:
            self._not_of_file(name)
            raise NotThere(f"There is no mailbox {name!r}: postlane mailbox list shows them.")
        if expected is not None and entry.revision != expected:
            raise _changed(name)
        return contents, entry

    async def _put(
        self,
        name: str,
        document: Mapping[str, Any],
        entry: Entry | None,
        contents: Contents,
        line: Line,
        *,
        references: bool = True,
    ) -> None:
        before = entry.document if entry else None
        try:
            after = parted(document, before)
        except ValueError as error:
            raise Invalid(str(error)) from None
        if "editable" in after.document:
            raise Invalid("editable: belongs into the mailboxes file; what the store has can all be changed")
        if not references and (named := new_references(before, after.document)):
            raise Invalid("\n".join(f"{key}: {_NO_REFERENCE}" for key in named))
        await asyncio.to_thread(self._check, name, after.document, contents)
        there = entry.secrets if entry else {}
        lacked = lacking(before or {}, there.keys())
        if astray := [place for place in led_astray(before or {}, after, lacked) if place in there]:
            raise Invalid("\n".join(f"{place}: {_ELSEWHERE}" for place in astray))
        if after.given and self._keyring.newest is None:
            raise Invalid("\n".join(f"{place}: {_NO_KEY}" for place in after.given))
        seal = {place: self._keyring.seal(secret, where(name, place)) for place, secret in after.given.items()}
        words = ", ".join(_differences(before or {}, after.document, after.given))
        keep = wanted(after.document) - seal.keys()
        revision = entry.revision if entry else None
        line, mended = replace(line, detail=words), reconnects(before, after)
        try:
            await self._kept.put(name, after.document, line, expected=revision, seal=seal, keep=keep, mended=mended)
        except Stale:
            raise _changed(name) from None

    def _check(self, name: str, document: Mapping[str, Any], contents: Contents) -> None:
        """The same checks as the mailboxes file's, with everything else that is there."""
        base, _ = amended(self._base, contents.parts)
        secrets = dict.fromkeys(wanted(document), _PLACEHOLDER)
        others = [each for each in contents.entries if each.name != name and not self._base.named(each.name)]
        usable = {
            each.name: whole(each.document, dict.fromkeys(wanted(each.document), _PLACEHOLDER))
            for each in others
            if not lacking(each.document, each.secrets.keys())
        }
        usable = {key: value for key, value in usable.items() if _alone(key, value, base) is None}
        defaults = [key for key, value in usable.items() if value.get("default")]
        if document.get("default") and (known := self._base.tree.get("default") or next(iter(defaults), None)):
            raise Invalid(f"default: the platform's default mailbox is {known!r} already")
        try:
            draft = supposed(document, lacking(document, secrets.keys()))
            _assembled(base, {**usable, name: whole(draft, secrets)})
        except MailboxFileError as error:
            raise Invalid(_lines(name, error)) from None
        except (AttributeError, TypeError):
            raise Invalid("it must be an object with the keys of a mailbox") from None


def where(mailbox: str, place: str) -> bytes:
    """The row and field that a sealed secret is bound to."""
    return f"kept_secret\n{mailbox}\n{place}".encode()


def effective(base: Base, contents: Contents, keyring: Keyring) -> Directory:
    """The file's mailboxes and the store's.

    Raises:
        MailboxFileError: the file's own are wrong.
    """
    if not (contents.entries or contents.parts or contents.pauses):
        return base.directory
    entries = [
        entry
        for entry in contents.entries
        if base.named(entry.name) is None and not lacking(entry.document, entry.secrets.keys())
    ]
    open_to_all = part.TENANTS not in base.tree
    base, _ = amended(base, contents.parts)
    held: dict[str, Held] = {}
    usable: dict[str, dict[str, Any]] = {}
    for entry in entries:
        document, locked = _opened(entry, keyring)
        problem = _alone(entry.name, document, base)
        if locked:
            held[entry.name] = _locked(entry.name, locked)
        if problem:
            held[entry.name] = _broken(entry.name, problem)
        else:
            usable[entry.name] = document
    try:
        made = _assembled(base, usable)
    except MailboxFileError:
        made = _one_by_one(base, usable, held)
    standing = {entry.name: _stand_in(entry) for entry in entries if entry.name not in made.mailboxes}
    for pause in contents.pauses:
        held.setdefault(pause.mailbox, _paused(pause))
    together = {**made.mailboxes, **standing}
    default = next((entry.name for entry in entries if entry.document.get("default")), None)
    return replace(
        made,
        default=made.default or default,
        open=open_to_all and made.tenants is not None,
        mailboxes={name: replace(each, held=held[name]) if name in held else each for name, each in together.items()},
    )


def amended(base: Base, parts: Iterable[KeptPart]) -> tuple[Base, Mapping[str, str]]:
    """The file with what is kept beside it: scopes, producers, and keys of its mailboxes that it calls editable.

    What the file says about a scope stays; only the stop switch of the store is added to it. A scope that has gone
    wrong stops its mail: nobody knows what it was to be kept from.

    Returns:
        The file as it holds, and what is wrong with parts that do not.
    """
    taken: list[tuple[part.Part, Mapping[str, Any]]] = []
    wrong: dict[str, str] = {}
    for kept in parts:
        at = _part(kept.name)
        found = _beside(base, at, kept.document)
        if isinstance(found, str):
            wrong[kept.name] = found
        elif found:
            taken.append((at, found))
    together = _with(base, taken)
    if not taken or _problem(together) is None:
        return together, wrong
    made = base
    for at, document in taken:
        tried = _with(made, [(at, document)])
        if (fault := _problem(tried)) is None:
            made = tried
            continue
        wrong[str(at)] = fault
        if at.restrains:
            made = _with(made, [(at, {"stop": str(Stop.HOLD)})])
    return made, wrong


def problem_of(base: Base, at: part.Part, document: Mapping[str, Any]) -> str | None:
    """What would be wrong with this part beside the file, a line for each mistake, without the place of the part."""
    found = _beside(base, at, document)
    if isinstance(found, str):
        return found
    problem = _problem(_with(base, [(at, found)]))
    if problem is None:
        return None
    place = f"{'.'.join(at.steps)}."
    return "\n".join(line.removeprefix(place) for line in problem.splitlines())


def _part(name: str) -> part.Part:
    return part.mailbox(name.partition("/")[2]) if name.startswith(f"{part.MAILBOXES}/") else part.named(name)


def _beside(base: Base, at: part.Part, document: Mapping[str, Any]) -> Mapping[str, Any] | str:
    """What counts of a document beside what the file says, or why nothing does."""
    said = part.found(base.tree, at)
    if at.kind == part.MAILBOXES:
        if said is None:
            return "the mailboxes file has no such mailbox any more"
        return {key: value for key, value in document.items() if key in said.get("editable", ())}
    if at.kind == part.PRODUCERS:
        if part.PRODUCERS not in base.tree:
            return "the mailboxes file lists no producers, so everybody who may publish is trusted"
        return document if said is None else "the mailboxes file lists this producer, and counts"
    if said is None:
        return document
    stop = Stop.REFUSE if Stop.REFUSE in (said.get("stop"), document.get("stop")) else document.get("stop")
    return {"stop": stop} if stop else {}


def _with(base: Base, parts: Iterable[tuple[part.Part, Mapping[str, Any]]]) -> Base:
    tree: Mapping[str, Any] = base.tree
    for at, document in parts:
        tree = part.within(tree, at, document)
    return base if tree is base.tree else replace(base, tree=tree, made=None)


def _problem(base: Base) -> str | None:
    try:
        mailbox_file.assembled(base.tree, base.environment)
    except MailboxFileError as error:
        return str(error)
    return None


def _assembled(base: Base, added: Mapping[str, Mapping[str, Any]]) -> Directory:
    """A directory of the file and these; the platform's default is the file's, or the first that wants to be it."""
    if not added:
        return base.directory
    documents = {name: plain(each) for name, each in added.items()}
    tree = {**base.tree, "mailboxes": {**base.mailboxes, **documents}}
    if tree.get("default") is None and (first := next((name for name in added if added[name].get("default")), None)):
        tree["default"] = first
    return mailbox_file.assembled(tree, base.environment)


def _alone(name: str, document: Mapping[str, Any], base: Base) -> str | None:
    """What is wrong with one mailbox, whatever the others are."""
    try:
        mailbox_file.assembled({"mailboxes": {name: plain(document)}}, base.environment)
    except MailboxFileError as error:
        return str(error)
    return None


def _one_by_one(base: Base, usable: Mapping[str, Mapping[str, Any]], held: dict[str, Held]) -> Directory:
    """Two of them do not go together, or one of them and the file's: those that came later are held."""
    taken: dict[str, Mapping[str, Any]] = {}
    made = _assembled(base, taken)
    for name, document in usable.items():
        try:
            made = _assembled(base, {**taken, name: document})
        except MailboxFileError as error:
            held[name] = _broken(name, str(error))
        else:
            taken[name] = document
    return made


def _opened(entry: Entry, keyring: Keyring) -> tuple[dict[str, Any], dict[str, str]]:
    """The document with its secrets, and what is the matter with those that cannot be had."""
    found: dict[str, str] = {}
    locked: dict[str, str] = {}
    for place in sorted(wanted(entry.document)):
        found[place] = _PLACEHOLDER
        if place not in entry.secrets:
            locked[place] = "is not set"
            continue
        try:
            found[place] = keyring.open(entry.secrets[place], where(entry.name, place))
        except CannotOpen as error:
            locked[place] = f"cannot be opened ({error})"
    return whole(entry.document, found), locked


def _locked(name: str, locked: Mapping[str, str]) -> Held:
    words = ", ".join(f"{place} {what}" for place, what in locked.items())
    return Held(
        f"Mailbox {name!r} cannot log in: {words}.",
        f"Give it again (postlane mailbox set {name}), or add the key it was sealed with to POSTLANE_SECRETS__KEY.",
        unusable=True,
    )


def _broken(name: str, problem: str) -> Held:
    words = "; ".join(line.removeprefix(f"mailboxes.{name}.") for line in problem.splitlines())
    why = f"Mailbox {name!r} in the store is wrong: {words}."
    return Held(why, f"Correct it: postlane mailbox set {name}", unusable=True)


def _paused(pause: Pause) -> Held:
    because = f": {pause.because}" if pause.because else ""
    return Held(
        f"Mailbox {pause.mailbox!r} was paused by {pause.by}{because}.",
        f"postlane mailbox resume {pause.mailbox} ends the pause.",
        pause.until,
    )


def _stand_in(entry: Entry) -> Mailbox:
    """In the place of a mailbox that cannot be made, so that its tenants' mail waits for it."""
    return Mailbox(
        name=entry.name,
        address=_NOWHERE,
        display_name="",
        endpoint=SmtpEndpoint("", 25, Tls.NONE),
        tenants=_names(entry.document.get("tenants")),
        fallback_for=_names(entry.document.get("fallback_for")),
        enabled=entry.document.get("enabled") is not False,
    )


def _names(value: Any) -> frozenset[str]:
    return (
        frozenset(each.lower() for each in value if isinstance(each, str)) if isinstance(value, list) else frozenset()
    )


def _shown(mailbox: Mailbox, pause: Pause | None, source: str, settings: Mapping[str, Any]) -> Shown:
    held = mailbox.held
    state = "ok" if held is None else "unusable" if held.unusable else "paused"
    return Shown(
        name=mailbox.name,
        source=source,
        state=state if mailbox.enabled else "disabled",
        explanation=held.why if held else "",
        remedy=held.remedy if held else "",
        paused=pause,
        settings=settings,
    )


def _resting(shown_as: Shown, mailbox: Mailbox | None, rests: Sequence[Rest]) -> Shown:
    """With what workers have found out, if nobody has switched it off."""
    if mailbox is None or shown_as.state != "ok":
        return shown_as
    shared = {name for channel in mailbox.channels for name in shared_by(mailbox.via(channel))}
    its_own = senders_of(mailbox.name)
    found = [each for each in rests if each.what in {mailbox.name, *shared} or each.what.startswith(its_own)]
    if not found:
        return shown_as
    words = " ".join(
        f"{shown(each.what)} rests until {each.until:%H:%M:%S %Z}: {each.verdict.explanation}" for each in found
    )
    remedy = " ".join(dict.fromkeys(each.verdict.remedy for each in found if each.verdict.remedy))
    return replace(shown_as, state="resting", explanation=words, remedy=remedy)


def _of_file(shown: Shown, kept: KeptPart | None) -> Shown:
    if kept is None:
        return shown
    return replace(shown, revision=kept.revision, changed_at=kept.changed_at, changed_by=kept.changed_by)


def _differing(before: Directory, after: Directory) -> Iterator[str]:
    for name in sorted(before.mailboxes.keys() | after.mailboxes.keys()):
        if before.mailboxes.get(name) != after.mailboxes.get(name):
            yield name
    if before.restraint != after.restraint:
        yield part.PLATFORM
    for kind in (part.TENANTS, part.PRODUCERS):
        old, new = (getattr(each, kind) or {} for each in (before, after))
        yield from (f"{kind}/{name}" for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name))


def _lines(name: str, error: MailboxFileError) -> str:
    return "\n".join(line.removeprefix(f"mailboxes.{name}.") for line in str(error).splitlines())


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], given: Iterable[str]) -> Iterator[str]:
    """Names of the keys that differ; never their values."""
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield name
    yield from given


def _changed(name: str) -> Changed:
    return Changed(f"Somebody else has changed mailbox {name!r} meanwhile: look at it again, then repeat.")
