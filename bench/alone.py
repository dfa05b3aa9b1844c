"""Our engine alone in a process of its own, with all cores, told over standard input when to run.

Knows one model and one file of texts. `python -m bench.alone ROOT MODEL TASK PARAMS THREADS TEXTS ANSWERS DEVICE`: for
each line read it runs all texts and prints a line of JSON with its seconds; the answers are written once.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import cast

from bench.ours import OurEngine
from corpusmill.tasks import Task
from worker.device import DeviceChoice


def main() -> None:
    root, model, task, params, threads, source, answers, device = sys.argv[1:]
    texts = json.loads(Path(source).read_text(encoding="utf-8"))
    engine = OurEngine(
        Path(root), model, Task(task), json.loads(params), threads=int(threads), device=cast(DeviceChoice, device)
    )
    ran = engine.run(texts[:32])
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        ran = engine.run(texts)
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        if not Path(answers).exists():
            Path(answers).write_text(json.dumps([dict(one.output or {}) for one in ran.results]), encoding="utf-8")
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
