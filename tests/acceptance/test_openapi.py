"""Requests made up from the OpenAPI document, valid and not: no answer is 500 or above, and none is not described."""

from __future__ import annotations

import os
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
