"""Mass mail: one mail a person, the same ones each time."""

from hypothesis import given
from hypothesis import strategies as st

from contracts.cancellation import Cancellation
from contracts.notification import Notification
from contracts.wire import Properties, decode, encode
from tests.factories import notification
from worker.domain import mass


def newsletter(**fields: object) -> Notification:
    return notification(**{"category": "mass", "id": "news-1", "to": ["a@x.de", "b@x.de"], **fields})


def test_mail_of_another_category_or_to_one_person_is_not_split() -> None:
    assert mass.to_many(newsletter())
    assert not mass.to_many(newsletter(to=["a@x.de"], cc=["a@X.DE"]))
    assert not mass.to_many(notification(to=["a@x.de", "b@x.de"]))


def test_everybody_gets_a_mail_of_their_own_under_a_number_that_anybody_can_work_out() -> None:
    whole = newsletter(to=["a@x.de", {"address": "b@x.de", "name": "B"}], cc=["a@x.de", "c@x.de"], bcc=["d@x.de"])
    parts = mass.split(whole)
    assert [(part.id, *(f"{each.name}{each.address}" for each in part.recipients())) for part in parts] == [
        ("news-1/1", "a@x.de"),
        ("news-1/2", "Bb@x.de"),
        ("news-1/4", "c@x.de"),
        ("news-1/5", "d@x.de"),
    ]
    assert not any(part.cc or part.bcc or mass.to_many(part) for part in parts)


def test_parts_can_all_be_cancelled_by_number() -> None:
    whole = newsletter(to=["a@x.de", "a@x.de", "b@x.de"])
    wish = Cancellation(type="postlane.cancel.v1", id=whole.id, tenant=whole.tenant)
    cancelled = {each.id for each in mass.cancellations(wish, mass.places(whole))}
    assert {part.id for part in mass.split(whole)} <= cancelled


def test_id_too_long_to_be_added_to_still_gives_ids_of_their_own() -> None:
    parts = mass.split(newsletter(id="x" * 128))
    assert len({part.id for part in parts} | {part.id for part in mass.split(newsletter(id="y" * 128))}) == 4
    assert all(len(part.id) <= 128 for part in parts)


def test_copies_that_the_broker_could_not_hold_are_refused_before_the_first() -> None:
    people = [f"r{n}@x.de" for n in range(1000)]
    refusal = mass.too_large(newsletter(to=people, text="x" * 300_000))
    assert refusal is not None
    assert "by reference" in refusal.remedy
    assert mass.too_large(newsletter(to=people, text="x" * 1000)) is None


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60))
def test_parts_are_notifications_that_the_contract_knows_and_the_same_each_time(numbers: list[int]) -> None:
    whole = newsletter(to=[f"r{n}@x.de" for n in numbers])
    parts = mass.split(whole)
    assert len(parts) == len(set(numbers))
    assert parts == mass.split(whole)
    for part in parts:
        assert decode(encode(part), Properties(), max_octets=1 << 20) == part
