"""The tables. Times are seconds since 1970 (UTC) by the database's clock; ids in messages and URLs are never keys.

`migrations/` holds how they came to be; a test holds that both say the same.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)  # fmt: skip
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
#: SQLite numbers rows by itself only where the key is INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")

corpora = Table(
    "corpora",
    metadata,
    Column("key", Key, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("name", Text),
    Column("status", String(16), nullable=False),
    Column("format", String(16), nullable=False),
    Column("encoding", String(8)),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("documents", BigInteger, nullable=False, server_default="0"),
    Column("invalid", BigInteger, nullable=False, server_default="0"),
    Column("fields", Json, nullable=False),
    Column("options", Json, nullable=False),
    # Inline documents of a job: a corpus like any other, but not listed and deleted with its job.
    Column("inline", Boolean, nullable=False, server_default="0"),
    Column("error", Json),
    Column("owner", String(64)),
    Column("lease_until", Float),
    # Readers of the upload that were killed over it: they left an owner whose lease ran out, and were not heard of again.
    Column("readers_lost", Integer, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    # After this it is deleted with its files, once no job that has not ended uses it.
    Column("expires_at", Float, index=True),
    # The newest version of its references (`corpus_references`); 0: those that were uploaded with its documents.
    Column("references_version", Integer, nullable=False, server_default="0"),
    CheckConstraint("status in ('validating', 'ready', 'rejected')", name="status"),
    # A key is never used again: a late message or a worker's memory of a deleted job must not meet another one.
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("key", Key, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("name", Text),
    Column("task", String(32), nullable=False),
    Column("model_id", Text, nullable=False),
    Column("model_revision", Text, nullable=False),
    Column("model", Json, nullable=False),
    Column("corpus_key", Key, ForeignKey("corpora.key", ondelete="SET NULL"), index=True),
    Column("corpus_id", String(40), nullable=False),
    Column("corpus_invalid", BigInteger, nullable=False, server_default="0"),
    Column("params", Json, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("metadata", Json, nullable=False),
    Column("intent", String(8), nullable=False),
    Column("error", Json),
    # Documents in all, once the shards are planned: a corpus may still be validating.
    Column("total", BigInteger),
    # The status it ended with, or none while it has not ended.
    Column("outcome", String(24)),
    Column("runtime", Json),
    # What a reader of an ended job needs without summing its shards; written with the last shard.
    Column("summary", Json),
    Column("confusion_matrix", Json),
    Column("evaluated", Boolean, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    # Seconds for which it is kept after its end, and when these are over.
    Column("ttl", Float),
    Column("expires_at", Float, index=True),
    # When a shard of it was last claimed: jobs of one priority take turns by it.
    Column("claimed_at", Float),
    # Whether outputs kept of the same texts are taken, and its own kept for others.
    Column("reuse", Boolean, nullable=False, server_default="0"),
    # How many results were taken so, once it has ended.
    Column("reused", BigInteger),
    # Workers lost in a row while they loaded its model, and when the last of them was noted.
    Column("load_losses", Integer, nullable=False, server_default="0"),
    Column("load_lost_at", Float),
    # The version of the references that the metrics which are kept are of.
    Column("references_version", Integer, nullable=False, server_default="0"),
    CheckConstraint("intent in ('run', 'pause', 'cancel')", name="intent"),
    Index("ix_jobs_outcome_priority", "outcome", "priority"),
    sqlite_autoincrement=True,
)

shards = Table(
    "shards",
    metadata,
    Column("key", Key, primary_key=True),
    Column("job_key", Key, ForeignKey("jobs.key", ondelete="CASCADE"), nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("stop", BigInteger, nullable=False),
    Column("state", String(12), nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("owner", String(96)),
    Column("lease_until", Float),
    Column("not_before", Float, nullable=False, server_default="0"),
    Column("published_at", Float),
    # The attempt whose worker is loading the model, while it is.
    Column("loading", Integer),
    Column("succeeded", BigInteger, nullable=False, server_default="0"),
    Column("failed", BigInteger, nullable=False, server_default="0"),
    Column("cancelled", BigInteger, nullable=False, server_default="0"),
    Column("usage", Json),
    Column("partial", Json),
    # The version of the references that the statistics of its results, and the partial, were made with.
    Column("references_version", Integer, nullable=False, server_default="0"),
    Column("started_at", Float),
    Column("finished_at", Float),
    CheckConstraint("state in ('pending', 'running', 'done', 'cancelled', 'failed')", name="state"),
    CheckConstraint("stop > start", name="slice"),
    Index("ix_shards_job_key_start", "job_key", "start", unique=True),
    Index("ix_shards_state_job_key_losses_start", "state", "job_key", "losses", "start"),
    sqlite_autoincrement=True,
)

results = Table(
    "results",
    metadata,
    Column("job_key", Key, ForeignKey("jobs.key", ondelete="CASCADE"), primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("document_id", Text, nullable=False),
    Column("status", String(12), nullable=False),
    Column("output", Json),
    Column("error", Json),
    Column("label", Text),
    Column("score", Float),
    Column("n_tokens", BigInteger, nullable=False),
    Column("n_segments", Integer, nullable=False),
    Column("truncated", Boolean, nullable=False),
    # Sufficient statistics of the metrics, so that intervals and comparisons never need the texts again.
    Column("statistics", Json),
    sqlite_with_rowid=False,
)

metrics = Table(
    "metrics",
    metadata,
    Column("job_key", Key, ForeignKey("jobs.key", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Float),
    Column("ci_low", Float),
    Column("ci_high", Float),
    Column("n", BigInteger),
    Column("coverage", Float),
    Column("signature", Text),
    Column("ordinal", Integer, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(96), primary_key=True),
    Column("hostname", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("models", Json, nullable=False),
    Column("shard_key", Key),
    Column("memory", Json),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", String(255), primary_key=True),
    # Of the request that came with the key first: another request with the same key is a mistake.
    Column("fingerprint", String(64), nullable=False),
    # The id of what the request made, and its answer where that is kept word for word.
    Column("made", String(40), nullable=False, index=True),
    Column("answer", Json),
    Column("created_at", Float, nullable=False, index=True),
)

schedules = Table(
    "schedules",
    metadata,
    Column("key", Key, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("definition", Json, nullable=False),
    # Rises with each change of the definition.
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("enabled", Boolean, nullable=False),
    # The first slot that has no run yet; none while it is disabled. Only for finding what is due: the unique key of
    # `runs` decides.
    Column("next_fire_at", Float, index=True),
    # What the source gave last, as the source itself says it; written with the end of a run that succeeded.
    Column("position", Json),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    Column("key", Key, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("schedule_key", Key, ForeignKey("schedules.key", ondelete="CASCADE"), nullable=False),
    # The instant of the slot; of a run by hand the time at which it was asked for.
    Column("fire_time", Float, nullable=False),
    Column("trigger", String(8), nullable=False),
    Column("status", String(12), nullable=False),
    Column("stage", String(8), nullable=False),
    Column("owner", String(96)),
    Column("lease_until", Float),
    Column("attempt", Integer, nullable=False, server_default="0"),
    # How often a stage was put off because something did not answer, and until when.
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("not_before", Float, nullable=False, server_default="0"),
    Column("corpus_id", String(40)),
    Column("job_id", String(40)),
    Column("definition", Json, nullable=False),
    # What the source gave, as the schedule will know it when the run has succeeded.
    Column("position", Json),
    Column("counts", Json),
    Column("report", Json),
    Column("error", Json),
    Column("cancel", Boolean, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    CheckConstraint("trigger in ('cron', 'tick', 'manual')", name="trigger"),
    CheckConstraint(
        "status in ('waiting', 'running', 'paused', 'succeeded', 'failed', 'skipped', 'cancelled')", name="status"
    ),
    CheckConstraint("stage in ('read', 'label', 'deliver', 'review', 'report')", name="stage"),
    Index("ix_runs_schedule_key_fire_time", "schedule_key", "fire_time", unique=True),
    Index("ix_runs_status", "status"),
    sqlite_autoincrement=True,
)

# The ledger: what each document of a schedule's source has now.
labelled_documents = Table(
    "labelled_documents",
    metadata,
    Column("schedule_key", Key, ForeignKey("schedules.key", ondelete="CASCADE"), primary_key=True),
    Column("document_id", Text, primary_key=True),
    # Counts a schedule's documents: what a scan of the source has seen is one bit for each of them.
    Column("number", BigInteger, nullable=False),
    # Of the text that was labelled; none while it never was.
    Column("text_hash", LargeBinary(16)),
    # Of what labelled it: task, model, revision and parameters.
    Column("scope_hash", LargeBinary(16)),
    Column("run_key", Key),
    Column("status", String(12)),
    # Where a run holds it that has not delivered yet: that run, and the text as that run read it.
    Column("wanted_by", Key),
    Column("wanted_hash", LargeBinary(16)),
    Index("ix_labelled_documents_schedule_key_number", "schedule_key", "number", unique=True),
    Index("ix_labelled_documents_wanted_by", "wanted_by"),
    sqlite_with_rowid=False,
)

reuse_scopes = Table(
    "reuse_scopes",
    metadata,
    Column("key", Key, primary_key=True),
    # Of all that shapes an output besides the text, which `description` says in words.
    Column("hash", String(64), nullable=False, unique=True),
    Column("description", Json, nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)

reused_outputs = Table(
    "reused_outputs",
    metadata,
    Column("scope_key", Key, ForeignKey("reuse_scopes.key", ondelete="CASCADE"), primary_key=True),
    Column("text_hash", LargeBinary, primary_key=True),
    # JSON word for word: an output comes back as it was, with its labels in their order.
    Column("output", Text, nullable=False),
    Column("n_tokens", BigInteger, nullable=False),
    Column("n_segments", Integer, nullable=False),
    Column("truncated", Boolean, nullable=False),
    # To within a tenth of the time for which an output is kept: a use is not to cost a write.
    Column("used_at", Float, nullable=False),
    sqlite_with_rowid=False,
)

# Deleted corpora whose texts' kept outputs are still to be forgotten, and from which of their documents on.
forgetting = Table(
    "forgetting",
    metadata,
    Column("corpus_id", String(40), primary_key=True),
    Column("position", BigInteger, nullable=False, server_default="0"),
)

reviews = Table(
    "reviews",
    metadata,
    Column("key", Key, primary_key=True),
    Column("schedule_key", Key, ForeignKey("schedules.key", ondelete="CASCADE"), nullable=False),
    Column("document_id", Text, nullable=False),
    Column("model_revision", Text, nullable=False),
    Column("run_key", Key, ForeignKey("runs.key", ondelete="CASCADE"), nullable=False, index=True),
    # Which rule sent it: threshold, margin, entropy or audit.
    Column("why", String(16), nullable=False),
    Column("position", BigInteger),
    Column("label", Text),
    Column("score", Float),
    Column("pushed_at", Float),
    Column("remote_id", Text),
    Column("answer", Json),
    Column("answered_at", Float),
    Index("ix_reviews_schedule_key_document_id_model_revision", "schedule_key", "document_id", "model_revision",
          unique=True),
    sqlite_autoincrement=True,
)  # fmt: skip

corpus_references = Table(
    "corpus_references",
    metadata,
    Column("corpus_key", Key, ForeignKey("corpora.key", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    # The name of its files beside the corpus's documents.
    Column("file", String(40), nullable=False),
    Column("documents", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
)
