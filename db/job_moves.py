"""What may be asked of a job after it was submitted: to cancel, to pause, to go on, to try again.

Knows for which status each is (`MOVES`), and the tables `jobs`, `shards`, `results` and `metrics` that it changes. Must
not know how a job ends (`db.jobs`) or what a worker does.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, update

from corpusmill.errors import Conflict
from corpusmill.status import MOVES, Intent
from db.engine import db_now
from db.jobs import Job, close_if_done, end_waiting, get
from db.tables import jobs, metrics, results, shards


def request_cancel(connection: Connection, job_id: str) -> Job:
    """Cancel a job: what waits is cancelled now, what runs when its worker next looks. Raises Conflict where it ended."""
    job = get(connection, job_id)
    if job.status in MOVES["cancel"]:
        # Shards before their job, as whoever claims one locks them: in the other order the two wait for each other.
        end_waiting(connection, job.key, "cancelled")
    if _ask(connection, job_id, Intent.CANCEL, "cancel"):
        close_if_done(connection, job.key)
    return get(connection, job_id)


def request_pause(connection: Connection, job_id: str) -> Job:
    """Start no more shards of a job, and give back those that run, unharmed. Raises Conflict where it cannot be paused."""
    _ask(connection, job_id, Intent.PAUSE, "pause")
    return get(connection, job_id)


def request_resume(connection: Connection, job_id: str) -> Job:
    """Let a paused job go on. Raises Conflict where it has ended or is being cancelled."""
    _ask(connection, job_id, Intent.RUN, "resume")
    return get(connection, job_id)


def _ask(connection: Connection, job_id: str, intent: Intent, move: str) -> bool:
    """Note what is wanted, where the job's state allows it; says whether that was news. The database decides, so that of
    two requests at one time one comes second. Raises Conflict for an illegal move, and NotFound."""
    change = (
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.outcome.is_(None), jobs.c.error.is_(None))
        .where(jobs.c.intent.not_in((intent, Intent.CANCEL)))
        .values(intent=intent)
    )
    if connection.execute(change).rowcount:
        return True
    job = get(connection, job_id)
    if job.status not in MOVES[move]:
        raise _illegal(job, move)
    return False


def _illegal(job: Job, move: str) -> Conflict:
    allowed = ", ".join(sorted(MOVES[move]))
    return Conflict(f"The job {job.id} is {job.status}; {move} is for jobs that are {allowed}.")


def retry(connection: Connection, job_id: str) -> Job:
    """Run a job's failed documents again: the shards that hold them reopen, and what succeeded stays.

    The time between its end and now does not count as its running. Raises Conflict where the job has not ended, was
    cancelled, has no failed document, or its corpus was deleted; and NotFound.
    """
    job = get(connection, job_id)
    if job.status not in MOVES["retry"]:
        raise _illegal(job, "retry")
    if job.corpus_key is None:
        raise Conflict(f"The corpus {job.corpus_id} of the job {job.id} was deleted: nothing can be run again.")
    if job.counts is None or not job.counts.failed:
        raise Conflict(f"The job {job.id} failed before it had documents to run: submit it again.")
    reopened = connection.execute(
        update(jobs)
        .where(jobs.c.key == job.key, jobs.c.outcome.in_(MOVES["retry"]))
        .values(
            outcome=None, error=None, summary=None, reused=None, evaluated=False, confusion_matrix=None, finished_at=None,
            load_losses=0, load_lost_at=None, expires_at=None, intent=Intent.RUN,
            started_at=jobs.c.started_at + db_now() - jobs.c.finished_at,
        )
    ).rowcount  # fmt: skip
    if reopened:
        connection.execute(
            update(shards)
            .where(shards.c.job_key == job.key, shards.c.failed > 0)
            .values(
                # the partial speaks of failed documents that are to run again: without one, the results are asked
                state="pending", failed=0, losses=0, not_before=0.0, owner=None, lease_until=None, published_at=None,
                finished_at=None, partial=None,
            )
        )  # fmt: skip
        connection.execute(delete(results).where(results.c.job_key == job.key, results.c.status == "failed"))
        connection.execute(delete(metrics).where(metrics.c.job_key == job.key))
    return get(connection, job_id)
