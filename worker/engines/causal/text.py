"""Summaries and translations by a causal model and a prompt: all but the generating itself.

Knows the order of work: prompts, drafts, outputs, results. Must not know jobs or shards, nor how documents are cut
(`drafts`), put into prompts (`prompting`) or generated for (the subclasses).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from catalog.prompting import in_force
from corpusmill.documents import Document, Result
from corpusmill.errors import DocumentError, ModelFault
from corpusmill.models import ModelInfo
from corpusmill.prompts import SOURCE, TARGET, parse
from corpusmill.tasks import Params, SummarizationParams, TranslationParams
from worker.engines.base import Usage
from worker.engines.causal.prompting import ChatTokenizer, PromptEncoder
from worker.engines.causal.settings import Settings, settings_of
from worker.engines.drafts import Draft, Drafter
from worker.engines.generation import Generated
from worker.engines.languages import Direction
from worker.engines.sources import Frame, Ids

OUT_OF_MEMORY = DocumentError(
    code="out_of_memory", message="The text alone, with its output, does not fit the device's memory.", retryable=True
)
#: ISO 639-1 of languages by their English names, for the rules by which sentences are told apart.
_CODES = {
    "arabic": "ar", "chinese": "zh", "czech": "cs", "danish": "da", "dutch": "nl", "english": "en", "french": "fr",
    "german": "de", "greek": "el", "hindi": "hi", "italian": "it", "japanese": "ja", "korean": "ko", "polish": "pl",
    "portuguese": "pt", "russian": "ru", "spanish": "es", "swedish": "sv", "turkish": "tr", "ukrainian": "uk",
}  # fmt: skip
Row = tuple[Draft, int]
Output = tuple[list[Row], list[Generated] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A shard's documents in their prompts, tokenized and cut, those that cannot be run, and what holds for all."""

    drafter: Drafter
    drafts: list[Draft]
    failed: list[Result]
    settings: Settings


class TextEngine:
    """Documents to prompts, outputs to results. A subclass has the model, and generates in `_outputs`.

    `stated` has the model's `config` and `generation_config`; `positions` bound prompt and answer together, `embeddings`
    are the tokens that the model knows. `prepare` may run in another thread while `run` holds the device.
    """

    weight_bytes: int
    runtime: dict[str, Any]

    def __init__(
        self, tokenizer: Any, info: ModelInfo, stated: Any, *, positions: int, embeddings: int, pad: int
    ) -> None:  # fmt: skip
        self._tokenizer = tokenizer
        self._info = info
        self._stated = stated
        self._positions = positions
        self._embeddings = embeddings
        self._pad = pad
        self._chat = ChatTokenizer(tokenizer, info.id)

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> Prepared:
        """Put into prompts, tokenize and cut. Raises ModelFault where the prompt or the lengths leave no room."""
        if not isinstance(params, SummarizationParams | TranslationParams):
            raise ModelFault(f"{self._info.id} was loaded to generate text, and was given a task without.")
        with usage.phase("tokenize"):
            encoder, settings = self._settings(params)
            drafter = Drafter(
                encoder=encoder,
                model_id=self._info.id,
                positions=settings.lengths.longest_prompt,
                embeddings=self._embeddings,
                direction=Direction(prefix="", frame=Frame(), language=_language(params)),
                params=params,
            )
            drafts, refused = drafter.drafts(documents)
        return Prepared(drafter=drafter, drafts=drafts, failed=refused, settings=settings)

    def runtime_for(self, params: Params) -> dict[str, Any]:
        """As the protocol says."""
        if not isinstance(params, SummarizationParams | TranslationParams):
            return self.runtime
        _, settings = self._settings(params)
        return self._runtime_under(settings)

    def _runtime_under(self, settings: Settings) -> dict[str, Any]:  # noqa: ARG002 — a subclass may go several ways
        return self.runtime

    def _settings(self, params: SummarizationParams | TranslationParams) -> tuple[PromptEncoder, Settings]:
        encoder = PromptEncoder(self._chat, parse(in_force(params).prompt or ""), _languages(params))
        settings = settings_of(self._stated, params, positions=self._positions, own=len(encoder.own), pad=self._pad)
        return encoder, settings

    def run(self, prepared: Prepared, usage: Usage, stopped: Callable[[], bool]) -> Iterator[list[Result]]:
        """Results as documents get ready, in no order; a document of several segments comes after its last one."""
        if prepared.failed:
            yield prepared.failed
        drafter, drafts = prepared.drafter, prepared.drafts
        while drafts:
            again: list[Draft] = []
            for ready in self._ready(drafts, prepared.settings, usage, stopped):
                again += filter(drafter.reduces, ready)
                with usage.phase("postprocess"):
                    results = [drafter.result(draft) for draft in ready if not drafter.reduces(draft)]
                if results:
                    yield results
            if stopped():
                return
            with usage.phase("tokenize"):
                drafts = [drafter.reduced(draft) for draft in again]

    def _ready(
        self, drafts: Sequence[Draft], settings: Settings, usage: Usage, stopped: Callable[[], bool]
    ) -> Iterator[list[Draft]]:
        """Run the drafts' segments, and yield the drafts whose last output has come."""
        yield [draft for draft in drafts if not draft.waiting]
        rows = [(draft, segment) for draft in drafts for segment, source in enumerate(draft.sources) if len(source)]
        for chosen, generated in self._outputs(rows, settings, usage, stopped):
            if generated is None:
                chosen[0][0].give_up(OUT_OF_MEMORY)
            else:
                with usage.phase("postprocess"):
                    self._take(chosen, generated)
            yield [draft for draft in {id(draft): draft for draft, _ in chosen}.values() if not draft.waiting]

    def _outputs(
        self, rows: list[Row], settings: Settings, usage: Usage, stopped: Callable[[], bool]
    ) -> Iterator[Output]:
        """Outputs of rows in any order; of a row that does not fit the memory alone, None."""
        raise NotImplementedError

    def _take(self, rows: Sequence[Row], generated: Sequence[Generated]) -> None:
        """Give outputs to their drafts."""
        texts = self._tokenizer.batch_decode([output.tokens for output in generated], skip_special_tokens=True)
        for (draft, segment), text, output in zip(rows, texts, generated, strict=True):
            draft.take(segment, text.strip(), cut=output.cut)


def count(usage: Usage, prompts: Sequence[Ids], generated: Sequence[Generated]) -> None:
    """Count a batch as padded to its longest, or a request by itself."""
    sources, outputs = [len(prompt) for prompt in prompts], [len(output.tokens) for output in generated]
    usage.batches += 1
    usage.generated_tokens += sum(outputs)
    usage.tokens += sum(sources) + sum(outputs)
    usage.padded_tokens += len(prompts) * (max(sources) + max(outputs))


def _languages(params: SummarizationParams | TranslationParams) -> dict[str, str]:
    if isinstance(params, SummarizationParams):
        return {}
    return {SOURCE: params.source_lang or "", TARGET: params.target_lang or ""}


def _language(params: SummarizationParams | TranslationParams) -> str:
    named = (params.source_lang if isinstance(params, TranslationParams) else None) or "en"
    return _CODES.get(named.lower(), named.split("_")[0].split("-")[0])
