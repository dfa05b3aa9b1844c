"""Alembic's environment: one connection to the URL that `db.engine.migrate` was given."""

from __future__ import annotations

from alembic import context

from db.engine import create_engine, to_write
from db.tables import metadata


def run() -> None:
    engine = create_engine(context.config.attributes["url"])
    # With the write lock from the start: whoever reads first and then writes fails where others write meanwhile.
    with to_write(engine.connect()) as connection:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            render_as_batch=connection.dialect.name == "sqlite",
            compare_type=True,
            transactional_ddl=True,  # on SQLite as well: all of an upgrade, or nothing of it
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
