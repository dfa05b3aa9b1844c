"""Where the processes of the fault tests die, and what their documents do to them.

Knows the product's public functions and wraps them; the product knows nothing of this. Read by the entry points
`program` and nothing else. All is asked for by environment variables:

FAULTS_POINT    where to die with the whole process group: `before_commit` or `after_commit` of a shard in a worker,
                `before_ring` or `after_ring` of a submitted job in the API, `before_ingest` of an upload there, whose row
                is committed; `no_database_before_ring` has the API's database fail instead of a ring; `before_finish` has a
                worker wait just before the transaction that ends a shard, when it has looked for the last time whether
                that is still its own, for the file FAULTS_ONCE with `-go` after its name; `by_word` of a worker: its
                consumer can be cancelled through Celery's remote control, which the product leaves off; for a sweeper
                see `in_sweeper`
FAULTS_DEAF     seconds after which a worker that hears nothing ends itself, in place of the product's
FAULTS_ONCE     a file that the first to die or wait makes: whoever finds it goes on
FAULTS_RUNS     a file that gets a line for each shard that goes through the echo model: its executions,
                as its first and last position
FAULTS_BUSY     a worker waits 50 ms for SQLite's lock and no longer; a file that gets a letter each time in vain
FAULTS_BATCHES  a file that gets a line for each batch that the echo model has run: its process
FAULTS_BATCH    the batch size from which the device runs out of memory; the file FAULTS_ROOM gets a line for each batch that
                it had no room for: its documents

A document whose text holds one of the words below does what they say to the process that runs it, and so does a model of
such a name to the process that loads it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

#: A crash in native code; a sleep there that never lets go of the interpreter, and one that does; an exception that nobody
#: foresaw.
SEGFAULT, HANG, SLEEP, RAISE = "#segfault#", "#hang#", "#sleep#", "#raise#"
#: The model that crashes native code when it is loaded.
DEADLY = "deadly"
#: The device fails for good in this process; has no memory for this document; the process takes all there is.
DEVICE, OOM, EATS = "#device#", "#oom#", "#eats#"


def die() -> None:
    """SIGKILL for this process and all of its group."""
    os.killpg(0, signal.SIGKILL)


def once() -> bool:
    """Whether this is the first time that anybody asks; always, where no file says otherwise."""
    path = os.environ.get("FAULTS_ONCE")
    if path is None:
        return True
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def wait_for_go() -> None:
    """Stand still, this thread alone, until the tests say otherwise."""
    go = Path(os.environ["FAULTS_ONCE"] + "-go")
    while not go.exists():
        time.sleep(0.01)


def in_worker() -> None:
    """Wrap what a worker's child calls."""
    import worker.engines.echo
    import worker.models.cache
    from db import shards

    runner: Any = import_module("worker.runner")

    point = os.environ.get("FAULTS_POINT")
    here = threading.local()
    finish, transact, save = shards.finish, runner.transact, runner.Runner.save

    def saving(self: Any, done: Any) -> None:
        here.saving = True
        try:
            save(self, done)
        finally:
            here.saving = False

    def finishing(*args: Any, **kwargs: Any) -> bool:
        ended = finish(*args, **kwargs)
        here.finished = True
        if point == "before_commit" and once():
            die()
        return ended

    def transacting(*args: Any, **kwargs: Any) -> Any:
        here.finished = False
        if point == "before_finish" and getattr(here, "saving", False) and once():
            wait_for_go()
        value = transact(*args, **kwargs)
        if point == "after_commit" and here.finished and once():
            die()
        return value

    app: Any = import_module("worker.app")
    if "FAULTS_DEAF" in os.environ:
        app.Watch = partial(app.Watch, deaf_seconds=float(os.environ["FAULTS_DEAF"]))
        import_module("worker.watch").LOOK_SECONDS = 0.5  # type: ignore[attr-defined]
    if point == "by_word":
        settings = app.celery_settings
        app.celery_settings = lambda *args: settings(*args) | {"worker_enable_remote_control": True}
    shards.finish = finishing
    runner.transact = transacting
    runner.Runner.save = saving
    if (met := os.environ.get("FAULTS_BUSY")) is not None:
        _lose_patience(Path(met))
    engine: Any = worker.engines.echo.EchoEngine
    engine.run = _poisoned(engine.run)
    cache: Any = worker.models.cache
    load = cache.load_engine

    def loading(info: Any, *args: Any, **kwargs: Any) -> Any:
        if info.id == DEADLY:
            ctypes.string_at(0)
        return load(info, *args, **kwargs)

    cache.load_engine = loading


def _lose_patience(met: Path) -> None:
    import sqlalchemy

    product: Any = import_module("db.engine")
    prepare = product._prepare_sqlite

    def preparing(connection: Any, record: Any) -> None:
        prepare(connection, record)
        connection.execute("PRAGMA busy_timeout=50")

    def note(context: Any) -> None:
        if "locked" in str(context.original_exception):
            with met.open("a", encoding="ascii") as file:
                file.write(".")

    product._prepare_sqlite = preparing
    sqlalchemy.event.listen(sqlalchemy.Engine, "handle_error", note)


def _poisoned(run: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    log, batches = os.environ.get("FAULTS_RUNS"), os.environ.get("FAULTS_BATCHES")

    def running(self: Any, prepared: Any, usage: Any, stopped: Callable[[], bool]) -> Iterator[Any]:
        if log:
            _add(log, prepared.documents[0].position, prepared.documents[-1].position)
        for document in prepared.documents:
            _harm(document.text)
        most = int(os.environ.get("FAULTS_BATCH", "0"))
        if most:
            yield from _on_a_small_device(run, self, prepared, usage, stopped, most)
            return
        for results in run(self, prepared, usage, stopped):
            if batches:
                _add(batches, os.getpid())
            yield results

    return running


def _add(path: str, *numbers: int) -> None:
    with Path(path).open("a", encoding="ascii") as file:
        file.write(" ".join(map(str, numbers)) + "\n")


def _on_a_small_device(
    run: Callable[..., Iterator[Any]], engine: Any, prepared: Any, usage: Any, stopped: Callable[[], bool], most: int
) -> Iterator[Any]:
    """The same by the product's own budget of batches, kept with the model as the product's engines do, on a device with
    room for fewer than `most` documents."""
    import torch

    from corpusmill.documents import failed
    from corpusmill.errors import DocumentError
    from worker.device import Device
    from worker.engines.budget import Budget

    documents = prepared.documents

    def batch(indices: list[int]) -> list[Any]:
        if len(indices) >= most or any(OOM in documents[index].text for index in indices):
            _add(os.environ["FAULTS_ROOM"], len(indices))
            raise torch.OutOfMemoryError("CUDA out of memory")
        chosen = replace(prepared, documents=[documents[index] for index in indices])
        return [result for found in run(engine, chosen, usage, stopped) for result in found]

    budget = vars(engine).setdefault("budget", Budget(Device(kind="cpu", batch_tokens=64)))
    for indices, output in budget.batches([1] * len(documents), batch, stopped):
        if output is not None:
            yield output
            continue
        error = DocumentError(code="out_of_memory", message="The document alone does not fit the device.")
        yield [failed(documents[index], error) for index in indices]


def _harm(text: str) -> None:
    if SEGFAULT in text:
        ctypes.string_at(0)
    elif HANG in text and once():
        ctypes.PyDLL(None).sleep(3600)  # holds the interpreter's lock: no other thread runs, not even the heartbeat
    elif SLEEP in text and once():
        ctypes.CDLL(None).sleep(3600)  # the lock is free: the heartbeat goes on
    elif RAISE in text:
        raise RuntimeError("a fault that nobody foresaw")
    elif EATS in text:
        hoard = []
        while True:
            hoard.append(bytearray(os.urandom(1 << 20)))
    elif DEVICE in text and once():
        import torch

        raise torch.AcceleratorError("CUDA error: device-side assert triggered")


def in_api() -> None:
    """Wrap what the API calls after a job is committed."""
    from broker.doorbell import Doorbell
    from corpusmill.errors import DatabaseUnavailable
    from db import ingest, shards

    point = os.environ.get("FAULTS_POINT")
    ring, depth = Doorbell.ring, Doorbell.depth

    def ringing(self: Doorbell, shard_ids: Any) -> int:
        if point == "before_ring" and once():
            die()
        rung = ring(self, shard_ids)
        if point == "after_ring" and once():
            die()
        return rung

    def measuring(self: Doorbell) -> int:
        if point == "before_ring" and once():
            die()
        return depth(self)

    to_publish, fits = shards.to_publish, ingest.fits_in_process

    def choosing(*args: Any, **kwargs: Any) -> bool:
        if point == "before_ingest" and once():
            die()
        return fits(*args, **kwargs)

    def looking(*args: Any, **kwargs: Any) -> list[int]:
        if point == "no_database_before_ring":
            raise DatabaseUnavailable("The database did not answer: a fault of the tests.")
        return to_publish(*args, **kwargs)

    ingest.fits_in_process = choosing
    shards.to_publish = looking
    Doorbell.ring = ringing  # type: ignore[method-assign]
    Doorbell.depth = measuring  # type: ignore[method-assign]


def in_sweeper() -> None:
    """Wrap a step of a run: FAULTS_POINT is `night:MODULE.NAME:before` or `…:after`, with a function of `db` that writes in
    the transaction which is its first argument; after it means that what it wrote is committed."""
    point = os.environ.get("FAULTS_POINT", "")
    if not point.startswith("night:"):
        return
    _, place, when = point.split(":")
    name, _, function = place.partition(".")
    module: Any = import_module(f"db.{name}")
    real = getattr(module, function)

    def stepping(connection: Any, *args: Any, **kwargs: Any) -> Any:
        if when == "before" and once():
            die()
        value = real(connection, *args, **kwargs)
        if when == "after" and once():
            connection.commit()
            die()
        return value

    setattr(module, function, stepping)
