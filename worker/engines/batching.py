"""Drafts through `generate()`, in batches of about one length: the way for what the slots do not decode.

Knows drafts and batches. Must not know documents' texts, languages or jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from corpusmill.documents import Result
from worker.engines import generation
from worker.engines.base import Usage
from worker.engines.budget import Budget
from worker.engines.drafts import Draft
from worker.engines.prepared import OUT_OF_MEMORY, Prepared

Row = tuple[Draft, int]


class Batching:
    """Runs prepared shards through a model's `generate()`, under a token budget."""

    def __init__(self, model: Any, tokenizer: Any, budget: Budget, pad: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._budget = budget
        self._pad = pad

    def run(self, prepared: Prepared, usage: Usage, stopped: Callable[[], bool]) -> Iterator[list[Result]]:
        """Results as documents get ready, in no order; ends early where `stopped`, asked between batches, says so."""
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
        self, drafts: Sequence[Draft], settings: generation.Settings, usage: Usage, stopped: Callable[[], bool]
    ) -> Iterator[list[Draft]]:
        """Run the drafts' segments, and yield after each batch the drafts whose last output came with it."""
        yield [draft for draft in drafts if not draft.waiting]
        for longest, rows in _by_longest_output(drafts, settings):
            config = settings.with_longest(longest)

            def generate(batch: list[int], rows: list[Row] = rows, config: Any = config) -> list[generation.Generated]:
                chosen = [rows[index] for index in batch]
                seed = settings.seed_of(chosen[0][1])
                with usage.phase("model"):
                    return generation.generate_batch(
                        self._model, [draft.sources[segment] for draft, segment in chosen], config, self._pad, seed
                    )

            # Every beam has its own cache. Sampled outputs depend on what shares the batch: nothing does.
            lengths = [settings.beams * len(draft.sources[segment]) for draft, segment in rows]
            most = len(rows) if settings.seed is None else 1
            for batch, generated in self._budget.batches(lengths, generate, stopped, most=most):
                chosen = [rows[index] for index in batch]
                if generated is None:
                    chosen[0][0].give_up(OUT_OF_MEMORY)
                else:
                    with usage.phase("postprocess"):
                        self._take(chosen, generated, usage)
                yield [draft for draft in {id(draft): draft for draft, _ in chosen}.values() if not draft.waiting]

    def _take(self, rows: Sequence[Row], generated: Sequence[generation.Generated], usage: Usage) -> None:
        """Give a batch's outputs to their drafts, and count them."""
        texts = self._tokenizer.batch_decode([output.tokens for output in generated], skip_special_tokens=True)
        for (draft, segment), text, output in zip(rows, texts, generated, strict=True):
            draft.take(segment, text, cut=output.cut)
        sources = [len(draft.sources[segment]) for draft, segment in rows]
        outputs = [len(output.tokens) - 1 for output in generated]  # the start token is not generated
        usage.batches += 1
        usage.generated_tokens += sum(outputs)
        usage.tokens += sum(sources) + sum(outputs)
        usage.padded_tokens += len(rows) * (max(sources) + max(outputs))


def _by_longest_output(drafts: Sequence[Draft], settings: generation.Settings) -> list[tuple[int, list[Row]]]:
    """The segments to run, grouped by how long their outputs may get: one batch has one limit."""
    groups: dict[int, list[Row]] = {}
    for draft in drafts:
        for segment, source in enumerate(draft.sources):
            if len(source):
                groups.setdefault(settings.longest(len(source)), []).append((draft, segment))
    return sorted(groups.items(), key=lambda group: -group[0])
