"""Recipient lists in one string: taken apart as people mean them, and nothing lost or made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.recipients import split


@pytest.mark.parametrize(
    ("text", "people"),
    [
        pytest.param("", [], id="nobody"),
        pytest.param(" ;, ; ", [], id="separators-only"),
        pytest.param("a@x.de", [("", "a@x.de")], id="one"),
        pytest.param("a@x.de;b@x.de", [("", "a@x.de"), ("", "b@x.de")], id="semicolon"),
        pytest.param("a@x.de, b@x.de,", [("", "a@x.de"), ("", "b@x.de")], id="comma-and-one-too-many"),
        pytest.param("a@x.de, b@x.de; c@x.de", [("", "a@x.de"), ("", "b@x.de"), ("", "c@x.de")], id="both"),
        pytest.param("Jana <a@x.de>; <b@x.de>", [("Jana", "a@x.de"), ("", "b@x.de")], id="brackets"),
        pytest.param('"Novák, Jana" <a@x.de>, b@x.de', [("Novák, Jana", "a@x.de"), ("", "b@x.de")], id="quoted-comma"),
        pytest.param("Novák, Jana <a@x.de>; b@x.de", [("Novák, Jana", "a@x.de"), ("", "b@x.de")], id="bare-comma"),
        pytest.param(
            "b@x.de, Novák, Jana, Dr. <a@x.de>", [("", "b@x.de"), ("Novák, Jana, Dr.", "a@x.de")], id="titles"
        ),
        pytest.param('"a \\" b; c" <a@x.de>', [('a " b; c', "a@x.de")], id="escaped-quote"),
        pytest.param('"we;ird"@x.de; b@x.de', [("", '"we;ird"@x.de'), ("", "b@x.de")], id="quoted-local-part"),
        pytest.param("Novák; a@x.de", [("", "Novák"), ("", "a@x.de")], id="no-address-is-kept-to-be-complained-about"),
        pytest.param("Novák, a@x.de", [("", "Novák"), ("", "a@x.de")], id="name-without-brackets-behind-it"),
        pytest.param('"a@x.de; b@x.de', [("", '"a@x.de'), ("", "b@x.de")], id="lone-quote"),
        pytest.param("<a@x.de; b@x.de", [("", "<a@x.de"), ("", "b@x.de")], id="lone-bracket"),
    ],
)
def test_list_is_taken_apart_as_it_is_meant(text: str, people: list[tuple[str, str]]) -> None:
    assert [(person.get("name", ""), person["address"]) for person in split(text)] == people


addresses = st.from_regex(r"[a-z]{1,8}@[a-z]{1,8}\.de", fullmatch=True)
names = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters='\\"'), min_size=1).filter(
    lambda name: name == name.strip() and name
)


@given(st.lists(st.tuples(names, addresses)), st.sampled_from([";", ",", "; ", " , "]))
def test_list_of_quoted_names_comes_back_as_it_went(people: list[tuple[str, str]], separator: str) -> None:
    text = separator.join(f'"{name}" <{address}>' for name, address in people)
    assert [(person["name"], person["address"]) for person in split(text)] == people


@given(st.text(st.sampled_from('ab@<>";,\\ ')))
def test_no_sign_that_is_not_a_separator_is_lost_silently(text: str) -> None:
    found = "".join(person.get("name", "") + person["address"] for person in split(text))
    assert found.count("@") == text.count("@")
