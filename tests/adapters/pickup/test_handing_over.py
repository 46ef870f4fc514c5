"""From staging into the directory in one step: when, how often, and what is left if it does not come to that."""

import asyncio

import pytest

from tests.adapters.pickup.checker import collect
from tests.adapters.pickup.conftest import Place, writing, written
from worker.domain.delivery import Fenced, HandedOver
from worker.domain.mailbox import PickupFlavour

PATIENCE = 30.0
LARGE = 150_000


class Trouble(Exception):  # noqa: N818 - what it stands for
    """The ledger could not be asked."""


async def test_ledger_is_asked_once_when_all_is_written_and_nothing_is_moved(place: Place) -> None:
    seen = []

    async def looking() -> bool:
        seen.append(([path.read_bytes() for path in place.staged], place.files))
        return True

    await place.submit(looking)
    (path,) = place.files
    assert seen == [([path.read_bytes()], [])]


async def test_ledger_that_forbids_leaves_nothing_anywhere(place: Place) -> None:
    async def no() -> bool:
        return False

    assert await place.submit(no) == Fenced()
    assert place.files == place.staged == []


@pytest.mark.parametrize(
    "trouble", [Trouble(), ConnectionRefusedError(111, "Connection refused")], ids=["its-own", "an-os-error"]
)
async def test_ledger_in_trouble_is_no_fault_of_the_directory_and_leaves_nothing(
    place: Place, trouble: Exception
) -> None:
    async def failing() -> bool:
        raise trouble

    with pytest.raises(type(trouble)):
        await place.submit(failing)
    assert place.files == place.staged == []


async def test_mail_cancelled_while_the_ledger_is_asked_leaves_nothing(place: Place) -> None:
    asked = asyncio.Event()

    async def never() -> bool:
        asked.set()
        return await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(place.submit(never))
    async with asyncio.timeout(PATIENCE):
        await asked.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert place.files == place.staged == []


async def test_name_that_is_there_is_never_overwritten(place: Place) -> None:
    await place.submit(id="one")
    (path,) = place.files
    path.write_bytes(b"somebody else's")
    assert await place.submit(id="one") == HandedOver(str(path))
    assert path.read_bytes() == b"somebody else's"
    assert place.staged == []


async def test_many_mails_at_once_in_one_process_all_arrive(place: Place) -> None:
    outcomes = await asyncio.gather(*(place.submit(id=f"mail-{number}") for number in range(100)))
    assert all(isinstance(outcome, HandedOver) for outcome in outcomes)
    assert len(place.files) == 100
    for path in place.files:
        collect(path, PickupFlavour.IIS)
    assert place.staged == []


async def test_one_mail_many_times_at_once_is_one_file(place: Place) -> None:
    """Copies of a notification that several workers hold at the same time."""
    outcomes = await asyncio.gather(*(place.submit(id="one") for _ in range(30)))
    (path,) = place.files
    assert set(outcomes) == {HandedOver(str(path))}
    collect(path, PickupFlavour.IIS)
    assert place.staged == []


async def test_two_processes_in_one_directory_lose_nothing_and_overwrite_nothing(place: Place) -> None:
    """Half of the mails are written by both."""
    lines = await asyncio.gather(written(place, 0, 150), written(place, 75, 225))
    names = [[line.split()[-1] for line in each] for each in lines]
    assert [len(each) for each in names] == [150, 150]
    assert {str(path) for path in place.files} == {*names[0], *names[1]}
    assert len(place.files) == 225
    for path in place.files:
        collect(path, PickupFlavour.IIS)
    assert place.staged == []


async def test_killed_writers_leave_whole_files_and_lose_none_that_they_told_of(place: Place) -> None:
    told: set[str] = set()
    for number in range(6):
        async with writing(place, 1000 * number, 1000 * number + 1000, LARGE) as process, asyncio.timeout(PATIENCE):
            assert process.stdout is not None
            for _ in range(3 + number):
                told.add((await process.stdout.readline()).decode().split()[-1])
            process.kill()
            told |= {line.split()[-1] for line in (await process.stdout.read()).decode().splitlines()}
    for path in place.files:
        assert len(collect(path, PickupFlavour.IIS).content) > LARGE
    assert told <= {str(path) for path in place.files}
    assert len(told) >= 33


async def test_reader_that_collects_at_once_meets_whole_files_only(place: Place) -> None:
    collected = []
    async with writing(place, 0, 25, LARGE) as process, asyncio.timeout(PATIENCE):
        assert process.stdout is not None
        async for _line in process.stdout:
            for path in place.files:
                collected.append(collect(path, PickupFlavour.IIS).message["X-Postlane-Id"])
                path.unlink()
    assert sorted(collected) == sorted(f"mail-{number}" for number in range(25))
