"""A linear layer and its GELU as one kernel give what they give apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests import tiny_models
from worker.models.fusing import LinearGelu, fuse
from worker.models.loading import weight_bytes

pytestmark = pytest.mark.skipif(not torch._C._has_mkldnn, reason="this build of torch has no oneDNN")


def model_of(kind: str, directory: Path) -> torch.nn.Module:
    made = AutoModelForSequenceClassification.from_pretrained(tiny_models.make_classifier(directory, kind))
    return made.eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra", "albert", "deberta-v2"])
def test_a_fused_model_scores_as_the_plain_one_does(kind: str, tmp_path: Path) -> None:
    plain, fused = model_of(kind, tmp_path), model_of(kind, tmp_path)
    activation = getattr(plain.config, "hidden_act", None) or getattr(plain.config, "activation", None)
    assert (fuse(fused) > 0) == (activation == "gelu")
    for length in (1, 7, 60):
        ids = torch.randint(5, 40, (2, length))
        with torch.inference_mode():
            assert torch.allclose(plain(ids).logits, fused(ids).logits, atol=1e-5)
    assert weight_bytes(fused) == weight_bytes(plain)


def test_what_is_no_exact_gelu_stays_as_it_is(tmp_path: Path) -> None:
    directory = tiny_models.make_classifier(tmp_path, "bert", hidden_act="gelu_new")
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    assert fuse(model) == 0
    assert not any(isinstance(module, LinearGelu) for module in model.modules())
