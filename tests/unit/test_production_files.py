"""docker-compose.yml and the Dockerfile say what they are meant to, and say it in the Compose specification's words."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from corpusmill.settings import settings_from
from worker.pulse import Pulse

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    # Anchors and merge keys are YAML's; required variables get values, as `docker compose` would take them from .env.
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", r"a-\1", text)
    text = re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_the_compose_file_keeps_to_the_specification(compose: dict[str, Any]) -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="no wheel of compose-spec for this Python")
    parsed = compose_spec.PyCompose.from_yaml(yaml.safe_dump(compose))
    parsed.validate()
    assert set(parsed.service_names()) == {
        "postgresql", "broker", "migrate", "api", "sweep", "worker-gpu-0", "worker-cpu"
    }  # fmt: skip


def test_every_image_has_a_version_of_its_own(compose: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values()]
    images += re.findall(r"^FROM (\S+:\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    for image in images:
        assert re.search(r":[0-9]+\.[0-9]+", image), image


def test_the_broker_keeps_what_it_is_given(compose: dict[str, Any]) -> None:
    command = " ".join(compose["services"]["broker"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command
    assert "--requirepass" in command


def test_every_service_gets_settings_that_exist(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        ours = {key: str(value) for key, value in service["environment"].items() if key.startswith("CORPUSMILL_")}
        if ours:
            assert settings_from(ours).database.startswith("postgresql+psycopg://"), name


def test_nothing_starts_before_the_tables_are_there(compose: dict[str, Any]) -> None:
    for name in ("api", "sweep", "worker-gpu-0", "worker-cpu"):
        assert compose["services"][name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_every_service_that_goes_on_says_whether_it_is_well(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert ("healthcheck" in service) == (name != "migrate"), name


def test_workers_and_sweeper_are_well_while_their_pulse_is_young(compose: dict[str, Any], tmp_path: Path) -> None:
    for name in ("sweep", "worker-gpu-0", "worker-cpu"):
        service = compose["services"][name]
        kind, check = service["healthcheck"]["test"]
        path = service["environment"]["CORPUSMILL_PULSE_FILE"]
        assert (kind, path in check) == ("CMD-SHELL", True)
        pulse = Pulse(tmp_path / name)
        command = ["sh", "-c", check.replace(path, str(pulse.path))]
        assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode != 0
        pulse.beat()
        assert subprocess.run(command, check=False).returncode == 0
        os.utime(tmp_path / name, (0, 0))
        assert subprocess.run(command, check=False).returncode != 0


def test_the_hubs_token_and_the_models_that_may_be_used_reach_api_and_workers(compose: dict[str, Any]) -> None:
    for name in ("api", "worker-gpu-0", "worker-cpu"):
        environment = compose["services"][name]["environment"]
        assert environment["CORPUSMILL_HUB_MODELS"] == "*"
        assert "HF_TOKEN" in environment
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert 'CORPUSMILL_HUB_MODELS: "${CORPUSMILL_HUB_MODELS-*}"' in text  # not `:-`: an empty list is a list


def test_every_variable_of_the_compose_file_is_in_the_example_environment() -> None:
    wanted = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    given = re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(given) == wanted


def test_a_gpu_worker_reserves_one_device(compose: dict[str, Any]) -> None:
    (device,) = compose["services"]["worker-gpu-0"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert len(device["device_ids"]) == 1


def test_the_api_image_installs_no_torch() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    api = dockerfile.split("AS api")[1].split("FROM")[0]
    assert 'pip install -c constraints.txt ".[postgres]"' in api
    base = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.S | re.M)
    assert base is not None
    assert not re.search(r"torch|transformers", base.group(1))


def test_the_image_holds_every_package_of_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = re.search(r"^packages = \[(.*)\]", text, re.MULTILINE)
    assert packages is not None
    copied = set(re.findall(r"^COPY (\w+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {package.split("/")[0] for package in re.findall(r'"([^"]+)"', packages.group(1))} <= copied
