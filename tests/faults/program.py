"""The fault tests' own entry point: `python -m tests.faults.program api|worker|sweep`, the product's with failpoints.

Knows which failpoints belong to which program. A worker's child, a fresh interpreter, imports this module as its main
module and so gets the failpoints as well.
"""

from __future__ import annotations

import resource
import sys

from tests.faults import failpoints


def _prepare(program: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if program == "worker":
        failpoints.in_worker()
    elif program == "api":
        failpoints.in_api()
    elif program == "sweep":
        failpoints.in_sweeper()


def main() -> None:
    """Run one program of the service."""
    from cli import main as cli

    cli()


_prepare(sys.argv[1])

if __name__ == "__main__":
    main()
