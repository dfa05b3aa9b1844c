"""Routes of workers: which processes run shards here, and what each has in hand.

Knows the rows that workers keep of themselves. Must not speak to any of them.
"""

from __future__ import annotations

from typing import Any

from api.blueprint import blueprint as make_blueprint
from api.schemas import WorkerList
from api.state import state
from api.views import page_view, worker_view
from db import workers
from db.engine import reading

blueprint = make_blueprint("workers", "Processes that run shards, one on each device.")


@blueprint.get("/workers", responses={200: WorkerList})
def list_workers() -> dict[str, Any]:
    """Workers seen within the last minute"""
    with reading(state().database) as connection:
        return page_view([worker_view(worker) for worker in workers.alive(connection)], None)
