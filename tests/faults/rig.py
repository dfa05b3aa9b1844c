"""The whole system as processes of its own: database, broker, API, workers and sweepers, over one data directory.

Knows how they are started, hurt and healed, and how to wait for a condition. Judges by `oracle`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from db.engine import migrate
from tests.acceptance.stack import jsonl

from . import oracle
from .databases import Database
from .hosts import Network
from .oracle import Documents
from .processes import ROOT, Process, python, until
from .valkey import Valkey

ENDED = ("completed", "completed_with_errors", "failed", "cancelled")
#: A lease is long enough for a worker that lives to renew it on a machine that others keep busy.
SETTINGS = {
    "lease_seconds": "5", "sweep_seconds": "0.5", "shard_documents": "50", "device": "cpu", "threads": "1",
    "log_format": "json",
}  # fmt: skip
#: The operator's key and the broker's password, where hosts of their own need them.
KEY = "a-key-of-the-fault-tests"
#: Seconds within which anything that is waited for must have come, on a machine that others use.
BOUND = 60.0
#: Seconds within which what a dead worker held runs again, and the job goes on, once a worker is there to do it: lease and
#: sweep, and as long again and more for what others do on the machine, the start of a process among it.
RECOVERY = 25.0


class Rig:
    """A running system. Its processes are `api`, `sweep-0`, `worker-0` and so on; on a `network` each has its host."""

    def __init__(
        self, folder: Path, database: Database, *, workers: int = 2, network: Network | None = None, **settings: str
    ) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.database = database
        #: Where a SQLite file lies.
        self.database_folder = folder / "database"
        self.workers = workers
        self.settings = SETTINGS | settings
        #: Variables of every program.
        self.variables: dict[str, str] = {}
        self.network = network
        self.port = _free_port()
        address = network.address("api") if network else "127.0.0.1"
        if network:
            self.settings |= {"host": address, "api_key": KEY}
        base = {name: value for name, value in os.environ.items() if not name.startswith("CORPUSMILL_")}
        self._base = base | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.broker = Valkey(
            folder / "v",
            self._base,
            prefix=self.prefix("broker"),
            address=network.address("broker") if network else None,
            key=KEY,
        )
        self.processes: dict[str, Process] = {}
        self.statuses: list[int] = []
        self.runs = folder / "runs"
        self.http = httpx2.Client(
            base_url=f"http://{address}:{self.port}", timeout=httpx2.Timeout(60.0),
            headers={"Authorization": f"Bearer {KEY}"} if network else {},
        )  # fmt: skip
        self.killed_workers = 0
        self._corpora: dict[int, tuple[Documents, str]] = {}
        self._metrics: dict[str, dict[str, Any]] = {}
        self._job: str = ""

    # -- processes

    def environ(self, **extra: str) -> dict[str, str]:
        """The environment of a program; what is given in capitals goes in as it is."""
        settings = {
            "data_dir": str(self.data_dir), "database_url": self.database.far_url.replace("+psycopg", ""),
            "broker_url": self.broker.url, "port": str(self.port),
        } | self.settings | {name: value for name, value in extra.items() if name.islower()}  # fmt: skip
        plain = {name: value for name, value in extra.items() if not name.islower()}
        named = {f"CORPUSMILL_{name.upper()}": value for name, value in settings.items()}
        return self._base | named | {"FAULTS_RUNS": str(self.runs)} | self.variables | plain

    def prefix(self, name: str) -> tuple[str, ...]:
        """What is put before a program's command so that it runs where it belongs."""
        host = "api" if name.startswith("sweep") else name
        return self.network.prefix(host) if self.network else ()

    def start(self, name: str, *, tree: Path = ROOT, **extra: str) -> Process:
        """Start a program, with further settings or variables; one that runs is left alone. Its code is that in `tree`."""
        running = self.processes.get(name)
        if running is not None and running.alive:
            return running
        environ = self.environ(**extra, PYTHONPATH=str(tree))
        command = python("-m", "tests.faults.program", name.split("-", maxsplit=1)[0])
        process = Process(command, environ, self.folder / f"{name}.log", self.prefix(name), tree)
        self.processes[name] = process
        process.start()
        return process

    def up(self) -> None:
        """Start everything that does not run, and wait until the API answers and every worker listens."""
        self.database.up()
        self.broker.start()
        if not self.processes:
            migrate(self.database.url)
        for name in self.names():
            self.start(name)
        self.ready()

    def names(self) -> list[str]:
        """The usual programs."""
        return ["api", "sweep-0", *self.worker_names()]

    def worker_names(self) -> list[str]:
        return [f"worker-{number}" for number in range(self.workers)]

    def ready(self) -> None:
        """Block until `/readyz` answers and as many workers as run are waiting for messages."""
        until(self.answers, BOUND, "the API answers")
        running = sum(1 for name, one in self.processes.items() if name.startswith("worker") and one.alive)
        # One that has found a job at once listens when it has served it for a minute.
        until(lambda: self.broker.listeners() >= running, 3 * BOUND, "the workers listen")

    def answers(self) -> bool:
        with suppress(httpx2.HTTPError):
            return bool(self.http.get("/readyz", timeout=5).status_code == 200)
        return False

    def kill(self, *names: str) -> None:
        """SIGKILL programs, each with its group."""
        for name in names:
            self.killed_workers += name.startswith("worker")
            self.processes[name].kill()

    def freeze(self, *names: str) -> None:
        """SIGSTOP programs, at a moment when none of them has a transaction open: whoever is stopped in one stops all
        others on SQLite, whatever we do."""

        def frozen() -> bool:
            for name in names:
                self.processes[name].signal(signal.SIGSTOP)
            if self.database.unlocked():
                return True
            self.thaw(*names)
            time.sleep(0.01)
            return False

        until(frozen, what=f"{names} stopped between transactions")

    def thaw(self, *names: str) -> None:
        """SIGCONT programs."""
        for name in names:
            self.processes[name].signal(signal.SIGCONT)

    def stop(self, *names: str) -> float:
        """SIGTERM programs, together, and wait until they have ended; seconds of the slowest."""
        started = time.monotonic()
        for name in names:
            self.processes[name].terminate()
        for name in names:
            self.processes[name].await_stopped()
        return time.monotonic() - started

    def restart(self, *names: str, **extra: Any) -> None:
        """Kill programs and start them with these variables."""
        for name in names:
            self.kill(name)
            self.start(name, **extra)

    def start_all(self, *names: str, **extra: Any) -> None:
        """Start programs, all in the same way."""
        for name in names:
            self.start(name, **extra)

    def heal(self) -> None:
        """Everything as it is meant to be: what was started in a special way, or stopped, is started anew."""
        for name, process in list(self.processes.items()):
            process.signal(signal.SIGCONT)
            if process.alive and (name not in self.names() or dict(process.environ) != self.environ()):
                process.kill()
        self.broker.process.signal(signal.SIGCONT) if self.broker.process.alive else None
        self.up()
        # What killed workers had in their hands would come again after hours, and find nothing to do.
        self.broker.client.delete("unacked", "unacked_index")
        with suppress(Exception):
            self.broker.client.config_set("maxmemory", "0")
            self.broker.client.config_set("maxmemory-policy", "noeviction")
        self.statuses.clear()
        self.killed_workers = 0

    def scrap(self) -> None:
        """End everything, the hard way."""
        for process in self.processes.values():
            process.kill()
        self.broker.process.kill()
        self.broker.client.close()
        with suppress(Exception):
            self.database.up()
        self.http.close()

    # -- requests

    def request(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        """A request whose status the oracle will look at."""
        response = self.http.request(method, f"/api/v1{path}", **arguments)
        self.statuses.append(response.status_code)
        return response

    def upload(self, found: Documents) -> str:
        """A corpus of these documents, ready; its id."""
        response = self.request(
            "POST", "/corpora", content=jsonl(found), headers={"Content-Type": "application/x-ndjson"}
        )
        assert response.status_code == 201, response.text
        assert response.json()["status"] == "ready", response.text
        return str(response.json()["id"])

    def corpus(self, found: Documents) -> str:
        """The same, uploaded once for each list of documents."""
        if id(found) not in self._corpora:
            self._corpora[id(found)] = (found, self.upload(found))
        return self._corpora[id(found)][1]

    def submit(self, found: Documents, *, delay_ms: float = 0.0, timeout: float = 60.0, **body: Any) -> str:
        """A job over these documents, answered within `timeout` seconds; its id."""
        params = {"delay_ms": delay_ms} if delay_ms else {}
        asked = {"task": "classification", "model": "echo", "corpus": self.corpus(found), "params": params, **body}
        response = self.request("POST", "/jobs", json=asked, timeout=timeout)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        response = self.request("GET", f"/jobs/{job_id}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def metrics(self, job_id: str) -> dict[str, Any]:
        response = self.request("GET", f"/jobs/{job_id}/metrics")
        assert response.status_code == 200, response.text
        return {metric["name"]: metric for metric in response.json()["metrics"]}

    # -- conditions

    def jobs(self) -> list[Any]:
        """Every job that the database knows of: id, corpus_id, outcome, evaluated."""
        return self.database.query("SELECT id, corpus_id, outcome, evaluated FROM jobs ORDER BY key")

    def results(self, job_id: str) -> list[Any]:
        """The job's results as they stand: position, document_id, output, error."""
        return self.database.query(
            "SELECT r.position, r.document_id, r.output, r.error FROM results r JOIN jobs j ON j.key = r.job_key "
            "WHERE j.id = :id ORDER BY r.position",
            id=job_id,
        )

    def shards(self, job_id: str) -> list[Any]:
        """The job's shards as they stand: key, start, stop, state, attempt, losses, owner."""
        return self._shards(job_id)

    def _shards(self, job_id: str, which: str = "") -> list[Any]:
        return self.database.query(
            "SELECT s.key, s.start, s.stop, s.state, s.attempt, s.losses, s.owner, s.finished_at FROM shards s "
            f"JOIN jobs j ON j.key = s.job_key WHERE j.id = :id {which} ORDER BY s.start",
            id=job_id,
        )

    def progress(self, job_id: str) -> tuple[int, int]:
        """Documents of the job whose shard has ended, and those whose shard has not; summed by the database, since it is
        asked all the time and a job may have thousands of shards."""
        (row,) = self.database.query(
            "SELECT coalesce(sum(CASE WHEN s.state IN ('pending', 'running') THEN 0 ELSE s.stop - s.start END), 0) AS done, "
            "coalesce(sum(s.stop - s.start), 0) AS total FROM shards s JOIN jobs j ON j.key = s.job_key WHERE j.id = :id",
            id=job_id,
        )
        return int(row.done), int(row.total - row.done)

    def done(self, job_id: str) -> int:
        """Documents of the job whose shard has ended."""
        return self.progress(job_id)[0]

    def left(self, job_id: str) -> int:
        """Documents of the job whose shard has not ended: none where a fault would come too late."""
        return self.progress(job_id)[1]

    def running(self, job_id: str) -> list[Any]:
        return self._shards(job_id, "AND s.state = 'running'")

    def await_done(self, job_id: str, share: float, seconds: float = BOUND) -> None:
        """Block until that share of the job's documents has ended."""

        def reached() -> bool:
            done, left = self.progress(job_id)
            return done >= share * (done + left)

        until(reached, seconds, f"{share:.0%} of {job_id} ended")

    def await_running(self, job_id: str, seconds: float = BOUND) -> list[Any]:
        """Block until a shard of the job runs; those that do."""
        return until(lambda: self.running(job_id), seconds, f"a shard of {job_id} runs")

    def await_ended(self, job_id: str, seconds: float = 120.0) -> str:
        """Block until the job has ended in the database, asking the API as well; its status."""

        def outcome() -> str | None:
            with suppress(httpx2.HTTPError):
                self.request("GET", f"/jobs/{job_id}", timeout=10)
            row = self.database.query("SELECT outcome, evaluated FROM jobs WHERE id = :id", id=job_id)[0]
            return str(row.outcome) if row.outcome and row.evaluated else None

        try:
            return until(outcome, seconds, f"{job_id} ended") or ""
        except TimeoutError as error:
            states: dict[str, int] = {}
            for one in self.shards(job_id):
                states[one.state] = states.get(one.state, 0) + 1
            raise TimeoutError(f"{error}: shards {states}\n{self.logs()}") from error

    def recovery(self, job_id: str, held: list[Any], seconds: float = RECOVERY) -> float:
        """Seconds until every shard that was held when the fault came runs again or has ended, and something of the job
        has been committed since: at most as many as given, counted from when a worker is there, and not half a shard is
        left behind meanwhile."""
        started, before = time.monotonic(), self.done(job_id)
        self.whole(job_id)
        fences = {one.key: one.attempt for one in held}
        keys = ", ".join(str(int(key)) for key in [0, *fences])

        def moved() -> bool:
            now = self._shards(job_id, f"AND s.key IN ({keys}) AND s.state IN ('pending', 'running')")
            done, left = self.progress(job_id)
            return all(one.attempt > fences[one.key] for one in now) and (done > before or not left)

        until(self.served, BOUND, "a worker is there")
        until(moved, seconds, f"{job_id} goes on")
        self.whole(job_id)
        return time.monotonic() - started

    def served(self) -> bool:
        """Whether a worker is there: one whose process lives and has told the database of itself, busy or not."""
        known = {str(row.id).rpartition(":")[2] for row in self.database.query("SELECT id FROM workers")}
        workers = (one for name, one in self.processes.items() if name.startswith("worker") and one.alive)
        return any(str(child.pid) in known for one in workers for child in one.children())

    def executions(self, act: Callable[[], Any]) -> tuple[Any, int]:
        """What `act` returns, and how many shards went through the model meanwhile."""
        before = len(self.ran())
        value = act()
        return value, len(self.ran()) - before

    def ran(self) -> list[tuple[int, int]]:
        """The first and last position of every shard that went through the model, in order."""
        lines = self.runs.read_text(encoding="ascii").splitlines() if self.runs.exists() else []
        return [(int(first), int(last)) for first, last in (line.split() for line in lines)]

    # -- the oracle

    def whole(self, job_id: str) -> None:
        """No shard that is still to be run, or runs, has left rows behind: what is written of one is written with its end.
        Written again they would look like any others. A shard that was opened again keeps what had succeeded in it."""
        rows = self.database.query(
            "SELECT s.key, s.start, s.stop, s.state, s.attempt, count(*) AS n FROM shards s "
            "JOIN jobs j ON j.key = s.job_key "
            "JOIN results r ON r.job_key = s.job_key AND r.position >= s.start AND r.position < s.stop "
            "WHERE j.id = :id AND s.state IN ('pending', 'running') AND s.succeeded = 0 "
            "GROUP BY s.key, s.start, s.stop, s.state, s.attempt",
            id=job_id,
        )
        assert rows == [], f"rows of shards that have not ended: {rows}"

    def baseline(self, found: Documents, seconds: float = 120.0) -> dict[str, Any]:
        """The metrics of an undisturbed run over these documents."""
        corpus = self.corpus(found)
        if corpus not in self._metrics:
            job_id = self.submit(found)
            assert self.await_ended(job_id, seconds) == "completed"
            self._metrics[corpus] = oracle.timeless(self.metrics(job_id))
        return self._metrics[corpus]

    def verify(self, job_id: str, found: Documents, *, failed: Mapping[int, str] | None = None) -> None:
        """The one oracle: every document exactly once, right, and nothing left behind.

        `failed` are the positions that must have failed, with their error codes.
        """
        failed = failed or {}
        rows = self.results(job_id)
        assert [row.position for row in rows] == list(range(len(found))), "a result for each document, and one only"
        assert [row.document_id for row in rows] == [one["id"] for one in found]
        codes = {row.position: oracle.loaded(row.error)["code"] for row in rows if row.error is not None}
        assert codes == dict(failed)
        right = ((k, oracle.expected(one)) for k, one in enumerate(found) if k not in failed)
        said = ((row.position, oracle.loaded(row.output)) for row in rows if row.position not in failed)
        assert oracle.digest(said) == oracle.digest(right)
        until(self.answers, BOUND, "the API answers")
        job = self.job(job_id)
        assert job["status"] == ("completed_with_errors" if failed else "completed"), job
        good = len(found) - len(failed)
        assert job["counts"] == {
            "total": len(found), "succeeded": good, "failed": len(failed), "cancelled": 0, "pending": 0
        }  # fmt: skip
        metrics = self.metrics(job_id)
        assert metrics["accuracy"]["n"] == good
        # Those of an undisturbed run over what was to succeed: a document that failed counts for nothing but the coverage.
        same = self.baseline([one for k, one in enumerate(found) if k not in failed] if failed else found)
        now = oracle.timeless(metrics)
        if failed:
            same, now = oracle.covering(same, good / len(found)), oracle.covering(now)
        assert {name: now.get(name) for name in {*now, *same} if now.get(name) != same.get(name)} == {}
        self.clean(job_id)

    def clean(self, job_id: str) -> None:
        """Nothing is left of the job's work: no leased shard, no message, no temporary file; no answer was wrong."""
        assert not [one for one in self.shards(job_id) if one.state in ("pending", "running")]
        until(lambda: self.broker.waiting == 0, BOUND, "the queue drains")
        # A worker that is killed takes the messages in its hands with it; they come again after the visibility timeout
        # and find nothing to do.
        left = 2 * self.killed_workers
        until(lambda: self.broker.unacknowledged <= left, BOUND, "the messages are acknowledged")
        assert self.temporary_files() == []
        assert {status for status in self.statuses if status >= 500} <= {503}

    def temporary_files(self) -> list[str]:
        """Uploads and half-made stores in the data directory."""
        return temporary_files(self.data_dir)

    def refused(self, name: str) -> set[int]:
        """Keys of the shards that a worker was about to write when the database said that they were another's by now."""
        lines = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        said = [json.loads(line) for line in lines if '"shard not written"' in line and "taken over" in line]
        return {int(one["shard"]) for one in said}

    def logs(self) -> str:
        """The ends of the logs, for a failing test."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-2500:]}" for path in sorted(self.folder.glob("*.log"))
        )


def temporary_files(data_dir: Path) -> list[str]:
    """Uploads and half-made stores in a data directory."""
    uploads = [path.name for path in (data_dir / "uploads").glob("*")]
    return uploads + [path.name for path in (data_dir / "corpora").glob("*partial*")]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
