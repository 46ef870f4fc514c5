"""The pickup transport: written aside, synced, then moved in by one step that cannot overwrite."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import time
import uuid
from pathlib import Path
from typing import cast

from worker.domain.delivery import Broken, Fault, Fenced, HandedOver, Stage, Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Mailbox, PickupDirectory
from worker.domain.message import OutgoingMessage
from worker.domain.pickup import pickup_file, unfit
from worker.ports import HandingOver

_NAMESPACE = uuid.UUID("0c8f8a0e-7b5a-5d0b-8f54-3a4b1a9a7f01")
_DAY = 24 * 3600.0  # seconds
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class PickupTransport:
    """Writes mails into pickup directories."""

    async def submit(
        self, mailbox: Mailbox, envelope: Envelope, message: OutgoingMessage, handing_over: HandingOver
    ) -> Submission:
        """Write one file. Until it is moved in nobody can collect it, so a failure before that is a definite no."""
        place = cast("PickupDirectory", mailbox.endpoint)
        if envelope.needs_smtputf8 or message.smtputf8:
            return Broken(Stage.FILE, Fault.NO_SMTPUTF8, "a pickup file is ASCII")
        content = pickup_file(place.flavour, envelope, message)
        if reason := unfit(place.flavour, envelope, message, content):
            return Broken(Stage.FILE, Fault.TOO_MANY, reason)
        name = f"{uuid.uuid5(_NAMESPACE, _part(envelope, message))}.eml"
        try:
            staged = await asyncio.to_thread(_stage, place, name, content)
        except OSError as error:
            return _broken(place, error)
        try:
            if not await handing_over():
                return Fenced()
            return await asyncio.to_thread(_handed_over, place, staged, name)
        finally:
            await asyncio.to_thread(staged.unlink, missing_ok=True)


def _part(envelope: Envelope, message: OutgoingMessage) -> str:
    """What a file is known by: the parts of a split mail have one Message-ID, each has its recipients."""
    return " ".join([message.message_id, *sorted(map(str, envelope.rcpt_to))])


def _handed_over(place: PickupDirectory, staged: Path, name: str) -> HandedOver | Broken:
    try:
        return HandedOver(_move_in(staged, Path(place.directory) / name))
    except OSError as error:
        return _broken(place, error)


def _broken(place: PickupDirectory, error: OSError) -> Broken:
    fault = Fault.DISK if error.errno in _FULL else Fault.DIRECTORY
    return Broken(Stage.FILE, fault, f"{place.directory}: {error.strerror}")


def check(place: PickupDirectory) -> str:
    """Whether files can be written and moved in: found out at start, not at the first mail.

    Returns:
        What is wrong, in words; empty if all is well.
    """
    directory, staging = Path(place.directory), Path(place.staging)
    if not directory.is_dir():
        return f"{directory} is no directory; is it mounted?"
    if directory.resolve() in (staging.resolve(), *staging.resolve().parents):
        return f"{staging} lies inside the pickup directory, whose reader would collect half-written files"
    try:
        staging.mkdir(mode=0o770, exist_ok=True)
        if staging.stat().st_dev != directory.stat().st_dev:
            return f"{staging} and {directory} are on different file systems: put `staging` beside the pickup directory"
        probe = staging / f"{uuid.uuid4()}.probe"
        probe.touch()
        if place.group is not None:
            os.chown(probe, -1, _group(place.group))
        probe.unlink()
        _sweep(staging)
    except OSError as error:
        return f"{error.filename or staging}: {error.strerror}"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"{directory} may not be written to by this user"
    return ""


def _sweep(staging: Path) -> None:
    """Remove what a worker left that was killed while writing; a day is longer than any write takes."""
    for path in staging.glob("*.eml.*"):
        if time.time() - path.stat().st_mtime > _DAY:
            path.unlink(missing_ok=True)


def _stage(place: PickupDirectory, name: str, content: bytes) -> Path:
    _admits(Path(place.directory))
    staging = Path(place.staging)
    staging.mkdir(mode=0o770, exist_ok=True)
    path = staging / f"{name}.{uuid.uuid4().hex}"
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), place.mode)
            if place.group is not None:
                os.fchown(file.fileno(), -1, _group(place.group))
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def _admits(directory: Path) -> None:
    """Found out before the ledger is marked: until then another mailbox may take the mail."""
    directory.stat()
    if not os.access(directory, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise OSError(errno.EINVAL, f"there is no group {name!r}") from error


def _move_in(staged: Path, target: Path) -> str:
    """Link: `link` refuses an existing name where `rename` would silently overwrite it.

    From the moment the name exists a reader may have it, so nothing that goes wrong after that makes it undone.
    """
    try:
        os.link(staged, target)
    except FileExistsError:
        pass  # handed over by an earlier attempt whose end nobody saw: the same mail under the same name
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.rename(staged, target)  # noqa: PTH104 - the name is this mail's own, nothing else can be there
    with contextlib.suppress(OSError):  # a writer need not have the right to read the directory
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    return str(target)
