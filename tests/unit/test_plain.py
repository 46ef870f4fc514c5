"""Text from html: everything that is said, in its order, and nothing that is not shown."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.plain import plain_text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        pytest.param("<p>One</p><p>Two</p>", "One\n\nTwo", id="paragraphs"),
        pytest.param("<div>One</div><div>Two</div>", "One\nTwo", id="blocks"),
        pytest.param("One<br>Two<br/>Three", "One\nTwo\nThree", id="line-breaks"),
        pytest.param("  a \n\t b  ", "a b", id="blanks-run-together"),
        pytest.param("<b>a</b> <i>b</i>", "a b", id="blank-between-elements"),
        pytest.param("a &lt;b&gt; &amp;&nbsp;c", "a <b> &\u00a0c", id="entities"),
        pytest.param("<ul><li>One</li><li><p>Two</p></li></ul>End", "- One\n- Two\n\nEnd", id="list"),
        pytest.param("<table><tr><td>A</td><td>B</td></tr><tr><td>C</td></tr></table>", "A  B\nC", id="table"),
        pytest.param("<pre>a\n  b</pre>", "a\n  b", id="preformatted"),
        pytest.param('<a href="https://x.de/a">open</a>', "open (https://x.de/a)", id="link"),
        pytest.param('<a href="https://x.de">https://x.de</a>', "https://x.de", id="link-that-shows-itself"),
        pytest.param('<a href="https://x.de"><img src="cid:a"></a>', "https://x.de", id="link-without-a-word"),
        pytest.param('<a href="mailto:a@x.de">a@x.de</a>', "a@x.de", id="address-that-shows-itself"),
        pytest.param('<a href="mailto:a@x.de">us</a>', "us (a@x.de)", id="address"),
        pytest.param('<a href="#top">up</a>', "up", id="link-within"),
        pytest.param('<img alt="Logo" src="cid:a">', "Logo", id="image"),
        pytest.param("<head><title>T</title><style>p{}</style></head>Hi<script>x()</script>", "Hi", id="not-shown"),
        pytest.param("Hi<head><meta charset=utf-8><link rel=x></head> you", "Hi you", id="void-elements-in-the-head"),
        pytest.param("a<hr>b", "a\n\n--------------------\n\nb", id="rule"),
        pytest.param("a</p></b></a></pre>b<p>c", "a\n\nb\n\nc", id="ends-without-beginnings"),
    ],
)
def test_html_is_told_in_plain_words(source: str, text: str) -> None:
    assert plain_text(source) == text + "\n"


words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z"), exclude_characters="\0"), min_size=1, max_size=12)


@given(st.lists(st.tuples(st.sampled_from(["p", "div", "b", "td", "li", "h1", "pre", "span"]), words)))
def test_every_word_is_told_in_its_order(parts: list[tuple[str, str]]) -> None:
    source = " ".join(f"<{tag}>{html.escape(word)}</{tag}>" for tag, word in parts)
    found = plain_text(source)
    at = 0
    for _, word in parts:
        assert word in found[at:]
        at = found.index(word, at) + len(word)


@given(st.text(st.sampled_from("<>/ab =\"'&;#!-?pre \n")))
def test_broken_html_gives_some_text_and_never_three_line_ends(source: str) -> None:
    assert not re.search(r"\n{3}", plain_text(source).rstrip("\n")) or "pre" in source
