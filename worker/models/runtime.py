"""What shaped an engine's outputs, for the job's record.

Knows versions and names; must not know what they mean.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from corpusmill.models import ModelInfo
from worker.device import Device

if TYPE_CHECKING:
    import torch


def runtime_of(  # noqa: PLR0917
    engine: str, model: Any, tokenizer: Any, info: ModelInfo, device: Device, dtype: torch.dtype
) -> dict[str, Any]:
    """Engine, device, precision, tokenizer and library versions, as JSON."""
    return {
        "engine": engine,
        "architecture": type(model).__name__,
        "revision": info.revision,
        "tokenizer": type(tokenizer).__name__,
        "device": device.name,
        "dtype": str(dtype).removeprefix("torch."),
        "attention": getattr(model.config, "_attn_implementation", None),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }
