#!/usr/bin/env python3
"""Write what is made from the code: RabbitMQ's definitions and the example of an environment file.

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


FILES: Final[Mapping[Path, Callable[[], str]]] = {
    REPOSITORY / "deploy/rabbitmq/definitions.json": rabbitmq_definitions,
    REPOSITORY / "deploy/worker.env.example": environment_example,
}


def main() -> None:
    """Write the files."""
    for path, made in FILES.items():
        path.write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main()
