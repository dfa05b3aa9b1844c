"""Routes of schedules and their runs: make, look, change, delete, run now.

Knows requests and answers. Must not know how a run is done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from flask import Response, request

import db.idempotency as keys
import db.schedules as rows
from api.blueprint import answer, cursor_key
from api.blueprint import blueprint as make_blueprint
from api.idempotency import Idempotency, first_answer, idempotency_of, is_first
from api.problems import names_fields
from api.schemas import PageQuery
from api.schemas_schedules import (
    RunList,
    RunPath,
    RunResponse,
    ScheduleChange,
    ScheduleList,
    SchedulePath,
    ScheduleResponse,
    SchedulesQuery,
)
from api.state import State, state
from api.views import keyset_view, run_view, schedule_view
from corpusmill import cron
from corpusmill.errors import FieldFault, InvalidRequest, NotFound, PlaceFault
from corpusmill.ids import new_id
from corpusmill.places import require_places
from corpusmill.schedules import ScheduleDefinition, SqlSource, check_params, parse_definition
from corpusmill.status import ENDED
from db import job_moves, jobs, runs
from db.engine import Connection, now, reading, settle, transact
from db.external import parsed_url, refuse_statements
from db.runs import Run
from db.schedules import Schedule
from pipeline.places import load_places
from pipeline.report import faulty_rules
from pipeline.ticking import next_fire, run_now

blueprint = make_blueprint("schedules", "What is done every night, with which documents, and where the labels go.")

_SHOWN_FIRES = 5
names_fields(ScheduleDefinition)


@blueprint.post("/schedules", responses={201: ScheduleResponse})
def create(body: ScheduleDefinition) -> Response:
    """Make a schedule

    It fires at its next slot, which the answer names with the four after it. With an `Idempotency-Key` a repetition within
    24 hours gets the first answer and makes no second schedule; once the schedule is deleted, a 410."""
    here = state()
    once = idempotency_of(request)
    if once is not None and (first := first_answer(here.database, once)) is not None:
        return _made(first)
    check_params(body)
    _check(here, body)
    schedule_id = new_id("sched")

    def write(connection: Connection) -> dict[str, Any] | None:
        if once is not None and not is_first(connection, once, schedule_id):
            return None
        rows.create(connection, id=schedule_id, definition=body, next_fire_at=_first_slot(here, body))
        view = _view(rows.get(connection, schedule_id))
        if once is not None:
            keys.keep_answer(connection, once.key, view)
        return view

    return _made(_answered(here, once, write))


@blueprint.get("/schedules", responses={200: ScheduleList})
def list_schedules(query: SchedulesQuery) -> dict[str, Any]:
    """List schedules, newest first"""
    with reading(state().database) as connection:
        found = rows.page(connection, before=cursor_key(query.cursor), limit=query.limit + 1, name=query.name)
    return keyset_view(found, query.limit, _view, lambda schedule: schedule.key)


@blueprint.get("/schedules/<string:schedule_id>", responses={200: ScheduleResponse})
def get_schedule(path: SchedulePath) -> dict[str, Any]:
    """A schedule, with its next five fires"""
    with reading(state().database) as connection:
        return _view(rows.get(connection, path.schedule_id))


@blueprint.patch("/schedules/<string:schedule_id>", responses={200: ScheduleResponse})
def change(path: SchedulePath, body: ScheduleChange) -> dict[str, Any]:
    """Change a schedule

    Each field that is given takes the place of what was there, whole. Runs that have begun go on with what was. A schedule
    that is enabled again fires at its next slot, and makes up for none of the time between."""
    here = state()
    with reading(here.database) as connection:
        schedule = rows.get(connection, path.schedule_id)
    before = schedule.definition
    given = body.model_extra or {}
    stops = given == {"enabled": False}  # for that nothing has to be right
    definition = before.model_copy(update=given) if stops else parse_definition(before.model_dump(mode="json") | given)
    if definition != before:
        if not stops:
            _check(here, definition)
        same = (definition.cron, definition.timezone, definition.enabled) == (
            before.cron, before.timezone, before.enabled
        )  # fmt: skip
        following = schedule.next_fire_at if same else _first_slot(here, definition)
        transact(
            here.database, lambda connection: rows.change(connection, schedule, definition, next_fire_at=following)
        )
    with reading(here.database) as connection:
        return _view(rows.get(connection, path.schedule_id))


@blueprint.delete("/schedules/<string:schedule_id>", responses={204: None})
def delete(path: SchedulePath) -> Response:
    """Delete a schedule with its runs and its ledger

    Jobs of runs that have not ended are cancelled; jobs that have ended stay, and so does what the sinks hold."""
    here = state()
    with reading(here.database) as connection:
        schedule = rows.get(connection, path.schedule_id)

    def write(connection: Connection) -> None:
        for job_id in runs.jobs_of_unfinished(connection, schedule.key):
            if jobs.get(connection, job_id).status not in ENDED:
                job_moves.request_cancel(connection, job_id)
        with suppress(NotFound):  # it was there: this is a repetition after a lost answer, or somebody else was faster
            rows.remove(connection, path.schedule_id)

    transact(here.database, write)
    settle(here.database)
    return Response(status=204)


@blueprint.post("/schedules/<string:schedule_id>/run", responses={202: RunResponse})
def run(path: SchedulePath) -> Response:
    """Run a schedule now, beside its clock

    What is not enabled can be run so, too. A run by hand goes on at any hour, whatever the window."""
    here = state()
    once = idempotency_of(request)
    if once is not None and (first := first_answer(here.database, once)) is not None:
        return answer(first, 202)
    run_id = new_id("run")

    def write(connection: Connection) -> dict[str, Any] | None:
        if once is not None and not is_first(connection, once, run_id):
            return None
        run_now(connection, path.schedule_id, run_id)
        view = run_view(runs.get(connection, run_id))
        if once is not None:
            keys.keep_answer(connection, once.key, view)
        return view

    return answer(_answered(here, once, write), 202)


@blueprint.get("/schedules/<string:schedule_id>/runs", responses={200: RunList})
def list_runs(path: SchedulePath, query: PageQuery) -> dict[str, Any]:
    """List the runs of a schedule, newest first"""
    with reading(state().database) as connection:
        schedule = rows.get(connection, path.schedule_id)
        found = runs.page(connection, schedule.key, before=cursor_key(query.cursor), limit=query.limit + 1)
    return keyset_view(found, query.limit, run_view, lambda run: run.key)


@blueprint.get("/schedules/<string:schedule_id>/runs/<string:run_id>", responses={200: RunResponse})
def get_run(path: RunPath) -> dict[str, Any]:
    """A run as it stands; once it has ended, with its report"""
    with reading(state().database) as connection:
        return run_view(_of(runs.get(connection, path.run_id), path.schedule_id))


def _of(found: Run, schedule_id: str) -> Run:
    if found.schedule_id != schedule_id:
        raise NotFound(f"The schedule {schedule_id!r} has no run {found.id!r}.")
    return found


def _check(here: State, definition: ScheduleDefinition) -> None:
    """Raises InvalidRequest for what would fail every night: a place, a model or a parameter that is not there."""
    places = load_places(here.settings)
    require_places(definition, places)
    source = definition.source
    if isinstance(source, SqlSource) and source.query is not None:
        url = parsed_url(places.database(source.place).url.get_secret_value(), source.place)
        try:
            refuse_statements(source.query, url.get_backend_name())
        except PlaceFault as error:
            raise InvalidRequest(
                "The source's query cannot be used.", FieldFault("/source/query", str(error))
            ) from error
    if definition.report is not None and (faults := faulty_rules(definition.report.fail_if)):
        raise InvalidRequest("The report has no such figure.", *faults)
    job = definition.job
    here.catalog.check(here.catalog.resolve(job.model, job.revision), job.task, job.parsed)


def _first_slot(here: State, definition: ScheduleDefinition) -> float | None:
    return next_fire(definition, now(here.database)) if definition.enabled else None


def _view(schedule: Schedule) -> dict[str, Any]:
    definition = schedule.definition
    after = schedule.next_fire_at
    if after is None:
        return schedule_view(schedule, [])
    moment = datetime.fromtimestamp(after - 1, UTC)  # the next slot itself is the first to be shown
    shown = cron.next_fires(definition.cron, cron.zone_of(definition.timezone), moment, _SHOWN_FIRES)
    return schedule_view(schedule, [instant.timestamp() for instant in shown])


def _answered(
    here: State, once: Idempotency | None, write: Callable[[Connection], dict[str, Any] | None]
) -> dict[str, Any]:
    """What a transaction made, or what another request with the same key made a moment before."""
    view = transact(here.database, write)
    if view is None:
        view = first_answer(here.database, once) if once is not None else None
    assert view is not None, "the other request's key and answer were committed together"
    return view


def _made(view: dict[str, Any]) -> Response:
    return answer(view, 201, Location=f"/api/v1/schedules/{view['id']}")
