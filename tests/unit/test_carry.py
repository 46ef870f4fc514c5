"""Progress in one AMQP header: it comes back as it went, and it always fits."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.delivery import RecipientStatus
from tests.factories import JANA, NOON, OMAR, notification, outcome, progress
from worker.domain.carry import pack, unpack
from worker.domain.delivery import Outcome, Progress
from worker.domain.reply import Reply

A, F, U = RecipientStatus.ACCEPTED, RecipientStatus.FAILED, RecipientStatus.IN_DOUBT
FITS = 100 * 1024  # octets; all properties of a message share one frame of 128 KiB

PEOPLE = notification(to=[f"r{n}@contoso.com" for n in range(6)], cc=["r1@contoso.com"], bcc=["b@contoso.com"])
replies = st.none() | st.builds(
    Reply.of, st.sampled_from([250, 450, 550]), st.lists(st.text(max_size=30) | st.just("5.1.1 no"), max_size=3)
)
progresses = st.builds(
    Progress,
    first_seen=st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    attempts=st.integers(0, 1000),
    settled=st.dictionaries(
        st.sampled_from([person.spec for person in PEOPLE.recipients()]),
        st.builds(Outcome, st.sampled_from([A, F, U]), replies, st.sampled_from(["", "recipient-permanent"])),
    ),
    told=st.sampled_from(["", "auth-config/mailbox-permission"]),
    group=st.integers(0, 500),
    cap=st.integers(0, 500),
)


@given(progresses)
def test_progress_comes_back_from_the_broker_as_it_went(before: Progress) -> None:
    packed = pack(before, PEOPLE)
    assert packed.isascii()
    assert packed.isprintable()
    assert unpack(packed, PEOPLE) == before


def test_recipients_of_a_rule_are_named_and_not_counted() -> None:
    said = notification(to=["jana@fabrikam.com"], event="approval.requested")
    before = progress(settled={OMAR: outcome(A), JANA: outcome(F, "550 5.1.1 no")})
    assert unpack(pack(before, said), said) == before
    doubted = progress(doubted=frozenset({OMAR, JANA}))
    assert unpack(pack(doubted, said), said) == doubted


def test_thousand_recipients_with_long_words_of_their_own_fit_into_a_frame() -> None:
    sent = notification(to=[f"r{n}@contoso.com" for n in range(1000)])
    settled = {
        person.spec: outcome(F, f"550 5.1.1 {n} \u017e {'x' * 1900} [Hostname=host-{n}]", "recipient-permanent")
        for n, person in enumerate(sent.recipients())
    }
    packed = pack(progress(settled=settled), sent)
    assert len(packed) < FITS
    back = unpack(packed, sent).settled
    assert back.keys() == settled.keys()
    assert {(each.status, each.verdict) for each in back.values()} == {(F, "recipient-permanent")}
    assert {each.reply.code for each in back.values() if each.reply} == {550}


def test_reply_shortened_to_fit_keeps_the_suffix_that_the_support_asks_for() -> None:
    sent = notification(to=[f"r{n}@contoso.com" for n in range(100)])
    settled = {
        person.spec: outcome(F, f"550 5.1.1 {n} {'x' * 1500} [Hostname=host-{n}]")
        for n, person in enumerate(sent.recipients())
    }
    back = unpack(pack(progress(settled=settled), sent), sent).settled
    assert all(each.reply and "[Hostname=host-" in each.reply.text for each in back.values())


def test_equal_replies_are_carried_once() -> None:
    sent = notification(to=[f"r{n}@contoso.com" for n in range(500)])
    words = "x" * 1000
    settled = {person.spec: outcome(A, f"250 2.0.0 {words}") for person in sent.recipients()}
    packed = pack(progress(settled=settled), sent)
    assert packed.count(words) == 1
    assert unpack(packed, sent) == progress(settled=settled)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="no-json"),
        pytest.param("[]", id="no-object"),
        pytest.param("null", id="null"),
        pytest.param("{}", id="nothing-in-it"),
        pytest.param('{"first":"x","attempts":0,"told":"","replies":[],"settled":[]}', id="no-moment"),
        pytest.param('{"first":5,"attempts":0,"told":"","replies":[],"settled":[]}', id="moment-of-another-type"),
        pytest.param(
            '{"first":"2026-06-01T12:00:00","attempts":0,"told":"","replies":[],"settled":[]}', id="moment-without-zone"
        ),
        pytest.param(
            f'{{"first":"{NOON.isoformat()}","attempts":"x","told":"","replies":[],"settled":[]}}', id="attempts"
        ),
        pytest.param(
            f'{{"first":"{NOON.isoformat()}","attempts":0,"told":"","replies":[],"settled":[[9,"failed",null,""]]}}',
            id="recipient-out-of-range",
        ),
        pytest.param(
            f'{{"first":"{NOON.isoformat()}","attempts":0,"told":"","replies":[],"settled":[[-1,"failed",null,""]]}}',
            id="recipient-counted-from-the-end",
        ),
        pytest.param(
            f'{{"first":"{NOON.isoformat()}","attempts":0,"told":"","replies":[],"settled":[[0,"lost",null,""]]}}',
            id="no-such-status",
        ),
        pytest.param(
            f'{{"first":"{NOON.isoformat()}","attempts":0,"told":"","replies":[],"settled":[[0,"failed",3,""]]}}',
            id="no-such-reply",
        ),
        pytest.param("[" * 100_000, id="nested-without-end"),
    ],
)
def test_line_that_is_not_ours_is_refused(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever part of it was wrong
        unpack(line, notification())


@given(st.text(max_size=60) | progresses.map(lambda each: pack(each, PEOPLE)))
def test_any_line_is_read_or_refused_for_another_notification(line: str) -> None:
    sent = notification(to=[str(JANA), str(OMAR)])
    try:
        found = unpack(line, sent)
    except ValueError:
        return
    assert found.settled.keys() <= {JANA, OMAR}
