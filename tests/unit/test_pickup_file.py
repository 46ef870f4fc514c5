"""The envelope in the file: every recipient gets the mail, and no hidden one is told to anybody."""

import pytest

from contracts.address import parse
from tests.factories import JANA, NOON, mailbox, notification
from worker.domain.envelope import Envelope
from worker.domain.mailbox import PickupFlavour
from worker.domain.message import OutgoingMessage, compose
from worker.domain.pickup import EXCHANGE_HEADER, pickup_file, unfit

SENDER = parse("noreply@contoso.com")
HIDDEN = parse("hidden@fabrikam.com")


def mail(**fields: object) -> OutgoingMessage:
    return compose(notification(**fields), mailbox(), [], NOON)


def header_of(content: bytes) -> list[str]:
    return content.partition(b"\r\n\r\n")[0].decode().replace("\r\n ", " ").split("\r\n")


def test_iis_file_begins_with_the_envelope_and_goes_on_with_the_mail_untouched() -> None:
    message = mail(bcc=[str(HIDDEN)])
    content = pickup_file(PickupFlavour.IIS, Envelope.of(SENDER, [JANA, HIDDEN]), message)
    assert content == (
        b"X-Sender: <noreply@contoso.com>\r\nX-Receiver: <jana@fabrikam.com>\r\nX-Receiver: <hidden@fabrikam.com>\r\n"
        + message.content
    )


def test_exchange_file_names_hidden_recipients_in_bcc_which_exchange_removes() -> None:
    content = pickup_file(PickupFlavour.EXCHANGE, Envelope.of(SENDER, [JANA, HIDDEN]), mail(bcc=[str(HIDDEN)]))
    header = header_of(content)
    assert header[0] == "Bcc: hidden@fabrikam.com"
    assert "To: jana@fabrikam.com" in header
    assert not any(line.lower().startswith(("x-sender", "x-receiver")) for line in header)


def test_exchange_file_without_hidden_recipients_is_the_mail() -> None:
    message = mail()
    assert pickup_file(PickupFlavour.EXCHANGE, Envelope.of(SENDER, [JANA]), message) == message.content


def test_hundred_hidden_recipients_are_folded_into_one_field() -> None:
    hidden = [parse(f"hidden-recipient-{n}@fabrikam.com") for n in range(100)]
    content = pickup_file(PickupFlavour.EXCHANGE, Envelope.of(SENDER, hidden), mail())
    assert header_of(content)[0] == "Bcc: " + ", ".join(map(str, hidden))
    assert max(map(len, content.split(b"\r\n"))) <= 78


@pytest.mark.parametrize("flavour", PickupFlavour)
def test_no_line_of_a_file_begins_with_a_dot(flavour: PickupFlavour) -> None:
    content = pickup_file(flavour, Envelope.of(SENDER, [JANA, HIDDEN]), mail(text=".\n..\n.x"))
    assert not any(line.startswith(b".") for line in content.split(b"\r\n"))


@pytest.mark.parametrize(
    ("flavour", "recipients", "header", "fits"),
    [
        pytest.param(PickupFlavour.EXCHANGE, 100, 100, True, id="exchange-takes-100"),
        pytest.param(PickupFlavour.EXCHANGE, 100 + 1, 100, False, id="exchange-takes-no-more"),
        pytest.param(PickupFlavour.EXCHANGE, 1, EXCHANGE_HEADER, True, id="exchange-takes-64-KiB"),
        pytest.param(PickupFlavour.EXCHANGE, 1, EXCHANGE_HEADER + 1, False, id="exchange-takes-no-larger-header"),
        pytest.param(PickupFlavour.IIS, 1000, EXCHANGE_HEADER * 2, True, id="iis-has-no-limits"),
    ],
)
def test_file_that_its_reader_would_not_take_is_known_before(
    flavour: PickupFlavour, recipients: int, header: int, *, fits: bool
) -> None:
    envelope = Envelope.of(SENDER, [parse(f"r{n}@x.de") for n in range(recipients)])
    content = b"X-Pad: ".ljust(header, b"x") + b"\r\n\r\nbody\r\n"
    message = OutgoingMessage("<n-1@contoso.com>", content)
    assert (unfit(flavour, envelope, message, content) == "") == fits


def test_recipient_who_has_the_mail_already_does_not_get_it_from_an_exchange_directory_again() -> None:
    # Exchange reads the recipients from To and Cc, whatever the envelope was: a file for some of them is not possible.
    message = mail(to=[str(JANA), "omar@fabrikam.com"])
    again = Envelope.of(SENDER, [JANA])
    content = pickup_file(PickupFlavour.EXCHANGE, again, message)
    assert unfit(PickupFlavour.EXCHANGE, again, message, content) or b"omar@fabrikam.com" not in content
