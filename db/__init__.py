"""Everything durable: corpora, jobs, shards, results and metrics in SQL, and the corpus files beside them.

The only place that knows SQLAlchemy. Knows SQLite and PostgreSQL. Must not know HTTP, Celery or torch. One module a noun;
functions take a connection, so that the caller owns the transaction.
"""
