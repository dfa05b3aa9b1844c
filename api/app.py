"""The application: its parts, its routes, and what every request passes through.

Knows which blueprints there are. Nothing happens at import.
"""

from __future__ import annotations

import os
import threading

from flask_openapi.models.info import Info
from flask_openapi.openapi import OpenAPI

import corpusmill
from api import corpora, health, jobs, models, problems, results, schedules, security, workers
from api.blueprint import refuse_ignored_queries
from api.problems import Problem
from api.recent import Recent
from api.state import State
from broker.doorbell import Doorbell
from catalog import Catalog
from corpusmill.settings import Settings, refuse_open, settings_from
from db.engine import create_engine

#: Largest JSON body; uploads of corpora are streamed and have a limit of their own.
MOST_JSON_BYTES = 64 << 20
#: How old gauges and the metrics of a running job may be.
_RECENT_SECONDS = 2.0


def create_app(settings: Settings | None = None) -> OpenAPI:
    """The WSGI application for the given settings, or those of the environment.

    Raises InvalidSettings where it would be open to a network without a key. The database and the broker need not answer
    yet: they are reached when they are first needed.
    """
    settings = settings or settings_from(os.environ)
    refuse_open(settings)
    app = OpenAPI(
        "api",
        info=Info(
            title="Corpusmill", version=corpusmill.__version__,
            description="Labels, summaries and translations of large corpora, with their evaluation.",
        ),
        validation_error_model=Problem,
        validation_error_callback=problems.on_invalid,
        security_schemes={"key": {"type": "http", "scheme": "bearer"}},
        doc_ui=False,
        template_folder="web",
        static_folder=None,
    )  # fmt: skip
    app.openapi_version = "3.1.1"
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = MOST_JSON_BYTES
    app.extensions["corpusmill"] = State(
        settings=settings,
        database=create_engine(settings.database, pool_size=settings.api_threads),
        catalog=Catalog(settings.models_root, settings.hub_models, settings.data_dir / "cache"),
        doorbell=Doorbell(settings),
        # At most half the threads wait for a job to change, so that there is always one to answer.
        waiting=threading.BoundedSemaphore(max(1, settings.api_threads // 2)),
        recent=Recent(_RECENT_SECONDS),
    )
    problems.register(app)
    security.register(app, settings)
    refuse_ignored_queries(app)
    for module in (corpora, jobs, results, schedules, models, workers):
        app.register_api(module.blueprint)
    health.register(app, settings)
    return app
