"""What generation settings come to, as the slots decode by them; or the one that they cannot be decoded by.

Knows transformers' `GenerationConfig`: every field of it is handled here, is known to change no token, or has the value
that changes nothing. Anything else raises `Unsupported`: a setting is never dropped. Must not know models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig
from transformers.generation import logits_process as warping

#: Narrows scores (n, vocabulary) before one token is drawn from each row; transformers' own, which go row by row.
Warper = Callable[[Any, torch.Tensor], torch.Tensor]

_HANDLED = frozenset({
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "num_beams", "do_sample",
    "length_penalty", "early_stopping", "max_length", "min_length", "no_repeat_ngram_size", "repetition_penalty",
    "bad_words_ids", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
    "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
})  # fmt: skip
#: How things are kept and reported, not what is generated.
_WITHOUT_EFFECT = frozenset({
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "compile_config",
    "disable_compile", "transformers_version", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind", "assistant_early_exit",
})  # fmt: skip
#: Every field that a configuration may set freely.
KNOWN = _HANDLED | _WITHOUT_EFFECT


class Unsupported(Exception):
    """Slots cannot decode this; the message is a sentence that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Generation settings in force for all sources of a session; each source brings its own longest output.

    `start` is the token that outputs start from, `ends` those that end them. A forced end (`last`) stands at the last
    place of an output that has reached its length. `minimum` counts the start token.
    """

    start: int
    ends: tuple[int, ...]
    beams: int = 1
    sampled: bool = False
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    minimum: int = 0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    bad_words: tuple[tuple[int, ...], ...] = ()
    first: int | None = None
    last: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    warpers: tuple[Warper, ...] = ()


def rules_of(config: GenerationConfig, vocabulary: int) -> Rules:
    """The rules that a configuration comes to for a head of so many tokens.

    What the configuration leaves out has the value that `generate()` gives it; `max_length` is each source's own affair.
    Raises Unsupported where it asks for something else than is done here, or for what `generate()` would refuse.
    """
    defaults = GenerationConfig._get_default_generation_params()
    _refuse_others(config, defaults)

    def of(name: str) -> Any:
        value = getattr(config, name, None)
        return defaults.get(name) if value is None else value

    beams, sampled = int(of("num_beams")), bool(of("do_sample"))
    if beams > 1 and sampled:
        raise Unsupported("Beams that are sampled (num_beams with do_sample) are not decoded in slots.")
    start = of("decoder_start_token_id") if of("decoder_start_token_id") is not None else of("bos_token_id")
    if not isinstance(start, int):
        raise Unsupported("The generation settings name no single token that outputs start from.")
    rules = Rules(
        start=start,
        ends=_ids(of("eos_token_id")),
        beams=beams,
        sampled=sampled,
        length_penalty=float(of("length_penalty")),
        early_stopping=of("early_stopping"),
        minimum=int(of("min_length")),
        no_repeat_ngram_size=int(of("no_repeat_ngram_size")),
        repetition_penalty=float(of("repetition_penalty")),
        bad_words=_bad_words(of("bad_words_ids"), _ids(of("eos_token_id"))),
        first=of("forced_bos_token_id"),
        last=_ids(of("forced_eos_token_id")),
        suppressed=_ids(of("suppress_tokens")),
        suppressed_first=_ids(of("begin_suppress_tokens")),
        warpers=_warpers(of) if sampled else (),
    )
    named = [rules.start, *rules.ends, *rules.last, *rules.suppressed, *rules.suppressed_first]
    named += [rules.first or 0, *(token for word in rules.bad_words for token in word)]
    if not all(isinstance(token, int) and 0 <= token < vocabulary for token in named):
        raise Unsupported(f"The generation settings name tokens that are none of the head's {vocabulary}.")
    return rules


def _refuse_others(config: GenerationConfig, defaults: dict[str, Any]) -> None:
    plain = vars(GenerationConfig())
    for name, value in vars(config).items():
        if name.startswith("_") or name in KNOWN or value is None or value is False:
            continue
        if value in (plain.get(name), defaults.get(name)):
            continue
        raise Unsupported(f"The generation setting {name} is not decoded in slots.")


def _warpers(of: Callable[[str], Any]) -> tuple[Warper, ...]:
    """Transformers' own, in the order in which `generate()` applies them."""
    found: list[Warper] = []
    try:
        if of("temperature") != 1.0:
            found.append(warping.TemperatureLogitsWarper(of("temperature")))
        if of("top_k") != 0:
            found.append(warping.TopKLogitsWarper(top_k=of("top_k")))
        if of("top_p") < 1.0:
            found.append(warping.TopPLogitsWarper(top_p=of("top_p")))
        if of("min_p") is not None:
            found.append(warping.MinPLogitsWarper(min_p=of("min_p")))
        if of("typical_p") < 1.0:
            found.append(warping.TypicalLogitsWarper(mass=of("typical_p")))
        if 0.0 < of("epsilon_cutoff") < 1.0:
            found.append(warping.EpsilonLogitsWarper(epsilon=of("epsilon_cutoff")))
        if 0.0 < of("eta_cutoff") < 1.0:
            found.append(_Eta(of("eta_cutoff")))
    except ValueError as error:
        raise Unsupported(f"generate() refuses a sampling setting: {error}") from error
    return tuple(found)


class _Eta:
    """Transformers' eta sampling, made on the device of the scores."""

    def __init__(self, epsilon: float) -> None:
        self._epsilon = epsilon
        warping.EtaLogitsWarper(epsilon)  # so that what it refuses is refused at once

    def __call__(self, tokens: Any, scores: torch.Tensor) -> torch.Tensor:
        warped: torch.Tensor = warping.EtaLogitsWarper(self._epsilon, device=str(scores.device))(tokens, scores)
        return warped


def _bad_words(words: Iterable[list[int]] | None, ends: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Token sequences that must not be generated; an end token alone is not one of them, as in `generate()`."""
    found = [tuple(word) for word in words or ()]
    return tuple(dict.fromkeys(word for word in found if word and not (len(word) == 1 and word[0] in ends)))


def _ids(value: int | Iterable[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
