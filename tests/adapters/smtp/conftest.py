"""A throw-away certificate authority, and contexts for servers that behave and for servers that do not."""

from pathlib import Path

import pytest
import trustme


@pytest.fixture
def other_authority(tmp_path: Path) -> trustme.CA:
    """One that nobody trusts."""
    return trustme.CA(organization_name="Somebody else")
