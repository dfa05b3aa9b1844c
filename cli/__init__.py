"""The command line: `corpusmill …`.

Knows how the program begins. Must not import anything before it has: Ctrl-C while the rest is being loaded is no fault.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The program `corpusmill`."""
    for stream in (sys.stdout, sys.stderr):
        # Texts hold every letter; a terminal of another encoding shows an escape instead of ending the program.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        from cli.commands import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
