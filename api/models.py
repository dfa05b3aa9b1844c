"""Routes of models: what may be run here.

Knows the catalog's listing and which workers hold what. Must not load anything.
"""

from __future__ import annotations

from typing import Any

from api.blueprint import blueprint as make_blueprint
from api.schemas import ModelList
from api.state import state
from api.views import model_view, page_view
from db import workers
from db.engine import reading

blueprint = make_blueprint("models", "Neural networks that may be run here.")


@blueprint.get("/models", responses={200: ModelList})
def list_models() -> dict[str, Any]:
    """Models on this machine; any allowed Hub model may be used besides"""
    here = state()
    with reading(here.database) as connection:
        loaded = workers.loaded_models(connection)
    views = [model_view(info, loaded.get((info.id, info.revision), [])) for info in here.catalog.listing()]
    return page_view(views, None)
