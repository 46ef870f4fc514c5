"""Names of scopes and producers, and where they belong in the mailboxes file."""

from __future__ import annotations

from typing import Any

import pytest

from worker.domain.part import Part, found, listed, mailbox, named, within

FILE: dict[str, Any] = {
    "platform": {"suppress": True},
    "tenants": {"Contoso": {"stop": "hold", "sites": {"Shop": {"purposes_off": ["form"]}}}},
    "producers": [{"user": "web", "tenants": ["contoso"]}],
    "mailboxes": {"Relay": {"host": "a.example"}},
}


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("platform", ("platform",)),
        ("tenants/Contoso", ("tenants", "contoso")),
        ("tenants/Contoso/sites/Shop", ("tenants", "contoso", "sites", "shop")),
        ("tenants/contoso/components/Agent", ("tenants", "contoso", "components", "agent")),
        ("producers/Web", ("producers", "Web")),
        ("producers/domain/web", ("producers", "domain/web")),
    ],
)
def test_name_leads_to_its_place(text: str, steps: tuple[str, ...]) -> None:
    assert named(text).steps == steps


@pytest.mark.parametrize(
    "text",
    [
        "",
        "contoso",
        "tenants",
        "tenants/",
        "tenants/a/b/c",
        "tenants/a/sites",
        "tenants/a/sites/",
        "producers/",
        "mailboxes/a",
    ],
)
def test_what_is_no_name_of_a_scope_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write platform, tenants/NAME"):
        named(text)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (named("platform"), {"suppress": True}),
        (named("tenants/contoso"), {"stop": "hold"}),
        (named("tenants/contoso/sites/shop"), {"purposes_off": ["form"]}),
        (named("tenants/contoso/components/shop"), None),
        (named("tenants/fabrikam/sites/shop"), None),
        (named("producers/web"), {"user": "web", "tenants": ["contoso"]}),
        (named("producers/Web"), None),
        (mailbox("Relay"), {"host": "a.example"}),
    ],
)
def test_what_the_file_says_about_a_part_is_found_whatever_the_capitals(part: Part, said: object) -> None:
    assert found(FILE, part) == said


def test_part_is_added_under_the_files_own_spelling_and_the_file_stays_as_it_was() -> None:
    made = within(FILE, named("tenants/contoso/sites/shop"), {"stop": "refuse"})
    assert made["tenants"]["Contoso"]["sites"]["Shop"] == {"purposes_off": ["form"], "stop": "refuse"}
    assert FILE["tenants"]["Contoso"]["sites"]["Shop"] == {"purposes_off": ["form"]}
    assert within({}, named("tenants/a/sites/b"), {"stop": "hold"}) == {
        "tenants": {"a": {"sites": {"b": {"stop": "hold"}}}}
    }


def test_producer_that_is_added_takes_the_place_of_the_one_of_its_login() -> None:
    assert within(FILE, named("producers/web"), {"tenants": ["x"]})["producers"] == [{"user": "web", "tenants": ["x"]}]


def test_every_part_of_the_file_is_listed() -> None:
    assert [str(part) for part in listed(FILE)] == [
        "platform",
        "tenants/contoso",
        "tenants/contoso/sites/shop",
        "producers/web",
    ]
