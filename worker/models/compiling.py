"""Layers of an encoder as kernels that torch.compile makes of them, for packs of any size.

Knows stacks of layers and torch's compiler. Must not know architectures, texts or batches.

Attention over packs stays what it is: the compiler leaves a layer there and goes on behind it, so that it never looks at
how documents lie, which differs in every pack. What it joins are the many small kernels around the matrix products (biases,
GELU, residuals, norms), whose traffic with the memory is what an eager layer loses on a GPU. Unmeasured on a GPU so far.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worker.models.attention import SDPA, VARLEN, sdpa_attention, varlen_attention

#: The attention that the compiler does not look into.
_OF_PACKS = {SDPA: sdpa_attention, VARLEN: varlen_attention}
#: Shapes and layers that one piece of code may be compiled for before torch gives it up.
_VERSIONS = 64


def keep_compiled(folder: Path) -> None:
    """Have what is compiled in this process kept below a folder, for this and other processes; where the environment
    already says where, that holds."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def compile_layers(model: Any, *, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compile the layers of a model's stacks in place; how many there were.

    They are compiled when they first run, once for all of one kind and for packs of any size. A layer whose forward was
    replaced (`last_layer`) is left as it is, since what it does depends on the pack.
    """
    from transformers import AttentionInterface

    torch._dynamo.config.recompile_limit = max(_VERSIONS, torch._dynamo.config.recompile_limit)
    attention = _OF_PACKS.get(model.config._attn_implementation)
    if attention is not None:
        name = f"{model.config._attn_implementation}_opaque"
        AttentionInterface.register(name, torch.compiler.disable(attention))  # type: ignore[no-untyped-call]
        model.set_attn_implementation(name)
    base = getattr(model, "base_model", model)
    stacks = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
    layers = {id(layer): layer for stack in stacks for layer in stack if "forward" not in layer.__dict__}
    for layer in layers.values():
        layer.compile(backend=backend, dynamic=True)
    return len(layers)
