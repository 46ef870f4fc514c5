"""Taking files out of a mail that is too large for one request."""

from __future__ import annotations

import hashlib
from email.parser import BytesParser
from email.policy import default

from hypothesis import given
from hypothesis import strategies as st

from tests.factories import NOON, mailbox, notification
from worker.domain.division import Divided, divide
from worker.domain.message import compose

CONTENT = st.binary(min_size=1, max_size=4000)
NAMES = st.sampled_from(["a.pdf", "účet č. 5.pdf", 'quo"ted.pdf', "a b.pdf", "x" * 120 + ".pdf"])


def mail(files: list[tuple[str, bytes]], *, inline: bool) -> bytes:
    attachments = [
        {
            "filename": name,
            "content_type": "application/pdf",
            "reference": str(number),
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            **({"content_id": f"c{number}@contoso"} if inline and not number else {}),
        }
        for number, (name, content) in enumerate(files)
    ]
    sent = notification(html="<p>Hello</p>", attachments=attachments)
    return compose(sent, mailbox(), [content for _, content in files], NOON).content


@given(files=st.lists(st.tuples(NAMES, CONTENT), max_size=4), inline=st.booleans(), most=st.integers(0, 20_000))
def test_what_is_taken_out_and_what_is_left_make_the_whole_mail(
    *,
    files: list[tuple[str, bytes]],
    inline: bool,
    most: int,
) -> None:
    content = mail(files, inline=inline)
    divided = divide(content, most)
    if not isinstance(divided, Divided):
        assert len(mail([], inline=False)) > most - 400 * (len(files) + 1)
        return
    assert len(divided.rest) <= most
    left = [
        (part.get_filename(), part.get_payload(decode=True))
        for part in BytesParser(policy=default).parsebytes(divided.rest).walk()
        if part.get_filename()
    ]
    assert sorted(left + [(file.name, file.content) for file in divided.files]) == sorted(files)
    assert divided.rest.partition(b"\r\n\r\n")[0] == content.partition(b"\r\n\r\n")[0]


def test_mail_that_fits_is_left_alone() -> None:
    content = mail([("a.pdf", b"x" * 1000)], inline=False)
    assert divide(content, len(content)) == Divided(content, ())


def test_largest_file_goes_first_and_the_small_one_stays() -> None:
    content = mail([("small.pdf", b"s"), ("large.pdf", b"l" * 3000)], inline=False)
    divided = divide(content, len(content) - 1)
    assert isinstance(divided, Divided)
    assert [file.name for file in divided.files] == ["large.pdf"]


def test_inline_image_keeps_the_name_by_which_the_text_shows_it() -> None:
    content = mail([("logo.png", b"l" * 3000)], inline=True)
    divided = divide(content, len(content) - 3000)
    assert isinstance(divided, Divided)
    assert [file.content_id for file in divided.files] == ["c0@contoso"]
