"""Which of the languages that there are is nearest to the one that is wanted (RFC 4647 section 3.4, and on)."""

from __future__ import annotations

from collections.abc import Sequence


def matching(wanted: str | None, available: Sequence[str]) -> str | None:
    """The wanted locale itself, else its language, if there is one of them.

    Args:
        wanted: language tag, `cs-CZ` or `cs_CZ`.
        available: in the form in which the answer is wanted.
    """
    by_tag = {_canonical(tag): tag for tag in available}
    tag = _canonical(wanted or "")
    while tag:
        if tag in by_tag:
            return by_tag[tag]
        tag = _shorter(tag)
    return None


def nearest(wanted: str | None, available: Sequence[str], preferred: Sequence[str] = ()) -> str:
    """Choose a locale: the one that matches, else a sister of it, else the first that there is.

    Args:
        wanted: as in `matching`; None: whichever comes first.
        available: at least one.
        preferred: the order in which the available ones are the first; those that it does not name come after.
    """
    if (found := matching(wanted, available)) is not None:
        return found
    places = {_canonical(tag): place for place, tag in enumerate(preferred)}
    ordered = sorted(available, key=lambda tag: (places.get(_canonical(tag), len(places)), _canonical(tag)))
    language = _canonical(wanted or "").partition("-")[0]
    return next((item for item in ordered if _canonical(item).partition("-")[0] == language), ordered[0])


def _canonical(tag: str) -> str:
    return tag.replace("_", "-").lower()


def _shorter(tag: str) -> str:
    """One part less; a part of one letter goes with the one before it, which it introduces."""
    rest = tag.rpartition("-")[0]
    return rest.rpartition("-")[0] if rest[-2:-1] == "-" else rest
