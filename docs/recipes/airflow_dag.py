"""Airflow 3: an operator that has a Corpusmill schedule run, and is as well as its night was; and a DAG with it.

Put this file into the DAGs folder, with `pip install ./client` in Airflow's environment. The schedule is made beforehand
(`corpusmill schedule apply`), with `enabled = false`: Airflow fires it. CORPUSMILL_URL and CORPUSMILL_API_KEY say where.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any

from airflow.exceptions import AirflowFailException
from airflow.sdk import DAG, BaseOperator
from corpusmill_client import Client


class CorpusmillSchedule(BaseOperator):
    """Has a schedule run now and waits for the end of the run.

    A retry after this worker was lost is about the run that it started, also where that has ended badly meanwhile; a task
    that somebody clears starts another. A run that others started is waited for first. Fails for good where the run failed
    or broke a rule of `fail_if`, which no retry would mend; a server that does not answer is a retry's business. Returns
    run, job and the figures of the report, for the tasks after it.
    """

    template_fields = ("schedule",)

    def __init__(
        self, *, schedule: str, url: str | None = None, failed_documents_are_well: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.schedule = schedule
        self.url = url
        self.failed_documents_are_well = failed_documents_are_well

    def execute(self, context: Any) -> dict[str, Any]:
        with Client(self.url) as client:
            found = next(client.schedules(name=self.schedule, limit=1), None)
            if found is None:
                raise AirflowFailException(f"There is no schedule {self.schedule!r}.")
            for other in found.runs(limit=1):
                other.wait()
            run = found.run(key=_key(context["ti"]))
            self.log.info("%s of %s", run.id, self.schedule)
            run.wait(progress=lambda now: self.log.info("%s: %s", now.stage, now.status))
        if run.exit_code == 1:
            raise AirflowFailException(" ".join(run.broken) or f"The run {run.status}: {run.error}")
        if run.exit_code == 3 and not self.failed_documents_are_well:
            raise AirflowFailException(f"{run.failed_documents} documents could not be labelled.")
        return {"run": run.id, "job": run.job, "figures": dict((run.report or {}).get("figures", {}))}


def _key(ti: Any) -> str:
    """The same for all tries of a task's instance, and another once it is cleared: Airflow then allows it more tries."""
    said = [ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.max_tries]
    return "airflow-" + hashlib.sha256(repr(said).encode()).hexdigest()


with DAG(
    "corpusmill_reviews", schedule="30 2 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
) as dag:  # fmt: skip
    CorpusmillSchedule(task_id="label", schedule="reviews")
