"""A document as a causal model takes it: put into its prompt, through the tokenizer's chat template, as token ids.

Knows tokenizers and prompts. Must not know models, devices or what becomes of the ids. A tokenizer is not changed here:
shards are tokenized in one thread while another generates.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corpusmill.errors import ModelFault
from corpusmill.prompts import TEXT, Template
from worker.engines.sources import Frame, SourceEncoder
from worker.models.loading import first_line

#: Stands for the text while it is found out what a chat template puts around it: characters for private use.
_MARK = "\ue000\ue001\ue000"
#: Characters of a text that are tokenized at once where it is only to be known that they are too many.
_CHARACTERS_AT_ONCE = 500_000


class ChatTokenizer(SourceEncoder):
    """A tokenizer with its chat template and special tokens: made once for a model, before any thread uses it.

    Raises ModelFault where the tokenizer cannot be used for prompts.
    """

    def __init__(self, tokenizer: Any, model_id: str) -> None:
        try:
            super().__init__(tokenizer)
        except ValueError as error:
            raise ModelFault(f"The tokenizer of {model_id} cannot be used for prompts: {error}.") from error
        self.model_id = model_id
        self.is_chat = getattr(tokenizer, "chat_template", None) is not None
        specials = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        spelled = sorted({*specials, *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, spelled))) if spelled else None
        self._literal: SourceEncoder | None = None

    @property
    def backend(self) -> Any:
        """The tokenizers library's own tokenizer, which tells where tokens end; None where there is none."""
        return self._backend

    def spells_special(self, text: str) -> bool:
        """Whether the text holds a special token's characters."""
        return self._specials is not None and self._specials.search(text) is not None

    def literally(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are characters like others."""
        if self._literal is None:
            self._literal = _LiteralEncoder(self._tokenizer)
        return next(self._literal.encode([text]))

    def chat(self, turns: list[dict[str, str]], *, prompting: bool = True) -> str:
        """What the chat template makes of these turns. Raises ModelFault where it cannot."""
        try:
            rendered: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompting)
        except Exception as error:  # whatever the model's template raises
            raise ModelFault(f"The chat template of {self.model_id} cannot be used: {first_line(error)}") from error
        return rendered


class PromptEncoder(SourceEncoder):
    """Token ids of texts in their prompt: one user message of the chat template, or plain text where there is none.

    The ids are those of `apply_chat_template(…, add_generation_prompt=True)` or `tokenizer(prompt)`; only a text that
    spells one of the tokenizer's special tokens (`<|im_end|>`) is given as those characters, not as that token, since it
    would end its own message. `own` are the ids without a text.
    """

    def __init__(self, tokenizer: ChatTokenizer, template: Template, values: Mapping[str, str]) -> None:
        # Nothing of the base class's own making: that changes the tokenizer, which another thread may be using.
        self._base = tokenizer
        self._template = template
        self._values = values
        self.frame = Frame() if tokenizer.is_chat else tokenizer.frame
        self.own = next(self.encode([""]))

    def rendered(self, text: str) -> str:
        """The whole prompt for a text, as the tokenizer takes it."""
        content = self._template.filled({**self._values, TEXT: text})
        return self._base.chat([{"role": "user", "content": content}]) if self._base.is_chat else content

    def gap(self, label: str) -> str:
        """White space between the prompt and an answer that follows it, found with an answer of the caller's choice.

        A chat template says it by what it puts before an assistant's message; a plain prompt that does not end in white
        space is followed by one space.
        """
        prompt = self.rendered(_MARK)
        if not self._base.is_chat:
            return "" if prompt[-1:].isspace() else " "
        content = self._template.filled({**self._values, TEXT: _MARK})
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": label}]
        answered = self._base.chat(turns, prompting=False)
        found = re.match(rf"(\s*){re.escape(label)}", answered.removeprefix(prompt))
        return found[1] if found and answered.startswith(prompt) else ""

    def ending(self) -> str:
        """The last character of every prompt."""
        return self.rendered(_MARK)[-1:]

    def encode(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Ids of each text's whole prompt, in order."""
        spells = [self._base.spells_special(text) for text in texts]
        plain = [self.rendered(text) for text, special in zip(texts, spells, strict=True) if not special]
        encoded = self._base.encode(plain)
        for text, special in zip(texts, spells, strict=True):
            yield self.frame.around(self._apart(text) if special else next(encoded))

    def measured(self, texts: Sequence[str], room: int) -> Iterator[tuple[list[int], int]]:
        """For each text the ids of its prompt, and how many they are; of a prompt above `room` the ids with as much of
        the text cut off its end as is too much."""
        encoded = self.encode([text for text in texts if len(text) <= _CHARACTERS_AT_ONCE])
        for text in texts:
            very_long = len(text) > _CHARACTERS_AT_ONCE
            if very_long and (count := self._roughly(text)) > room:
                yield self._fitted(text, room), count
                continue
            ids = next(self.encode([text]) if very_long else encoded)
            yield ids if len(ids) <= room else self._fitted(text, room), len(ids)

    def _roughly(self, text: str) -> int:
        """Tokens of a very long text's prompt, counted in pieces."""
        starts = range(0, len(text), _CHARACTERS_AT_ONCE)
        return len(self.own) + sum(self._base.lengths([text[at : at + _CHARACTERS_AT_ONCE] for at in starts]))

    def _fitted(self, text: str, room: int) -> list[int]:
        """Ids of the prompt of the text's beginning, as long as fits."""
        ends = self._ends(text, room)
        kept = min(len(ends), room - len(self.own))
        while kept > 0:
            ids = next(self.encode([text[: ends[kept - 1]]]))
            if len(ids) <= room:
                return ids
            kept -= len(ids) - room
        return self.own

    def _ends(self, text: str, room: int) -> Sequence[int]:
        """Where the text may be cut: after each token, or, with a tokenizer that does not tell, each character."""
        if self._base.backend is None:
            return range(1, len(text) + 1)
        ends: list[int] = []
        start, step = 0, max(1_000, 16 * room)
        while start < len(text) and len(ends) < room:
            (encoding,) = self._base.backend.encode_batch([text[start : start + step]], add_special_tokens=False)
            ends += [start + end for _, end in encoding.offsets]
            start += step
        return ends

    def _apart(self, text: str) -> list[int]:
        """Ids of a prompt whose text is tokenized by itself, special tokens as the characters that spell them."""
        parts = self.rendered(_MARK).split(_MARK)
        if len(parts) == 1:
            raise ModelFault(f"The chat template of {self._base.model_id} leaves out what the user says.")
        body = self._base.literally(text)
        first, *after = list(self._base.encode(parts))
        return [*first, *(token for part in after for token in (*body, *part))]


class _LiteralEncoder(SourceEncoder):
    """Tokenizes by a copy of a tokenizer for which special tokens are characters like others."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._backend = getattr(self._tokenizer, "backend_tokenizer", None) if tokenizer.is_fast else None
        if self._backend is not None:
            self._backend.encode_special_tokens = True
        else:
            self._tokenizer.split_special_tokens = True
