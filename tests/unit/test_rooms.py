"""The import contract forgets no room: what is a package here is in it, in the wheel, and resolves to our own folder."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: Packages that are not installed: they run from a checkout and may import whatever they measure or test.
OUTSIDE = {"bench", "tests"}


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def rooms() -> set[str]:
    """Every top-level package of ours, the client's included."""
    return {path.parent.name for folder in (ROOT, ROOT / "client") for path in folder.glob("*/__init__.py")} - OUTSIDE


def test_every_room_is_in_the_import_contract() -> None:
    assert set(project()["tool"]["importlinter"]["root_packages"]) == rooms()


def test_every_room_has_its_place_in_the_layers_or_is_known_to_stand_beside_them() -> None:
    contracts = project()["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert {room for layer in layers for room in layer.split(" | ")} == rooms() - {"corpusmill_client", "demo"}


def test_the_client_may_import_no_room_at_all() -> None:
    contracts = project()["tool"]["importlinter"]["contracts"]
    [alone] = [contract for contract in contracts if contract.get("source_modules") == ["corpusmill_client"]]
    assert set(alone["forbidden_modules"]) == rooms() - {"corpusmill_client"}


def test_every_room_is_in_the_wheel() -> None:
    packages = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {Path(package).name for package in packages} == rooms()


def test_every_room_resolves_to_our_own_folder() -> None:
    for room in rooms():
        found = importlib.util.find_spec(room)
        assert found is not None
        assert found.origin is not None
        assert Path(found.origin).is_relative_to(ROOT), found.origin
