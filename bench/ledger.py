"""What a night costs that finds nothing new: a source of many keys held against the ledger, and the memory for it.

    python -m bench ledger [--documents 1000000] [--database postgresql://…]

Fills a ledger, then reads a source with the same documents, and once more with one in a hundred changed and one in a
thousand gone. The source makes its documents up, so the figures are the ledger's own.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from catalog import Catalog
from corpusmill.schedules import parse_definition
from corpusmill.settings import Settings
from db import ledger, runs, schedules
from db.engine import create_engine, migrate, transact
from db.ledger import Settled
from db.runs import Held
from pipeline.reading import read
from pipeline.sources import SourceDocument
from pipeline.work import Work

_BATCH = 5_000


class Made:
    """A source of `count` documents, each of some 100 bytes; `changed` and `gone`: one in how many."""

    complete = True
    unusable = 0

    def __init__(self, count: int, *, new: bool = False, changed: int = 0, gone: int = 0) -> None:
        self.count, self.new, self.changed, self.gone = count, new, changed, gone

    def read(self, since: Mapping[str, Any] | None) -> Iterator[SourceDocument]:  # noqa: ARG002
        for number in range(self.count):
            if self.gone and number % self.gone == 1:
                continue
            again = " again" if self.changed and number % self.changed == 0 else ""
            yield SourceDocument(id=f"key-{number:09d}", text=f"Document {number}{again}: " + "lorem ipsum " * 8)

    def taken(self) -> Iterator[SourceDocument]:
        """Those that a run takes: all of the first reading, then what has changed."""
        if self.new:
            yield from self.read(None)
        elif self.changed:
            yield from (each for each in self.read(None) if " again:" in each.text)

    def position(self) -> Mapping[str, Any]:
        return {}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench ledger")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--database", default="")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="corpusmill-ledger-") as folder:
        _measure(Settings(data_dir=Path(folder), database_url=chosen.database), chosen.documents)
    return 0


def _measure(settings: Settings, count: int) -> None:
    settings.data_dir.mkdir(exist_ok=True)
    migrate(settings.database)
    database = create_engine(settings.database)
    definition = parse_definition(
        {
            "name": "ledger", "cron": "0 0 * * *", "source": {"type": "corpus", "name": "x"},
            "job": {"task": "classification", "model": "echo"}, "overlap": "queue",
        }
    )  # fmt: skip
    transact(
        database,
        lambda connection: schedules.create(connection, id="sched_a", definition=definition, next_fire_at=None),
    )
    catalog = Catalog(None, "", settings.data_dir / "cache")

    def night(name: str, number: int, source: Made) -> None:
        def claim(connection: Any) -> Held | None:
            runs.fire(connection, schedules.get(connection, "sched_a"), float(number), "manual")
            return runs.claim(connection, owner="bench", lease=36_000.0)

        held = transact(database, claim)
        assert held is not None
        work = Work(
            settings=settings, database=database, catalog=catalog, held=held, lease=36_000.0,
            stopping=threading.Event(), clock=time.time,
        )  # fmt: skip
        begun, used = time.monotonic(), time.process_time()
        step = read(work, lambda *_, **__: source)
        seconds, used = time.monotonic() - begun, time.process_time() - used
        counts = step.values["counts"]["documents"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rate = f"{count / seconds:,.0f} documents/s, {used:.1f} s of processor, peak memory {peak:.0f} MB"
        print(f"{name}: {seconds:.1f} s, {rate}, { ({key: n for key, n in counts.items() if n}) }", flush=True)
        begun = time.monotonic()
        _settle(database, held, source)
        print(f"  settled in {time.monotonic() - begun:.1f} s", flush=True)

    night("all new", 1, Made(count, new=True))
    night("nothing new", 2, Made(count))
    night("1 % changed, 0.1 % gone", 3, Made(count, changed=100, gone=1000))
    database.dispose()


def _settle(database: Any, held: Held, source: Made) -> None:
    key, schedule_key = held.run.key, held.run.schedule_key
    batch: list[Settled] = []

    def write() -> None:
        rows = list(batch)
        transact(database, lambda connection: ledger.settle(connection, schedule_key, key, rows, scope_hash=bytes(16)))
        batch.clear()

    for document in source.taken():
        batch.append(Settled(document_id=document.id, status="succeeded"))
        if len(batch) == _BATCH:
            write()
    write()

    def end(connection: Any) -> None:
        ledger.settle_gone(connection, schedule_key, key)
        runs.end(connection, held, "succeeded")

    transact(database, end)
