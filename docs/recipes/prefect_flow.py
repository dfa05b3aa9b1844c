"""Prefect 3: a flow that has a Corpusmill schedule run, and is as well as its night was.

`pip install ./client` goes into Prefect's environment; the schedule is made beforehand (`corpusmill schedule apply`), with
`enabled = false`: Prefect fires it. CORPUSMILL_URL and CORPUSMILL_API_KEY say where.
"""

from __future__ import annotations

import sys
from typing import Any

from corpusmill_client import Client
from prefect import flow, get_run_logger, task
from prefect.runtime import task_run


class NotWell(Exception):
    """The run failed, or a rule of `fail_if` is broken: another try would find the same."""


@task(
    retries=3,
    retry_delay_seconds=60,
    retry_condition_fn=lambda task, run, state: not isinstance(_error(state), NotWell),
)
def label(schedule: str, url: str | None = None) -> dict[str, Any]:
    """Has a schedule run now, and waits. A retry is about the run that the first try started, also where that has ended
    badly meanwhile; a run that others started is waited for first."""
    log = get_run_logger()
    with Client(url) as client:
        found = next(client.schedules(name=schedule, limit=1), None)
        if found is None:
            raise NotWell(f"There is no schedule {schedule!r}.")
        for other in found.runs(limit=1):
            other.wait()
        run = found.run(key=f"prefect-{task_run.id}")
        run.wait(progress=lambda now: log.info("%s %s: %s", now.id, now.stage, now.status))
    if run.exit_code == 1:
        raise NotWell(" ".join(run.broken) or f"The run {run.status}: {run.error}")
    if run.exit_code == 3:
        log.warning("%d documents could not be labelled", run.failed_documents)
    return {"run": run.id, "job": run.job, "figures": dict((run.report or {}).get("figures", {}))}


def _error(state: Any) -> Any:
    return state.result(raise_on_failure=False)


@flow(name="corpusmill-night", log_prints=True)
def night(schedule: str, url: str | None = None) -> dict[str, Any]:
    """One night; what is to follow the labels follows here."""
    done = label(schedule, url)
    print(f"{done['run']}: {done['figures'].get('succeeded', 0)} documents labelled")
    return done


if __name__ == "__main__":
    # `night.serve(name="reviews", cron="30 2 * * *", parameters={"schedule": "reviews"})` keeps it going instead
    night(sys.argv[1])
