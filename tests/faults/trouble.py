"""Everything that may happen to a rig in mid-job: each kind of fault, over when its method returns or once a supervisor has
started what died of it.

Knows how to injure, and what was asked of the small jobs that it submits beside. Must not judge: `test_soak` does, by the
oracle.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.acceptance.stack import jsonl

from .clock import set_wrong
from .databases import away
from .failpoints import DEADLY, DEVICE, HANG, SLEEP
from .injections import cut, drain, empty_broker, everything, kill_children, lose_broker, restart, wait
from .link import Link
from .messages import of_type, rewritten
from .oracle import Documents, documents
from .processes import ROOT, until
from .rig import BOUND, Rig
from .shortage import fill, limited_files, small_disk

#: Faults by what they are called.
Kinds = dict[str, Callable[[], None]]
#: A day: what is left of an upload is removed when it is an hour old, by clocks that are wrong by minutes here.
_OLD_SECONDS = 86_400
#: Sweepers that come and go beside the one that is always started again.
_MORE_SWEEPERS = ("sweep-1", "sweep-2")
#: What a document may do to the process that runs it, the first time after it was asked for.
_HARMS = (HANG, SLEEP, DEVICE)


@dataclass(slots=True, kw_only=True)
class Trouble:
    """What may happen to `rig`, by `chance`.

    `broker` is the link between its programs and the broker, `database` the one to PostgreSQL; `shim` puts their clocks
    wrong. Where one is None, the faults that need it are left out. `few` are the documents of the jobs beside, `harmful`
    those of which each does once what a word in it says, when it is asked for; `asked` says what is right for such a job:
    `cancel`, `delete` or `fail`.
    """

    rig: Rig
    chance: random.Random
    few: Documents
    broker: Link
    database: Link | None = None
    shim: Path | None = None
    asked: dict[str, str] = field(default_factory=dict)
    harmful: dict[str, Documents] = field(default_factory=dict)
    _heard: list[bytes] = field(default_factory=list)
    _wrong: int = 0
    _tokens: int = 0

    def prepare(self) -> None:
        """What the programs must be told before they are started."""
        models = self.rig.folder / "models"
        shutil.copytree(ROOT / "demo" / "models" / "classifier", models / DEADLY)
        self.rig.settings["models_root"] = str(models)
        # What hangs with the interpreter's lock in its hands is ended for want of a sign, and what lets go of it by this.
        self.rig.settings["shard_limit_seconds"] = "20"
        self._harmless.touch()
        self.rig.variables["FAULTS_ONCE"] = str(self._harmless)
        for word in _HARMS:
            some = documents(len(self.few), f"Beside, {word.strip('#')}: ")
            some[len(some) // 2]["text"] += word
            self.harmful[word] = some

    @property
    def _harmless(self) -> Path:
        """While it is there, no document does harm; the first that does makes it."""
        return self.rig.folder / "once-harm"

    def kinds(self) -> Kinds:
        """Every kind that this machine and database can have, by name."""
        found: Kinds = {
            "SIGKILL a worker": lambda: restart(self.rig, self._worker()),
            "SIGKILL a worker's children": lambda: kill_children(self.rig, self._worker()),
            "SIGKILL a worker at a commit": self.die_at_a_commit,
            "SIGTERM a worker": lambda: drain(self.rig, self._worker()),
            "SIGTERM all, one after the other": lambda: drain(self.rig, *self.rig.worker_names(), "sweep-0", "api"),
            "SIGQUIT a worker, or SIGTERM twice": self.press_a_worker,
            "SIGSTOP a worker": self.stop_a_worker,
            "a document that hangs": lambda: self.do_harm(self.chance.choice([HANG, SLEEP])),
            "device lost": lambda: self.do_harm(DEVICE),
            "small device": self.shrink_a_device,
            "model that cannot be loaded": self.ask_for_the_deadly_model,
            "no file descriptors": self.leave_no_files,
            "SIGKILL the sweeper": lambda: restart(self.rig, "sweep-0"),
            "sweepers come and go": self.change_sweepers,
            "SIGKILL the API": lambda: restart(self.rig, "api"),
            "SIGKILL the API in an upload": self.cut_off_an_upload,
            "SIGKILL the API at a job's commit": self.cut_off_a_submission,
            "SIGKILL the broker": lambda: lose_broker(self.rig, persistent=self.chance.random() < 0.5),
            "FLUSHALL": lambda: empty_broker(self.rig),
            "SIGSTOP the broker": self.stop_the_broker,
            "broker full": self.fill_the_broker,
            "broker out of reach": lambda: self._cut(self.broker),
            "network slow and lossy": self.worsen_the_network,
            "messages repeated": self.repeat_messages,
            "messages of another version": self.send_another_version,
            "database away": self.lose_the_database,
            "SIGKILL everything": lambda: everything(self.rig),
            "cancel": self.cancel_beside,
            "pause and resume": self.pause_beside,
            "delete": self.delete_beside,
        }
        if self.database is not None:
            far = self.database
            found["database out of reach"] = lambda: self._cut(far)
            found["database connections cut, replies to COMMIT lost"] = lambda: self.lose_commits(far)
        if self.shim is not None:
            found["clocks set"] = self.set_clocks
        if _may_mount(self.rig.data_dir / "uploads"):
            found["disk of uploads full"] = self.fill_the_uploads
        return found

    # -- processes

    def die_at_a_commit(self) -> None:
        name, point = self._worker(), self.chance.choice(["before_commit", "after_commit"])
        self.rig.restart(name, FAULTS_POINT=point, FAULTS_ONCE=self._token())
        with suppress(subprocess.TimeoutExpired):  # the other one may have run what was left
            self.rig.processes[name].wait(30)
        restart(self.rig, name)

    def press_a_worker(self) -> None:
        name, number = self._worker(), self.chance.choice([signal.SIGQUIT, signal.SIGTERM])
        process = self.rig.processes[name]
        with suppress(psutil.NoSuchProcess):
            for _ in range(1 if number == signal.SIGQUIT else 2):
                psutil.Process(process.pid).send_signal(number)
        process.await_stopped(2 * BOUND)
        self.rig.start(name)

    def stop_a_worker(self) -> None:
        """For less than its lease, more than it, or so long that its watchdog ends it."""
        name = self._worker()
        self.rig.freeze(name)
        wait(self.chance.uniform(1.0, 12.0))
        self.rig.thaw(name)

    def do_harm(self, word: str) -> None:
        """To whichever worker first comes to the document in the middle of a job beside."""
        self._harmless.unlink(missing_ok=True)
        self._submit(self.harmful[word])

        def done() -> bool:
            self.supervise()
            return self._harmless.exists()

        until(done, 3 * BOUND, f"{word} has been met")

    def shrink_a_device(self) -> None:
        name, no_room = self._worker(), self.rig.folder / "no-room"
        no_room.unlink(missing_ok=True)
        self.rig.restart(name, FAULTS_BATCH="8", FAULTS_ROOM=str(no_room))
        with suppress(TimeoutError):  # the other one may have run what was left
            until(no_room.exists, 30)
        wait(self.chance.uniform(1.0, 5.0))
        restart(self.rig, name)

    def ask_for_the_deadly_model(self) -> None:
        response = self.ask("POST", "/jobs", json=self._beside() | {"model": DEADLY, "params": {}})
        assert response.status_code == 202, response.text
        self.asked[str(response.json()["id"])] = "fail"

    def leave_no_files(self) -> None:
        name = self.chance.choice([*self.rig.worker_names(), "api"])
        process = self.rig.processes[name]
        with limited_files([process.pid] * (name == "api") + [child.pid for child in process.children()]):
            wait(self.chance.uniform(1.0, 6.0))

    def change_sweepers(self) -> None:
        """Two more, one of them, or none."""
        for name in _MORE_SWEEPERS:
            if self.chance.random() < 0.5:
                self.rig.start(name)
            elif name in self.rig.processes:
                self.rig.kill(name)

    def cut_off_an_upload(self) -> None:
        until(self.rig.answers, 2 * BOUND, "the API answers")
        body = jsonl(self.few)
        before = self.rig.temporary_files()
        with socket.create_connection(("127.0.0.1", self.rig.port)) as connection:
            connection.sendall(
                b"POST /api/v1/corpora HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body)
            )
            connection.sendall(body[: len(body) // 2])
            until(lambda: self.rig.temporary_files() != before, what="half of the upload is on the disk")
            self.rig.kill("api")
        self.rig.start("api")

    def cut_off_a_submission(self) -> None:
        """The job is committed, and nobody knows of it."""
        point = self.chance.choice(["before_ring", "after_ring"])
        self.rig.restart("api", FAULTS_POINT=point, FAULTS_ONCE=self._token())
        until(self.rig.answers, 2 * BOUND, "the API answers")
        with suppress(httpx2.HTTPError):
            self.rig.request("POST", "/jobs", json=self._beside())
        restart(self.rig, "api")

    def tidy(self) -> None:
        """Let a sweeper find what the cut-off uploads left, as if they were old by now."""
        for path in (self.rig.data_dir / "uploads").iterdir():
            os.utime(path, (time.time() - _OLD_SECONDS,) * 2)
        restart(self.rig, "sweep-0")
        until(lambda: not self.rig.temporary_files(), BOUND, "what is left of uploads is removed")

    # -- broker

    def stop_the_broker(self) -> None:
        self.rig.broker.process.signal(signal.SIGSTOP)
        wait(self.chance.uniform(2.0, 10.0))
        self.rig.broker.process.signal(signal.SIGCONT)

    def fill_the_broker(self) -> None:
        self.rig.broker.client.config_set("maxmemory", "1")
        wait(self.chance.uniform(1.0, 5.0))
        self.rig.broker.client.config_set("maxmemory", "0")

    def repeat_messages(self) -> None:
        """Every message that waits three times more, last ones first; those of before once more; and some of no shard."""
        waiting = self.rig.broker.messages()
        unknown = [rewritten(one, [10**9 + number]) for number, one in enumerate(waiting[:5])]
        self.rig.broker.push(*reversed(waiting), *waiting, *unknown, *self._heard, *waiting)
        self._heard = waiting

    def send_another_version(self) -> None:
        """Messages that say more than ours, name another task, or are written in another way."""
        some = (self.rig.broker.messages() or self._heard)[:12]
        self.rig.broker.push(
            *(rewritten(one, [7, "later", {"model": "x"}], {"later": True}, later="header") for one in some[:4]),
            *(rewritten(one, task="corpusmill.shard.later") for one in some[4:8]),
            *(of_type(one, "application/x-later") for one in some[8:]),
        )

    # -- database, network, machine

    def worsen_the_network(self) -> None:
        """Every exchange with the broker takes half a second or more; one with PostgreSQL less, since a renewal of a lease
        of five seconds is half a dozen of them."""
        self.broker.delay, self.broker.loss = 0.5, 0.3
        if self.database is not None:
            self.database.delay, self.database.loss = 0.05, 0.1
        wait(self.chance.uniform(2.0, 12.0))
        for link in (self.broker, self.database):
            if link is not None:
                link.delay = link.loss = 0.0

    def lose_the_database(self) -> None:
        with away(self.rig.database):
            wait(self.chance.uniform(0.5, 8.0))

    def lose_commits(self, link: Link) -> None:
        link.commits = 0.3
        for _ in range(3):
            self.rig.database.query(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            wait(1.0)
        link.commits = 0.0

    def set_clocks(self) -> None:
        """Those of all programs: with SQLite, every lease has then run out, or runs for longer."""
        assert self.shim is not None
        self._wrong += self.chance.choice([-10, 30])
        set_wrong(self.shim, self.rig.folder / "clock", self._wrong)

    def fill_the_uploads(self) -> None:
        until(self.rig.answers, 2 * BOUND, "the API answers")
        body = jsonl([{"id": "long", "text": "x" * 2_000_000}])
        with small_disk(self.rig.data_dir / "uploads", 1):
            ballast = fill(self.rig.data_dir / "uploads")
            refused = self.rig.http.post(
                "/api/v1/corpora", content=body, headers={"Content-Type": "application/x-ndjson"}
            )
            ballast.unlink()
            assert refused.status_code == 507, refused.text
            assert self.rig.temporary_files() == []

    # -- jobs beside

    def cancel_beside(self) -> None:
        job_id = self._submit()
        assert self.ask("POST", f"/jobs/{job_id}/cancel").status_code == 202
        self.asked[job_id] = "cancel"

    def pause_beside(self) -> None:
        job_id = self._submit()
        assert self.ask("POST", f"/jobs/{job_id}/pause").status_code == 202
        until(lambda: self.ask("GET", f"/jobs/{job_id}").json()["status"] == "paused", BOUND, "the job is paused")
        stood = self.rig.done(job_id)
        restart(self.rig, self._worker())
        wait(2.0)
        assert self.rig.done(job_id) == stood, "nothing of it was run"
        assert self.ask("POST", f"/jobs/{job_id}/resume").status_code == 202

    def delete_beside(self) -> None:
        job_id = self._submit()
        # Asked again after an answer that was lost, it is not there any more.
        assert self.ask("DELETE", f"/jobs/{job_id}").status_code in (204, 404)
        self.asked[job_id] = "delete"

    def _submit(self, found: Documents | None = None) -> str:
        """A job beside, under way; over `few`, unless other documents are given."""
        response = self.ask("POST", "/jobs", json=self._beside(found))
        assert response.status_code == 202, response.text
        job_id = str(response.json()["id"])

        def begun() -> bool:
            self.supervise()
            return self.rig.done(job_id) > 0

        until(begun, 3 * BOUND, f"{job_id} is under way")
        return job_id

    def _beside(self, found: Documents | None = None) -> dict[str, Any]:
        corpus = self.rig.corpus(self.few if found is None else found)
        return {"task": "classification", "model": "echo", "corpus": corpus, "params": {"delay_ms": 20}}

    # -- what helps

    def ask(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        """What the API answers once it can be reached and can do it."""

        def answer() -> httpx2.Response | None:
            self.supervise()
            with suppress(httpx2.HTTPError):
                response = self.rig.request(method, path, **arguments)
                return None if response.status_code == 503 else response
            return None

        found = until(answer, 3 * BOUND, f"an answer to {method} {path}")
        assert found is not None
        return found

    def supervise(self) -> None:
        """Start what has ended by itself, as its supervisor would: a worker's parent does so when its helper that keeps
        account of semaphores is killed."""
        self.rig.start_all(*self.rig.names())

    def settle(self) -> None:
        """Everything at work, and what was killed forgotten: the messages in its hands would come again after hours, and
        find nothing to do."""
        self.rig.kill(*(name for name in _MORE_SWEEPERS if name in self.rig.processes))
        self.supervise()
        self.rig.ready()
        self.rig.broker.client.delete("unacked", "unacked_index")
        self.rig.killed_workers = 0

    def _token(self) -> str:
        """A file that is not there yet, for FAULTS_ONCE."""
        self._tokens += 1
        return str(self.rig.folder / f"once-{self._tokens}")

    def _worker(self) -> str:
        return self.chance.choice(self.rig.worker_names())

    def _cut(self, link: Link) -> None:
        with cut(link):
            wait(self.chance.uniform(2.0, 12.0))


def _may_mount(folder: Path) -> bool:
    try:
        with small_disk(folder, 1):
            return True
    except pytest.skip.Exception:
        return False
