"""The client against a server that speaks the contract, over real connections."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpusmill_client import Client, CorpusmillError, Job, WaitTimeout
from corpusmill_client import client as client_module

from tests.unit.contract_peer import Peer

TEXTS = ["good", "bad", "so so"]


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.delenv("CORPUSMILL_URL", raising=False)
    monkeypatch.delenv("CORPUSMILL_API_KEY", raising=False)
    started = Peer().start()
    yield started
    started.stop()


@pytest.fixture
def client(peer: Peer) -> Iterator[Client]:
    with Client(peer.url) as opened:
        yield opened


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_text("id,text,stars\na,good,5\nb,bad,1\nc,so so,3\n")
    return path


def test_a_file_is_classified_waited_for_and_read_into_a_data_frame_in_one_line(client: Client, reviews: Path) -> None:
    frame = client.classify(reviews, model="echo").wait().to_pandas()
    assert list(frame["text"]) == TEXTS
    assert list(frame["stars"]) == ["5", "1", "3"]
    assert set(frame["label"]) <= {"0", "1", "2", "3"}
    assert frame["error"].isna().all()


def test_a_path_may_be_a_plain_string(client: Client, reviews: Path) -> None:
    assert client.submit("summarization", str(reviews), model="echo").wait().to_list()[0]["output"] == {
        "summary": "good"
    }


def test_texts_are_translated_in_place_without_a_corpus(client: Client, peer: Peer) -> None:
    job = client.translate(TEXTS, model="echo").wait()
    assert [result.output for result in job.results()] == [{"translation": text[::-1]} for text in TEXTS]
    assert not peer.asked("POST", "/corpora")


def test_small_documents_go_with_the_job_and_keep_their_fields(client: Client, peer: Peer) -> None:
    client.classify([{"id": "x", "text": "good", "stars": 5}], model="echo")
    assert json.loads(peer.asked("POST", "/jobs")[0].body)["documents"] == [{"id": "x", "text": "good", "stars": 5}]


@pytest.mark.parametrize("lazily", [False, True])
def test_too_many_documents_for_a_job_become_a_corpus(
    client: Client, peer: Peer, monkeypatch: pytest.MonkeyPatch, lazily: bool
) -> None:
    monkeypatch.setattr(client_module, "INLINE_DOCUMENTS", 2)
    source = [{"text": text, "text_pair": "?"} for text in TEXTS]
    job = client.classify(iter(source) if lazily else source, model="echo")
    upload = peer.asked("POST", "/corpora")[0]
    assert [json.loads(line)["text"] for line in upload.body.splitlines()] == TEXTS
    assert upload.query == {"text_pair_field": "text_pair"}
    assert job.counts.total == 3


def test_a_corpus_that_is_still_being_read_is_waited_for(client: Client, peer: Peer, reviews: Path) -> None:
    corpus = client.upload(reviews)
    kept = peer.corpora[corpus.id]
    kept["status"] = "validating"
    assert corpus.refresh().status == "validating"
    with pytest.raises(WaitTimeout, match=corpus.id):
        corpus.wait(timeout=0)
    kept["status"] = "ready"
    assert corpus.wait(timeout=60).status == "ready"


def test_documents_with_other_field_names_become_a_corpus_that_knows_them(client: Client, peer: Peer) -> None:
    job = client.classify([{"review": "good"}], model="echo", text_field="review")
    assert peer.asked("POST", "/corpora")[0].query == {"text_field": "review"}
    assert job.counts.total == 1


def test_an_uploaded_corpus_serves_several_jobs_by_itself_or_by_its_id(
    client: Client, reviews: Path, peer: Peer
) -> None:
    corpus = client.upload(reviews, name="march")
    assert client.classify(corpus, model="echo").corpus == client.summarize(corpus.id, model="echo").corpus == corpus.id
    assert (corpus.name, corpus.status, corpus.documents) == ("march", "ready", 3)
    assert len(peer.asked("POST", "/corpora")) == 1


def test_parameters_of_the_task_are_keywords_and_the_rest_is_the_jobs_own(client: Client, peer: Peer) -> None:
    client.classify(
        ["good"], model="echo", revision="abc", name="n", priority=3, metadata={"by": "cron"}, multi_label=True, top_k=2
    )
    assert json.loads(peer.asked("POST", "/jobs")[0].body) == {
        "task": "classification",
        "documents": [{"text": "good"}],
        "model": "echo",
        "revision": "abc",
        "name": "n",
        "priority": 3,
        "metadata": {"by": "cron"},
        "params": {"multi_label": True, "top_k": 2},
    }


def test_the_address_and_the_key_come_from_the_environment(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    peer.key = "s3cret"
    monkeypatch.setenv("CORPUSMILL_URL", peer.url)
    with Client() as keyless, pytest.raises(CorpusmillError, match="Set CORPUSMILL_API_KEY") as refused:
        keyless.models()
    assert (refused.value.status, refused.value.code) == (401, "unauthorized")
    monkeypatch.setenv("CORPUSMILL_API_KEY", "s3cret")
    with Client() as keyed:
        assert [model.id for model in keyed.models()] == ["echo"]


@pytest.mark.parametrize("url", ["127.0.0.1:1", "http://127.0.0.1:1/", " http://127.0.0.1:1", "127.0.0.1:1/api/v1/"])
def test_an_address_may_be_written_short(url: str) -> None:
    with Client(url) as client:
        assert client.url == "http://127.0.0.1:1"


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host?x=1"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="no address of a server"):
        Client(url)


@pytest.mark.parametrize(
    ("name", "media", "encoding"),
    [
        ("a.jsonl", "application/x-ndjson", None),
        ("a.NDJSON.gz", "application/x-ndjson", "gzip"),
        ("a.b.csv", "text/csv", None),
        ("a.csv.zst", "text/csv", "zstd"),
        ("a.tsv", "text/tab-separated-values", None),
        ("a.parquet", "application/vnd.apache.parquet", None),
        ("a.txt.gz", "text/plain", "gzip"),
        ("a.zip", "application/zip", None),
    ],
)
def test_the_format_is_read_from_the_extension(
    client: Client, peer: Peer, tmp_path: Path, name: str, media: str, encoding: str | None
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b'{"text": "a"}') if encoding else b'{"text": "a"}')
    client.upload(path)
    seen = peer.asked("POST", "/corpora")[0]
    assert (seen.headers["content-type"], seen.headers.get("content-encoding")) == (media, encoding)
    assert seen.body == path.read_bytes()


def test_an_unknown_format_is_refused_with_those_that_are_known(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"'a.xlsx'.*\.parquet.*format="):
        client.upload(tmp_path / "a.xlsx")


def test_a_json_file_is_refused_with_what_may_be_meant(client: Client, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"JSON Lines.*format='jsonl'"):
        client.upload(tmp_path / "x.json")


def test_the_format_may_be_said_where_the_name_does_not(client: Client, peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(b'{"text": "a"}\n')
    assert client.upload(tmp_path / "dump", format="jsonl").documents == 1
    assert client.upload(io.BytesIO(b'{"text": "a"}\n'), format="jsonl.gz").documents == 1
    assert peer.seen[-1].headers["content-encoding"] == "gzip"


def test_an_open_file_is_sent_in_blocks_without_knowing_its_length(client: Client, peer: Peer, reviews: Path) -> None:
    with reviews.open() as file:
        assert client.upload(file).documents == 3
    assert peer.seen[-1].headers["transfer-encoding"] == "chunked"


def test_an_upload_tells_its_progress_and_its_length_beforehand(client: Client, peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "aaaaaaaaaaaaaaaaaaaa"}\n' * 20_000)
    steps: list[tuple[int, int | None]] = []
    client.upload(path, progress=lambda sent, size: steps.append((sent, size)))
    assert len(steps) > 1
    assert steps[-1] == (path.stat().st_size, path.stat().st_size)
    assert peer.seen[-1].headers["content-length"] == str(path.stat().st_size)


def test_blocks_of_bytes_are_uploaded_as_they_are(client: Client, peer: Peer) -> None:
    client.upload((block for block in [b'{"text": ', b'"a"}\n']), format="jsonl", name="made")
    assert (peer.seen[-1].body, peer.seen[-1].query["name"]) == (b'{"text": "a"}\n', "made")


def test_text_that_utf8_cannot_write_is_escaped_and_the_rest_is_not(client: Client, peer: Peer) -> None:
    client.upload(["Grüße", "\ud800"])
    assert peer.seen[-1].body == '{"text":"Grüße"}\n{"text": "\\ud800"}\n'.encode()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("missing.csv", FileNotFoundError, "texts themselves go into a list"),
        ([{"text": float("nan")}], ValueError, "Document 0 cannot be written as JSON"),
        (["a", 7], TypeError, "Document 1 is a int"),
        ({"text": "a"}, TypeError, "is no source"),
        (b"text", TypeError, "is no source"),
        (7, TypeError, "is no source"),
    ],
)
def test_what_is_no_source_is_refused_with_a_reason(
    client: Client, source: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        client.upload(source)


def test_a_data_frame_is_not_mistaken_for_its_column_names(client: Client) -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"to_dict\('records'\)"):
        client.classify(pandas.DataFrame({"text": ["a"]}), model="echo")


def test_a_corpus_without_a_readable_line_is_refused_with_the_lines(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("oops\n")
    with pytest.raises(CorpusmillError, match=r"a.jsonl was rejected(?s:.*)line 1: Expecting value.") as refused:
        client.classify(tmp_path / "a.jsonl", model="echo")
    assert refused.value.code == "corpus_rejected"


def test_lines_that_could_not_be_read_are_listed_with_their_number(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('oops\n{"text": "a"}\n')
    corpus = client.upload(tmp_path / "a.jsonl")
    assert [(error.line, error.code) for error in corpus.errors()] == [(1, "invalid_json")]
    assert [document["text"] for document in corpus.read()] == ["a"]


def test_a_refused_parameter_says_where_it_is_and_what_is_known(client: Client) -> None:
    with pytest.raises(CorpusmillError) as refused:
        client.classify(["a"], model="echo", top_q=1)
    error = refused.value
    assert (error.status, error.code, error.request_id) == (422, "invalid_request", "req_7")
    assert [(fault.pointer, fault.message) for fault in error.errors] == [
        ("/params/top_q", "Unknown field. Did you mean top_k?")
    ]
    for part in (
        "do not fit the task",
        "/params/top_q: Unknown field. Did you mean top_k?",
        "POST http",
        "422",
        "req_7",
    ):
        assert part in str(error)


def test_a_job_refused_after_its_upload_says_where_the_corpus_is_kept(client: Client, reviews: Path) -> None:
    with pytest.raises(CorpusmillError, match=r"no model other here.*kept as corpus_0: submit that"):
        client.classify(reviews, model="other")


def test_jobs_corpora_and_models_are_listed_through_all_pages(
    client: Client, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpusmill_client.pages.PAGE", 2)
    for _ in range(5):
        client.classify(["a"], model="echo")
    assert [job.id for job in client.jobs()] == ["job_4", "job_3", "job_2", "job_1", "job_0"]
    assert [job.id for job in client.jobs(limit=3)] == ["job_4", "job_3", "job_2"]
    assert [job.id for job in client.jobs(status="completed")] == []
    assert len(list(client.corpora())) == 5
    assert client.models()[0].tasks == ("classification",)


def test_waiting_uses_the_long_poll_and_tells_every_change(client: Client, peer: Peer) -> None:
    job = client.classify(TEXTS, model="echo")
    told: list[tuple[str, int]] = []
    assert job.wait(progress=lambda each: told.append((each.status, each.counts.succeeded))) is job
    assert told == [("running", 1), ("running", 2), ("completed", 3)]
    first, *later = peer.asked("GET", f"/jobs/{job.id}")
    assert "wait" not in first.query
    assert {each.query["wait"] for each in later} == {"30"}
    assert all("if-none-match" in each.headers for each in later)


def test_waiting_for_a_job_that_has_ended_asks_nothing(client: Client, peer: Peer) -> None:
    job = client.classify(TEXTS, model="echo").wait()
    asked = len(peer.seen)
    assert job.wait().status == "completed"
    assert len(peer.seen) == asked


def test_waiting_ends_after_the_timeout_and_the_job_goes_on(client: Client, peer: Peer) -> None:
    peer.steps = 1_000_000
    job = client.classify(TEXTS, model="echo")
    with pytest.raises(WaitTimeout, match=r"has not ended within 0.05 s; it goes on"):
        job.wait(timeout=0.05)
    assert issubclass(WaitTimeout, TimeoutError)


def test_a_failed_document_is_a_result_with_its_reason(client: Client) -> None:
    job = client.classify(["good", " "], model="echo").wait()
    assert job.status == "completed_with_errors"
    [failed] = job.results(status="failed")
    assert (failed.position, failed.output, failed.error and failed.error["code"]) == (1, None, "empty_text")
    errors = job.to_pandas()["error"]
    assert (bool(errors.isna()[0]), errors[1]) == (True, "The text is empty.")


def test_a_failed_job_is_returned_by_wait_and_refused_as_a_table(client: Client, peer: Peer) -> None:
    job = client.classify(["good"], model="echo")
    peer.jobs[job.id]["error"] = {"code": "model_fault", "message": "The weights are gone."}
    assert job.wait().error == "The weights are gone."
    with pytest.raises(CorpusmillError, match=r"job_0 failed: The weights are gone."):
        job.to_pandas()


def test_results_come_page_by_page_while_the_job_runs(
    client: Client, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpusmill_client.jobs.PAGE", 2)
    job = client.classify([str(n) for n in range(7)], model="echo")
    assert list(job.results(follow=False)) == []
    assert 0 < len(list(job.results(follow=False))) < 7
    monkeypatch.setattr("time.sleep", lambda _: job.refresh())  # what else would happen meanwhile
    assert [result.position for result in job.results()] == list(range(7))
    assert [result.position for result in job.results(limit=3)] == [0, 1, 2]
    labels = {result.output["label"] for result in job.results() if result.output}
    assert sum(len(list(job.results(label=label))) for label in labels) == 7


def test_an_export_is_a_whole_file_in_the_format_of_its_name(client: Client, tmp_path: Path) -> None:
    job = client.classify(TEXTS, model="echo").wait()
    assert job.export(tmp_path / "out.jsonl").read_text().count("\n") == 3
    assert job.export(tmp_path / "out.csv").read_text().startswith("id,text,label")
    assert job.export(str(tmp_path / "out.parquet")).read_bytes().startswith(b"PAR1")
    assert job.export(tmp_path / "out", format="csv").read_text().startswith("id,text,label")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.csv", "out.jsonl", "out.parquet"]


def test_a_format_alone_exports_into_the_current_directory(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert client.classify(TEXTS, model="echo").wait().export("csv") == Path("job_0.csv")


def test_an_export_before_the_end_is_refused_unless_partial(client: Client, tmp_path: Path) -> None:
    job = client.classify(TEXTS, model="echo")
    with pytest.raises(CorpusmillError, match=r"has not ended") as refused:
        job.export(tmp_path / "out.jsonl")
    assert refused.value.status == 409
    assert list(tmp_path.iterdir()) == []
    assert job.export(tmp_path / "out.jsonl", partial=True).read_text() == ""


def test_an_export_of_no_known_format_is_refused_before_anything_is_asked(client: Client) -> None:
    with pytest.raises(ValueError, match=r"\.jsonl, \.csv or \.parquet"):
        client.classify(TEXTS, model="echo").export("out.xlsx")


def test_metrics_are_found_by_name_with_their_interval(client: Client, peer: Peer) -> None:
    metric = {"name": "accuracy", "value": 0.9, "ci_low": 0.8, "ci_high": 0.95, "n": 3, "coverage": 1.0, "new": 1}
    peer.metrics = {
        "metrics": [metric],
        "confusion_matrix": {"labels": ["0"], "counts": [[3]]},
        "references_version": 4,
    }
    metrics = client.classify(TEXTS, model="echo").metrics()
    assert (metrics["accuracy"].ci_low, metrics["accuracy"].n, len(metrics)) == (0.8, 3, 1)
    assert ("accuracy" in metrics, "bleu" in metrics, metrics.references_version) == (True, False, 4)
    assert metrics.confusion_matrix == {"labels": ["0"], "counts": [[3]]}
    with pytest.raises(KeyError, match="there are accuracy"):
        metrics["bleu"]


def test_references_are_attached_to_a_corpus_in_place_of_those_it_has_or_added_to_them(
    client: Client, peer: Peer, tmp_path: Path
) -> None:
    corpus = client.upload([{"text": text} for text in TEXTS])
    (tmp_path / "gold.jsonl").write_text('{"id": "0", "reference": "1"}\n')
    assert corpus.attach_references(tmp_path / "gold.jsonl").version == 1
    made = corpus.attach_references(({"position": at, "reference": "x"} for at in range(2)), add=True)
    assert (made.version, made.documents, corpus.references_version) == (2, 2, 2)
    put, patch = peer.asked("PUT", "/references")[0], peer.asked("PATCH", "/references")[0]
    assert (put.body, put.headers["content-type"]) == (b'{"id": "0", "reference": "1"}\n', "application/x-ndjson")
    assert [json.loads(line)["position"] for line in patch.body.splitlines()] == [0, 1]
    assert [each.version for each in corpus.references()] == [2, 1]


def test_references_that_cannot_be_used_are_named_by_their_lines(client: Client) -> None:
    corpus = client.upload([{"text": text} for text in TEXTS])
    with pytest.raises(CorpusmillError, match="Line 2: no JSON") as refused:
        corpus.attach_references(io.BytesIO(b'{"id": "0", "reference": "1"}\nno\n'))
    assert refused.value.code == "invalid_references"


def test_references_whose_answer_was_lost_are_sent_again(client: Client, peer: Peer) -> None:
    corpus = client.upload([{"text": text} for text in TEXTS])
    peer.misbehave("PUT", "/references", "hang up")
    assert corpus.attach_references([{"id": "0", "reference": "1"}]).version == 1


def test_a_cancelled_job_says_so_and_a_deleted_one_is_gone(client: Client) -> None:
    job = client.classify(TEXTS, model="echo")
    assert job.cancel().status == "cancelled"
    assert job.counts.cancelled == 3
    job.delete()
    with pytest.raises(CorpusmillError, match="There is no job_0") as refused:
        client.job(job.id)
    assert refused.value.code == "not_found"


def test_an_id_stays_one_part_of_the_path_whatever_it_holds(client: Client, peer: Peer) -> None:
    with pytest.raises(CorpusmillError, match="not_found"):
        client.job("../corpora?x")
    assert peer.seen[-1].path == "/api/v1/jobs/..%2Fcorpora%3Fx"


def test_a_job_shows_itself(client: Client) -> None:
    job: Job = client.classify(TEXTS, model="echo", name="n").refresh()
    assert repr(job) == "Job('job_0', classification, 'echo', running, 1/3)"
    assert job.created_at is not None
    assert job.created_at.isoformat() == "2026-01-02T03:04:05+00:00"
    assert (job.name, job.revision, job.started_at) == ("n", "1", None)
    assert job.progress == pytest.approx(1 / 3)
