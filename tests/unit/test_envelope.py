"""Who sends and who receives."""

from contracts.address import parse
from tests.factories import JANA, OMAR
from worker.domain.envelope import Envelope

SENDER = parse("noreply@contoso.com")


def test_recipient_given_twice_gets_one_mail_in_the_order_given() -> None:
    doubled = [OMAR, JANA, parse("omar@FABRIKAM.com"), OMAR]
    assert Envelope.of(SENDER, doubled).rcpt_to == (OMAR, JANA)


def test_local_parts_that_differ_in_case_are_two_people() -> None:
    # RFC 5321 section 2.4: only the receiving host may decide that they are one.
    both = [parse("Jana@x.de"), parse("jana@x.de")]
    assert Envelope.of(SENDER, both).rcpt_to == tuple(both)


def test_envelope_for_some_keeps_sender_and_order_and_adds_nobody() -> None:
    whole = Envelope.of(SENDER, [OMAR, JANA])
    assert whole.only([JANA, parse("eve@evil.example")]) == Envelope(SENDER, (JANA,))
    assert whole.only([JANA, OMAR]) == whole


def test_smtputf8_is_needed_for_any_address_beyond_ascii() -> None:
    josefa = parse("jos\u00e9fa@x.de")
    assert not Envelope(SENDER, (JANA,)).needs_smtputf8
    assert Envelope(SENDER, (JANA, josefa)).needs_smtputf8
    assert Envelope(josefa, (JANA,)).needs_smtputf8
