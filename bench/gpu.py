"""`python -m bench gpu`: the engines on one CUDA device, in less than 20 minutes of it.

    python -m bench gpu [--tiny] [--only encoders,decoding,system] [--write-docs]

Needs torch, transformers and this repository; what else is missing (CTranslate2, the server's packages) is a row that
says so. Rates go by wall seconds. In half precision outputs may differ from the plain model's: how many are the same is
told, and a comparison in float32 beside it must be equal, or the exit status is 1. `--tiny` runs small models and few
texts on whatever device there is, to see that everything runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report import RESULTS, markdown, save, table, write_between_markers
from bench.tables import Group

if TYPE_CHECKING:
    from bench.gpu_groups import GpuBench
    from worker.device import DeviceChoice

KINDS = ("distilbert", "bert-base", "roberta-large")
GROUPS = ("encoders", "decoding", "system")


def main(arguments: list[str]) -> int:
    """Measure, print, write; 1 where answers that must be equal are not, 2 where there is no device."""
    options = _options(arguments)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    import torch
    from transformers.utils import logging

    from bench.gpu_groups import GpuBench
    from bench.machine import machine, versions
    from bench.reach import GPU_GOALS

    logging.disable_progress_bar()
    if not torch.cuda.is_available() and not options.tiny:
        print("There is no CUDA device here; --tiny runs on a CPU, to see that everything runs.", file=sys.stderr)
        return 2
    device: DeviceChoice = "cuda" if torch.cuda.is_available() else "cpu"
    name = {"device": torch.cuda.get_device_name()} if device == "cuda" else {}
    about: dict[str, Any] = {
        "machine": {**name, **machine()}, "versions": versions(), "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "command": "python -m bench gpu" + (" --tiny" if options.tiny else ""),
    }  # fmt: skip
    path = options.out / ("gpu-tiny.json" if options.tiny else "gpu.json")
    faults: list[str] = []
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="corpusmill-bench-") as folder:
        for group in _measured(options.only.split(","), GpuBench(Path(folder), device, tiny=options.tiny)):
            kept = save(path, [group], about)
            faults += group.faults
            print(table(group, about), flush=True)
    text = markdown(kept, GPU_GOALS)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    if options.write_docs:
        write_between_markers("gpu", text)
    for fault in faults:
        print(f"answers differ: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small models, few texts, any device")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"some of {', '.join(GROUPS)}, comma-separated")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of the JSON and the tables")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args(arguments)
    if unknown := set(options.only.split(",")) - set(GROUPS):
        parser.error(f"--only knows {', '.join(GROUPS)}, not {', '.join(sorted(unknown))}")
    if options.tiny and options.write_docs:
        parser.error("--tiny shows that the script runs, and nothing for the documents")
    return options


def _measured(wanted: list[str], bench: GpuBench) -> Iterator[Group]:
    if "encoders" in wanted:
        for kind in KINDS:
            yield from bench.encoder(kind)
    if "decoding" in wanted:
        yield from bench.decoder("marian", 1)
        yield from bench.decoder("marian-beams", 4)
    if "system" in wanted:
        yield from bench.system()
