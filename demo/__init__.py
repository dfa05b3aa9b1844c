"""What the demonstration runs on: three small corpora, the models trained for it, and the scripts that make them again.

Knows where those files are. Must not know torch: the API and the command line ask here for a path without loading it.
"""

from __future__ import annotations

from pathlib import Path

#: The corpora, one JSONL file each, with `id`, `text` and `reference` (see `corpora/README.md`).
CORPORA: Path = Path(__file__).parent / "corpora"
#: The trained models, a Hugging Face directory each, with its card in `README.md`.
MODELS: Path = Path(__file__).parent / "models"
