"""The command line against a server that speaks the contract."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.commands import COMMANDS, app
from cli.output import cell, span
from cli.progress import size
from tests.unit.contract_peer import Peer

Run = Callable[..., Result]


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.delenv("CORPUSMILL_API_KEY", raising=False)
    started = Peer().start()
    monkeypatch.setenv("CORPUSMILL_URL", started.url)
    yield started
    started.stop()


@pytest.fixture
def run(peer: Peer) -> Run:
    def invoke(*arguments: object, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(each) for each in arguments], input=stdin)

    return invoke


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n')
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"text": "one"}\n{"text": " "}\n')
    return path


def submitted(run: Run, path: Path, *more: object) -> Result:
    return run("submit", path, "--task", "classification", "--model", "echo", *more)


def test_submit_prints_the_jobs_id_and_nothing_else(run: Run, good: Path) -> None:
    done = submitted(run, good)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "job_0\n", "")


def test_submit_sends_what_its_options_say(run: Run, peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("review,key,gold\nnice,1,good\n")
    done = run(
        "submit", tmp_path / "c.csv", "--task", "translation", "--model", "echo", "--revision", "abc", "--name", "n",
        "--priority", "2", "--reuse", "--text-field", "review", "--id-field", "key", "--reference-field", "gold",
        "--param", "generation.num_beams=4", "--param", "generation.early_stopping=true", "--param", "prefix=into: ",
        "--param", 'source_lang="1"', "--param", "seed=null",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    fields = {"text_field": "review", "id_field": "key", "reference_field": "gold"}
    assert peer.asked("POST", "/corpora")[0].query == {"name": "n", **fields}
    assert json.loads(peer.asked("POST", "/jobs")[0].body) == {
        "task": "translation",
        "model": "echo",
        "revision": "abc",
        "name": "n",
        "priority": 2,
        "reuse": True,
        "corpus": "corpus_0",
        "params": {
            "generation": {"num_beams": 4, "early_stopping": True},
            "prefix": "into: ",
            "source_lang": "1",
            "seed": None,
        },
    }


def test_submit_reads_stdin_and_takes_the_id_of_a_corpus(run: Run, peer: Peer) -> None:
    done = run(
        "submit", "-", "--format", "jsonl", "--task", "summarization", "--model", "echo", stdin='{"text": "a"}\n'
    )
    assert done.exit_code == 0, done.stderr
    assert submitted(run, Path("corpus_0")).stdout == "job_1\n"
    assert len(peer.asked("POST", "/corpora")) == 1


@pytest.mark.parametrize(("name", "start"), [("o.jsonl", b'{"id"'), ("o.csv", b"id,text"), ("o.parquet", b"PAR1")])
def test_output_waits_and_exports_in_the_format_of_its_name(
    run: Run, good: Path, tmp_path: Path, name: str, start: bytes
) -> None:
    done = submitted(run, good, "--output", tmp_path / name)
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / name).read_bytes().startswith(start)
    assert f"Wrote {tmp_path / name}" in done.stderr
    assert "status\tcompleted\n" in done.stdout


def test_json_alone_is_on_stdout_even_while_waiting(run: Run, good: Path, tmp_path: Path) -> None:
    done = submitted(run, good, "--wait", "--json", "--output", tmp_path / "o.csv")
    assert json.loads(done.stdout)["status"] == "completed"
    assert json.loads(submitted(run, good, "--json").stdout)["id"] == "job_1"


def test_exit_code_0_means_that_every_document_succeeded(run: Run, good: Path) -> None:
    assert submitted(run, good, "--wait").exit_code == 0


def test_exit_code_3_means_that_some_documents_failed(run: Run, mixed: Path) -> None:
    done = submitted(run, mixed, "--wait")
    assert done.exit_code == 3
    assert "1 of 2 documents failed" in done.stderr
    assert run("status", "job_0").exit_code == 3


def test_exit_code_3_means_also_that_lines_could_not_be_read(run: Run, good: Path) -> None:
    good.write_text(good.read_text() + "oops\n")
    done = submitted(run, good, "--wait")
    assert done.exit_code == 3
    assert "1 line could not be read (corpusmill corpora corpus_0)" in done.stderr


def test_exit_code_1_means_that_the_job_failed_and_says_why(run: Run, good: Path, peer: Peer) -> None:
    submitted(run, good)
    peer.jobs["job_0"]["error"] = {"code": "model_fault", "message": "The weights are gone."}
    done = run("status", "job_0", "--wait")
    assert done.exit_code == 1
    assert "job_0 failed: The weights are gone." in done.stderr


def test_exit_code_1_means_that_no_document_succeeded(run: Run, mixed: Path) -> None:
    mixed.write_text('{"text": " "}\n')
    assert submitted(run, mixed, "--wait").exit_code == 1


def test_exit_code_1_means_also_that_the_job_was_cancelled(run: Run, good: Path) -> None:
    submitted(run, good)
    assert run("cancel", "job_0").stdout == "job_0 cancelled\n"
    assert run("status", "job_0").exit_code == 1


def test_exit_code_1_means_also_that_the_server_refused(run: Run, good: Path) -> None:
    done = run("submit", good, "--task", "classification", "--model", "nobody/nothing")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "Error: There is no model nobody/nothing here." in done.stderr


def test_a_server_that_is_not_there_is_one_sentence_with_the_way_out(run: Run) -> None:
    done = run("jobs", "--url", "http://127.0.0.1:1")
    assert done.exit_code == 1
    assert "No Corpusmill server answers at http://127.0.0.1:1" in done.stderr
    assert "corpusmill up" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--param", "top_k"], "'top_k' is not NAME=VALUE"),
        (["--param", ".a=1"], "'.a=1' is not NAME=VALUE"),
        (["--param", "a=1", "--param", "a=2"], "'a' is given twice"),
        (["--param", "a=1", "--param", "a.b=2"], "'a.b' is inside a parameter"),
        (["--output", "out.xlsx"], ".jsonl, .csv or .parquet"),
        (["--output", "/nowhere/out.csv"], "There is no directory /nowhere"),
        (["--format", "xlsx"], "'xlsx' is not known"),
        (["--priority", "high"], "--priority"),
        (["--url", "ftp://host"], "no address of a server"),
        (["--task", "classify"], "'classification', 'summarization', 'translation'"),
    ],
)
def test_exit_code_2_means_wrong_usage_and_nothing_was_sent(
    run: Run, peer: Peer, good: Path, arguments: list[str], said: str
) -> None:
    done = submitted(run, good, *arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert not peer.seen


@pytest.mark.parametrize("file", ["missing.csv", ".", "-", "corpusmill.xyz"])
def test_a_corpus_that_cannot_be_sent_is_wrong_usage(
    run: Run, peer: Peer, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpusmill.xyz").touch()
    assert submitted(run, Path(file)).exit_code == 2
    assert not peer.seen


def test_field_options_cannot_change_a_corpus_that_is_there(run: Run) -> None:
    done = submitted(run, Path("corpus_0"), "--text-field", "review")
    assert done.exit_code == 2
    assert "--text-field cannot change it" in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["submit"], ["status"], ["jobs", "--nonsense"]])
def test_other_wrong_usage_is_exit_code_2_as_well(run: Run, arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("id", ["", "../corpora", "job_1/results", "job 1"])
def test_what_cannot_be_a_jobs_id_is_wrong_usage_and_says_where_ids_are(run: Run, peer: Peer, id: str) -> None:
    done = run("metrics", id)
    assert (done.exit_code, "corpusmill jobs" in " ".join(done.stderr.split())) == (2, True)
    assert not peer.seen


def test_jobs_of_a_status_that_does_not_exist_are_wrong_usage(run: Run, peer: Peer) -> None:
    done = run("jobs", "--status", "done")
    assert (done.exit_code, "completed_with_errors" in done.stderr) == (2, True)
    assert not peer.seen


def test_a_misspelt_command_is_answered_with_the_nearest(run: Run) -> None:
    assert "Did you mean 'status'?" in run("statsu").stderr


def test_jobs_are_a_table_with_tabs_where_there_is_no_terminal(run: Run, good: Path) -> None:
    submitted(run, good, "--name", "a\tname\nwith \x1b[31mcolours")
    header, row = run("jobs").stdout.splitlines()
    assert header.split("\t")[:3] == ["JOB", "NAME", "TASK"]
    assert row.split("\t")[:3] == ["job_0", "a name with  [31mcolours", "classification"]
    assert json.loads(run("jobs", "--json").stdout)["data"][0]["id"] == "job_0"
    assert run("jobs", "--status", "completed").stdout == header + "\n"


def test_status_shows_how_a_job_stands_and_is_0_while_it_runs(run: Run, good: Path) -> None:
    submitted(run, good)
    done = run("status", "job_0")
    assert (done.exit_code, "status\trunning\n" in done.stdout, "pending\t2\n" in done.stdout) == (0, True, True)
    assert json.loads(run("status", "job_0", "--json").stdout)["counts"]["succeeded"] == 2


def test_results_are_shown_as_far_as_they_are_there(run: Run, mixed: Path) -> None:
    submitted(run, mixed)
    assert len(run("results", "job_0").stdout.splitlines()) == 1
    run("status", "job_0", "--wait")
    header, first, second = run("results", "job_0").stdout.splitlines()
    assert first.split("\t")[2] == "succeeded"
    assert second.endswith("empty_text: The text is empty.")
    assert run("results", "job_0", "--status", "failed").stdout.splitlines() == [header, second]
    assert run("results", "job_0", "--limit", "1").stdout.splitlines() == [header, first]
    label = json.loads(run("results", "job_0", "--json").stdout)["data"][0]["output"]["label"]
    assert run("results", "job_0", "--label", label).stdout.splitlines() == [header, first]


def test_export_goes_to_stdout_or_whole_into_a_file(run: Run, good: Path, tmp_path: Path) -> None:
    submitted(run, good, "--wait")
    assert [json.loads(line)["text"] for line in run("export", "job_0").stdout.splitlines()] == ["one", "two", "three"]
    assert run("export", "job_0", "--format", "csv").stdout.startswith("id,text,label")
    written = run("export", "job_0", "--output", tmp_path / "o.csv", "--json")
    assert json.loads(written.stdout)["bytes"] == (tmp_path / "o.csv").stat().st_size
    assert [path.name for path in tmp_path.iterdir() if path != good] == ["o.csv"]


def test_export_of_a_running_job_needs_partial(run: Run, good: Path) -> None:
    submitted(run, good)
    refused = run("export", "job_0")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "has not ended" in refused.stderr
    assert run("export", "job_0", "--partial").exit_code == 0


@pytest.mark.parametrize("arguments", [["--format", "parquet"], ["--format", "xml"], ["--format", "csv", "--json"]])
def test_an_export_that_stdout_cannot_hold_is_wrong_usage(run: Run, peer: Peer, arguments: list[str]) -> None:
    assert run("export", "job_0", *arguments).exit_code == 2
    assert not peer.seen


def test_metrics_are_shown_with_their_intervals_and_the_confusion_matrix(run: Run, good: Path, peer: Peer) -> None:
    submitted(run, good)
    metric = {"name": "accuracy", "value": 0.91, "ci_low": 0.8, "ci_high": 0.95, "n": 3, "coverage": 1.0}
    peer.metrics = {"metrics": [metric], "confusion_matrix": {"labels": ["a", "b"], "counts": [[2, 0], [1, 0]]}}
    lines = run("metrics", "job_0").stdout.splitlines()
    assert lines[1].split("\t") == ["accuracy", "0.91", "0.8", "0.95", "3", "1.0"]
    assert lines[3:] == ["REFERENCE\tas a\tas b", "a\t2\t0", "b\t1\t0"]
    assert json.loads(run("metrics", "job_0", "--json").stdout) == peer.metrics


def test_a_job_is_paused_and_resumed(run: Run, good: Path) -> None:
    submitted(run, good)
    assert run("pause", "job_0").stdout == "job_0 paused\n"
    assert json.loads(run("resume", "job_0", "--json").stdout)["status"] == "running"


def test_a_retried_job_runs_its_failed_documents_again(run: Run, mixed: Path) -> None:
    assert submitted(run, mixed, "--wait").exit_code == 3
    done = run("retry", "job_0", "--wait")
    assert (done.exit_code, "succeeded\t2\n" in done.stdout) == (0, True)


def test_a_deleted_job_is_gone(run: Run, good: Path) -> None:
    submitted(run, good)
    assert run("delete", "job_0").exit_code == 0
    missing = run("delete", "job_0")
    assert (missing.exit_code, "There is no job_0" in missing.stderr) == (1, True)


def test_models_and_corpora_are_listed(run: Run, good: Path) -> None:
    good.write_text("oops\n" + good.read_text())
    submitted(run, good)
    assert run("models").stdout.splitlines()[1].split("\t")[:2] == ["echo", "1"]
    assert run("corpora").stdout.splitlines()[1].split("\t")[:3] == ["corpus_0", "good.jsonl", "ready"]
    assert run("corpora", "corpus_0").stdout.splitlines()[1] == "1\t9\tinvalid_json\tExpecting value."
    for command in ("models", "corpora"):
        assert isinstance(json.loads(run(command, "--json").stdout)["data"], list)


def test_the_key_is_read_from_the_environment_and_is_no_option(
    run: Run, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.key = "s3cret"
    refused = run("jobs")
    assert (refused.exit_code, "CORPUSMILL_API_KEY" in refused.stderr) == (1, True)
    monkeypatch.setenv("CORPUSMILL_API_KEY", "s3cret")
    assert run("jobs").exit_code == 0
    assert "--api-key" not in run("jobs", "--help").stdout


def test_ctrl_c_while_waiting_leaves_the_job_and_says_how_to_find_it(
    run: Run, peer: Peer, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("corpusmill_client.waiting.time.sleep", press)
    done = submitted(run, good, "--wait")
    assert done.exit_code == 130
    assert "The job goes on." in done.stderr
    assert "corpusmill status job_0" in done.stderr
    assert "cancelled" not in peer.jobs["job_0"]


def test_ctrl_c_during_the_upload_says_that_nothing_was_submitted(
    run: Run, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("corpusmill_client.Client.upload", press)
    done = submitted(run, good)
    assert (done.exit_code, "before the job was submitted" in done.stderr) == (130, True)


def test_what_nobody_foresaw_is_a_sentence_and_a_file_and_no_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("corpusmill_client.Client.jobs", lambda *_, **__: 1 / 0)
    done = run("jobs")
    assert done.exit_code == 1
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
    [kept] = tmp_path.glob("corpusmill-*.log")
    assert str(kept) in done.stderr
    assert "Traceback" in kept.read_text()


def test_a_disk_that_is_full_is_said_in_a_sentence(run: Run, good: Path) -> None:
    submitted(run, good, "--wait")
    done = run("export", "job_0", "--output", "/dev/full/x.csv")
    assert done.exit_code == 2
    done = run("export", "job_0", "--output", "/proc/x.csv")
    assert (done.exit_code, "Error:" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_an_output_that_cannot_be_written_says_that_the_results_are_not_lost(run: Run, good: Path) -> None:
    done = submitted(run, good, "--output", "/proc/x.csv")
    assert done.exit_code == 1
    assert "Error: /proc/x.csv could not be written (" in done.stderr
    assert "corpusmill export job_0 --output" in done.stderr


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version").stdout.startswith("corpusmill 0.")


def test_every_command_has_a_help_text(run: Run) -> None:
    for command in COMMANDS:
        shown = run(command, "--help")
        assert shown.exit_code == 0, shown.stderr
        assert shown.stdout.splitlines()[3].strip(), f"{command} says nothing of itself"


def test_submitting_loads_neither_torch_nor_the_service() -> None:
    program = (
        "import sys; sys.argv = ['corpusmill', 'submit', '--help']; import cli\n"
        "try: cli.main()\n"
        "except SystemExit: print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(shown.stdout.splitlines()[-1].split())
    for heavy in ("torch", "transformers", "sqlalchemy", "flask", "celery", "pyarrow", "pandas", "numpy"):
        assert heavy not in loaded


def test_figures_are_written_for_people() -> None:
    assert [span(seconds) for seconds in (None, 0.2, 59, 61, 3_725)] == ["", "0 s", "59 s", "1:01 min", "1:02 h"]
    assert [size(count) for count in (0, 999, 1_500, 2e9, 3e12)] == ["0 B", "999 B", "1.5 kB", "2.0 GB", "3.0 TB"]
    assert [cell(value) for value in (None, True, 1_000, 0.98765, 12.34, ("a", 1))] == [
        "", "yes", "1000", "0.9877", "12.3", "a; 1",
    ]  # fmt: skip
    assert cell(1_000_000, grouped=True) == "1,000,000"


def test_references_are_attached_from_a_file_or_stdin_and_listed(
    run: Run, peer: Peer, good: Path, tmp_path: Path
) -> None:
    submitted(run, good)
    corpus = next(iter(peer.corpora), None) or peer.add_corpus([{"text": "a"}])["id"]
    (tmp_path / "gold.jsonl").write_text('{"id": "0", "reference": "1"}\n')
    first = run("references", corpus, tmp_path / "gold.jsonl", "--json")
    assert (first.exit_code, json.loads(first.stdout)["version"]) == (0, 1)
    added = run("references", corpus, "-", "--add", stdin='{"position": 0, "reference": "2"}\n')
    assert (added.exit_code, added.stdout.splitlines()[1].split("\t")[:2]) == (0, ["2", "1"])
    assert len(peer.asked("PATCH", "/references")) == 1
    assert [each["version"] for each in json.loads(run("references", corpus, "--json").stdout)["data"]] == [2, 1]


def test_references_that_cannot_be_used_end_with_the_lines_and_code_1(run: Run, peer: Peer, tmp_path: Path) -> None:
    corpus = peer.add_corpus([{"text": "a"}])["id"]
    (tmp_path / "gold.jsonl").write_text("no\n")
    done = run("references", corpus, tmp_path / "gold.jsonl")
    assert (done.exit_code, "Line 1: no JSON" in done.stderr) == (1, True)
