"""A worker that alternates between models loses no memory, however often it loads them."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import psutil
import pytest

from catalog import Catalog
from corpusmill.documents import Document
from corpusmill.settings import settings_from
from corpusmill.tasks import PARAMS, Task
from tests import tiny_models, tiny_seq2seq
from worker.device import pick_device
from worker.engines.base import Usage
from worker.models import ModelCache

#: Loads after which everything that is made once has been made: lazy imports, thread pools, allocator arenas.
WARM = 20
LOADS = 200


def footprint() -> tuple[int, int, int]:
    """Resident bytes, open files and threads of this process."""
    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss, len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_two_models_under_a_budget_that_holds_one_alternate_without_a_leak(tmp_path: Path) -> None:
    root = tmp_path / "models"
    tiny_models.make_classifier(root / "classifier", "bert", hidden_size=256, intermediate_size=4_096)
    tiny_seq2seq.make("marian", root / "translator")
    catalog = Catalog(root, "", tmp_path / "cache")
    device = pick_device("cpu", threads=1)
    jobs = [
        (catalog.resolve(name), task, catalog.check(catalog.resolve(name), task, PARAMS[task]()))
        for name, task in (("classifier", Task.CLASSIFICATION), ("translator", Task.TRANSLATION))
    ]
    cache = ModelCache(catalog, device, settings_from({}, data_dir=tmp_path, model_cache_bytes=1))
    documents = [Document(position=0, id="0", text=tiny_models.texts_of([9])[0])]
    before = footprint()
    for load in range(LOADS):
        info, task, params = jobs[load % 2]
        usage = Usage()
        engine = cache.get(info, task, params)
        results = [one for batch in engine.run(engine.prepare(documents, params, usage), usage, bool) for one in batch]
        assert results[0].output is not None
        size = engine.weight_bytes
        del engine
        assert cache.loaded() == {(info.id, info.revision)}
        if load == WARM:
            before = footprint()
    after = footprint()
    # what is leaked at every load would be there nine score times by now
    assert after[0] - before[0] < max(8 * size, 64 << 20)
    assert after[1:] == before[1:]
