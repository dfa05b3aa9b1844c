"""The one Celery task, and the process that runs it.

Knows how a worker's child is put together: settings, database, device, models, heartbeat, runner. Holds no logic of its own.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any, NoReturn

import structlog
from celery import shared_task
from celery.signals import setup_logging, worker_process_init

from catalog import Catalog
from corpusmill import logs
from corpusmill.errors import DeviceLost
from corpusmill.messages import SHARD_MESSAGE
from corpusmill.settings import Settings, settings_from
from db import losses
from db.engine import create_engine, transact
from db.workers import Description
from worker.app import BOOT, DRAIN, sign_of
from worker.heartbeat import Heartbeat
from worker.pulse import Pulse
from worker.runner import Runner
from worker.serving import serve
from worker.watch import answers
from worker.watchdog import watch

log = structlog.get_logger(__name__)
_process: list[Runner] = []

#: Between a child that could not be made ready and the next.
_AGAIN_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_FAULTS_FORGOTTEN_SECONDS = 600.0


@setup_logging.connect
def log_as_we_do(**_: Any) -> None:
    """Keep Celery from setting up logging in its own way."""
    logs.configure(settings_from(os.environ))


@worker_process_init.connect
def start(**_: Any) -> None:
    """Put this child together, or end it: Celery would let one that is not go on, which could answer no doorbell."""
    try:
        _start()
    except Exception as error:
        log.critical("this process cannot be made ready; it ends", exc_info=error)
        time.sleep(_AGAIN_SECONDS)
        os._exit(1)


def _start() -> None:
    """Put this child together, once: what an earlier child of the same parent held is given up by it."""
    from worker.device import memory_use, pick_device
    from worker.models import ModelCache

    settings = settings_from(os.environ)
    boot = os.environ[BOOT]
    worker_id = f"{boot}:{os.getpid()}"
    database = create_engine(settings.database, pool_size=4)
    device = pick_device(settings.device, batch_tokens=settings.batch_tokens, threads=settings.threads)
    models = ModelCache(_catalog(settings), device, settings)
    heartbeat = Heartbeat(
        engine=database,
        worker_id=worker_id,
        lease=settings.lease_seconds,
        drain_flag=Path(os.environ[DRAIN]),
        limit=settings.shard_limit_seconds,
        pulse=Pulse(settings.pulse_file),
        describe=lambda: Description(
            hostname=socket.gethostname(),
            device=device.name,
            models=[{"id": name, "revision": revision} for name, revision in sorted(models.loaded())],
            memory=memory_use(device),
        ),
    )
    lost = transact(database, lambda connection: losses.lapse(connection, f"{boot}:", but=worker_id), patience=60.0)
    if lost.shards:
        log.warning("an earlier process of this worker was lost", shards=lost.shards)
    heartbeat.start()
    # Twice the time after which its shards are given to others anyway.
    watch(heartbeat.end_overdue, patience=2 * settings.lease_seconds)
    _process.append(
        Runner(database=database, settings=settings, models=models, heartbeat=heartbeat, too_large=lost.too_large)
    )
    answers(sign_of(Path(os.environ[DRAIN])))


@shared_task(name=SHARD_MESSAGE, Request="worker.request:Request")  # type: ignore[call-overload, untyped-decorator]
def ring(shard_key: int | None = None, *_: Any, **__: Any) -> None:
    """A doorbell: `shard_key` waited when it was rung. The database says what is to be run now, which may be another shard,
    many, or none; whatever goes wrong is written there too, so the message is done with in any case. What a program of
    another version says besides is not needed for that, and is passed over."""
    (runner,) = _process
    answers(sign_of(Path(os.environ[DRAIN])))
    try:
        served = serve(runner)
    except DeviceLost as error:
        _start_over(error)
    log.info("doorbell answered", rung_for=shard_key, served=served)


def _start_over(error: DeviceLost) -> NoReturn:
    """End this process, so that its parent starts another; after a pause that doubles with each fault of the last ten
    minutes, since a device that is broken for good must not keep the machine busy with starting processes."""
    faults = Path(os.environ[DRAIN]).with_name("device-faults")
    recent = faults.exists() and time.time() - faults.stat().st_mtime < _FAULTS_FORGOTTEN_SECONDS
    count = len(faults.read_bytes()) if recent else 0
    faults.write_bytes(b"." * (count + 1))
    pause = min(_LONGEST_PAUSE_SECONDS, 2.0**count)
    log.error("device lost; this process ends", seconds=pause, exc_info=error)
    until = time.monotonic() + pause
    while time.monotonic() < until and not _process[0].draining:
        time.sleep(0.1)
    os._exit(1)


def _catalog(settings: Settings) -> Catalog:
    return Catalog(settings.models_root, settings.hub_models, settings.data_dir / "cache")
