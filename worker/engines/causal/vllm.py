"""Summaries and translations by a causal model that vLLM runs. Written against its documented interface for offline
inference, and untested: it needs a GPU and a package that the checks of this project do not install.

Knows vLLM's `LLM` and `SamplingParams`. Must not know jobs or shards. Prompts, cuts and limits are those of the other
engine; tokens are vLLM's own, which are not held to those of `generate()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from corpusmill.errors import ModelFault
from corpusmill.models import ModelInfo
from corpusmill.tasks import Dtype
from worker.device import Device
from worker.engines.base import Usage
from worker.engines.causal.lengths import UNSTATED_POSITIONS
from worker.engines.causal.settings import Settings
from worker.engines.causal.text import Output, Row, TextEngine, count
from worker.engines.generation import Generated
from worker.models.limits import longest_input
from worker.models.loading import first_line, load_tokenizer, weights_folder

#: Documents that are given to vLLM at once: enough that its own batches are full, few enough that a stop is soon seen.
_AT_ONCE = 512
#: Share of the device's memory for weights and cache together.
_MEMORY_SHARE = 0.85


class VllmEngine(TextEngine):
    """A causal model in vLLM. Raises ModelFault where the package is not installed or cannot load the model."""

    def __init__(self, info: ModelInfo, device: Device, dtype: Dtype) -> None:
        if find_spec("vllm") is None:
            raise ModelFault(
                "The engine vllm was chosen, and vLLM is not installed on this worker: install the extra with "
                "`pip install -e '.[worker,vllm]'`, or leave engine out."
            )
        from transformers import AutoConfig, GenerationConfig
        from vllm import LLM

        folder = weights_folder(info)
        try:
            self._llm = LLM(
                model=str(folder), trust_remote_code=False, dtype=dtype, load_format="safetensors",
                gpu_memory_utilization=_MEMORY_SHARE, enable_prefix_caching=True, generation_config="vllm", seed=0,
            )  # fmt: skip
        except Exception as error:  # whatever vLLM's many parts raise
            raise ModelFault(f"vLLM cannot run {info.id}: {first_line(error)}") from error
        tokenizer = load_tokenizer(info)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        stated = folder / "generation_config.json"
        model = SimpleNamespace(
            config=config,
            generation_config=GenerationConfig.from_pretrained(folder) if stated.exists() else GenerationConfig(),
            named_modules=list,
        )
        super().__init__(
            tokenizer, info, model,
            positions=longest_input(model, tokenizer) or UNSTATED_POSITIONS,
            embeddings=config.get_text_config().vocab_size,
            pad=tokenizer.pad_token_id or 0,
        )  # fmt: skip
        self.weight_bytes = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
        self.runtime = {
            "engine": "vllm",
            "architecture": info.architecture,
            "revision": info.revision,
            "device": device.name,
            "dtype": dtype,
            "chat_template": self._chat.is_chat,
            "positions": self._positions,
            "versions": {name: version(name) for name in ("vllm", "torch", "transformers", "tokenizers")},
        }

    def _outputs(
        self, rows: list[Row], settings: Settings, usage: Usage, stopped: Callable[[], bool]
    ) -> Iterator[Output]:
        for start in range(0, len(rows), _AT_ONCE):
            if stopped():
                return
            chosen = rows[start : start + _AT_ONCE]
            prompts = [draft.sources[segment] for draft, segment in chosen]
            with usage.phase("model"):
                outputs = self._llm.generate(
                    [{"prompt_token_ids": prompt.tolist()} for prompt in prompts],
                    [_sampling(settings, len(prompt), row[1]) for prompt, row in zip(prompts, chosen, strict=True)],
                    use_tqdm=False,
                )
            generated = [_generated(output) for output in outputs]
            for prompt, output in zip(prompts, generated, strict=True):
                count(usage, [prompt], [output])
            yield chosen, generated


def _sampling(settings: Settings, prompt: int, segment: int) -> Any:
    """The settings in vLLM's words: temperature 0 is greedy, and a seed is per request."""
    from vllm import SamplingParams

    config = settings.config
    drawn: dict[str, Any] = {"temperature": 0.0}
    if settings.seed is not None:
        drawn = {
            "temperature": config.temperature or 1.0,
            "top_k": config.top_k if config.top_k is not None else 50,  # what generate() takes where none is stated
            "top_p": config.top_p or 1.0,
            "min_p": config.min_p or 0.0,
            "seed": settings.seed + segment,
        }
    return SamplingParams(
        **drawn,
        max_tokens=settings.lengths.new_tokens(prompt),
        min_tokens=settings.lengths.least_tokens(prompt),
        repetition_penalty=config.repetition_penalty or 1.0,
        stop_token_ids=sorted(settings.ends),
        detokenize=False,
    )


def _generated(output: Any) -> Generated:
    """`finish_reason` is `length` where the limit ended it."""
    (answer,) = output.outputs
    return Generated(list(answer.token_ids), cut=answer.finish_reason == "length")
