"""The Python client of Corpusmill.

    from corpusmill_client import Client

    frame = Client().classify("reviews.csv", model="demo/classifier").wait().to_pandas()

Knows the HTTP contract alone. Must not import anything of the server's.
"""

from __future__ import annotations

from corpusmill_client.client import DEFAULT_URL, Client
from corpusmill_client.corpora import Corpus
from corpusmill_client.errors import ConnectionFailed, CorpusmillError, FieldFault, WaitTimeout
from corpusmill_client.jobs import Job
from corpusmill_client.schedules import Run, Schedule
from corpusmill_client.transport import __version__
from corpusmill_client.views import Counts, IngestError, Metric, Metrics, Model, References, Result
from corpusmill_client.waiting import ENDED

__all__ = [
    "DEFAULT_URL",
    "ENDED",
    "Client",
    "ConnectionFailed",
    "Corpus",
    "CorpusmillError",
    "Counts",
    "FieldFault",
    "IngestError",
    "Job",
    "Metric",
    "Metrics",
    "Model",
    "References",
    "Result",
    "Run",
    "Schedule",
    "WaitTimeout",
    "__version__",
]
