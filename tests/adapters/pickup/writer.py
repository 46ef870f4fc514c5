"""A worker's pickup transport in a process of its own, to be killed, to be many, to be nobody.

    writer.py <directory> <staging> <first> <last> [<octets of text>]
    writer.py check <directory> <staging>

Numbered mails are submitted one after the other; each result is a line on standard output. With `AS_NOBODY` in the
environment, and if it is root, it gives up its rights first.
"""

import asyncio
import concurrent.futures.thread  # noqa: F401 - asyncio loads it late, when nobody may read it any more
import os
import resource
import signal
import sys
from pathlib import PurePath

from tests.factories import NOON, mailbox, notification
from worker.domain.delivery import Broken, HandedOver
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Mailbox, PickupDirectory
from worker.domain.message import compose
from worker.pickup.transport import PickupTransport, check


async def always() -> bool:
    return True


def place(directory: str, staging: str) -> Mailbox:
    return mailbox(endpoint=PickupDirectory(PurePath(directory), PurePath(staging)))


def say(*words: object) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def write(box: Mailbox, first: int, last: int, octets: int) -> None:
    transport = PickupTransport()
    for number in range(first, last):
        sent = notification(id=f"mail-{number}", text=f"{number}\n" + ("0123456789" * 7 + "\n") * (octets // 71 + 1))
        message = compose(sent, box, [], NOON)
        envelope = Envelope.of(box.address, [person.spec for person in sent.recipients()])
        match await transport.submit(box, envelope, message, always):
            case HandedOver(path):
                say("handed over", path)
            case Broken(stage, fault, detail):
                say("broken", stage, fault, detail)
            case other:
                say(other)


def main() -> None:
    if os.environ.get("AS_NOBODY") and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    if limit := os.environ.get("FILE_SIZE"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    match sys.argv[1:]:
        case ["check", directory, staging]:
            say(check(PickupDirectory(PurePath(directory), PurePath(staging))))
        case [directory, staging, first, last, *rest]:
            asyncio.run(write(place(directory, staging), int(first), int(last), int(rest[0]) if rest else 0))


if __name__ == "__main__":
    main()
