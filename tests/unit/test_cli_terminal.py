"""The command line as a process: on a terminal, in a pipe that closes, and interrupted."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.contract_peer import Peer

PROGRAM = [sys.executable, "-c", "import cli; cli.main()"]


@pytest.fixture
def peer() -> Iterator[Peer]:
    started = Peer().start()
    yield started
    started.stop()


@pytest.fixture
def environ(peer: Peer) -> dict[str, str]:
    # `coverage` and the like may put themselves before the program; the path of this one is all that is needed.
    path = os.pathsep.join(sys.path)
    return {**os.environ, "CORPUSMILL_URL": peer.url, "PYTHONPATH": path, "COLUMNS": "100", "TERM": "xterm"}


def test_a_terminal_gets_bars_and_drawn_tables(peer: Peer, environ: dict[str, str], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"text": "one"}\n' * 1_200)
    controller, terminal = pty.openpty()
    command = [*PROGRAM, "submit", str(corpus), "--task", "classification", "--model", "echo", "--name", "nightly"]
    waited = subprocess.Popen([*command, "--wait"], env=environ, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    shown = _read_all(controller)
    assert waited.communicate()[0].decode().startswith("job\tjob_0\n")
    assert waited.returncode == 0
    assert "nightly" in shown
    assert "━" in shown
    assert "of 1,200" in shown

    controller, terminal = pty.openpty()
    listed = subprocess.Popen([*PROGRAM, "jobs"], env=environ, stdout=terminal, stderr=subprocess.PIPE)
    os.close(terminal)
    drawn = _read_all(controller)
    assert listed.communicate()[1] == b""
    assert "1,200" in drawn
    assert "─" in drawn


def test_ctrl_c_is_no_traceback_even_while_the_program_is_being_loaded(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import signal; signal.raise_signal(signal.SIGINT)\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    ended = subprocess.run(
        [*PROGRAM, "jobs"], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_a_reader_that_has_had_enough_ends_an_export_quietly(peer: Peer, environ: dict[str, str]) -> None:
    corpus = peer.add_corpus([{"text": "one" * 100}] * 5_000)
    job = peer.add_job(corpus["id"])
    peer.at[job["id"]] = peer.steps
    command = [*PROGRAM, "export", job["id"]]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as exported:
        assert exported.stdout
        assert exported.stderr
        line = exported.stdout.readline()
        exported.stdout.close()
        said = exported.stderr.read()
    assert line.startswith(b'{"id"')
    assert (exported.returncode, said) == (0, b"")


def test_an_interrupt_while_waiting_is_exit_code_130(peer: Peer, environ: dict[str, str]) -> None:
    peer.steps = 1_000_000
    job = peer.add_job(peer.add_corpus([{"text": "one"}])["id"])
    waiting = subprocess.Popen(
        [*PROGRAM, "status", job["id"], "--wait"], env=environ, stderr=subprocess.PIPE, text=True
    )
    while len(peer.asked("GET", job["id"])) < 3:
        time.sleep(0.01)
    waiting.send_signal(signal.SIGINT)
    said = waiting.communicate()[1]
    assert waiting.returncode == 130
    assert "The job goes on." in said
    assert "Traceback" not in said


def _read_all(controller: int) -> str:
    """What was written to a terminal, until its last user closes it."""
    read = b""
    while True:
        try:
            block = os.read(controller, 65_536)
        except OSError:
            break
        if not block:
            break
        read += block
    os.close(controller)
    return read.decode()
