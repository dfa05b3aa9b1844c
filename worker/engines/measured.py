"""An engine whose outputs are held against another's on the first documents of each job.

Knows documents, results and how two outputs of one document compare. Must not know models, precision or devices: the
engine and the loader of the one it is held against are given.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corpusmill.documents import Document, Result
from corpusmill.errors import ModelFault
from corpusmill.tasks import Params
from worker.engines.base import Engine, More, RuntimeForParams, Step, Usage, Work, steps

#: Documents that are run twice: those at positions below this, as far as they stand in the corpus's first shard.
FIRST = 32
#: Characters of them, so that long documents do not hold up the job; the first one is run whatever its length.
_CHARACTERS = 40_000


@dataclass(slots=True, kw_only=True, eq=False)
class Prepared:
    """A shard as the inner engine prepared it, and those of its documents that are run twice, with their results."""

    inner: Any
    params: Params
    first: list[Document]
    results: dict[int, Result] = field(default_factory=dict)

    def take(self, results: Sequence[Result]) -> None:
        """Keep the results of the documents that are run twice."""
        wanted = {document.position for document in self.first}
        self.results |= {result.position: result for result in results if result.position in wanted}


class MeasuredEngine:
    """Gives the inner engine's results. With the shard that holds a corpus's first document comes, in `runtime`, the
    agreement of the first documents' results with those of the reference, which is loaded for them and let go of again.

    `facts` are put over what the inner engine says of itself. `runtime` is that of the shard which ended last, so it is
    to be read before the next one runs.
    """

    def __init__(
        self, engine: Engine[Any], reference: Callable[[], Engine[Any]], facts: Mapping[str, Any] | None = None
    ) -> None:
        self._engine = engine
        self._reference = reference
        self._facts = dict(facts or {})
        #: Of the inner engine alone, since the other is not kept.
        self.weight_bytes = engine.weight_bytes
        self.runtime: dict[str, Any] = {**engine.runtime, **self._facts}

    def runtime_for(self, params: Params) -> dict[str, Any]:
        """As the protocol says; the agreement comes afterwards."""
        inner = self._engine.runtime_for(params) if isinstance(self._engine, RuntimeForParams) else self._engine.runtime
        return {**inner, **self._facts}

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> Prepared:
        """As the protocol says."""
        inner = self._engine.prepare(documents, params, usage)
        return Prepared(inner=inner, params=params, first=_first(documents))

    def run(self, prepared: Prepared, usage: Usage, stopped: Callable[[], bool]) -> Iterator[list[Result]]:
        """As the protocol says."""
        for step in self.stream(Work(prepared, usage, stopped), lambda: None):
            if step.results:
                yield step.results

    def stream(self, first: Work[Prepared], more: More[Prepared]) -> Iterator[Step[Prepared]]:
        """As the protocol says; an inner engine that does not stream runs the first work alone."""
        agreed: dict[str, Any] = {}
        outer: dict[int, Work[Prepared]] = {}

        def inner(work: Work[Prepared]) -> Work[Any]:
            given = Work(work.prepared.inner, work.usage, work.stopped)
            outer[id(given)] = work
            return given

        def next_inner() -> Work[Any] | None:
            following = more()
            return inner(following) if following is not None else None

        for step in steps(self._engine, inner(first), next_inner):
            work = outer[id(step.work)]
            work.prepared.take(step.results)
            if step.ended:
                del outer[id(step.work)]
                agreed |= self._measured(work)
            self.runtime = {**self._engine.runtime, **self._facts, **agreed}
            yield Step(work, step.results, step.ended)

    def _measured(self, work: Work[Prepared]) -> dict[str, Any]:
        """The agreement on the first documents, where the work holds them. Where they cannot be run by the reference, it
        says why."""
        prepared = work.prepared
        if not prepared.first or work.stopped():
            return {}
        with work.usage.phase("agreement"):
            try:
                expected = self._expected(prepared, work.stopped)
            except (ModelFault, MemoryError) as error:
                why = str(error) or "There is no memory for the float32 weights."
                return {"agreement": {"documents": 0, "why": why}}
        return {} if work.stopped() else {"agreement": agreement(expected, prepared.results)}

    def _expected(self, prepared: Prepared, stopped: Callable[[], bool]) -> list[Result]:
        reference, usage = self._reference(), Usage()
        given = reference.prepare(prepared.first, prepared.params, usage)
        return [result for batch in reference.run(given, usage, stopped) for result in batch]


def _first(documents: Sequence[Document]) -> list[Document]:
    if not documents or documents[0].position != 0:
        return []
    chosen: list[Document] = []
    characters = 0
    for document in documents[:FIRST]:
        characters += len(document.text) + len(document.text_pair or "")
        if chosen and characters > _CHARACTERS:
            break
        chosen.append(document)
    return chosen


def agreement(expected: Sequence[Result], found: dict[int, Result]) -> dict[str, Any]:
    """How results agree with those expected, of documents for which there is an expected output.

    `documents` counts them and `equal` those with the same label, labels or text. For labels there is
    `largest_score_difference`, over the scores that both results state; for texts `mean_word_match`, the share of words
    that both have in one order (Ratcliff and Obershelp, `difflib`), 1 where the texts are equal.
    """
    pairs = [(one.output, (found[one.position].output or {}) if one.position in found else {})
             for one in expected if one.output is not None]  # fmt: skip
    equal = sum(_answer(left) == _answer(right) for left, right in pairs)
    counted: dict[str, Any] = {"documents": len(pairs), "equal": equal}
    if not pairs:
        return counted
    if "scores" in pairs[0][0]:
        both = [(left["scores"], right.get("scores", {})) for left, right in pairs]
        differences = [abs(left[label] - right[label]) for left, right in both for label in left.keys() & right.keys()]
        return {**counted, "largest_score_difference": max(differences, default=None)}
    matches = [_word_match(str(_answer(left)), str(_answer(right) or "")) for left, right in pairs]
    return {**counted, "mean_word_match": sum(matches) / len(matches)}


def _answer(output: Any) -> Any:
    """What a result says: its labels in any order, its label, or its text."""
    if "labels" in output:
        return frozenset(output["labels"])
    return next((output[name] for name in ("label", "summary", "translation") if name in output), None)


def _word_match(left: str, right: str) -> float:
    return difflib.SequenceMatcher(None, left.split(), right.split(), autojunk=False).ratio()
