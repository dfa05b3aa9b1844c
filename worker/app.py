"""The Celery worker: a parent that listens and a child that works.

Knows Celery's signals and how the two processes speak to each other. Must not know what a shard is: `runner` does. The
parent never imports torch; the child is a fresh interpreter (`worker.tasks`), which does after its device is pinned.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_shutting_down

from broker.settings import celery_settings
from corpusmill import logs
from corpusmill.settings import Settings, environ_of

#: In the child's environment: a name for this boot of the parent, and the file that says it is to finish.
BOOT = "_CORPUSMILL_WORKER_BOOT"
DRAIN = "_CORPUSMILL_WORKER_DRAIN"


def main(settings: Settings) -> None:
    """Listen for doorbells until SIGTERM, then finish the batch in hand, give back what is not done, and return."""
    os.environ.update(environ_of(settings))
    with tempfile.TemporaryDirectory(prefix="corpusmill-worker-") as folder:
        drain = Path(folder) / "drain"
        os.environ[BOOT], os.environ[DRAIN] = secrets.token_hex(12), str(drain)

        def finish(**_: Any) -> None:
            drain.touch()

        def log_as_we_do(**_: Any) -> None:
            logs.configure(settings)

        worker_shutting_down.connect(finish, weak=False)
        setup_logging.connect(log_as_we_do, weak=False)
        app = Celery("worker")
        app.config_from_object({**celery_settings(settings), "include": ["worker.tasks"]})
        # The name is only for logs: leases are held under the boot's own name, since a host's may come back.
        name = f"corpusmill-{os.getpid()}@{socket.gethostname()}"
        app.worker_main(["worker", "--hostname", name, "--loglevel", "WARNING", "--without-gossip", "--without-mingle"])
