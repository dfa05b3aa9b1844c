"""The database's tables, brought to this version by whoever starts the service.

Knows how a database that cannot be used is told to an operator. Must not know the tables.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from corpusmill.errors import DatabaseUnavailable
from corpusmill.settings import Settings


def upgrade(settings: Settings) -> None:
    """Bring the tables to this version; makes a SQLite file where there is none.

    Raises DatabaseUnavailable, naming the database and its reason, where it cannot be used.
    """
    from db.engine import migrate

    try:
        migrate(settings.database)
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(f"{unusable(settings, error)} {mend(settings)}") from error


def unusable(settings: Settings, error: DatabaseUnavailable) -> str:
    """What a database's own driver says of it, which an operator may read and a caller over HTTP may not."""
    driver = getattr(error.__cause__, "orig", None) or error
    reason = " ".join(str(driver).split())
    return f"The database {_place(settings)} cannot be used: {reason.rstrip('.')}."


def mend(settings: Settings) -> str:
    """What an operator can do about it."""
    if settings.database.startswith("sqlite"):
        return "Make room and see that it may be written, or choose another directory (CORPUSMILL_DATA_DIR)."
    return "Start it, or correct CORPUSMILL_DATABASE_URL."


def _place(settings: Settings) -> str:
    """The file, or the host and name, without user and password."""
    if settings.database.startswith("sqlite"):
        return settings.database.removeprefix("sqlite:///")
    parts = urlsplit(settings.database)
    return f"{parts.path.removeprefix('/') or 'of the same name as its user'} at {parts.hostname}:{parts.port or 5432}"
