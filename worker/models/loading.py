"""From a model's directory to weights on a device and a tokenizer, or to a ModelFault that says why not.

Knows transformers' Auto classes. Nothing here ever runs code that a model brings or opens a pickle, whatever is asked.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.files import DirectoryFiles, encoder_folder
from corpusmill.errors import ModelFault
from corpusmill.models import Family, ModelInfo
from worker.device import Device, is_device_lost, is_out_of_memory, keep_freed_memory, release

if TYPE_CHECKING:
    import torch

#: The Auto class that loads each family's weights.
AUTO_CLASSES: dict[Family, str] = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "sentence-encoder": "AutoModel",
    "causal": "AutoModelForCausalLM",
}
#: Weights that a checkpoint may lack: sentence embeddings do not pass the encoder's pooler.
_DISPENSABLE: dict[Family, re.Pattern[str]] = {"sentence-encoder": re.compile(r"(^|\.)pooler\.")}
_SAFE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


def load_model(info: ModelInfo, device: Device, dtype: torch.dtype) -> tuple[torch.nn.Module, Any]:
    """The weights of a model on this machine, in evaluation mode on the device, and its tokenizer.

    Raises ModelFault where they cannot be loaded, are incomplete, or do not fit the device.
    """
    if device.kind == "cpu":
        keep_freed_memory()
    folder = weights_folder(info)
    _quiet()
    tokenizer = _tokenizer(info, folder)
    model = _weights(info, folder, device, dtype)
    _refuse_mismatch(info, model, tokenizer)
    return model, tokenizer


def load_tokenizer(info: ModelInfo) -> Any:
    """A model's tokenizer alone. Raises ModelFault where it cannot be loaded."""
    _quiet()
    return _tokenizer(info, weights_folder(info))


def weights_folder(info: ModelInfo) -> Path:
    """Where config.json and the weights stand. Raises ModelFault where the model is not on this machine."""
    if info.path is None:
        raise ModelFault(f"The files of {info.id} are not on this machine.")
    path = Path(info.path)
    return path / encoder_folder(DirectoryFiles(path))


def _quiet() -> None:
    """Keep transformers' progress bars and advice out of the log: what matters of them is raised as a ModelFault."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _tokenizer(info: ModelInfo, folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, **_SAFE)
    except ImportError as error:
        raise ModelFault(
            f"The tokenizer of {info.id} needs a package that is not installed here: {first_line(error)}"
        ) from error
    except Exception as error:  # tokenizers raises bare Exception for a file it cannot read
        raise ModelFault(f"The tokenizer of {info.id} cannot be loaded: {first_line(error)}") from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # tokenizer.json may say how to cut and pad, which would be done to every text without a word
        backend.no_truncation()
        backend.no_padding()
    return tokenizer


def _weights(info: ModelInfo, folder: Path, device: Device, dtype: torch.dtype) -> torch.nn.Module:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, **_SAFE)
        _refuse_kernels(info, config)
        model, report = getattr(transformers, AUTO_CLASSES[info.family]).from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **_SAFE
        )
        _refuse_incomplete(info, report)
        placed: torch.nn.Module = model.to(device.torch_device).eval().requires_grad_(False)
    except ModelFault:
        raise
    except Exception as error:
        if is_device_lost(error):
            raise
        full = is_out_of_memory(error)
        why = f"do not fit the memory of {device.name}" if full else f"cannot be loaded: {first_line(error)}"
        raise ModelFault(f"The weights of {info.id} {why}") from error
    finally:
        release(device)
    return placed


def _refuse_kernels(info: ModelInfo, config: Any) -> None:
    """A configuration may name an attention kernel of the Hub, whose code would be downloaded and run."""
    for name in ("_attn_implementation", "_experts_implementation"):
        if "/" in str(getattr(config, name, None)):
            raise ModelFault(f"{info.id} asks for a kernel from elsewhere ({name}), which is never run here.")


def _refuse_incomplete(info: ModelInfo, report: dict[str, Any]) -> None:
    """Weights that a checkpoint lacks would be drawn at random: outputs that look like any other and mean nothing."""
    optional = _DISPENSABLE.get(info.family)
    missing = [name for name in report["missing_keys"] if not (optional and optional.search(name))]
    wrong = sorted([*missing, *(str(entry[0]) for entry in report["mismatched_keys"])])
    if wrong or report.get("error_msgs"):
        named = ", ".join(wrong[:4]) + (" …" if len(wrong) > 4 else "")
        raise ModelFault(
            f"The checkpoint of {info.id} lacks weights that a {info.architecture} needs ({named}): it was saved "
            "without "
            "them, or from another architecture. Use a checkpoint trained for this task."
        )


def _refuse_mismatch(info: ModelInfo, model: Any, tokenizer: Any) -> None:
    """A tokenizer of another model gives ids that the model has no embedding for, or that mean something else in it.

    A few tokens more than embeddings are common (a padding token added and never used): the engines look at the ids.
    """
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    known = len(tokenizer)
    if rows is not None and not rows // 4 <= known <= rows + 64:
        raise ModelFault(
            f"The tokenizer of {info.id} knows {known} tokens and the model {rows}: its files are incomplete or belong "
            "to another model. Copy them again from where the weights came from."
        )


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes that parameters and buffers hold, shared ones once, and weights that are laid out for a kernel."""
    from worker.models.onednn import laid_out_bytes

    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in [*model.parameters(), *model.buffers()]}
    return sum(tensors.values()) + laid_out_bytes(model)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without the directories of this machine."""
    text = str(error).strip().splitlines()
    return re.sub(r"(?:/[\w.@+~-]+){2,}/([\w.-]+)", r"\1", text[0])[:300] if text else type(error).__name__
