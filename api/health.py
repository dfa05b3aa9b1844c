"""Routes for machines that watch and people who look: health, Prometheus metrics, the front page and the documentation.

Knows what the parts say of themselves. Must not know what a job does.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import structlog
from flask import Response, render_template, send_from_directory
from flask_openapi.openapi import OpenAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

import corpusmill
from api.blueprint import answer
from api.document import document
from api.state import State, state
from api.views import job_view
from corpora.disk import full
from corpusmill.errors import BrokerFull, BrokerUnavailable, DatabaseUnavailable
from corpusmill.settings import Settings
from db import jobs as job_rows
from db import overview
from db.engine import reading, usable

log = structlog.get_logger(__name__)
_WEB = Path(__file__).parent / "web"
#: Jobs on the front page, the newest.
_LATEST = 10


def register(app: OpenAPI, settings: Settings) -> None:
    """Add these routes, which stand outside `/api/v1`."""
    app.add_url_rule("/healthz", "healthz", healthz)
    app.add_url_rule("/readyz", "readyz", readyz)
    app.add_url_rule("/metrics", "metrics", prometheus)
    app.add_url_rule("/openapi.json", "openapi", cache(lambda: document(app, keyed=bool(settings.api_key))))
    app.add_url_rule("/docs", "docs", lambda: render_template("docs.html"))
    app.add_url_rule("/", "index", index)
    app.add_url_rule("/assets/<path:name>", "assets", lambda name: send_from_directory(_WEB, name))
    swagger = Path(str(files("flask_openapi_swagger"))) / "templates" / "swagger"
    app.add_url_rule("/assets/swagger/<path:name>", "swagger", lambda name: send_from_directory(swagger, name))


def healthz() -> dict[str, str]:
    """The process is up."""
    return {"status": "ok", "version": corpusmill.__version__}


def readyz() -> Response:
    """Database and broker answer, and there is room on the disks; 503 with the reason of each that fails."""
    checks = _checks(state())
    ready = all(check == "ok" for check in checks.values())
    return answer({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)


def _checks(here: State) -> dict[str, str]:
    checks = {"database": "ok", "broker": "ok", "disk": "ok"}
    try:
        if not usable(here.database):
            checks["database"] = "its tables are not those of this version: run `corpusmill db upgrade`"
    except DatabaseUnavailable as error:
        log.warning("not ready", why=str(error))
        checks["database"] = "does not answer"
    try:
        here.doorbell.ping()
    except BrokerUnavailable as error:
        log.warning("not ready", why=str(error))
        checks["broker"] = error.why if isinstance(error, BrokerFull) else "does not answer"
    if no_room := full(here.settings):
        checks["disk"] = f"is full: {', '.join(no_room)}"
    return checks


def prometheus() -> Response:
    """Gauges for Prometheus, read from the database; those who scrape more often get figures a few seconds old."""
    here = state()
    registry = CollectorRegistry()
    counted = here.recent.get("overview", lambda: _counted(here))
    for name, description, label, values in (
        ("corpusmill_jobs", "Jobs by status", "status", counted.jobs),
        ("corpusmill_shards", "Shards of open jobs by state", "state", counted.shards),
        ("corpusmill_documents", "Documents of all jobs by outcome", "outcome", counted.documents),
    ):
        gauge = Gauge(name, description, [label], registry=registry)
        for key, value in values.items():
            gauge.labels(key).set(value)
    Gauge("corpusmill_workers", "Workers seen in the last minute", registry=registry).set(counted.workers)
    Gauge("corpusmill_losses", "Shards lost with their worker, in all", registry=registry).set(counted.losses)
    try:
        depth = here.doorbell.depth()
    except BrokerUnavailable:
        depth = -1
    Gauge("corpusmill_queue_depth", "Messages in the broker, -1 if it is away", registry=registry).set(depth)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def index() -> str:
    """A plain page that says what is running and where the documentation is."""
    here = state()
    context: dict[str, Any] = {"version": corpusmill.__version__, "checks": _checks(here), "counted": None}
    if not here.settings.api_key and context["checks"]["database"] == "ok":
        context["counted"] = here.recent.get("overview", lambda: _counted(here))
        with reading(here.database) as connection:
            context["latest"] = [job_view(job) for job in job_rows.page(connection, before=None, limit=_LATEST)]
    return render_template("index.html", **context)


def _counted(here: State) -> overview.Overview:
    with reading(here.database) as connection:
        return overview.count(connection)
