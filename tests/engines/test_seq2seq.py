"""The sequence-to-sequence engine gives what `generate()` gives for each document alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from corpusmill.tasks import Generation, SummarizationParams, TranslationParams
from tests.loaded_seq2seq import Asked, Loaded, documents_of, loader, said
from tests.tiny_seq2seq import KINDS, text
from worker.engines import generation
from worker.engines.base import Usage

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")

ASKED: dict[str, Asked] = {
    "marian": Asked(TranslationParams()),
    "marian-multi": Asked(TranslationParams(target_lang="fra"), prefix=">>fra<< "),
    "t5": Asked(TranslationParams(source_lang="en", target_lang="de"), prefix="translate English to German: "),
    "t5-gated": Asked(SummarizationParams(), prefix="summarize: "),
    "bart": Asked(SummarizationParams()),
    "pegasus": Asked(SummarizationParams()),
    "mbart": Asked(TranslationParams(target_lang="de_DE"), told={"decoder_start_token_id": "de_DE"}),
    "mbart50": Asked(
        TranslationParams(source_lang="fr_XX", target_lang="de_DE"), told={"forced_bos_token_id": "de_DE"}
    ),
    "m2m100": Asked(TranslationParams(source_lang="fr", target_lang="de"), told={"forced_bos_token_id": "__de__"}),
    "nllb": Asked(
        TranslationParams(source_lang="fra_Latn", target_lang="deu_Latn"), told={"forced_bos_token_id": "deu_Latn"}
    ),
}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    return loader(tmp_path_factory.mktemp("models"))


TEXTS = [text(words, seed) for seed, words in enumerate((1, 18, 3, 25, 2, 9))]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_mixed_lengths_gives_the_tokens_of_each_document_alone(
    kind: str, beams: int, load: Callable[[str], Loaded]
) -> None:
    loaded, asked = load(kind), ASKED[kind]
    chosen: dict[str, Any] = {"num_beams": beams, "max_new_tokens": 16} | (
        {"early_stopping": True} if beams > 1 else {}
    )
    plain = loaded.plain(TEXTS, asked, **chosen)

    params = asked.params.model_copy(update={"generation": Generation(**chosen)})
    prepared = loaded.engine.prepare(documents_of(*TEXTS), params, Usage())
    sources = [draft.sources[0] for draft in prepared.drafts]
    config = prepared.settings.with_longest(17)
    together = generation.generate_batch(
        generation.own_copy(loaded.model), sources, config, loaded.tokenizer.pad_token_id, None
    )
    assert [output.tokens for output in together] == plain
    assert len(set(map(tuple, plain))) > len(plain) / 2, "outputs too alike to tell anything"

    usage = Usage()
    results = loaded.run(documents_of(*TEXTS), params, usage)
    assert said(results) == [loaded.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in plain]
    assert usage.generated_tokens == sum(len(tokens) - 1 for tokens in plain)
    assert usage.batches > 1
