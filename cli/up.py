"""`corpusmill up`, and the programs it runs, which may as well be started one by one.

Knows how each begins. Must not know what they do; each imports its own packages, and no more, when it is called.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from corpusmill.errors import CorpusmillError, InvalidSettings
from corpusmill.settings import Settings, refuse_open, settings_from


def up(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on; beyond loopback a key is needed.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Directory for corpora, results and the broker's files.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers to run; 0: one for each device.")] = None,
    device: Annotated[Literal["cpu", "cuda", "auto"] | None, typer.Option(help="What the workers run on.")] = None,
) -> None:
    """Run everything on this machine: API, workers, sweeper and, where none is configured, broker and database.

    Prints `ready http://HOST:PORT` once it answers. What is not given comes from CORPUSMILL_… variables.
    Ctrl-C or SIGTERM ends it within 10 seconds and loses nothing; a second Ctrl-C ends it at once.
    """
    from broker.address import broker_url
    from cli.datadir import DataDirectory
    from cli.listening import listen
    from cli.service import Service
    from cli.supervise import Signals

    settings = _settings(host=host, port=port, data_dir=data, workers=workers, device=device)
    refuse_open(settings)
    broker_url(settings)
    with Signals().caught() as signals:
        directory = DataDirectory(settings.data_dir)
        try:
            with listen(settings.host, settings.port) as listener:
                settings = settings.model_copy(update={"port": listener.getsockname()[1]})
                service = Service(settings, listener.fileno())
                _migrate(settings)
                service.run(signals)
        finally:
            directory.release()


def api() -> None:
    """Run the HTTP API alone, on CORPUSMILL_HOST and CORPUSMILL_PORT."""
    from cli.listening import bracketed
    from cli.server import Server
    from cli.service import LISTEN_FD

    settings = settings_from(os.environ)
    refuse_open(settings)
    inherited = os.environ.pop(LISTEN_FD, None)
    bind = f"fd://{inherited}" if inherited else f"{bracketed(settings.host)}:{settings.port}"
    with _traced():
        Server(settings, bind).run()


def worker() -> None:
    """Run one worker, on CORPUSMILL_DEVICE."""
    with _traced():
        from worker.app import main

        main(settings_from(os.environ))


def sweep() -> None:
    """Run one sweeper: it queues what was left undone by a crash; any number may run."""
    with _traced():
        from worker.sweep import main

        main(settings_from(os.environ))


@contextmanager
def _traced() -> Iterator[None]:
    """What nobody foresaw goes, with where it happened, to the log of a program that runs unattended."""
    try:
        yield
    except (CorpusmillError, OSError):
        raise
    except Exception:  # noqa: BLE001 — nothing above would write it down
        traceback.print_exc()
        raise SystemExit(1) from None


def _settings(**given: object) -> Settings:
    """The settings with paths that mean the same in every directory."""
    settings = settings_from(os.environ, **given)
    root = settings.models_root
    if root is not None and not root.is_dir():
        raise InvalidSettings(f"CORPUSMILL_MODELS_ROOT: {root} is not a directory.")
    return settings.model_copy(
        update={
            "data_dir": settings.data_dir.absolute(),
            "models_root": root.absolute() if root else None,
            "places_file": settings.places_file.absolute() if settings.places_file else None,
        }
    )


def _migrate(settings: Settings) -> None:
    from cli.tables import upgrade

    upgrade(settings)
