"""Nights on another clock, with real processes: each slot once, each change once, the sink as if labelled from scratch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests import tiny_models

from ..databases import new_database
from .nights import MODEL, SCHEDULES, Month, Shop, slots
from .stack import started


@contextmanager
def month(folder: Path, **settings: str) -> Iterator[Month]:
    """A running system with one worker, the shop, its schedules, and the first revision of the model."""
    shop = Shop(folder / "shop.sqlite3")
    (folder / "places.toml").write_text(f'[databases.shop]\nurl = "sqlite:///{shop.path}"\n')
    models = folder / "models"
    revise(models, MODEL, seed=1)
    settings = {
        "data_dir": str(folder / "data"), "models_root": str(models), "places_file": str(folder / "places.toml"),
        "lease_seconds": "3", "sweep_seconds": "0.5", "shard_documents": "8",
    } | settings  # fmt: skip
    given = {name: value for name, value in settings.items() if name != "data_dir"}
    with started(folder / "data", "--workers", "1", **given) as stack:
        made = Month(stack, shop, settings)
        made.begin()
        yield made


def revise(models: Path, model: str, *, seed: int) -> None:
    """Put a revision of a model in the place of what is there, whole."""
    path = models / model
    tiny_models.make_classifier(path.with_name(f"{path.name}-{seed}"), "distilbert", seed=seed)
    if path.exists():
        path.rename(path.with_name(f"{path.name}-before-{seed}"))
    shutil.copytree(path.with_name(f"{path.name}-{seed}"), path)


def passes(made: Month, before: datetime, at: datetime, *, missed: bool = False) -> list[dict[str, object] | None]:
    """Hold each schedule against the slots between two ticks: of those that were missed, the last is made up for."""
    found = []
    for name, (zone, _) in SCHEDULES.items():
        due = slots(zone, before, at)
        assert len(due) > 1 or not missed
        found.append(made.check(name, due[-1:]))
    return found


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_a_few_nights_with_two_tickers_a_new_revision_and_a_killed_worker(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = {}
    if kind == "postgresql":
        settings["database_url"] = new_database(request.getfixturevalue("postgresql_server"))
    start = datetime(datetime.now(UTC).year + 1, 3, 2, 20, tzinfo=UTC)
    with month(tmp_path, **settings) as made:
        before = start - timedelta(days=1)
        for night in range(4):
            at = start + timedelta(days=night)
            made.shop.day(new=150 if night == 2 else 8)
            if night == 1:
                revise(tmp_path / "models", MODEL, seed=2)
            codes = made.tick(at, meanwhile=made.kill_worker_at_work if night == 2 else None)
            assert codes == [0, 0]
            passes(made, before, at)
            before = at
        final = made.labelled_from_scratch(MODEL, made.shop.rows())
        assert {id: row["label"] for id, row in made.shop.labels("berlin").items()} == final


def jumps(zone: str, year: int) -> list[datetime]:
    """The instants from 20 March to 18 April at which a zone's clock jumps, to the hour."""
    hours = [datetime(year, 3, 20, tzinfo=UTC) + timedelta(hours=hour) for hour in range(30 * 24)]
    where = ZoneInfo(zone)
    return [
        later
        for hour, later in pairwise(hours)
        if hour.astimezone(where).utcoffset() != later.astimezone(where).utcoffset()
    ]


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_month_of_nights(tmp_path: Path) -> None:
    """Thirty nights: a weekend without anybody, Berlin's clock goes forward and Sydney's back, a new revision on night 12, a
    worker killed on night 20."""
    year = datetime.now(UTC).year + 1
    [forward], [back] = (jumps(zone, year) for zone, _ in SCHEDULES.values())
    # just before and after the jump of the one; after the first and after the second half past two of the other
    extra = [forward - timedelta(minutes=5), forward + timedelta(minutes=1)]
    extra += [back - timedelta(minutes=29), back + timedelta(minutes=31)]
    with month(tmp_path) as made:
        shutil.copytree(tmp_path / "models" / MODEL, tmp_path / "models" / "nightly" / "first")
        start = datetime(year, 3, 20, 20, tzinfo=UTC)
        before = start - timedelta(days=1)
        for night in range(30):
            at = start + timedelta(days=night)
            made.shop.day(new=150 if night == 20 else 6)
            if night in (5, 6):
                continue
            if night == 12:
                revise(tmp_path / "models", MODEL, seed=2)
            for moment in [*(one for one in extra if at - timedelta(days=1) < one < at), at]:
                meanwhile = made.kill_worker_at_work if night == 20 and moment == at else None
                assert made.tick(moment, meanwhile=meanwhile) == [0, 0]
                passes(made, before, moment, missed=night == 7)
                before = moment
        rows = made.shop.rows()
        final = made.labelled_from_scratch(MODEL, rows)
        assert {id: row["label"] for id, row in made.shop.labels("berlin").items()} == final
        first = made.labelled_from_scratch("nightly/first", rows)
        kept = made.shop.labels("sydney")
        revision = made.shop.labels("berlin")[next(iter(rows))]["model_revision"]
        assert {row["model_revision"] for row in kept.values()} > {revision}
        assert {id: row["label"] for id, row in kept.items()} == {
            id: (final if row["model_revision"] == revision else first)[id] for id, row in kept.items()
        }
        for name in SCHEDULES:
            nights = made.runs(name)
            assert len(nights) == 28
            assert sum(run["counts"]["new"] for run in nights) == len({id for id, _, _ in made.kept[name].ever})
