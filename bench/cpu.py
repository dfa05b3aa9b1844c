"""`python -m bench`: the engines on the CPU, side by side with what else there is.

    python -m bench [--quick] [--only encoders,decoding,system] [--write-docs [SECTION]]

Every figure is the median of some rounds in which the variants take turns, on one core and one thread; the whole system
has all cores. Where a float32 variant's answers are not the reference's, its group says so and the exit status is 1.
Timing never changes the exit status.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.report import RESULTS, markdown, save, table, write_between_markers
from bench.sizes import FULL, QUICK, Size
from bench.tables import Group
from bench.timing import one_core

GROUPS = ("encoders", "decoding", "system")


def main(arguments: list[str]) -> int:
    """Measure, print, write; 1 where answers that must be equal are not."""
    options = _options(arguments)
    cores = (
        frozenset(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else frozenset(range(os.cpu_count() or 1))
    )
    one_core(options.core)
    size = QUICK if options.quick else FULL
    if options.rounds:
        size = replace(size, rounds=options.rounds)
    _one_thread()
    from bench.machine import machine, versions
    from bench.reach import CPU_GOALS

    about: dict[str, Any] = {
        "machine": {**machine(), "cores": str(len(cores))}, "versions": versions(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}", "command": _command(options),
    }  # fmt: skip
    path = options.out / ("quick.json" if options.quick else "cpu.json")
    faults: list[str] = []
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="corpusmill-bench-", dir=options.scratch) as folder:
        for group in _measured(options.only.split(","), size, Path(folder), cores):
            kept = save(path, [group], about)
            faults += group.faults
            print(table(group, about), flush=True)
    # a section beside the main one holds what ran there; the main one also says what did not run
    goals = [goal for goal in CPU_GOALS if options.write_docs in {None, "cpu"} or goal.group in kept]
    text = markdown(kept, goals)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    if options.write_docs:
        write_between_markers(options.write_docs, text)
    for fault in faults:
        print(f"answers differ: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _command(options: argparse.Namespace) -> str:
    """What was typed, without directories."""
    parts = ["python -m bench"]
    parts += ["--quick"] if options.quick else []
    parts += [f"--only {options.only}"] if options.only != ",".join(GROUPS) else []
    parts += [f"--rounds {options.rounds}"] if options.rounds else []
    return " ".join(parts)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round over few documents: does everything run?")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"some of {', '.join(GROUPS)}, comma-separated")
    parser.add_argument("--rounds", type=int, default=0, help="rounds, where not the size's own")
    parser.add_argument("--core", type=int, default=None, help="the core to run on (default: the last)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of the JSON and the tables")
    parser.add_argument("--scratch", type=Path, default=None, help="directory for the models that are made (4 GB)")
    parser.add_argument(
        "--write-docs", nargs="?", const="cpu", metavar="SECTION",
        help="put the tables into docs/performance.md, between the markers of this name (default: cpu)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if unknown := set(options.only.split(",")) - set(GROUPS):
        parser.error(f"--only knows {', '.join(GROUPS)}, not {', '.join(sorted(unknown))}")
    return options


def _one_thread() -> None:
    """One thread for torch and the tokenizers, and no progress bars or advice; before either is imported."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    import logging

    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)


def _measured(wanted: list[str], size: Size, root: Path, cores: frozenset[int]) -> Iterator[Group]:
    if "encoders" in wanted:
        from bench.encoders import encoder_groups

        yield from encoder_groups(size, root)
    if "decoding" in wanted:
        from bench.decoding import decoding_groups

        yield from decoding_groups(size, root)
    if "system" in wanted:
        from bench.system import system_groups

        yield from system_groups(size, root, cores)
