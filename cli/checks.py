"""What the doctor looks at: each check finds out one thing and says how to mend it.

Knows what is needed for the service to run well. Must not change anything, nor create what it looks for.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from broker.doorbell import Doorbell
from cli import tables
from cli.devices import ask_torch
from corpora.disk import full
from corpusmill.errors import (
    BrokerFull,
    BrokerUnavailable,
    DatabaseUnavailable,
    InvalidSettings,
    PlaceFault,
    PlaceUnavailable,
)
from corpusmill.settings import Settings, refuse_open, settings_from

_GIB = 1 << 30
#: Leases go by the database's clock alone, so a wrong clock here harms only the times that people read.
_CLOCK_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing found. A `fault` keeps the service from working as promised, a `warning` does not; `mend` says how to
    put it right and is empty where nothing is wrong."""

    check: str
    state: Literal["ok", "warning", "fault"]
    found: str
    mend: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def examine(environ: Mapping[str, str], data: Path | None = None) -> list[Finding]:
    """Every check in turn; where the settings themselves are wrong, only those that need none."""
    try:
        settings = settings_from(environ, data_dir=data)
    except InvalidSettings as error:
        return [Finding(check="settings", state="fault", found=str(error), mend="Correct these variables.")]
    return [
        finding
        for check in (_settings, _data_directory, _database, _broker, _models, _places, _devices)
        for finding in check(settings)
    ]


def _settings(settings: Settings) -> Iterator[Finding]:
    try:
        refuse_open(settings)
    except InvalidSettings as error:
        yield Finding(check="settings", state="fault", found=str(error), mend="Set the key, or bind 127.0.0.1.")
        return
    key = "with a key" if settings.api_key else "without a key, for this machine alone"
    yield Finding(check="settings", state="ok", found=f"The API binds {settings.host}:{settings.port}, {key}.")


def _data_directory(settings: Settings) -> Iterator[Finding]:
    path = settings.data_dir.absolute()
    there = path
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            check="data directory", state="fault", found=f"{there} cannot be written to.",
            mend="Change its owner or mode, or set CORPUSMILL_DATA_DIR.",
        )  # fmt: skip
        return
    free = shutil.disk_usage(there).free
    found = f"{path}{'' if path.exists() else ' (will be made)'}, {free / _GIB:.1f} GiB free."
    if no_room := full(settings):
        yield Finding(
            check="data directory", state="fault", found=f"No room on the disk of: {', '.join(no_room)} ({path}).",
            mend="Free space; everything goes on from there by itself.",
        )  # fmt: skip
    elif free < _GIB:
        yield Finding(check="data directory", state="warning", found=found, mend="Free space, or use another disk.")
    else:
        yield Finding(check="data directory", state="ok", found=found)


def _database(settings: Settings) -> Iterator[Finding]:
    from db.engine import at_head, create_engine, now, usable

    file = Path(settings.database.removeprefix("sqlite:///"))
    if settings.database.startswith("sqlite:///") and not file.exists():
        yield Finding(
            check="database", state="warning", found=f"{file} is not there yet.",
            mend="`corpusmill up` or `corpusmill db upgrade` makes it.",
        )  # fmt: skip
        return
    engine = create_engine(settings.database, pool_size=1)
    try:
        current, expanded = at_head(engine), usable(engine)
        asked = time.time()
        skew = now(engine) - (asked + time.time()) / 2
    except DatabaseUnavailable as error:
        yield Finding(
            check="database", state="fault", found=tables.unusable(settings, error), mend=tables.mend(settings)
        )
        return
    finally:
        engine.dispose()
    name = engine.dialect.name
    if current:
        yield Finding(check="database", state="ok", found=f"{name} answers; its tables are those of this version.")
    elif expanded:
        yield Finding(
            check="database", state="ok",
            found=f"{name} answers; its tables are those of a newer version, which this one can use.",
        )  # fmt: skip
    else:
        yield Finding(
            check="database", state="fault", found=f"{name} answers; its tables are not those of this version.",
            mend="Run `corpusmill db upgrade`.",
        )  # fmt: skip
    wrong = abs(skew) > _CLOCK_SECONDS
    yield Finding(
        check="clock", state="warning" if wrong else "ok",
        found=f"The database's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's.",
        mend="Set both by NTP." if wrong else "",
    )  # fmt: skip


def _broker(settings: Settings) -> Iterator[Finding]:
    try:
        doorbell = Doorbell(settings)
        doorbell.ping()
        policy = doorbell.policy()
        depth = doorbell.depth()
        doorbell.close()
    except InvalidSettings as error:
        yield Finding(check="broker", state="fault", found=str(error), mend="Correct CORPUSMILL_BROKER_URL.")
        return
    except BrokerFull as error:
        yield Finding(check="broker", state="fault", found=str(error), mend="Give it room; it goes on by itself.")
        return
    except BrokerUnavailable as error:
        if settings.broker_url:
            yield Finding(
                check="broker", state="fault", found=str(error), mend="Start it, or correct CORPUSMILL_BROKER_URL."
            )
        else:
            yield Finding(
                check="broker", state="warning", found="The embedded Valkey is not running.",
                mend="`corpusmill up` starts it.",
            )  # fmt: skip
        return
    yield Finding(check="broker", state="ok", found=f"Version {policy['version']} answers; {depth} messages wait.")
    yield _eviction(policy["maxmemory-policy"])
    yield _persistence(policy["appendonly"])


def _eviction(policy: str | None) -> Finding:
    mend = "`CONFIG SET maxmemory-policy noeviction`, and the same in its configuration."
    if policy is None:
        return Finding(
            check="broker eviction", state="warning", found="The policy may not be asked for.",
            mend="See that it is `noeviction`.",
        )  # fmt: skip
    if policy != "noeviction":
        return Finding(
            check="broker eviction", state="fault", found=f"`{policy}`: the queue itself may be evicted.", mend=mend
        )
    return Finding(check="broker eviction", state="ok", found="`noeviction`")


def _persistence(appendonly: str | None) -> Finding:
    if appendonly == "no":
        return Finding(
            check="broker persistence", state="warning",
            found="No append-only file: a restart forgets the messages, and the sweeper sends them again.",
            mend="`appendonly yes`.",
        )  # fmt: skip
    found = "may not be asked for" if appendonly is None else "append-only file"
    return Finding(check="broker persistence", state="ok", found=found)


def _models(settings: Settings) -> Iterator[Finding]:
    from catalog import Catalog

    root = settings.models_root
    if root is not None and not (root.is_dir() and os.access(root, os.R_OK | os.X_OK)):
        yield Finding(
            check="models root", state="fault", found=f"{root} is not a directory that can be read.",
            mend="Correct CORPUSMILL_MODELS_ROOT.",
        )  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as elsewhere:
        there = settings.data_dir.exists()
        cache = settings.data_dir / "cache" if there else Path(elsewhere)
        known = Catalog(root, settings.hub_models, cache).listing()
    where = f"below {root} and built in" if root else "built in; no models root is set"
    yield Finding(check="models", state="ok", found=f"{', '.join(model.id for model in known)} ({where}).")


def _places(settings: Settings) -> Iterator[Finding]:
    """The places that schedules may name: nothing is said where there are none."""
    from pipeline.places import load_places

    if settings.places_file is None:
        return
    try:
        places = load_places(settings)
    except InvalidSettings as error:
        yield Finding(check="places", state="fault", found=str(error), mend="Correct the file.")
        return
    for name, folder in places.folders.items():
        check = f"folder {name}"
        if not (folder.path.is_dir() and os.access(folder.path, os.R_OK | os.X_OK)):
            yield Finding(
                check=check, state="fault", found=f"{folder.path} is not a directory that can be read.",
                mend=f"Make it, or correct [folders.{name}] in {settings.places_file}.",
            )  # fmt: skip
            continue
        writable = "" if os.access(folder.path, os.W_OK) else ", which cannot be written to"
        yield Finding(check=check, state="ok", found=f"{folder.path}{writable}.")
    for name, database in places.databases.items():
        yield _place(f"database {name}", database.url.get_secret_value(), name, settings)
    named = [f"{len(places.label_studio)} Label Studio", f"{len(places.argilla)} Argilla"]
    yield Finding(
        check="places", state="ok",
        found=f"{len(places.databases)} databases, {len(places.folders)} folders, {', '.join(named)}.",
    )  # fmt: skip


def _place(check: str, url: str, name: str, settings: Settings) -> Finding:
    """Whether a database answers. What its driver says may name address and account, and is the operator's to read."""
    from db.external import answers

    mend = f"Correct [databases.{name}] in {settings.places_file}, or start it."
    try:
        kind = answers(url, name)
    except (PlaceUnavailable, PlaceFault) as error:
        private = getattr(error, "private", None)
        return Finding(check=check, state="fault", found=f"{error} {private}" if private else str(error), mend=mend)
    return Finding(check=check, state="ok", found=f"{kind} answers.")


def _devices(settings: Settings) -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        yield Finding(
            check="devices", state="fault" if settings.device == "cuda" else "warning",
            found="torch is not installed: this machine can run the API, the sweeper and the model `echo`.",
            mend='`pip install "corpusmill[worker]"` where workers are to run.',
        )  # fmt: skip
        return
    devices = ask_torch()
    if devices.fault:
        yield Finding(check="devices", state="fault", found=devices.fault, mend="Install torch again.")
        return
    seen = ", ".join(devices.cuda) or "no CUDA device, the CPU is used"
    if settings.device == "cuda" and not devices.cuda:
        yield Finding(
            check="devices", state="fault", found=f"torch {devices.torch}: no CUDA device.",
            mend="Install the driver and a CUDA build of torch, or set CORPUSMILL_DEVICE to `auto`.",
        )  # fmt: skip
        return
    yield Finding(check="devices", state="ok", found=f"torch {devices.torch}: {seen}; {os.cpu_count()} cores.")
