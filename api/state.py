"""What every request handler needs, made once when the application is.

Knows how the parts are put together. Must not know any route.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from flask import current_app

from api.recent import Recent
from broker.doorbell import Doorbell
from catalog import Catalog
from corpusmill.settings import Settings
from db.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The application's parts. `waiting` holds the threads that may be kept waiting for a job to change, `recent` figures
    over many rows that are asked for again and again."""

    settings: Settings
    database: Engine
    catalog: Catalog
    doorbell: Doorbell
    waiting: threading.BoundedSemaphore = field(repr=False)
    recent: Recent = field(repr=False)

    @property
    def data_dir(self) -> Path:
        return self.settings.data_dir


def state() -> State:
    """The state of the application that answers the present request."""
    found: State = current_app.extensions["corpusmill"]
    return found
