"""The nearest language."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.locale import nearest


@pytest.mark.parametrize(
    ("wanted", "available", "preferred", "taken"),
    [
        pytest.param("cs-CZ", ["cs", "cs-CZ", "en"], [], "cs-CZ", id="itself"),
        pytest.param("cs_cz", ["en", "cs-CZ"], [], "cs-CZ", id="written-otherwise"),
        pytest.param("cs-CZ", ["cs", "en"], [], "cs", id="its-language"),
        pytest.param("zh-Hant-TW", ["zh", "zh-Hant"], [], "zh-Hant", id="nearest-first"),
        pytest.param("zh-x-private", ["zh-x", "zh"], [], "zh", id="singleton-goes-with-what-it-introduces"),
        pytest.param("cs", ["en", "cs-CZ"], [], "cs-CZ", id="a-sister"),
        pytest.param("cs", ["cs-SK", "cs-CZ"], ["cs-CZ"], "cs-CZ", id="the-preferred-sister"),
        pytest.param("fr", ["en", "cs"], ["cs", "en"], "cs", id="the-first-listed"),
        pytest.param("fr", ["en", "cs"], ["de"], "cs", id="the-first-there-is"),
        pytest.param(None, ["en", "cs"], ["en"], "en", id="none-wanted"),
    ],
)
def test_nearest_locale_is_taken(wanted: str | None, available: list[str], preferred: list[str], taken: str) -> None:
    assert nearest(wanted, available, preferred) == taken


tags = st.from_regex(r"[a-z]{2}([_-][A-Za-z]{1,4}){0,3}", fullmatch=True)


@given(tags | st.none(), st.lists(tags, min_size=1), st.lists(tags))
def test_some_available_locale_is_taken_whatever_is_wanted(
    wanted: str | None, available: list[str], preferred: list[str]
) -> None:
    assert nearest(wanted, available, preferred) in available
    assert nearest(wanted, available, preferred) == nearest(wanted, available[::-1], preferred) or len(
        {tag.lower().replace("_", "-") for tag in available}
    ) < len(available)
