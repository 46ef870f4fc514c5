"""What lies in the directory, read by the conventions of whoever collects it."""

import grp
import os
import stat
import uuid
from itertools import chain
from pathlib import Path
from typing import cast

import pytest

from contracts.address import parse
from tests.adapters.pickup.checker import collect
from tests.adapters.pickup.conftest import Place
from tests.factories import JANA, NOON, notification
from worker.domain.delivery import Broken, Fault, HandedOver, Stage
from worker.domain.envelope import Envelope
from worker.domain.mailbox import PickupFlavour
from worker.domain.message import OutgoingMessage, compose

CONTENTS: dict[str, dict[str, object]] = {
    "plain": {},
    "leading-dots": {"text": ".\n..\n.one\n\n.\n" + ". " * 200 + "\n." + "x" * 2000},
    "dots-beyond-ascii": {"text": ".žluťoučký\n.\n" + "á." * 300},
    "bare-line-ends": {"text": "one\rtwo\nthree\r\n\r\n.four\r"},
    "from-lines": {"text": "From here on\n\nFrom there"},
    "html": {"text": "see the other part", "html": "<p>.</p>\n.<br>\n<b>žluťoučký</b>"},
    "long-subject": {"subject": "Příliš žluťoučký kůň " * 20},
    "injection-in-the-subject": {"subject": "X-Receiver: <evil@example.com> Bcc: evil@example.com"},
    "attachment": {
        "attachments": [{"filename": "dots.txt", "content": "Li4uLi4uLi4NCi4NCi4NCg==", "content_type": "text/plain"}]
    },
    "names": {
        "to": [{"address": "jana@fabrikam.com", "name": "Nováková, Jana"}],
        "cc": [{"address": "omar@fabrikam.com", "name": "Omar (accounts)"}],
    },
    "cc-only": {"to": [], "cc": ["omar@fabrikam.com"]},
    "idn": {"to": ["jana@bücher.example"]},
    "odd-local-part": {"to": ["o'hara+x=y@fabrikam.com"]},
    "address-literal": {"to": ["jana@[192.0.2.1]"]},
    "bcc": {"bcc": ["eva@fabrikam.com", "petr@fabrikam.com"]},
    "bcc-only": {"to": [], "bcc": ["eva@fabrikam.com"]},
    "bcc-also-visible": {"bcc": ["jana@fabrikam.com", "eva@fabrikam.com"]},
    "expires": {"expires_at": "2026-06-02T12:00:00Z"},
}


def expected_recipients(fields: dict[str, object]) -> set[str]:
    given = {"to": ["jana@fabrikam.com"], **fields}
    listed = [person for name in ("to", "cc", "bcc") for person in cast("list[object]", given.get(name, []))]
    addresses = {str(person["address"]) if isinstance(person, dict) else str(person) for person in listed}
    return {address.replace("bücher", "xn--bcher-kva") for address in addresses}


@pytest.mark.parametrize("flavour", PickupFlavour)
@pytest.mark.parametrize("fields", CONTENTS.values(), ids=CONTENTS)
async def test_file_is_what_its_reader_expects(
    tmp_path: Path, flavour: PickupFlavour, fields: dict[str, object]
) -> None:
    place = Place(tmp_path, flavour)
    outcome = await place.submit(**fields)
    (path,) = place.files
    assert outcome == HandedOver(str(path))
    taken = collect(path, flavour)
    assert taken.sender == "noreply@contoso.com"
    assert set(taken.recipients) == expected_recipients(fields)
    assert place.staged == []


@pytest.mark.parametrize("flavour", PickupFlavour)
async def test_hidden_recipients_are_served_and_stay_hidden(tmp_path: Path, flavour: PickupFlavour) -> None:
    place = Place(tmp_path, flavour)
    await place.submit(to=["jana@fabrikam.com"], cc=["omar@fabrikam.com"], bcc=["eva@fabrikam.com"])
    taken = collect(place.files[0], flavour)
    assert set(taken.recipients) == {"jana@fabrikam.com", "omar@fabrikam.com", "eva@fabrikam.com"}
    assert b"eva@fabrikam.com" not in taken.content


async def test_exchange_finds_hidden_recipients_in_bcc_alone(exchange: Place) -> None:
    await exchange.submit(to=["jana@fabrikam.com"], bcc=["eva@fabrikam.com", "jana@fabrikam.com"])
    header = exchange.files[0].read_bytes().partition(b"\r\n\r\n")[0]
    assert header.startswith(b"Bcc: eva@fabrikam.com\r\n")
    assert header.count(b"jana@fabrikam.com") == 1


async def test_both_flavours_and_smtp_carry_the_same_mail(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    exchange = Place(tmp_path / "other", PickupFlavour.EXCHANGE)
    fields = {"id": "same", "text": ".žluťoučký", "bcc": ["eva@fabrikam.com"]}
    await place.submit(**fields)
    await exchange.submit(**fields)
    one = collect(place.files[0], PickupFlavour.IIS)
    other = collect(exchange.files[0], PickupFlavour.EXCHANGE)
    assert one.content == other.content
    assert place.files[0].name == exchange.files[0].name


# limits


def people(count: int) -> list[str]:
    return [f"person-{number}@fabrikam.com" for number in range(count)]


@pytest.mark.parametrize(
    "fields",
    [{"to": [], "bcc": people(100)}, {"to": people(50), "cc": people(75)[50:], "bcc": people(100)[75:]}],
    ids=["bcc", "mixed"],
)
async def test_exchange_takes_a_hundred_recipients(exchange: Place, fields: dict[str, object]) -> None:
    assert isinstance(await exchange.submit(**fields), HandedOver)
    assert len(collect(exchange.files[0], PickupFlavour.EXCHANGE).recipients) == 100


async def test_exchange_is_not_given_more_than_a_hundred_recipients(exchange: Place) -> None:
    outcome = await exchange.submit(bcc=people(100))
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.FILE, Fault.TOO_MANY)
    assert exchange.files == exchange.staged == []


@pytest.mark.parametrize(("octets", "files"), [(64 * 1024, 1), (64 * 1024 + 1, 0)], ids=["64-KB", "one-more"])
async def test_exchange_is_not_given_a_larger_header_than_it_takes(exchange: Place, octets: int, files: int) -> None:
    head = b"Date: Mon, 01 Jun 2026 12:00:00 +0000\r\nFrom: noreply@contoso.com\r\nTo: jana@fabrikam.com\r\n"
    head += b"Message-ID: <1@contoso.com>\r\nMIME-Version: 1.0\r\n"
    line = b"X-Filler: " + b"x" * 500 + b"\r\n"
    head += line * ((octets - len(head) - 600) // len(line))
    head += b"X-Last: " + b"y" * (octets - len(head) - len(b"X-Last: "))
    message = OutgoingMessage("<1@contoso.com>", head + b"\r\n\r\nhi\r\n", visible=frozenset({JANA}))
    outcome = await exchange.submit_message(message, Envelope.of(parse("noreply@contoso.com"), [JANA]))
    assert len(exchange.files) == files
    if not files:
        assert isinstance(outcome, Broken)
        assert outcome.fault is Fault.TOO_MANY


async def test_iis_takes_more_than_a_hundred(place: Place) -> None:
    assert isinstance(await place.submit(bcc=people(250)), HandedOver)
    assert len(collect(place.files[0], PickupFlavour.IIS).recipients) == 251


async def test_address_beyond_ascii_is_refused_before_anything_is_written(place: Place) -> None:
    outcome = await place.submit(to=["jiří@fabrikam.com"])
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.FILE, Fault.NO_SMTPUTF8)
    assert place.files == place.staged == []


# names, modes, groups


async def test_name_is_the_mails_own_and_always_the_same(place: Place) -> None:
    await place.submit(id="one")
    await place.submit(id="other")
    names = {path.stem for path in place.files}
    assert len(names) == 2
    assert all(uuid.UUID(name) for name in names)
    assert not any("contoso" in name or name == "one" for name in names)
    await place.submit(id="one")
    assert {path.stem for path in place.files} == names


async def test_parts_of_a_split_mail_lie_side_by_side_and_a_part_written_twice_is_one_file(place: Place) -> None:
    message = compose(notification(bcc=people(3)), place.mailbox(), [], NOON)
    for rcpt in (JANA, *map(parse, people(3)), JANA):
        outcome = await place.submit_message(message, Envelope.of(parse("noreply@contoso.com"), [rcpt]))
        assert isinstance(outcome, HandedOver)
    reached = [collect(path, PickupFlavour.IIS).recipients for path in place.files]
    assert sorted(map(str, chain.from_iterable(reached))) == sorted(map(str, [JANA, *people(3)]))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o660, 0o640, 0o600, 0o644])
async def test_mode_is_the_configured_one_whatever_the_umask(place: Place, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        await place.submit(endpoint={"mode": mode})
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.files[0].stat().st_mode) == mode


async def test_group_is_the_configured_one(place: Place) -> None:
    others = [group for group in grp.getgrall() if group.gr_gid != os.getegid()]
    mine = others if os.geteuid() == 0 else [each for each in others if each.gr_gid in os.getgroups()]
    group = mine[0] if mine else grp.getgrgid(os.getegid())
    await place.submit(endpoint={"group": group.gr_name})
    assert place.files[0].stat().st_gid == group.gr_gid
    assert stat.S_IMODE(place.files[0].stat().st_mode) == 0o660


async def test_group_that_does_not_exist_is_a_fault_of_the_directory(place: Place) -> None:
    outcome = await place.submit(endpoint={"group": "no-such-group"})
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.FILE, Fault.DIRECTORY)
    assert "no-such-group" in outcome.detail
    assert place.files == place.staged == []
