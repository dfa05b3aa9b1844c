"""The operator's places: read from the file that the settings name, and kept within.

Knows that file and the folders. Must not know what is read from a place or written to it.
"""

from __future__ import annotations

import glob
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from corpusmill.errors import InvalidRequest, InvalidSettings
from corpusmill.places import FolderPlace, Places, parse_places
from corpusmill.settings import Settings


def load_places(settings: Settings, environ: Mapping[str, str] | None = None) -> Places:
    """The configured places; none where no file is named. It is read anew each time, so that a change needs no restart.

    Raises InvalidSettings where the file cannot be read or is wrong.
    """
    if settings.places_file is None:
        return Places()
    try:
        text = settings.places_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"CORPUSMILL_PLACES_FILE: {settings.places_file} cannot be read: {error}.") from error
    return parse_places(text, os.environ if environ is None else environ)


def aside(target: Path) -> Path:
    """A name beside a file for what is to take its place. Nobody else writes under it: of two processes that both take a run
    for theirs, neither renames what the other has half written. What one that was killed left behind is removed."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.????????.part"):
        left.unlink(missing_ok=True)
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def inside(folder: FolderPlace, relative: str) -> Path:
    """A path below a folder, links resolved. Raises InvalidRequest where it leads out of it."""
    root = folder.path.resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root) or "\0" in relative:
        raise InvalidRequest(f"{relative!r} leads out of the folder that the operator has configured.")
    return path
