"""What a server has said does not depend on the packets in which it came."""

from hypothesis import given
from hypothesis import strategies as st

from worker.domain.reply import Reply
from worker.smtp.dialogue import Lost, ReplyReader

TEXTS = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=20)
CODES = st.integers(200, 599)
GARBAGE = st.sampled_from([b"hello", b"", b"25", b"650 no", b"250x", b"\xff\xfe", b"199 no", b" 250 indented"])
REPLIES = st.builds(
    lambda code, texts: [
        *(f"{code}-{text}".encode("latin-1") for text in texts[:-1]),
        f"{code} {texts[-1]}".encode("latin-1"),
    ],
    CODES,
    st.lists(TEXTS, min_size=1, max_size=3),
)


def read(packets: list[bytes]) -> tuple[list[Reply], bool]:
    """The replies, and whether it ended in garbage."""
    reader = ReplyReader()
    replies: list[Reply] = []
    for packet in packets:
        try:
            replies += reader.feed(packet)
        except Lost:
            return replies, True
    return replies, False


@given(st.lists(REPLIES, max_size=5), st.sampled_from([b"\r\n", b"\n"]), st.data())
def test_replies_are_the_same_in_whatever_packets_they_come(
    said: list[list[bytes]], end: bytes, data: st.DataObject
) -> None:
    octets = b"".join(line + end for reply in said for line in reply)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(octets)), max_size=8)))
    packets = [octets[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    whole, garbled = read([octets])
    assert read(packets) == (whole, garbled)
    assert (len(whole), garbled) == (len(said), False)


@given(st.lists(REPLIES, max_size=3), GARBAGE)
def test_garbage_takes_nothing_back_that_was_said_before(said: list[list[bytes]], garbage: bytes) -> None:
    good = b"".join(line + b"\r\n" for reply in said for line in reply)
    apart = read([good, garbage + b"\r\n"])
    assert len(apart[0]) == len(said)
    assert apart[1]
    together = ReplyReader()
    heard: list[Reply] = []
    try:
        heard += together.feed(good + garbage + b"\r\n")
        heard += together.feed(b"")
    except Lost as lost:
        heard += lost.replies
    assert heard == apart[0]
