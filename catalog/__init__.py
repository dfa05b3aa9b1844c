"""What models there are, what each can do, and whether a job's parameters fit one.

Knows directories, `config.json` and the Hub's names. Must not import torch or transformers: the API asks it at
submission.
"""

from catalog.resolution import Catalog
from catalog.suitability import check

__all__ = ["Catalog", "check"]
