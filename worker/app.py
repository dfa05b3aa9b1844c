"""The Celery worker: a parent that listens and a child that works.

Knows Celery's signals and how the two processes speak to each other. Must not know what a shard is: `runner` does. The
parent never imports torch; the child is a fresh interpreter (`worker.tasks`), which does after its device is pinned.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import warnings
from pathlib import Path
from typing import Any

import structlog
from billiard.process import active_children
from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_ready, worker_shutting_down

from broker.doorbell import Doorbell
from broker.settings import celery_settings
from corpusmill import logs
from corpusmill.errors import BrokerUnavailable, InvalidSettings
from corpusmill.settings import Settings, environ_of
from db.engine import create_engine
from worker.ending import Ending
from worker.watch import Watch

log = structlog.get_logger(__name__)

#: In the child's environment: a name for this boot of the parent, and the file that says it is to finish.
BOOT = "_CORPUSMILL_WORKER_BOOT"
DRAIN = "_CORPUSMILL_WORKER_DRAIN"


def sign_of(drain: Path) -> Path:
    """The file in which the child says that it answers doorbells, beside the one that says it is to finish."""
    return drain.with_name("answered")


def main(settings: Settings) -> None:
    """Listen for doorbells until SIGTERM, then finish the batch in hand, give back what is not done, and return; where the
    batch does not end, the process does without it.

    Raises InvalidSettings where the broker may throw the queue away.
    """
    refuse_eviction(settings)
    os.environ.update(environ_of(settings))
    with tempfile.TemporaryDirectory(prefix="corpusmill-worker-") as folder:
        drain = Path(folder) / "drain"
        os.environ[BOOT], os.environ[DRAIN] = secrets.token_hex(12), str(drain)
        database = create_engine(settings.database, pool_size=2)

        def end() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)  # as it was told to

        ending = Ending(database=database, boot=os.environ[BOOT], children=_children, end=end)

        def finish(**_: Any) -> None:
            drain.touch()
            ending.begin()

        def log_as_we_do(**_: Any) -> None:
            logs.configure(settings)

        def say(**_: Any) -> None:
            log.info("listening", device=settings.device, lease_seconds=settings.lease_seconds)

        # It warns of root because of pickled messages, which are never accepted here.
        warnings.simplefilter("ignore", SecurityWarning)
        worker_shutting_down.connect(finish, weak=False)
        worker_ready.connect(say, weak=False)
        setup_logging.connect(log_as_we_do, weak=False)
        Watch(
            database=database, doorbell=Doorbell(settings), boot=os.environ[BOOT], sign=sign_of(drain),
            end=lambda: os._exit(1),
        ).start()  # fmt: skip
        app = Celery("worker")
        app.config_from_object({**celery_settings(settings), "include": ["worker.tasks"]})
        # The name is only for logs: leases are held under the boot's own name, since a host's may come back.
        name = f"corpusmill-{os.getpid()}@{socket.gethostname()}"
        # Nobody listens to Celery's own heartbeat, and one that cannot be sent is tried again for ever inside the parent's
        # loop: while the broker is away, it would neither end on SIGTERM nor notice that its child hangs or has died.
        alone = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        # Quiet: without the banner, which is longer than all that a day's log says otherwise.
        try:
            app.worker_main(["--quiet", "worker", "--hostname", name, "--loglevel", "WARNING", *alone])
        finally:
            ending.over()


def _children() -> list[int]:
    return [child.pid for child in active_children() if child.pid is not None]


def refuse_eviction(settings: Settings) -> None:
    """Raise InvalidSettings where the broker, short of memory, evicts keys that never expire: the queue is one. One that
    does not answer now is waited for, and one that may not be asked is the operator's business, as `doctor` says."""
    doorbell = Doorbell(settings)
    try:
        policy = doorbell.policy()["maxmemory-policy"] or ""
    except BrokerUnavailable:
        return
    finally:
        doorbell.close()
    if policy.startswith("allkeys-"):
        raise InvalidSettings(
            f"The broker's maxmemory-policy is {policy}, with which it may throw the queue away: it must be noeviction."
        )
