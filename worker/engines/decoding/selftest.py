"""Whether the decoder that was read from a model gives the model's own scores, tried when it is read.

Knows the model's forward. Must not know what is done where it does not: `check` raises Unsupported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worker.engines.decoding.encoding import SourceRunner
from worker.engines.decoding.forward import Extent, forward
from worker.engines.decoding.rules import Unsupported
from worker.engines.decoding.slots import Size, Slots
from worker.engines.decoding.weights import Decoder

#: Largest difference of a score from the model's own, relative to the largest score.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_SOURCES = (9, 4)
_STEPS = 4


def check(model: Any, decoder: Decoder, runner: SourceRunner, tolerance: float | None) -> None:
    """Decode given tokens for two random sources both ways. Raises Unsupported where the scores differ by more."""
    draw = np.random.default_rng(0)
    known = min(decoder.vocabulary, int(model.get_input_embeddings().num_embeddings))
    sources = [draw.integers(0, known, length).astype(np.int32) for length in _SOURCES]
    drawn = draw.integers(0, decoder.vocabulary, (len(sources), _STEPS))
    # A model that gives padding no place counts places anew where it is given all tokens at once.
    drawn[drawn == (-1 if decoder.unplaced is None else decoder.unplaced)] = 0
    outputs = torch.from_numpy(drawn).to(decoder.device)
    size = Size(slots=len(sources), source=max(_SOURCES), output=_STEPS, beams=1)
    slots = Slots(decoder, size)
    for slot, encoded in enumerate(runner.encode(sources)):
        slots.admit(encoded.crosses, 0, _STEPS, slot)
    slots.tokens[:, 0] = outputs
    allowed = TOLERANCE[decoder.dtype] if tolerance is None else tolerance
    expected = torch.stack([_expected(model, *pair, decoder) for pair in zip(sources, outputs, strict=True)])
    worst = 0.0
    for step in range(_STEPS):
        slots.places[:] = step
        slots.fit(_SOURCES, [step + 1] * len(_SOURCES))
        scores = forward(decoder, slots, Extent(size.slots, size.source, step + 1))[:, : decoder.vocabulary]
        finite = expected[:, step].isfinite()
        worst = max(worst, float((scores - expected[:, step])[finite].abs().max()))
    largest = float(expected[expected.isfinite()].abs().max())
    if not worst <= allowed * max(1.0, largest):
        raise Unsupported(f"Scores decoded in slots differ from the model's own by {worst:.1e}, at most {largest:.1e}.")


def _expected(model: Any, source: Any, outputs: torch.Tensor, decoder: Decoder) -> torch.Tensor:
    """The model's own scores (steps, vocabulary) for one source and given output tokens."""
    ids = torch.from_numpy(source.astype(np.int64)).to(decoder.device)[None]
    logits: torch.Tensor = model(
        input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=outputs[None], use_cache=False
    ).logits
    return logits[0].float()
