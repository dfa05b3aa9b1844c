"""Alembic's environment: one connection to the URL that `db.engine.migrate` was given."""

from __future__ import annotations

from alembic import context

from db.engine import create_engine
from db.tables import metadata


def run() -> None:
    engine = create_engine(context.config.attributes["url"])
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            render_as_batch=connection.dialect.name == "sqlite",
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
