#!/usr/bin/env python3
"""Write what is made from the code: RabbitMQ's definitions, an example of an environment file, the table of verdicts.

`make schemas` runs it; tests/unit/test_generated.py fails when somebody forgot to.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from worker.broker.definitions import definitions, producer_user, worker_user
from worker.broker.topology import Topology
from worker.domain.advice import does, whose
from worker.domain.verdict import CHAPTERS, Row, catalogue, sources
from worker.settings import documented

REPOSITORY: Final = Path(__file__).resolve().parents[2]

_HEAD = """\
# Every setting of a worker, with its default. Made from worker/settings.py by `make schemas`; copy it, change the copy.
#
# An environment file: for `env_file` in compose, `--env-file` of docker, `EnvironmentFile=` of systemd.
# NAME_FILE instead of NAME takes the value from a file (Docker and Kubernetes secrets); POSTLANE_SECRETS_DIR names a
# directory of such files, POSTLANE_CONFIG a TOML file with the same tree. `postlane config show` tells what holds.
"""


def rabbitmq_definitions() -> str:
    """What `postlane topology definitions` prints: the users are there, but cannot log in without a password."""
    topology = Topology()
    users = (worker_user("postlane-worker", topology), producer_user("postlane-producer", topology))
    return json.dumps(definitions(topology, dict.fromkeys(users)), indent=2) + "\n"


def environment_example() -> str:
    """All settings, commented out, so that a copy changes nothing until somebody wants it to."""
    return _HEAD + "".join(
        f"\n{textwrap.fill(description, 118, initial_indent='# ', subsequent_indent='# ')}\n#{name}={default}\n"
        for name, default, description in documented()
    )


_VERDICTS = """\
# What replies mean

Made from `worker/domain/verdicts/` by `make schemas`: the catalogue by which Postlane decides what follows from a reply
of a mail server, an error of Entra, an answer of Microsoft Graph, or a broken connection. The first row that fits
decides.
`postlane explain "535 5.7.139 ..."` looks a reply up; `--stage connect|auth|mail|rcpt|data|token|graph` narrows it.

- **Class** is what results and metrics call it; before the `/` the family, behind it the special case.
- **Scope** is whose trouble it is.
- A reply that no row knows is decided by its first digit (RFC 5321): 4yz is tried again, 5yz fails; while connecting or
  logging in the mailbox rests instead. It is counted, so that a row can be added.
"""

_TITLES = {
    "faults": "Where no server said anything",
    "hve": "High Volume Email",
    "exchange-online": "Exchange Online",
    "providers": "Other servers and services",
    "graph": "Microsoft Graph",
    "oauth": "Entra ID and other token authorities",
    "rfc": "Every other server: the standards",
}


def verdict_table() -> str:
    """The catalogue for administrators, chapter by chapter."""
    chapters = (f"\n## {_TITLES[chapter]}\n\n{_table(catalogue(chapter))}" for chapter in CHAPTERS)
    listed = (f"- `{tag}`: {place}\n" for tag, place in sources().items())
    return f"{_VERDICTS}{''.join(chapters)}\n## Sources\n\n{''.join(listed)}"


def _table(rows: tuple[Row, ...]) -> str:
    heads = ("reply", "class", "scope", "what it means", "what Postlane does", "what to do", "source")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        verdict = row.verdict
        cells = (
            f"`{_reply(row)}`",
            f"`{verdict.kind}`",
            whose(verdict),
            verdict.explanation,
            does(verdict),
            verdict.remedy,
            verdict.source,
        )
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _reply(row: Row) -> str:
    """What the administrator sees in a log."""
    if row.example:
        return row.example.replace("`", "'")
    said = (
        *(f"AADSTS{number}" for number in sorted(row.hints)),
        *sorted(row.errors),
        *row.graph_codes,
        *(f"HTTP {status}" for status in sorted(row.statuses)),
        *sorted(row.faults),
    )
    where = f" at {', '.join(sorted(row.stages))}" if row.faults and row.stages else ""
    return f"{', '.join(said)}{where}"


FILES: Final[Mapping[Path, Callable[[], str]]] = {
    REPOSITORY / "deploy/rabbitmq/definitions.json": rabbitmq_definitions,
    REPOSITORY / "deploy/worker.env.example": environment_example,
    REPOSITORY / "docs/verdicts.md": verdict_table,
}


def main() -> None:
    """Write the files."""
    for path, made in FILES.items():
        path.write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main()
