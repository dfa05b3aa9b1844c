"""What the errors of other people's databases mean here, and what of their words whoever reads a run may see.

Knows drivers' exceptions. Must not know what is read or written. A driver's words may hold the address and the account,
which are the operator's, or a cell of a row: only those go on that speak of the statement and the names in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import exc

from corpusmill.errors import PlaceFault, PlaceUnavailable

#: What SQLite says where somebody else is at work, and the next moment will do.
_BUSY = ("locked", "busy")
#: What SQLite says of a statement. It says other things of values, and a trigger says what it likes.
_OF_STATEMENTS = re.compile(
    r"""no\ such\ | ambiguous\ column | near\ | incomplete\ input | unrecognized\ token | wrong\ number\ of\ arguments
    | attempt\ to\ write\ a\ readonly | unable\ to\ open\ database\ file$ | file\ is\ not\ a\ database
    | database\ (is\ locked|or\ disk\ is\ full|disk\ image\ is\ malformed) | (UNIQUE|NOT\ NULL)\ constraint\ failed:""",
    re.VERBOSE,
)
#: PostgreSQL: a name or a word of the statement is wrong, or its schema's, or this cannot be done.
_OF_WORDS = ("42", "3F", "0A")
_MAY_NOT, _READ_ONLY, _CANCELLED = "42501", "25006", "57014"
#: MySQL and MariaDB: no such column, no such table, no such function.
_MYSQL_NAMES = (1054, 1146, 1305)


@contextmanager
def translated(place: str) -> Iterator[None]:
    """A database that does not answer becomes PlaceUnavailable, and one that refuses what is asked of it PlaceFault."""
    try:
        yield
    except exc.DBAPIError as error:
        raise _meaning(place, error) from error
    except exc.StatementError as error:
        kind = type(error.orig or error).__name__
        raise PlaceFault(f"The database {place} cannot be given a value that it gave ({kind}).") from error
    except exc.SQLAlchemyError as error:
        raise PlaceFault(f"The database {place} cannot be used so: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's words, cut where it is very long."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _meaning(place: str, error: exc.DBAPIError) -> PlaceUnavailable | PlaceFault:
    driver: Any = error.orig or error
    if _was_stopped(driver):
        return PlaceFault(f"The database {place} ended a statement that took too long, or that somebody cancelled.")
    if error.connection_invalidated or (
        isinstance(error, exc.OperationalError | exc.InterfaceError) and _is_passing(driver)
    ):
        return PlaceUnavailable(
            f"The database {place} does not answer, or cannot do it now: {_shown(driver)}.", private=first_line(driver)
        )
    return PlaceFault(f"The database {place} says: {_shown(driver)}")


def _was_stopped(driver: Any) -> bool:
    return _state(driver) == _CANCELLED or (_is_sqlite(driver) and str(driver) == "interrupted")


def _is_passing(driver: Any) -> bool:
    """SQLite has one name for everything, a missing column and a lock, and so has MySQL."""
    if _is_sqlite(driver):
        return any(word in str(driver) for word in _BUSY)
    return _number(driver) not in _MYSQL_NAMES


def _shown(driver: Any) -> str:
    """The driver's words where they are of the statement; else the name and number of what went wrong."""
    if _is_sqlite(driver):
        return first_line(driver) if _OF_STATEMENTS.match(str(driver)) else type(driver).__name__
    if _number(driver) in _MYSQL_NAMES:
        return str(driver.args[1])[:300]
    state = _state(driver)
    if state is None:
        return type(driver).__name__
    said = driver.diag
    of_words = state.startswith(_OF_WORDS) and said.statement_position
    if of_words or state == _READ_ONLY or (state == _MAY_NOT and not said.context):
        return str(said.message_primary)[:300]
    names = [f"column {said.column_name}"] if said.column_name else []
    names += [f"constraint {said.constraint_name}"] if said.constraint_name else []
    return f"{type(driver).__name__} ({', '.join([f'SQLSTATE {state}', *names])})"


def _state(driver: Any) -> str | None:
    """The SQLSTATE that PostgreSQL gave; None where there was no answer of its."""
    said = getattr(driver, "diag", None)
    state: str | None = getattr(said, "sqlstate", None)
    return state


def _number(driver: Any) -> int | None:
    """MySQL's number of an error, as its drivers have it first."""
    first = driver.args[0] if len(driver.args) > 1 else None
    return first if isinstance(first, int) else None


def _is_sqlite(driver: Any) -> bool:
    return type(driver).__module__.startswith("sqlite3")
