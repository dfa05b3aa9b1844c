"""Drafts through the slots of a session, shard after shard without a gap.

Knows drafts, works and the order of things. Must not know how anything is decoded, or what a shard is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from corpusmill.documents import Result
from worker.engines import generation
from worker.engines.base import More, Step, Work
from worker.engines.decoding import Outcome, Session, Source
from worker.engines.drafts import Draft
from worker.engines.prepared import OUT_OF_MEMORY, Prepared


@dataclass(slots=True, eq=False)
class _Running:
    """A work under way, and how many of its drafts have no result yet."""

    work: Work[Prepared]
    left: int


@dataclass(frozen=True, slots=True)
class _Key:
    """Which segment of which draft a source is."""

    running: _Running
    draft: Draft
    segment: int


class Streaming:
    """One run of an engine: the works that follow each other through one session's slots."""

    def __init__(self, session: Session, tokenizer: Any, settings: generation.Settings) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._settings = settings
        self._works: list[_Running] = []

    def steps(self, first: Work[Prepared], more: More[Prepared]) -> Iterator[Step[Prepared]]:
        """Results as documents get ready. The next work is asked for when every source of the last has its slot."""
        yield from self._begin(first)
        while self._works:
            while not self._session.waits and (work := more()) is not None:
                yield from self._begin(work)
            yield from self._stop()
            if self._session.busy:
                yield from self._take(self._session.advance(self._works[0].work.usage))

    def _begin(self, work: Work[Prepared]) -> Iterator[Step[Prepared]]:
        prepared = work.prepared
        running = _Running(work, len(prepared.drafts))
        self._works.append(running)
        self._session.add(source for draft in prepared.drafts for source in self._sources(running, draft))
        yield from self._progress(running, prepared.drafts, prepared.failed)

    def _stop(self) -> Iterator[Step[Prepared]]:
        """End the works that are to end early."""
        stopped = [running for running in self._works if running.work.stopped()]
        if stopped:
            self._works = [running for running in self._works if running not in stopped]
            self._session.drop(lambda source: source.key.running in stopped)
        for running in stopped:
            yield Step(running.work, [], ended=True)

    def _take(self, outcomes: Sequence[Outcome]) -> Iterator[Step[Prepared]]:
        """Give outputs to their drafts, and the drafts that have all of theirs to their works."""
        if not outcomes:
            return
        with outcomes[0].source.key.running.work.usage.phase("postprocess"):
            complete = [outcome.tokens for outcome in outcomes if outcome.tokens is not None]
            texts = iter(self._tokenizer.batch_decode(complete, skip_special_tokens=True))
            for outcome in outcomes:
                key, tokens = outcome.source.key, outcome.tokens
                if tokens is None:
                    key.draft.give_up(OUT_OF_MEMORY)
                    continue
                generated = generation.ended(tokens, self._settings.config, outcome.source.longest)
                key.draft.take(key.segment, next(texts), cut=generated.cut)
                usage = key.running.work.usage
                usage.generated_tokens += len(tokens) - 1  # the start token is not generated
                usage.tokens += len(outcome.source.ids) + len(tokens) - 1
        for running in {outcome.source.key.running for outcome in outcomes}:
            own = (key.draft for key in (outcome.source.key for outcome in outcomes) if key.running is running)
            yield from self._progress(running, list(dict.fromkeys(own)), [])

    def _progress(
        self, running: _Running, drafts: Sequence[Draft], results: Sequence[Result]
    ) -> Iterator[Step[Prepared]]:
        """Results of the drafts whose last output has come; where outputs are summaries of parts, another round."""
        usage, drafter = running.work.usage, running.work.prepared.drafter
        through = [draft for draft in drafts if not draft.waiting]
        given = list(results)
        while through:
            draft = through.pop()
            if drafter.reduces(draft):
                with usage.phase("tokenize"):
                    reduced = drafter.reduced(draft)
                self._session.add(self._sources(running, reduced))
                through += [] if reduced.waiting else [reduced]
                continue
            with usage.phase("postprocess"):
                given.append(drafter.result(draft))
            running.left -= 1
        if not running.left:
            self._works.remove(running)
        if given or not running.left:
            yield Step(running.work, given, ended=not running.left)

    def _sources(self, running: _Running, draft: Draft) -> Iterator[Source]:
        for segment, ids in enumerate(draft.sources):
            if len(ids):
                longest, seed = self._settings.longest(len(ids)), self._settings.seed_of(segment)
                yield Source(ids, longest, seed, _Key(running, draft, segment))
