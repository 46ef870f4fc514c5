"""Bring the tables to this version's form, with the migrations that are shipped beside this file."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

MIGRATIONS = Path(__file__).parent / "migrations"


def revision(connection: Connection) -> str | None:
    """The migration that the tables are at; None if there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def upgrade(connection: Connection) -> None:
    """Bring them to the newest form, within the connection's transaction; does nothing if they are."""
    from alembic import command  # noqa: PLC0415 - a third of a second that only a migration needs
    from alembic.config import Config  # noqa: PLC0415

    if connection.dialect.name == "postgresql":  # others wait; SQLite's transaction keeps them out by itself
        connection.execute(text("SELECT pg_advisory_xact_lock(7305843009213693951)"))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
