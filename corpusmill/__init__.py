"""Corpusmill's nouns and arithmetic.

Knows the words of the house (document, task, job, shard, segment, batch, result, metric) and the pure rules between them.
Must not know files, databases, brokers, HTTP or tensors: only the standard library, pydantic and (for `logs`) structlog are
imported here.
"""

__version__ = "0.1.0"
