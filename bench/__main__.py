"""Chooses the measurement: `python -m bench [cpu|gpu|agreement|documents|ledger|reuse] …`; without a name it is `cpu`."""

from __future__ import annotations

import sys
from importlib import import_module

MEASUREMENTS = {name: f"bench.{name}" for name in ("cpu", "gpu", "agreement", "documents", "ledger", "reuse")}


def main() -> int:
    arguments = sys.argv[1:]
    name = arguments.pop(0) if arguments and arguments[0] in MEASUREMENTS else "cpu"
    status: int = import_module(MEASUREMENTS[name]).main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
