"""Documents go to people and labels come back, over HTTP, from servers that speak what the tools document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from corpusmill.errors import InvalidRequest, PlaceFault, PlaceUnavailable
from pipeline.review.naming import key_of
from tests.integration.asking import argilla, chosen, opened, places, row, studio
from tests.integration.labelling_peers import ArgillaPeer, LabelStudioPeer


def test_label_studio_gets_tasks_with_predictions_in_the_words_of_its_configuration(tmp_path: Path) -> None:
    negative = {"label": "negative", "score": 0.55, "scores": {"negative": 0.55}}
    rows = [row(0), row(1, label="negative", score=0.55, output=negative)]
    with LabelStudioPeer() as peer:
        pushed = list(studio(peer, tmp_path).push(chosen(rows)))
        assert [(each.document_id, each.model_revision, each.remote_id) for each in pushed] == [
            ("d0", "abc", "1"), ("d1", "abc", "2"),
        ]  # fmt: skip
        first, second = peer.tasks
    assert first["data"] == {
        "body": "text 0", "corpusmill_key": key_of(rows[0]), "corpusmill_document": "d0", "corpusmill_run": "run_1",
        "corpusmill_why": "threshold",
    }  # fmt: skip
    [prediction] = second["predictions"]
    assert (prediction["score"], prediction["model_version"]) == (0.55, "demo/classifier:abc")
    [region] = prediction["result"]
    assert (region["from_name"], region["to_name"], region["type"]) == ("sentiment", "review", "choices")
    assert region["value"] == {"choices": ["negative"]}, "by the alias, as annotations have it"


def test_what_label_studio_has_already_is_put_there_no_second_time(tmp_path: Path) -> None:
    with LabelStudioPeer() as peer:
        reviewers = studio(peer, tmp_path)
        once = list(reviewers.push(chosen(row(n) for n in range(60))))
        again = list(studio(peer, tmp_path).push(chosen(row(n) for n in range(70))))
        assert len(peer.tasks) == 70
        assert all(len(task["predictions"]) == 1 for task in peer.tasks)
    assert again[:60] == once


def test_another_model_adds_its_prediction_to_the_task_that_is_there(tmp_path: Path) -> None:
    with LabelStudioPeer() as peer:
        list(studio(peer, tmp_path).push(chosen([row(0), row(1)])))
        list(studio(peer, tmp_path).push(chosen([row(0, model_revision="def"), row(2, model_revision="def")])))
        versions = [[each["model_version"] for each in task["predictions"]] for task in peer.tasks]
    assert versions == [
        ["demo/classifier:abc", "demo/classifier:def"],
        ["demo/classifier:abc"],
        ["demo/classifier:def"],
    ]


def test_a_document_whose_text_has_changed_is_another_task(tmp_path: Path) -> None:
    with LabelStudioPeer() as peer:
        list(studio(peer, tmp_path).push(chosen([row(0)])))
        list(studio(peer, tmp_path).push(chosen([row(0, text="another text")])))
        assert [task["data"]["body"] for task in peer.tasks] == ["text 0", "another text"]


def test_an_import_that_is_taken_in_later_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with LabelStudioPeer(edition="Enterprise") as peer:
        assert [each.remote_id for each in studio(peer, tmp_path).push(chosen([row(0), row(1)]))] == ["1", "2"]


def test_a_thousand_documents_go_in_batches_of_250(tmp_path: Path) -> None:
    with LabelStudioPeer() as peer:
        assert len(list(studio(peer, tmp_path).push(chosen(row(n) for n in range(1_000))))) == 1_000
        assert peer.seen.count(("POST", "/api/projects/1/import")) == 4


def test_annotations_come_back_as_answers_for_each_model_that_has_looked(tmp_path: Path) -> None:
    with LabelStudioPeer() as peer:
        reviewers = studio(peer, tmp_path)
        list(reviewers.push(chosen(row(n) for n in range(4))))
        list(reviewers.push(chosen([row(0, model_revision="def")])))
        peer.annotate("d0", "negative", at="2026-01-02T00:00:00Z")
        peer.annotate("d0", "positive", at="2026-01-03T00:00:00Z")
        peer.annotate("d1", "negative", was_cancelled=True)
        peer.annotate("d2")
        answers = list(reviewers.pull())
    assert [(each.document_id, each.model_revision, each.label) for each in answers] == [
        ("d0", "abc", "positive"), ("d0", "def", "positive"),
    ]  # fmt: skip
    assert (answers[0].at, (answers[0].remote or {})["id"]) == (1767398400.0, "1")


def test_annotations_of_many_pages_all_come_back(tmp_path: Path) -> None:
    with LabelStudioPeer() as peer:
        reviewers = studio(peer, tmp_path)
        list(reviewers.push(chosen(row(n) for n in range(250))))
        for number in range(250):
            peer.annotate(f"d{number}", "negative")
        assert len(list(reviewers.pull())) == 250


def test_a_personal_access_token_buys_access_and_buys_it_again_when_it_has_ended(tmp_path: Path) -> None:
    with LabelStudioPeer() as peer:
        reviewers = studio(peer, tmp_path, token="ey.personal.token")
        assert len(list(reviewers.push(chosen([row(0)])))) == 1
        peer.access = "access-2"
        assert len(list(reviewers.push(chosen([row(1)])))) == 1
        assert peer.seen.count(("POST", "/api/token/refresh/")) == 2


def test_pairs_and_several_labels_use_what_the_configuration_has_for_them(tmp_path: Path) -> None:
    config = """<View><Text name="a" value="$one"/><Text name="b" value="$body"/>
      <Choices name="c" toName="b" choice="multiple"><Choice value="x"/><Choice value="y"/></Choices></View>"""
    output = {"label": "x", "labels": ["x", "y"], "score": 0.9, "scores": {"x": 0.9, "y": 0.8}}
    with LabelStudioPeer(config=config) as peer:
        list(studio(peer, tmp_path).push(chosen([row(0, text_pair="second", label="x", output=output)])))
        [task] = peer.tasks
    assert (task["data"]["body"], task["data"]["one"]) == ("text 0", "second")
    assert task["predictions"][0]["result"][0]["value"] == {"choices": ["x", "y"]}


def test_a_summary_is_put_into_the_text_area(tmp_path: Path) -> None:
    config = '<View><Text name="t" value="$body"/><TextArea name="s" toName="t"/></View>'
    with LabelStudioPeer(config=config) as peer:
        list(studio(peer, tmp_path).push(chosen([row(0, label=None, score=None, output={"summary": "Short."})])))
        assert peer.tasks[0]["predictions"][0]["result"][0]["value"] == {"text": ["Short."]}
        assert peer.tasks[0]["predictions"][0]["score"] is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("<View>", "is not XML"),
        ('<View><Choices name="c" toName="t"/></View>', "shows no text"),
        ('<View><Text name="t" value="$body"/></View>', "takes no label"),
        ('<View><Text name="t" value="$body"/><Choices name="c" toName="t"><Choice value="x"/></Choices></View>',
         "has no choice 'positive' in 'c' \\(it has x\\)"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_take_the_labels_is_refused_before_anything_is_put_there(
    tmp_path: Path, config: str, said: str
) -> None:
    with LabelStudioPeer(config=config) as peer:
        with pytest.raises(PlaceFault, match=said):
            list(studio(peer, tmp_path).push(chosen([row(0)])))
        assert peer.tasks == []


def test_pairs_need_a_configuration_that_shows_both_texts(tmp_path: Path) -> None:
    with LabelStudioPeer() as peer, pytest.raises(PlaceFault, match="add a second <Text>"):
        list(studio(peer, tmp_path).push(chosen([row(0, text_pair="second")])))


def test_faults_that_pass_are_told_from_those_that_a_person_must_mend(tmp_path: Path) -> None:
    with LabelStudioPeer() as peer:
        peer.faults = [503]
        with pytest.raises(PlaceUnavailable, match="answered 503"):
            list(studio(peer, tmp_path).push(chosen([row(0)])))
        with pytest.raises(PlaceFault, match="answered 401"):
            list(studio(peer, tmp_path, token="wrong").push(chosen([row(0)])))
        gone = peer.url
    target = {"type": "label_studio", "place": "team", "project": 1}
    with pytest.raises(PlaceUnavailable, match="did not answer") as raised:
        list(opened(target, places(tmp_path, studio=gone, token="secret")).push(chosen([row(0)])))
    assert "secret" not in str(raised.value)


def test_no_documents_ask_nothing_of_anybody(tmp_path: Path) -> None:
    with LabelStudioPeer() as peer, ArgillaPeer() as other:
        assert list(studio(peer, tmp_path).push([])) == list(argilla(other, tmp_path).push([])) == []
        assert peer.seen == other.seen == []


def test_argilla_gets_at_most_500_records_a_request_and_each_once(tmp_path: Path) -> None:
    with ArgillaPeer() as peer:
        pushed = list(argilla(peer, tmp_path).push(chosen(row(n) for n in range(1_200))))
        again = list(argilla(peer, tmp_path).push(chosen(row(n) for n in range(1_200))))
        assert len(peer.records) == 1_200
        assert again == pushed
        assert sum(path.endswith("/bulk") for _, path in peer.seen) == 6
        record = peer.records[7]
    assert record["external_id"] == f"{key_of(row(7))}/d7"
    assert (record["fields"], record["metadata"]) == ({"text": "text 7"}, {"corpusmill_why": "threshold"})
    [suggestion] = record["suggestions"]
    assert (suggestion["value"], suggestion["score"], suggestion["agent"]) == ("positive", 0.6, "demo/classifier:abc")


def test_argilla_shows_the_newest_model_and_its_answers_are_of_that(tmp_path: Path) -> None:
    with ArgillaPeer() as peer:
        reviewers = argilla(peer, tmp_path)
        list(reviewers.push(chosen([row(0), row(1), row(2)])))
        list(reviewers.push(chosen([row(0, model_revision="def")])))
        peer.respond("d0", "negative", at="2026-01-01T00:00:00")
        peer.respond("d0", "positive", at="2026-01-02T00:00:00")
        peer.respond("d1", "negative", status="draft")
        answers = list(reviewers.pull())
        assert len(peer.records) == 3
        assert [(each.document_id, each.model_revision, each.label, each.at) for each in answers] == [
            ("d0", "def", "positive", 1767312000.0)
        ]
        assert answers[0].remote == {"id": peer.records[0]["id"]}


def test_argilla_takes_several_labels_and_texts_by_its_questions(tmp_path: Path) -> None:
    output = {"label": "positive", "labels": ["positive", "negative"], "score": 0.9, "scores": {}}
    with ArgillaPeer(kind="multi_label_selection") as peer:
        list(argilla(peer, tmp_path).push(chosen([row(0, output=output, text_pair="second")])))
        assert peer.records[0]["suggestions"][0]["value"] == ["positive", "negative"]
        assert peer.records[0]["suggestions"][0]["score"] == [0.6, 0.6]
        assert peer.records[0]["fields"] == {"text": "text 0", "second": "second"}
    with ArgillaPeer(kind="text") as peer:
        list(argilla(peer, tmp_path).push(chosen([row(0, label=None, score=None, output={"translation": "Satz"})])))
        assert peer.records[0]["suggestions"][0]["value"] == "Satz"


#: Of a model that is kept in a directory: a hash over its files, which holds a colon.
HASHED = f"sha256:{'0123456789abcdef' * 4}"


@pytest.mark.parametrize("model", ["demo/classifier", "m" * 300])
@pytest.mark.parametrize("revision", ["abc", HASHED])
def test_a_revision_comes_back_as_it_went_whatever_is_in_it_and_however_long_the_id(
    tmp_path: Path, model: str, revision: str
) -> None:
    given = [row(0, model_id=model, model_revision=revision)]
    with LabelStudioPeer() as peer, ArgillaPeer() as other:
        for reviewers in (studio(peer, tmp_path), argilla(other, tmp_path)):
            list(reviewers.push(chosen(given)))
        peer.annotate("d0", "negative")
        other.respond("d0", "negative")
        answers = [*studio(peer, tmp_path).pull(), *argilla(other, tmp_path).pull()]
        shown = [peer.tasks[0]["predictions"][0]["model_version"], other.records[0]["suggestions"][0]["agent"]]
    assert [(each.document_id, each.model_revision) for each in answers] == [("d0", revision)] * 2
    assert all(len(version) <= 200 and version.startswith(model[:100]) for version in shown)


def test_answers_to_what_another_program_has_predicted_are_left_out_and_counted(
    tmp_path: Path,
) -> None:
    with LabelStudioPeer() as peer, ArgillaPeer() as other:
        for reviewers in (studio(peer, tmp_path), argilla(other, tmp_path)):
            list(reviewers.push(chosen([row(0), row(1)])))
        peer.tasks[0]["predictions"][0]["model_version"] = other.records[0]["suggestions"][0]["agent"] = "theirs"
        for number in range(2):
            peer.annotate(f"d{number}", "negative")
            other.respond(f"d{number}", "negative")
        with capture_logs() as said:
            answers = [*studio(peer, tmp_path).pull(), *argilla(other, tmp_path).pull()]
    assert [each.document_id for each in answers] == ["d1", "d1"]
    assert [(line["event"], line["tool"], line["documents"]) for line in said] == [
        ("answers left out", "Label Studio", 1), ("answers left out", "Argilla", 1),
    ]  # fmt: skip


def test_a_label_or_a_dataset_that_argilla_does_not_have_is_a_fault_for_a_person(tmp_path: Path) -> None:
    with ArgillaPeer(labels=("negative",)) as peer:
        with pytest.raises(PlaceFault, match="has no label 'positive'"):
            list(argilla(peer, tmp_path).push(chosen([row(0)])))
        with pytest.raises(PlaceFault, match="no dataset 'nothing'"):
            list(argilla(peer, tmp_path, dataset="nothing").push(chosen([row(0)])))
        with pytest.raises(PlaceFault, match="several datasets 'reviews'"):
            list(argilla(peer, tmp_path, workspace=None).push(chosen([row(0)])))


@pytest.mark.parametrize("format", ["label_studio", "argilla"])
def test_a_file_for_each_run_appears_whole_and_is_written_over_by_a_repetition(tmp_path: Path, format: str) -> None:
    target = {"type": "file", "place": "out", "path": "{date}/{run}.json", "format": format}
    for _ in range(2):
        pushed = list(opened(target, places(tmp_path)).push(chosen([row(0), row(1)])))
    assert [each.remote_id for each in pushed] == [None, None]
    text = (tmp_path / "2026-01-02" / "run_1.json").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "2026-01-02").iterdir()] == ["run_1.json"]
    if format == "label_studio":
        assert [task["data"]["text"] for task in json.loads(text)] == ["text 0", "text 1"]
        assert json.loads(text)[0]["predictions"][0]["result"][0]["value"] == {"choices": ["positive"]}
    else:
        lines = [json.loads(line) for line in text.splitlines()]
        assert [(line["text"], line["label"], line["label.score"]) for line in lines] == [
            ("text 0", "positive", 0.6), ("text 1", "positive", 0.6),
        ]  # fmt: skip
    assert list(opened(target, places(tmp_path)).pull()) == []


def test_a_file_of_nothing_is_one_that_can_be_imported(tmp_path: Path) -> None:
    target = {"type": "file", "place": "out", "path": "none.json", "format": "label_studio"}
    assert list(opened(target, places(tmp_path)).push([])) == []
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_a_path_never_leaves_its_folder(tmp_path: Path) -> None:
    target = {"type": "file", "place": "out", "path": "../x.json", "format": "argilla"}
    with pytest.raises(InvalidRequest, match="leads out of the folder"):
        opened(target, places(tmp_path / "inner"))
