"""Requests made up from the OpenAPI document, valid and not: no answer is 500 or above, and none is not described."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .stack import PATIENCE, Stack

pytest.importorskip("schemathesis", reason="schemathesis is not installed (the extra `dev` has it)")
#: The document cannot say which models and revisions there are, so a request may be refused that it allows.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
CHECKS += (
    "response_headers_conformance,negative_data_rejection,unsupported_method,use_after_free,missing_required_header"
)


def test_every_answer_is_one_that_the_document_describes(stack: Stack, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{stack.url}/openapi.json", "--checks", CHECKS,
        "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "5",
        "--generation-deterministic", "--no-color", "--request-timeout", "90",
    ]  # fmt: skip
    environ = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0, ended.stdout[-8_000:] + ended.stderr[-2_000:]
    operations = sum(len(item) for item in stack.http.get("/openapi.json").json()["paths"].values())
    assert f"Tested: {operations}\n" in ended.stdout, ended.stdout


@pytest.mark.parametrize("chunks", [b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcXX0\r\n\r\n", b"5\r\nab"])
def test_a_body_whose_chunks_are_not_well_formed_is_refused(stack: Stack, chunks: bytes) -> None:
    host = stack.url.removeprefix("http://")
    head = f"POST /api/v1/corpora HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n"
    head += "Content-Type: application/x-ndjson\r\n\r\n"
    name, port = host.split(":")
    with socket.create_connection((name, int(port)), 60) as connection:
        connection.sendall(head.encode() + chunks)
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile("rb").readline().split()[1] == b"400"
