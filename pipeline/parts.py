"""The parts that runs are made of in earnest.

Knows where each is. Must not do anything with them.
"""

from __future__ import annotations

from pipeline.review import open_reviewers
from pipeline.running import Parts
from pipeline.sinks import open_sink
from pipeline.sources import open_source


def real_parts() -> Parts:
    """Every source, sink and place where people look that there is."""
    return Parts(open_source=open_source, open_sink=open_sink, open_reviewers=open_reviewers)
