"""What the ledger costs: claim, dot mark, settlement and confirmation of many notifications, some at a time.

python -m tests.benchmarks.ledger [--cycles 10000] [--in-flight 64] [--stores memory,sqlite,postgresql] [--url URL]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from contracts.delivery import Because, MailboxUsed, RecipientResult, RecipientStatus, Result
from tests.factories import NOON, progress, result
from tests.postgres import postgres
from worker.domain.delivery import Key
from worker.ports import Claimed, Settlement, Store
from worker.store.opening import opened

_REPLY = "2.6.0 <1@contoso.com> [InternalId=4711, Hostname=AM0PR01MB0001.eurprd01.prod.exchangelabs.com] Queued mail"


def _result(number: int) -> Result:
    """As large as a real one."""
    return result(
        event_id=f"event-{number}",
        notification_id=f"reset-{number}",
        recipients=(
            RecipientResult(address="jana@fabrikam.com", status=RecipientStatus.ACCEPTED, code=250, text=_REPLY),
        ),
        mailbox=MailboxUsed(name="contoso-mail", address="noreply@contoso.com", transport="smtp", because=Because.OWN),
        message_id="<20260601120000.1234567890@contoso.com>",
        server_reply=f"250 {_REPLY}",
        attempt=1,
    )


async def _cycle(store: Store, number: int) -> None:
    key, now = Key("contoso", f"reset-{number}"), NOON
    claimed = await store.claim(key, "d" * 64, progress(), now)
    assert isinstance(claimed, Claimed)
    assert await store.handing_over(claimed)
    results = await store.settle(claimed, Settlement(progress(attempts=1), (_result(number),)))
    assert results is not None
    await store.published(key, results, disposed=True)


async def _measured(name: str, url: str, cycles: int, in_flight: int) -> None:
    async with opened(url) as found:
        store = found.books
        await _cycle(store, -1)
        numbers = iter(range(cycles))

        async def hand() -> None:
            for number in numbers:
                await _cycle(store, number)

        begun, used = time.perf_counter(), _processor()
        await asyncio.gather(*(hand() for _ in range(in_flight)))
        seconds, processor = time.perf_counter() - begun, _processor() - used
    print(  # noqa: T201 - it is what the program is for
        f"{name:<12} {in_flight:4d} in flight  {cycles / seconds:8.0f} cycles/s  {processor / cycles * 1e6:6.0f} µs "
        f"CPU per cycle here  {seconds / cycles * in_flight * 1e3:6.2f} ms per cycle"
    )


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--stores", default="memory,sqlite,postgresql")
    parser.add_argument("--url", help="measure this store instead")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        urls = {"given": options.url} if options.url else dict.fromkeys(options.stores.split(","), "")
        for name in urls:
            for number, in_flight in enumerate(options.in_flight):
                match name:
                    case "memory":
                        url = "memory://"
                    case "sqlite":
                        url = f"sqlite:///{Path(directory) / f'{number}.sqlite3'}"
                    case "postgresql":
                        url = stack.enter_context(postgres()).url
                    case _:
                        url = urls[name]
                cycles = options.cycles if in_flight > 1 else options.cycles // 10
                asyncio.run(_measured(name, url, cycles, in_flight))


if __name__ == "__main__":
    main()
