"""The labelling tools' own packages accept what is put there and exported, each in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corpusmill.errors import PlaceFault
from corpusmill.places import LabelStudioPlace
from corpusmill.schedules import LabelStudioTarget
from pipeline.review.label_config import parse_config
from pipeline.review.label_studio import LabelStudio, task_of
from pipeline.review.vendor import Validator
from tests.environments import environment
from tests.integration.asking import argilla, chosen, opened, places, row, studio
from tests.integration.labelling_peers import CONFIG, ArgillaPeer, LabelStudioPeer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]
VENDORS = Path(__file__).parents[1] / "vendors"
#: What an exported file is for.
PLAIN = """<View><Text name="text" value="$text"/><Choices name="label" toName="text">
  <Choice value="positive"/><Choice value="negative"/></Choices></View>"""


@pytest.fixture(scope="module")
def label_studio_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("label-studio") / "venv", "label-studio-sdk>=2")


@pytest.fixture(scope="module")
def argilla_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # the package itself forgets to say that it needs requests
    return environment(tmp_path_factory.mktemp("argilla") / "venv", "argilla>=2", "requests")


def ran(python: Path, script: str, *arguments: str) -> Any:
    done = subprocess.run(
        [str(python), str(VENDORS / script), *arguments], check=False, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def exported(tmp_path: Path, format: str) -> Path:
    target = {"type": "file", "place": "out", "path": f"{format}.json", "format": format}
    list(opened(target, places(tmp_path)).push(chosen([row(1), row(2)])))
    return tmp_path / f"{format}.json"


def test_label_studios_package_accepts_our_file_and_reads_what_we_put_there(
    label_studio_python: Path, tmp_path: Path
) -> None:
    with LabelStudioPeer(config=PLAIN) as peer:
        list(studio(peer, tmp_path).push(chosen([row(0), row(1)])))
        found = ran(
            label_studio_python, "label_studio_reads.py", peer.url, str(exported(tmp_path, "label_studio")), PLAIN
        )
    assert found["faults"] == []
    assert [each["data"]["corpusmill_document"] for each in found["read"]] == ["d0", "d1"]
    assert found["read"][0]["versions"] == ["demo/classifier:abc"]
    assert found["imported"] == 2


def test_label_studios_validator_agrees_with_our_reading_of_a_configuration(label_studio_python: Path) -> None:
    several = PLAIN.replace('toName="text"', 'toName="text" choice="multiple"')
    area = '<View><Text name="t" value="$body"/><TextArea name="s" toName="t"/></View>'
    outputs: list[tuple[str, dict[str, Any]]] = [
        (PLAIN, {"label": "negative"}), (several, {"label": "positive", "labels": ["positive", "negative"]}),
        (area, {"summary": "Short."}),
    ]  # fmt: skip
    for config, output in outputs:
        [each] = chosen([row(0, output=output)])
        with Validator(str(label_studio_python)) as validator:
            assert validator.configuration(config) == []
            made = task_of(each, parse_config(config))["predictions"]
            assert validator.predictions(made) == []
            wrong = [{**made[0], "result": [{**made[0]["result"][0], "from_name": "nothing"}]}]
            assert "not found in configuration" in validator.predictions(wrong)[0]
    with Validator(str(label_studio_python)) as validator:
        assert validator.configuration('<View><Choices name="c" toName="t"/></View>') != []


def test_what_the_validator_refuses_is_not_put_there(label_studio_python: Path) -> None:
    # our reading needs only one control that fits; the package judges them all
    unsound = PLAIN.replace("</View>", '<Choices name="other" toName="nowhere"><Choice value="x"/></Choices></View>')
    with LabelStudioPeer(config=unsound) as peer:
        place = LabelStudioPlace.model_validate(
            {"url": peer.url, "token": "legacy", "sdk_python": str(label_studio_python)}
        )
        target = LabelStudioTarget(type="label_studio", place="team", project=1)
        with pytest.raises(PlaceFault, match="label-studio-sdk refuses the labelling configuration"):
            list(LabelStudio(place, target).push(chosen([row(0)])))
        assert peer.tasks == []
        peer.config = PLAIN
        assert len(list(LabelStudio(place, target).push(chosen([row(0), row(1)])))) == 2
        mixed = replace(row(2), label="mixed", output={"label": "mixed"})
        with pytest.raises(PlaceFault, match="has no choice 'mixed'"):
            list(LabelStudio(place, target).push(chosen([mixed])))


def test_aliases_are_what_label_studios_annotations_say(label_studio_python: Path) -> None:
    """The package's validator knows the values of choices alone, the server's annotations their aliases."""
    assert parse_config(CONFIG).choices == {"positive", "negative"}
    with Validator(str(label_studio_python)) as validator:
        assert validator.configuration(CONFIG) == []


def test_an_interpreter_without_the_package_is_said_to_have_none(tmp_path: Path) -> None:
    bare = environment(tmp_path / "venv")
    with Validator(str(bare)) as validator, pytest.raises(OSError, match="No module named 'label_studio_sdk'"):
        validator.configuration(PLAIN)


def test_argillas_package_reads_what_we_put_there_and_logs_our_file(argilla_python: Path, tmp_path: Path) -> None:
    with ArgillaPeer() as peer:
        list(argilla(peer, tmp_path).push(chosen([row(0), row(1)])))
        peer.respond("d0", "negative")
        read = ran(argilla_python, "argilla_reads.py", peer.url, str(exported(tmp_path, "argilla")))
        logged = {record["external_id"].partition("/")[2]: record for record in peer.records}
    suggestion = {"question": "label", "value": "positive", "score": 0.6, "agent": "demo/classifier:abc"}
    assert [each["suggestions"] for each in read] == [[suggestion], [suggestion]]
    assert read[0]["fields"] == {"text": "text 0"}
    assert read[0]["responses"] == [{"question": "label", "value": "negative", "status": "submitted"}]
    assert list(logged) == ["d0", "d1", "d2"], "what is there already is not there twice"
    assert logged["d2"]["suggestions"][0]["agent"] == "demo/classifier:abc"
    assert logged["d2"]["fields"] == {"text": "text 2"}
