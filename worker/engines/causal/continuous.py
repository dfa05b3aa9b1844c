"""Continuous batching by transformers: prompts without padding, and a place taken again as soon as an answer has ended.

Knows transformers' ContinuousBatchingManager (5.10 and later). Must not know documents or how prompts are made. Errors of
single requests are answers here, not exceptions: the library reports them so, and goes on with the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch

from worker.device import Device, free_bytes
from worker.engines.causal.batches import ended
from worker.engines.causal.settings import Settings
from worker.engines.causal.trial import as_likely
from worker.engines.generation import Generated
from worker.engines.sources import Ids

#: Tokens of a page of the cache on a CPU: each request wastes half a page, and each page costs a look-up.
_CPU_PAGE = 32
#: Share of the memory that is free which the cache may take.
_SHARE = 0.5
#: Tokens that go through the model together on a CPU; on CUDA the library chooses by the memory.
_CPU_TOKENS = 512
#: Requests that are generated for at once on a CPU.
_CPU_REQUESTS = 16
#: How often it is asked whether to stop while no request ends.
_SECONDS = 0.2
_LOST = "the generation loop ended early"


def unsuited(settings: Settings, model: Any) -> str | None:
    """Why outputs under these settings cannot be generated so; None where they can.

    The library has no beams, draws all rows from one generator, and drops the processors that it does not know.
    """
    if settings.seed is not None:
        return "sampling has a seed for each document"
    if settings.beams > 1:
        return "it has no beam search"
    if settings.lengths.least or settings.lengths.least_total:
        return "it has no least length"
    processors = [
        type(processor).__name__ for processor in model._get_logits_processor(settings.config, input_ids_seq_length=1)
    ]
    if processors or settings.reads_prompt or settings.reads_limit:
        return f"it does not run {', '.join(processors) or 'all processors'} as generate() does"
    return None


class Continuous:
    """Generates for many prompts on one model. Not to be shared between threads."""

    def __init__(self, model: Any, device: Device) -> None:
        self._model = model
        self._device = device

    def generate(
        self, prompts: Sequence[Ids], settings: Settings, stopped: Callable[[], bool]
    ) -> Generator[tuple[int, Generated | str]]:
        """(index, output) of each prompt as it ends, or (index, what went wrong). Ends early where `stopped` says so.

        Raises what torch or the library raises before the first prompt is taken up.
        """
        for index, answer in self._answers(prompts, settings, stopped):
            yield index, _LOST if answer is None else answer.error or ended(answer.generated_tokens, settings)

    def differs(self, reference: Any, prompts: Sequence[Ids], settings: Settings) -> str | None:
        """Why outputs generated so are not to be had of this model, tried on some prompts; None where they are.

        The likelihood of every token that was chosen must be what the plain model `reference` gives it. Raises what torch
        or the library raises.
        """
        # All of them first: until it has ended, the model's attention may be another than the plain one.
        for index, answer in list(self._answers(prompts, settings, lambda: False, likelihoods=True)):
            if answer is None or answer.error:
                return _LOST if answer is None else str(answer.error)
            if not as_likely(reference, prompts[index], answer.generated_tokens, answer.logprobs):
                return "its likelihoods are not those of the plain model"
        return None

    def _answers(
        self, prompts: Sequence[Ids], settings: Settings, stopped: Callable[[], bool], *, likelihoods: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """(index, the library's answer) as requests end; None for an answer that never came."""
        limits = [settings.lengths.new_tokens(len(prompt)) for prompt in prompts]
        whole = [len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)]
        _quiet()
        with torch.no_grad():
            manager = self._model.init_continuous_batching(
                generation_config=settings.with_lengths(max(limits), 0),
                continuous_batching_config=self._sizes(max(whole), sum(whole), likelihoods),
            )
        manager.start()
        try:
            waiting = {}
            for index, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
                waiting[manager.add_request(prompt.tolist(), request_id=str(index), max_new_tokens=limit)] = index
            while waiting and not stopped():
                answer = manager.get_result(timeout=_SECONDS)
                if answer is None and not manager.is_running() and (answer := manager.get_result(timeout=0)) is None:
                    break
                if answer is not None and answer.is_finished() and answer.request_id in waiting:
                    yield waiting.pop(answer.request_id), answer
            if not stopped():
                yield from ((index, None) for index in waiting.values())
        finally:
            manager.stop(block=True, hard_stop=True)
            manager.destroy()

    def _sizes(self, longest: int, total: int, likelihoods: bool) -> Any:
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        wanted: dict[str, Any] = {
            "auto_switch_to_flash": False,  # whatever is installed, no attention kernel is fetched from the Hub
            "max_memory_percent": _SHARE,
            "return_logprobs": likelihoods,
        }
        known = {field.name for field in fields(ContinuousBatchingConfig)}
        if self._device.kind == "cpu":
            affordable = int(_SHARE * free_bytes(self._device)) // self._bytes_per_token()
            held = max(min(total, affordable, 2 * _CPU_REQUESTS * longest), longest) + _CPU_REQUESTS * _CPU_PAGE
            wanted |= {
                "page_size" if "page_size" in known else "block_size": _CPU_PAGE,
                "num_blocks": -(-held // _CPU_PAGE) + 1,
                "max_batch_tokens": _CPU_TOKENS,
                "max_requests_per_batch": _CPU_REQUESTS,
            }
        return ContinuousBatchingConfig(**{name: value for name, value in wanted.items() if name in known})

    def _bytes_per_token(self) -> int:
        """Bytes of a token's keys and values in all layers."""
        config = self._model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * width * self._model.dtype.itemsize)


def _quiet() -> None:
    """Its log speaks of tuning, and repeats each error that a request's answer already has."""
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
