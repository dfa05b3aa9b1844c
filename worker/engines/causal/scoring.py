"""How likely each of several labels is after a prompt: the log-likelihood of its tokens, summed.

Knows forwards and caches of keys and values. Must not know documents, or how labels became tokens.

A prompt goes through the model once and its cache is kept. The first token of every label is read off that forward; what
follows it runs on copies of the cache, a row for each beginning that labels do not share.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from worker.device import Device, is_out_of_memory, release
from worker.engines.causal.batches import left_padded
from worker.engines.causal.trial import MODEL_ERRORS, inputs_of, logits_alone, near, position_ids
from worker.engines.sources import Ids

#: Bytes of logits, in float32, that are computed at once for what follows the prompts.
_LOGIT_BYTES = 256 << 20

#: Log-likelihoods (prompts, labels).
Likelihoods = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels as tokens: `tokens` each label's, `rows` the beginnings to run after a prompt (all but the last token of a
    label, none of them the beginning of another), `row_of` each label's among them, -1 for a label of one token."""

    tokens: tuple[tuple[int, ...], ...]
    rows: tuple[tuple[int, ...], ...]
    row_of: tuple[int, ...]

    @classmethod
    def of(cls, tokens: Sequence[Sequence[int]]) -> Labels:
        """The labels of these tokens, at least one each."""
        rows: list[tuple[int, ...]] = []
        known: dict[tuple[int, ...], int] = {(): -1}
        for body in sorted({tuple(label[:-1]) for label in tokens}, key=len, reverse=True):
            if body not in known:
                rows.append(body)
                known |= {
                    body[:length]: len(rows) - 1 for length in range(1, len(body) + 1) if body[:length] not in known
                }
        return cls(
            tuple(tuple(label) for label in tokens), tuple(rows), tuple(known[tuple(label[:-1])] for label in tokens)
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest label."""
        return max(map(len, self.tokens))


class LabelScorer:
    """Scores labels after prompts on one model.

    `shared` is whether a model gives the same likelihoods by its cache and for prompts padded together as for each label
    alone, tried when it is made; where it does not, each label is run alone. Raises what the model raises on its own.
    """

    def __init__(self, model: Any, device: Device, probes: Sequence[Ids], pad: int) -> None:
        self._model = model
        self._device = device
        self._pad = pad
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._most_rows = 1 << 30
        self.shared = self._agrees(probes)

    def score(self, prompts: Sequence[Ids], labels: Labels, tokens: int) -> Likelihoods:
        """Log-likelihoods of the labels after each prompt; `tokens` bounds what goes through the model at once, copies of
        the prompts included. Raises what torch raises."""
        with torch.inference_mode():
            return self._by_cache(prompts, labels, tokens) if self.shared else self._alone(prompts, labels)

    def _alone(self, prompts: Sequence[Ids], labels: Labels) -> Likelihoods:
        """By the plain forward of each prompt with each label."""
        found = np.empty((len(prompts), len(labels.tokens)))
        for row, prompt in enumerate(prompts):
            for column, label in enumerate(labels.tokens):
                whole = np.concatenate([prompt, np.array(label, dtype=np.int32)])
                likely = torch.log_softmax(logits_alone(self._model, whole), dim=-1)
                places = torch.arange(len(prompt) - 1, len(whole) - 1)
                found[row, column] = float(likely[places, torch.tensor(label)].double().sum())
        return found

    def _by_cache(self, prompts: Sequence[Ids], labels: Labels, tokens: int) -> Likelihoods:
        ids, mask = left_padded(prompts, self._pad)
        keep = {"logits_to_keep": 1} if self._keeps else {}
        out = self._model(**inputs_of(self._model, ids, mask, position_ids(mask)), use_cache=True, **keep)
        likely = torch.log_softmax(out.logits[:, -1].float(), dim=-1)
        firsts = torch.tensor([label[0] for label in labels.tokens], device=likely.device)
        found: Likelihoods = likely[:, firsts].double().cpu().numpy()
        cache = out.past_key_values if labels.rows else None
        del out, likely
        start = 0
        while start < len(labels.rows):
            count = min(self._rows_at_once(ids.shape, labels.longest, tokens), len(labels.rows) - start)
            retries = len(prompts) == 1 and count > 1  # with several, the caller has fewer of them go together
            last = start + count == len(labels.rows) and not retries
            try:
                self._add(found, labels, range(start, start + count), mask, cache if last else copy.deepcopy(cache))
            except MODEL_ERRORS as error:
                if not (retries and is_out_of_memory(error)):
                    raise
            else:
                start += count
                continue
            # Out of the handler: the error's frames hold the tensors that did not fit.
            release(self._device)
            self._most_rows = max(1, count // 2)
        return found

    def _rows_at_once(self, shape: torch.Size, longest: int, tokens: int) -> int:
        """How many beginnings may follow each of a batch of prompts (prompts, longest) at once."""
        prompts, width = shape
        vocabulary = int(self._model.get_output_embeddings().weight.shape[0])
        by_logits = _LOGIT_BYTES // (4 * vocabulary * longest)
        return min(max(1, min(tokens // (width + longest), by_logits) // prompts), self._most_rows)

    def _add(self, found: Likelihoods, labels: Labels, rows: range, mask: torch.Tensor, cache: Any) -> None:
        """Add what follows the first token of the labels whose beginnings are these rows. `cache` is used up."""
        bodies = [labels.rows[row] for row in rows]
        prompts, count, width = len(mask), len(bodies), max(map(len, bodies))
        if count > 1:
            cache.batch_repeat_interleave(count)
        ids = torch.full((count, width), self._pad)
        own = torch.zeros((count, width), dtype=torch.long)
        for row, body in enumerate(bodies):
            ids[row, : len(body)] = torch.tensor(body)
            own[row, : len(body)] = 1
        ids, own = ids.repeat(prompts, 1), own.repeat(prompts, 1)
        whole = torch.cat([mask.repeat_interleave(count, 0), own], dim=1)
        positions = mask.sum(1).repeat_interleave(count, 0)[:, None] + torch.arange(width)
        given = inputs_of(self._model, ids, whole, positions)
        logits = self._model(**given, past_key_values=cache, use_cache=True).logits
        likely = torch.log_softmax(logits.float(), dim=-1).view(prompts, count, width, -1)
        columns = [column for column, row in enumerate(labels.row_of) if row in rows]
        index = [(labels.row_of[column] - rows.start, place, token) for column in columns
                 for place, token in enumerate(labels.tokens[column][1:])]  # fmt: skip
        at = torch.tensor(index, device=likely.device)
        values = likely[:, at[:, 0], at[:, 1], at[:, 2]].double().cpu().numpy()
        lengths = [len(labels.tokens[column]) - 1 for column in columns]
        found[:, columns] += np.add.reduceat(values, np.cumsum([0, *lengths[:-1]]), axis=1)

    def _agrees(self, probes: Sequence[Ids]) -> bool:
        """Whether the cache gives what each label alone gives, on labels of one, two and four tokens."""
        tokens = [[int(token) for token in probes[1][start:stop]] for start, stop in ((0, 1), (0, 2), (3, 5), (0, 4))]
        labels = Labels.of(tokens)
        with torch.inference_mode():
            alone = torch.from_numpy(self._alone(probes, labels))
            try:
                shared = torch.from_numpy(self._by_cache(probes, labels, 1 << 30))
            except MODEL_ERRORS:
                return False
        return near(shared, alone, self._model.dtype)
