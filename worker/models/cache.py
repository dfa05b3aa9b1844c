"""The engines a worker keeps loaded: as many as fit, the least recently used dropped first.

Knows bytes and who is still held by somebody. Must not know how engines are loaded or run.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from catalog import Catalog
from corpusmill.errors import InvalidRequest, ModelFault
from corpusmill.models import ModelInfo
from corpusmill.settings import Settings
from corpusmill.tasks import Params, Task
from worker.device import Device, release, total_bytes
from worker.engines.base import Engine
from worker.models.loading import weights_folder
from worker.models.table import engine_class, load_engine

#: (id, revision, engine class, engine and dtype asked for); the device is the worker's one.
Key = tuple[str, str, str, str, str]
Load = Callable[[ModelInfo, Task, Params, Device], Engine[Any]]


class ModelCache:
    """The loaded models of one process on one device. `get` may be called from several threads.

    An engine that somebody outside still refers to is in use and is never dropped; whoever has done with one lets go of
    it. A model larger than the whole budget is loaded all the same, with nothing unused beside it.
    """

    def __init__(self, catalog: Catalog, device: Device, settings: Settings, load: Load | None = None) -> None:
        self._catalog = catalog
        self._device = device
        self._budget = settings.model_cache_bytes
        self._load = load or partial(load_engine, cache=settings.data_dir / "cache")
        self._engines: OrderedDict[Key, Engine[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, info: ModelInfo, task: Task, params: Params) -> Engine[Any]:
        """The engine for a task on a model, loaded if it is not yet. Raises ModelFault where it cannot be."""
        key = _key(info, task, params)
        with self._lock:
            if key in self._engines:
                self._engines.move_to_end(key)
                self._make_room(0, keep=key)
                return self._engines[key]
            here = self._here(info)
            self._make_room(_bytes_on_disk(here))
            engine = self._load(here, task, params, self._device)
            self._engines[key] = engine
            self._make_room(0, keep=key)
            return engine

    def has(self, info: ModelInfo, task: Task, params: Params) -> bool:
        """Whether `get` has nothing to load. Raises ModelFault where it cannot be loaded."""
        key = _key(info, task, params)
        with self._lock:
            return key in self._engines

    def loaded(self) -> frozenset[tuple[str, str]]:
        """(id, revision) of every model that is loaded. Never waits, not even while one is being loaded."""
        return frozenset((model_id, revision) for model_id, revision, *_ in list(self._engines))

    def _here(self, info: ModelInfo) -> ModelInfo:
        """The model as it stands on this machine, which need not be the one where the job was accepted."""
        if info.family == "echo":
            return info
        try:
            return self._catalog.fetch(self._catalog.resolve(info.id, info.revision))
        except InvalidRequest as error:
            raise ModelFault(str(error)) from error

    def _make_room(self, wanted: int, keep: Key | None = None) -> None:
        """Drop unused engines, least recently used first, until `wanted` more bytes fit the budget."""
        budget = self._budget or total_bytes(self._device) // 2
        held = sum(engine.weight_bytes for engine in self._engines.values())
        for key in list(self._engines):
            if held + wanted <= budget:
                return
            size = self._engines[key].weight_bytes
            if key != keep and size and self._drop(key):
                held -= size

    def _drop(self, key: Key) -> bool:
        """Let go of an engine, unless somebody else still holds it."""
        alive = weakref.ref(self._engines[key])
        position = list(self._engines).index(key)
        engine = self._engines.pop(key)
        del engine
        gc.collect()
        survivor = alive()
        if survivor is None:
            release(self._device)
            return True
        self._engines[key] = survivor
        for other in list(self._engines)[position:-1]:
            self._engines.move_to_end(other)
        return False


def _key(info: ModelInfo, task: Task, params: Params) -> Key:
    return info.id, info.revision, engine_class(info, task, params).name, params.engine, params.dtype


def _bytes_on_disk(info: ModelInfo) -> int:
    """About what the weights will hold: the size of their files."""
    if info.path is None:
        return 0
    return sum(path.stat().st_size for path in weights_folder(info).glob("model*.safetensors"))
