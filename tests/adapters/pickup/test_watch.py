"""What lies in a pickup directory too long is counted; what was just written is not."""

from __future__ import annotations

import os
from pathlib import Path

from tests.adapters.pickup.conftest import Place
from worker.domain.mailbox import PickupDirectory
from worker.events import PickupLeft
from worker.pickup.watch import left

PATIENCE = 600.0
LONG_AGO = 1_700_000_000


def _endpoint(place: Place) -> PickupDirectory:
    return PickupDirectory(place.directory, place.staging)


def _old(path: Path) -> None:
    path.write_bytes(b"x")
    os.utime(path, (LONG_AGO, LONG_AGO))


async def test_mail_that_was_just_written_is_not_told_of(place: Place) -> None:
    await place.submit()
    assert left("files", _endpoint(place), PATIENCE) == PickupLeft("files", str(place.directory), 0, 0)


def test_old_mails_and_those_that_their_reader_refused_are_counted_apart(place: Place) -> None:
    _old(place.directory / "one.eml")
    _old(place.directory / "two.EML")
    _old(place.directory / "three.bad")
    _old(place.directory / "notes.txt")
    assert left("files", _endpoint(place), PATIENCE) == PickupLeft("files", str(place.directory), 2, 1)


def test_what_iis_put_into_badmail_beside_the_directory_counts_as_refused(place: Place) -> None:
    (place.directory.parent / "Badmail").mkdir()
    _old(place.directory.parent / "Badmail" / "0001.BAD")
    assert left("files", _endpoint(place), PATIENCE) == PickupLeft("files", str(place.directory), 0, 1)


def test_directory_that_is_not_there_is_nobodys_fault_here(place: Place) -> None:
    place.directory.rmdir()
    assert left("files", _endpoint(place), PATIENCE) is None
