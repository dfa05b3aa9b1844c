"""Documents as a sequence-to-sequence model takes them: tokenized, cut into segments that fit, and put together again.

Knows texts, tokens and what the parameters say of long documents. Must not know how anything is generated or batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from corpusmill.documents import Document, Result, failed, unusable
from corpusmill.errors import DocumentError, ModelFault
from corpusmill.tasks import SummarizationParams, TranslationParams
from worker.engines.languages import Direction
from worker.engines.sources import Ids, SourceEncoder
from worker.segments import Cut, Segment, sentences, split_segments

#: The first ids of a source, as many as there is room for, and how many it has.
Measured = tuple[list[int], int]

#: Rounds of summarizing summaries before the rest is cut off; each round makes a text several times shorter.
_MOST_ROUNDS = 4
#: The least tokens that special tokens and prefix must leave for the text itself.
_LEAST_ROOM = 8
#: A text in one segment: there is nothing to put together.
_WHOLE = Cut("", (Segment(""),))


@dataclass(slots=True, kw_only=True, eq=False)
class Draft:
    """A document on its way: the tokens of its segments and the outputs that have come back.

    `n_tokens` and `n_segments` are of the document itself, also in later rounds, when `sources` are of its summaries. A
    segment without tokens (of characters that the tokenizer drops) has no output to wait for.
    """

    document: Document
    cut: Cut
    sources: list[Ids]
    n_tokens: int
    n_segments: int
    truncated: bool
    round: int = 1
    outputs: list[str] = field(default_factory=list)
    waiting: int = 0
    output_cut: bool = False
    error: DocumentError | None = None

    def __post_init__(self) -> None:
        self.outputs = [""] * len(self.sources)
        self.waiting = sum(1 for source in self.sources if len(source))

    def take(self, segment: int, output: str, *, cut: bool) -> None:
        """Keep one segment's output; `cut` says that the length limit ended it."""
        self.outputs[segment] = output
        self.output_cut = self.output_cut or cut
        self.waiting -= 1

    def give_up(self, error: DocumentError) -> None:
        """One segment could not be run: the document fails when the others are through."""
        self.error = error
        self.waiting -= 1


class Drafter:
    """Makes drafts of documents for one model and one set of parameters.

    `positions` is the longest source that the model takes, special tokens included, and `embeddings` how many tokens it
    knows. Raises ModelFault where the prefix leaves no room for a text, and later where the tokenizer gives a token that
    the model does not know.
    """

    def __init__(
        self,
        *,
        encoder: SourceEncoder,
        model_id: str,
        positions: int,
        embeddings: int,
        direction: Direction,
        params: SummarizationParams | TranslationParams,
    ) -> None:
        self._encoder = encoder
        self._model_id = model_id
        self._embeddings = embeddings
        self._positions = positions
        self._direction = direction
        self._long_documents = params.long_documents
        self._summarizes = isinstance(params, SummarizationParams)
        self._by_sentence = isinstance(params, TranslationParams) and params.segment_by == "sentence"
        self._prefix = next(encoder.encode([direction.prefix]))
        self._room = positions - len(direction.frame)
        if self._room - len(self._prefix) < _LEAST_ROOM:
            raise ModelFault(
                f"The prefix has {len(self._prefix)} tokens, and {model_id} takes sources of {positions}: shorten it."
            )

    def drafts(self, documents: Sequence[Document]) -> tuple[list[Draft], list[Result]]:
        """A draft of each document that can be run, and the failed results of the others."""
        drafts: list[Draft] = []
        refused: list[Result] = []
        errors = [unusable(document) for document in documents]
        refused += [failed(document, error) for document, error in zip(documents, errors, strict=True) if error]
        usable = [document for document, error in zip(documents, errors, strict=True) if not error]
        for document, whole in zip(usable, self._wholes(usable), strict=True):
            cut, parts = self._parts(document.text, whole)
            n_tokens = sum(count + len(self._direction.frame) for _, count in parts)
            draft = self._draft(document, cut, parts, n_tokens)
            if isinstance(draft, DocumentError):
                refused.append(failed(document, draft, n_tokens=n_tokens))
            else:
                drafts.append(draft)
        return drafts, refused

    def reduces(self, draft: Draft) -> bool:
        """Whether the draft's outputs are summaries of parts, to be summarized in turn."""
        return self._summarizes and len(draft.sources) > 1 and draft.error is None

    def reduced(self, draft: Draft) -> Draft:
        """The next round of a draft: its summaries as the text, in segments again where they are too long for one.

        What does not get shorter, or is still too long after four rounds, is cut off.
        """
        text = " ".join(filter(None, (output.strip() for output in draft.outputs)))
        (whole,) = self._measured([text])
        before = sum(len(source) for source in draft.sources)
        goes_on = draft.round < _MOST_ROUNDS and whole[1] < before
        cut, parts = self._split(text) if whole[1] > self._room and goes_on else (_WHOLE, [whole])
        return Draft(
            document=draft.document,
            cut=cut,
            sources=self._sources(parts),
            n_tokens=draft.n_tokens,
            n_segments=draft.n_segments,
            truncated=draft.truncated or any(count > self._room for _, count in parts),
            round=draft.round + 1,
        )

    def result(self, draft: Draft) -> Result:
        """The result of a draft whose outputs are all there."""
        document = draft.document
        if draft.error is not None:
            return failed(document, draft.error, n_tokens=draft.n_tokens)
        text = draft.outputs[0] if len(draft.outputs) == 1 else draft.cut.joined(draft.outputs)
        output: dict[str, object] = {"summary" if self._summarizes else "translation": text}
        if draft.output_cut:
            output["cut"] = True
        return Result(
            position=document.position,
            document_id=document.id,
            output=output,
            n_tokens=draft.n_tokens,
            n_segments=draft.n_segments,
            truncated=draft.truncated,
        )

    def _wholes(self, documents: Sequence[Document]) -> Sequence[Measured | None]:
        """Documents tokenized whole, to see which fit; not where sentences are wanted in any case."""
        if self._by_sentence:
            return [None] * len(documents)
        return self._measured([document.text for document in documents])

    def _measured(self, texts: Sequence[str]) -> list[Measured]:
        return list(self._encoder.measured([self._direction.prefix + text for text in texts], self._room))

    def _parts(self, text: str, whole: Measured | None) -> tuple[Cut, list[Measured]]:
        """The segments that a document is run in."""
        if whole is not None and (whole[1] <= self._room or self._long_documents != "split"):
            return _WHOLE, [whole]
        if self._long_documents == "split":
            return self._split(text)
        # Only a sentence can be too long here, and it is to fail or to be cut off: it must be seen whole.
        cut = sentences(text, self._direction.language)
        return cut, self._measured([segment.text for segment in cut.segments])

    def _split(self, text: str) -> tuple[Cut, list[Measured]]:
        """The text in segments that fit."""
        own = len(self._prefix)

        def count(texts: Sequence[str]) -> list[int]:
            lengths = self._encoder.lengths([self._direction.prefix + text for text in texts])
            return [max(0, length - own) for length in lengths]

        cut = split_segments(
            text,
            self._room - own,
            count,
            language=self._direction.language,
            across_paragraphs=self._summarizes,
            by_sentence=self._by_sentence,
        )
        return cut, self._measured([segment.text for segment in cut.segments])

    def _draft(
        self, document: Document, cut: Cut, parts: Sequence[Measured], n_tokens: int
    ) -> Draft | DocumentError:  # fmt: skip
        longest = max(count for _, count in parts)
        if longest > self._room and self._long_documents == "fail":
            what = "A sentence of the text" if self._by_sentence else "The text"
            tokens = longest + len(self._direction.frame)
            message = f"{what} has {tokens} tokens, and {self._model_id} takes sources of {self._positions}."
            return DocumentError(code="too_long", message=message)
        sources = self._sources(parts)
        if not any(map(len, sources)):
            message = f"The tokenizer of {self._model_id} finds nothing in the text."
            return DocumentError(code="empty_text", message=message)
        return Draft(
            document=document,
            cut=cut,
            sources=sources,
            n_tokens=n_tokens,
            n_segments=len(parts),
            truncated=longest > self._room,
        )

    def _sources(self, parts: Sequence[Measured]) -> list[Ids]:
        """Each part's ids between the special tokens; none at all where the text itself has no token."""
        frame = self._direction.frame
        sources = [np.array(frame.around(ids) if ids != self._prefix else [], dtype=np.int32) for ids, _ in parts]
        highest = max((int(source.max()) for source in sources if len(source)), default=0)
        if highest >= self._embeddings:  # said here, because on a GPU it would end the process
            raise ModelFault(
                f"The tokenizer of {self._model_id} gave the token {highest}, and the model knows {self._embeddings}: its "
                "files belong to another model. Copy them again from where the weights came from."
            )
        return sources
