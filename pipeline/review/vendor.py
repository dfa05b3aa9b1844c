"""Label Studio's own validator, in a process of its own: its package pins what ours cannot run with.

Knows how it is asked. Run by the interpreter that has `label-studio-sdk`, this file is also the one that asks it: there
it must import nothing of ours. Each line in is JSON, first {"config": XML}, then {"predictions": [...]}; each line out is a
list of sentences, empty where all is well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any


class Validator:
    """The vendor's validator for one labelling configuration; a context manager."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, "-I", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Validator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # it has ended by itself
            self._process.communicate(timeout=30)

    def configuration(self, xml: str) -> list[str]:
        """What is wrong with a labelling configuration. Raises OSError where the interpreter has no `label-studio-sdk`."""
        return self._ask({"config": xml})

    def predictions(self, predictions: Sequence[Any]) -> list[str]:
        """What is wrong with predictions made for it."""
        return self._ask({"predictions": list(predictions)})

    def _ask(self, question: Any) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            said = self._process.communicate()[1].strip().splitlines()
            raise OSError(f"label-studio-sdk could not be asked: {said[-1] if said else 'the interpreter ended'}.")
        found: list[str] = json.loads(answer)
        return found


def _main() -> None:
    from label_studio_sdk.label_interface import LabelInterface

    out = sys.stdout
    sys.stdout = sys.stderr  # what the package prints is no answer
    interface: Any = None
    for line in sys.stdin:
        question = json.loads(line)
        said: list[str] = []
        if "config" in question:
            try:
                interface = LabelInterface(question["config"])
                interface.validate()
            except Exception as error:  # noqa: BLE001 — whatever it raises is what it has to say
                said = [str(error) or type(error).__name__]
        else:
            for prediction in question["predictions"]:
                said += interface.validate_prediction(prediction, return_errors=True)
        print(json.dumps(said[:20]), file=out, flush=True)


if __name__ == "__main__":
    _main()
