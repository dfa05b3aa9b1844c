"""References and results in, metrics out, by way of sufficient statistics that merge exactly.

Knows what each task's metrics are and which library defines them: scikit-learn, rouge-score and sacreBLEU. Must not
know where documents, results or statistics are kept: it does no I/O.

The way of a figure: `document_statistics` says of each document what its metrics need and is kept beside the result;
`partial_of` adds up a shard's, `merge` adds up shards in any order, and `report` turns the sums into metrics. All sums
are of integers, so that a job's metrics do not depend, to the last bit, on how it was cut or in which order its shards
ended.
"""

from __future__ import annotations

from evaluation.figures import ConfusionMatrix, Metric, Report
from evaluation.partials import Partial, Statistics, merge
from evaluation.report import intervals_need_statistics, report
from evaluation.statistics import document_statistics, partial_of

__all__ = [
    "ConfusionMatrix",
    "Metric",
    "Partial",
    "Report",
    "Statistics",
    "document_statistics",
    "intervals_need_statistics",
    "merge",
    "partial_of",
    "report",
]
