"""An import's part of a mailboxes file: a block between two lines of comment that the next import replaces.

Whatever stands outside is a person's and stays as it is, comments and all.
"""

from __future__ import annotations

import hashlib
import re
import tomllib

from worker.unusable import Unusable


def placed(text: str, name: str, body: str, *, force: bool) -> str:
    """The file's text with the block in it; the same text if nothing changes.

    Args:
        text: the file as it is.
        name: of the block; each import has its own.
        body: the tables.
        force: overwrite what a person changed inside the block.

    Raises:
        Unusable: the file is no TOML, the block was edited, or a mailbox of the same name stands outside of it.
    """
    _checked(text, "The mailboxes file is not TOML")
    block = (
        f"# >>> imported {name} ({_digest(body)}); the next import replaces this block\n{body}# <<< imported {name}\n"
    )
    pattern = rf"^# >>> imported {re.escape(name)} \(([0-9a-f]+)\)[^\n]*\n(.*?)^# <<< imported {re.escape(name)}\n"
    found = re.search(pattern, text, re.MULTILINE | re.DOTALL)
    if found is None:
        before = text if not text or text.endswith("\n") else f"{text}\n"
        after = f"{before}\n{block}" if before else block
    elif found[1] != _digest(found[2]) and not force and found[2] != body:
        raise Unusable(
            f"The block {name} of the mailboxes file was edited after it had been imported; nothing is written. Move "
            "the edited tables out of the block, or import with --force to lose the edits."
        )
    else:
        after = text[: found.start()] + block + text[found.end() :]
    _checked(after, "The mailboxes file has a mailbox of the same name outside of the imported block")
    return after


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _checked(text: str, what: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Unusable(f"{what}: {error}. Nothing is written.") from error
