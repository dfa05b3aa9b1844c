"""Loading models: from a directory on this machine to an engine on a device, and keeping the engines that fit.

Knows transformers, which it imports only when the first model is loaded. Must not know jobs, shards or documents.
"""

from worker.models.cache import ModelCache
from worker.models.table import load_engine

__all__ = ["ModelCache", "load_engine"]
