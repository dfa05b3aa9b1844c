"""The rows' names, which the tables, the goals and the comparisons share.

Knows words only.
"""

from __future__ import annotations

OURS = "our engine"
INT8 = "our engine, int8"
CT2 = "CTranslate2"
CT2_INT8 = "CTranslate2 int8"
ONNX = "ONNX Runtime"
CT2_HALF = "CTranslate2 float16"
COMPILED = "our engine, compiled"
ALONE = "our engine alone"
SYSTEM = "whole system"


def pipeline_of(batch_size: int) -> str:
    """The row of transformers' pipeline."""
    return f"pipeline(batch_size={batch_size})"


def generate_in(batch_size: int) -> str:
    """The row of `generate()` over batches."""
    return f"generate(), batches of {batch_size}"
