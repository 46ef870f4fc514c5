"""Directories that are missing, full, closed to us or in the wrong place: at start, and in the middle of the work."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.adapters.pickup.checker import collect
from tests.adapters.pickup.conftest import Place, checked, written
from worker.domain.delivery import Broken, Fault, HandedOver, Stage
from worker.domain.mailbox import PickupDirectory, PickupFlavour
from worker.pickup.transport import check


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    where = tmp_path / "tiny"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(where)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.strip()}")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def assert_broken(outcome: object, fault: Fault) -> None:
    assert isinstance(outcome, Broken), outcome
    assert (outcome.stage, outcome.fault) == (Stage.FILE, fault)


# in the middle of the work


def missing(place: Place) -> None:
    place.directory.rmdir()


def a_file(place: Place) -> None:
    place.directory.rmdir()
    place.directory.write_text("no directory")


def dangling(place: Place) -> None:
    place.directory.rmdir()
    place.directory.symlink_to("nowhere")


@pytest.mark.parametrize("spoil", [missing, a_file, dangling], ids=lambda spoil: spoil.__name__)
async def test_directory_that_is_gone_is_a_fault_and_leaves_nothing_staged(
    place: Place, spoil: Callable[[Place], None]
) -> None:
    spoil(place)
    assert_broken(await place.submit(), Fault.DIRECTORY)
    assert place.staged == []


async def test_directory_that_comes_back_is_used_again(place: Place) -> None:
    place.directory.rmdir()
    assert_broken(await place.submit(), Fault.DIRECTORY)
    place.directory.mkdir()
    assert isinstance(await place.submit(), HandedOver)


async def test_staging_directory_is_made_when_it_is_missing(place: Place) -> None:
    place.staging.rmdir()
    assert isinstance(await place.submit(), HandedOver)
    assert place.staged == []


async def test_staging_directory_that_cannot_be_made_is_a_fault(place: Place) -> None:
    place.staging.rmdir()
    place.staging.write_text("in the way")
    assert_broken(await place.submit(), Fault.DIRECTORY)
    assert place.files == []


async def test_staging_on_another_file_system_is_a_fault_and_leaves_nothing(place: Place, elsewhere: Path) -> None:
    place.staging.rmdir()
    place.staging = elsewhere
    assert_broken(await place.submit(), Fault.DIRECTORY)
    assert place.files == place.staged == []


async def test_full_disk_is_a_fault_of_the_disk_and_leaves_nothing(tiny_disk: Path) -> None:
    place = Place(tiny_disk)
    assert_broken(await place.submit(text="x" * 100_000), Fault.DISK)
    assert place.files == place.staged == []
    assert isinstance(await place.submit(text="small"), HandedOver)


async def test_disk_that_fills_up_while_nobody_collects_keeps_what_was_handed_over(tiny_disk: Path) -> None:
    place = Place(tiny_disk)
    outcomes = [await place.submit(id=f"mail-{number}", text="x" * 4000) for number in range(20)]
    taken = [outcome for outcome in outcomes if isinstance(outcome, HandedOver)]
    assert 0 < len(taken) < 20
    for outcome in outcomes[len(taken) :]:
        assert_broken(outcome, Fault.DISK)
    assert len(place.files) == len(taken)
    for path in place.files:
        collect(path, PickupFlavour.IIS)
    assert place.staged == []
    place.files[0].unlink()
    assert isinstance(await place.submit(id="later", text="x" * 4000), HandedOver)


async def test_file_that_may_not_grow_is_a_fault_of_the_disk_and_leaves_nothing(place: Place) -> None:
    """A limit on file sizes stands for a quota, which needs no mount."""
    assert [line.split()[:3] for line in await written(place, 0, 1, 100_000, FILE_SIZE="50000")] == [
        ["broken", "file", "disk"]
    ]
    assert place.files == place.staged == []


async def test_directory_closed_to_us_is_a_fault_and_leaves_nothing_staged(public_place: Place) -> None:
    public_place.directory.chmod(0o555)
    (line,) = await written(public_place, 0, 1, AS_NOBODY="yes")
    assert line.split()[:3] == ["broken", "file", "directory"]
    assert public_place.files == public_place.staged == []


async def test_directory_that_may_be_written_and_not_read_is_enough(public_place: Place) -> None:
    """A sender needs write and search, `-wx`, as on a letter box; a file handed over must not be called a failure."""
    public_place.directory.chmod(0o733 if os.geteuid() == 0 else 0o333)
    lines = await written(public_place, 0, 1, AS_NOBODY="yes")
    public_place.directory.chmod(0o755)
    (path,) = public_place.files
    assert lines == [f"handed over {path}"]
    assert public_place.staged == []


async def test_staging_closed_to_us_is_a_fault(public_place: Place) -> None:
    public_place.staging.chmod(0o555)
    (line,) = await written(public_place, 0, 1, AS_NOBODY="yes")
    assert line.split()[:3] == ["broken", "file", "directory"]
    assert public_place.files == public_place.staged == []


async def test_fault_names_the_directory_and_says_why(place: Place) -> None:
    place.directory.rmdir()
    outcome = await place.submit()
    assert isinstance(outcome, Broken)
    assert str(place.directory) in outcome.detail
    assert "No such file or directory" in outcome.detail


# at start


def looked_at(place: Place) -> str:
    return check(PickupDirectory(place.directory, place.staging))


def test_good_place_has_nothing_to_complain_of_and_is_left_clean(place: Place) -> None:
    assert looked_at(place) == ""
    assert place.files == place.staged == []


def test_missing_staging_directory_is_made(place: Place) -> None:
    place.staging.rmdir()
    assert looked_at(place) == ""
    assert place.staging.is_dir()


@pytest.mark.parametrize("spoil", [missing, a_file, dangling], ids=lambda spoil: spoil.__name__)
def test_directory_that_is_none_is_found_at_start(place: Place, spoil: Callable[[Place], None]) -> None:
    spoil(place)
    assert "is no directory" in looked_at(place)


def test_staging_on_another_file_system_is_found_at_start(place: Place, elsewhere: Path) -> None:
    place.staging.rmdir()
    place.staging = elsewhere
    assert "different file systems" in looked_at(place)
    assert place.staged == []


def itself(place: Place) -> Path:
    return place.directory


def below(place: Place) -> Path:
    return place.directory / "staging"


def far_below(place: Place) -> Path:
    (place.directory / "a").mkdir()
    return place.directory / "a" / "staging"


def by_dots(place: Place) -> Path:
    return place.staging / ".." / "pickup" / "staging"


def by_link(place: Place) -> Path:
    link = place.staging / "link"
    link.symlink_to(place.directory)
    return link


@pytest.mark.parametrize("where", [itself, below, far_below, by_dots, by_link], ids=lambda where: where.__name__)
def test_staging_inside_the_pickup_directory_is_found_at_start(place: Place, where: Callable[[Place], Path]) -> None:
    place.staging = where(place)
    assert "inside the pickup directory" in looked_at(place)


def test_check_leaves_nothing_in_a_pickup_directory_that_it_refuses(place: Place) -> None:
    """Whoever polls it would find a directory that it does not expect."""
    place.staging = below(place)
    looked_at(place)
    assert place.files == []


def test_staging_that_cannot_be_made_is_found_at_start(place: Place) -> None:
    place.staging = place.staging / "missing" / "staging"
    assert "No such file or directory" in looked_at(place)


async def test_directory_closed_to_us_is_found_at_start(public_place: Place) -> None:
    public_place.directory.chmod(0o555)
    assert "may not be written to" in await checked(public_place, AS_NOBODY="yes")


async def test_staging_closed_to_us_is_found_at_start(public_place: Place) -> None:
    public_place.staging.chmod(0o555)
    assert "Permission denied" in await checked(public_place, AS_NOBODY="yes")


async def test_directory_that_may_be_written_and_not_read_passes_the_check(public_place: Place) -> None:
    public_place.directory.chmod(0o733 if os.geteuid() == 0 else 0o333)
    assert await checked(public_place, AS_NOBODY="yes") == ""


async def test_group_that_does_not_exist_is_found_at_start(place: Place) -> None:
    endpoint = PickupDirectory(place.directory, place.staging, group="no-such-group")
    assert "no-such-group" in await asyncio.to_thread(check, endpoint)
