"""A template directory on disk, as an administrator keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]

FILES = {
    "approval/cs.subject.j2": "Žádost č. {{ id }}: {{ application }}\n",
    "approval/cs.html.j2": (
        '{% extends "_shared/page.html.j2" %}\n'
        "{% block body %}<p>Dobrý den, {{ recipient.name }},</p>\n"
        '<p><a href="{{ base }}/{{ id }}">rozhodněte</a> o žádosti {{ application }}.</p>{% endblock %}\n'
    ),
    "approval/en.subject.j2": "Request {{ id }}: {{ application }}",
    "approval/en.txt.j2": "Please decide on {{ application }}: {{ base }}/{{ id }}\n",
    "_shared/page.html.j2": "<html><body>{% block body %}{% endblock %}</body></html>",
    "rules.toml": """
locales = ["cs", "en"]

[[rules]]
event = "approval.requested"
template = "approval"
category = "approval"
to = "boss@contoso.com; Omar <omar@contoso.com>"
data = { base = "https://pm.contoso.com" }
""",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With templates in Czech and English, and one rule."""
    root = tmp_path / "templates"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def write(directory: Path) -> Write:
    """Put a text into a file of the directory."""

    def put(name: str, text: str | bytes) -> Path:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return put
