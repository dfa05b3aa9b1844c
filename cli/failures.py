"""What a command's failure looks like: one sentence on stderr and an exit code, never a traceback.

Knows the errors of the client, of the service and of the system. Must not know any command.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import typer

from cli.output import say

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def guarded(command: Callable[[], Any]) -> Any:
    """Runs a command; what it raises becomes a message and typer.Exit."""
    from corpusmill.errors import CorpusmillError

    try:
        done = command()
        sys.stdout.flush()
    except BrokenPipeError:
        _quieten(sys.stdout)
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        say("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None
    except CorpusmillError as error:
        raise failed(str(error)) from None
    except OSError as error:
        raise failed(_system(error)) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if _is_the_clients(error):
            raise failed(str(error)) from None
        if _is_usage(error):
            raise
        raise failed(_unforeseen(error)) from None
    return done


def failed(message: str, code: int = FAILED) -> typer.Exit:
    """Says the error and returns the exit to raise."""
    say(f"Error: {message}")
    return typer.Exit(code)


def _is_the_clients(error: Exception) -> bool:
    # Asked of the modules that are loaded: a command that never used the client need not import it now.
    client = sys.modules.get("corpusmill_client")
    return client is not None and isinstance(error, client.CorpusmillError)


def _is_usage(error: Exception) -> bool:
    return hasattr(error, "exit_code") and hasattr(error, "format_message")


def _system(error: OSError) -> str:
    place = f": {error.filename}" if error.filename is not None else ""
    return f"{error.strerror or error}{place}"


def _unforeseen(error: Exception) -> str:
    """Keeps the traceback in a file for a report and names it."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="corpusmill-", suffix=".log", delete=False) as file:
        traceback.print_exception(error, file=file)
    reason = "".join(traceback.format_exception_only(error)).strip()
    return f"{reason}\nNobody foresaw this: it is a fault of corpusmill. Where it happened is in {file.name}"


def _quieten(stream: Any) -> None:
    """Whoever read our output has had enough: what is still in the buffer goes nowhere, without complaint."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
