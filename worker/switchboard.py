"""Scopes and producers at run time: stop switches, redirects, suppressed mode, purposes, who may publish for whom.

What the mailboxes file says about one of them is managed there; only the stop switch can be thrown for it here, and
adds to the file's own, as a pause does for a mailbox of the file's. A scope that the file does not mention is set here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.administration import Base, Changed, Invalid, Managed, NotThere, amended, problem_of
from worker.domain import part
from worker.domain.document import merged
from worker.domain.mailbox import Stop
from worker.domain.part import Part
from worker.store.mailboxes import Contents, KeptPart, Line, SqlMailboxes, Stale

_STOPPED = {"hold": "held", "refuse": "refused"}


@dataclass(frozen=True, slots=True)
class ShownScope:
    """A scope or a producer as it may be shown.

    Attributes:
        name: `platform`, `tenants/contoso/sites/shop`, `producers/web`.
        source: `file` or `store`; of what is the file's only the stop switch can be thrown here.
        state: `flowing`, `held`, `refused` (the stop switch), `suppressed`, `redirected`, for producers `listed`;
            `unusable`: what the store has of it is wrong.
        settings: its keys as they hold, those of wider scopes apart.
        explanation: why it is unusable.
    """

    name: str
    source: str
    state: str
    settings: Mapping[str, Any]
    explanation: str = ""
    revision: int | None = None
    changed_at: datetime | None = None
    changed_by: str | None = None

    @property
    def managed(self) -> bool:
        """Whether it is the file's."""
        return self.source == "file"


class Switchboard:
    """What people and portals do to scopes and producers. Every change is checked, written down, and told."""

    def __init__(self, base: Base, kept: SqlMailboxes) -> None:
        """Nothing is read yet."""
        self._base = base
        self._kept = kept

    async def everything(self) -> list[ShownScope]:
        """All that the file or the store says something about, the file's first.

        Raises:
            StoreDown: the store is out of reach; so from all that follow.
        """
        contents = await self._kept.contents()
        return await asyncio.to_thread(lambda: list(self._shown(contents)))

    async def one(self, name: str) -> ShownScope:
        """One of them.

        Raises:
            Invalid: it is no name of one.
            NotThere: nothing is said about it.
        """
        at = _named(name)
        found = next((each for each in await self.everything() if each.name == str(at)), None)
        if found is None:
            raise NotThere(f"Nothing is set for {at}: its mail flows as its wider scopes let it.")
        return found

    async def change(
        self, name: str, patch: Mapping[str, Any], actor: str, expected: int | None = None, action: str = "scope set"
    ) -> ShownScope:
        """Change some keys by a merge patch (RFC 7396); what is not there yet is made.

        Raises:
            Managed: the file says something about it.
            Changed: its revision is not as expected (None: any will do, 0: it is not there yet).
            Invalid: it would be none, or leave others without a place.
        """
        at = _named(name)
        contents = await self._kept.contents()
        kept = _kept(contents, at)
        self._free(at, patch)
        self._placed(at, contents)
        if expected is not None and expected != (kept.revision if kept else 0):
            raise _changed(at)
        document = merged(kept.document if kept else {}, patch)
        await asyncio.to_thread(self._check, at, document, contents)
        line = Line(actor, action, str(at), ", ".join(f"{key}={_word(value)}" for key, value in sorted(patch.items())))
        try:
            await self._kept.put_part(str(at), document, line, expected=kept.revision if kept else None)
        except Stale:
            raise _changed(at) from None
        return await self.one(str(at))

    async def stop(self, name: str, actor: str, how: Stop = Stop.HOLD) -> ShownScope:
        """Throw the stop switch, of the file's scopes too: mail waits, or is refused.

        Raises:
            Invalid: it is no scope, or would be wrong.
        """
        return await self.change(name, {"stop": str(how)}, actor, action="scope stop")

    async def start(self, name: str, actor: str) -> ShownScope:
        """Lift the stop switch: mail flows, and what waits looks again within minutes.

        Raises:
            NotThere: nothing is said about it.
            Managed: the file's own switch is on.
        """
        at = _named(name)
        said, kept = part.found(self._base.tree, at), _kept(await self._kept.contents(), at)
        if kept is None and said is None:
            await self.one(name)
        if kept is not None and said is not None and kept.document.keys() <= {"stop"}:
            await self._forget(at, kept, Line(actor, "scope start", str(at)))
        elif kept is not None:
            await self.change(name, {"stop": None}, actor, action="scope start")
        if said is not None and said.get("stop"):
            raise Managed(f"The mailboxes file stops {at} ({said['stop']}): take `stop` out there.")
        return await self.one(name)

    async def remove(self, name: str, actor: str, expected: int | None = None) -> None:
        """Forget what the store says about it.

        Raises:
            NotThere: it says nothing.
            Managed: only the file does.
            Invalid: it is a tenant, and its sites or components are there still.
            Changed: its revision is not as expected.
        """
        at = _named(name)
        contents = await self._kept.contents()
        if (kept := _kept(contents, at)) is None:
            self._free(at, {})
            raise NotThere(f"Nothing is set for {at}.")
        if expected is not None and expected != kept.revision:
            raise _changed(at)
        if below := [each.name for each in contents.parts if each.name.startswith(f"{at}/")]:
            raise Invalid(f"{at} has parts: remove {', '.join(below)} first")
        await self._forget(at, kept, Line(actor, "scope remove", str(at)))

    async def _forget(self, at: Part, kept: KeptPart, line: Line) -> None:
        try:
            await self._kept.remove_part(str(at), line, expected=kept.revision)
        except Stale:
            raise _changed(at) from None

    def _shown(self, contents: Contents) -> Iterator[ShownScope]:
        holding, wrong = amended(self._base, contents.parts)
        kept = {each.name: each for each in contents.parts if not each.name.startswith(f"{part.MAILBOXES}/")}
        of_file = part.listed(self._base.tree)
        for at in of_file:
            yield _scope(at, "file", part.found(holding.tree, at) or {}, kept.get(str(at)), "")
        for name in sorted(kept.keys() - {str(at) for at in of_file}):
            yield _scope(part.named(name), "store", kept[name].document, kept[name], wrong.get(name, ""))

    def _free(self, at: Part, patch: Mapping[str, Any]) -> None:
        if part.found(self._base.tree, at) is not None and patch.keys() != {"stop"}:
            raise Managed(
                f"{at} is managed in the mailboxes file: change it there. Here it can be stopped and started."
            )

    def _placed(self, at: Part, contents: Contents) -> None:
        """Nobody becomes known, or unknown, by the way."""
        if at.kind == part.PRODUCERS and part.PRODUCERS not in self._base.tree:
            raise Invalid(
                "The mailboxes file lists no producers, so everybody who may publish is trusted; to list one here "
                "would refuse all others. Write `producers = []` or the first ones into the file."
            )
        whose = at.tenant
        if whose is None or part.TENANTS not in self._base.tree:
            return
        if part.found(self._base.tree, whose) is None and _kept(contents, whose) is None:
            raise Invalid(f"The file lists tenants, and {whose} is not one of them: set it first.")

    def _check(self, at: Part, document: Mapping[str, Any], contents: Contents) -> None:
        """The same checks as the mailboxes file's."""
        if at.kind == part.TENANTS and document.keys() & {"sites", "components"}:
            raise Invalid(f"Sites and components are scopes of their own: {at}/sites/NAME")
        if at.kind == part.PRODUCERS and "user" in document:
            raise Invalid("user: is the scope's name")
        others = [each for each in contents.parts if each.name != str(at)]
        holding, _ = amended(self._base, others)
        if problem := problem_of(holding, at, document):
            raise Invalid(problem)


def _scope(at: Part, source: str, settings: Mapping[str, Any], kept: KeptPart | None, problem: str) -> ShownScope:
    shown = {key: value for key, value in settings.items() if key != "user"}
    state = "unusable" if problem else _state(at, shown)
    if kept is None:
        return ShownScope(str(at), source, state, shown, problem)
    return ShownScope(str(at), source, state, shown, problem, kept.revision, kept.changed_at, kept.changed_by)


def _state(at: Part, settings: Mapping[str, Any]) -> str:
    if not at.restrains:
        return "listed"
    if (stop := settings.get("stop")) is not None:
        return _STOPPED[stop]
    if settings.get("suppress"):
        return "suppressed"
    return "redirected" if settings.get("redirect_to") else "flowing"


def _named(name: str) -> Part:
    try:
        return part.named(name)
    except ValueError as error:
        raise Invalid(str(error)) from None


def _kept(contents: Contents, at: Part) -> KeptPart | None:
    return next((each for each in contents.parts if each.name == str(at)), None)


def _word(value: Any) -> str:
    return "" if value is None else str(value)


def _changed(at: Part) -> Changed:
    return Changed(f"Somebody else has changed {at} meanwhile: look at it again, then repeat.")
