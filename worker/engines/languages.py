"""What the choice of a source and a target language changes, model family by model family.

Knows the ways in which translators are told languages: M2M100, NLLB and mBART by language tokens, Marian by `>>xx<<` at
the start of the text, T5 by a sentence in front of it. Must not know documents, batches or devices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corpusmill.errors import ModelFault
from corpusmill.tasks import SummarizationParams, TranslationParams
from worker.engines.sources import Frame

#: How language tokens look where the tokenizer has no table of them: `eng_Latn` (NLLB), `en_XX` (mBART).
_LANGUAGE_TOKEN = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")
_T5_DIRECTION = re.compile(r"translation_(\w+)_to_(\w+)")

#: ISO 639-3 to 639-1 for the languages that have sentence rules of their own; all others get the general rules.
_SHORT_CODES = {
    "amh": "am", "arb": "ar", "ara": "ar", "ben": "bn", "bul": "bg", "cat": "ca", "ces": "cs", "cze": "cs", "dan": "da",
    "deu": "de", "ger": "de", "ell": "el", "gre": "el", "eng": "en", "spa": "es", "est": "et", "fin": "fi", "fra": "fr",
    "fre": "fr", "guj": "gu", "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu", "hye": "hy", "ita": "it", "jpn": "ja",
    "kan": "kn", "kat": "ka", "kaz": "kk", "kor": "ko", "lit": "lt", "lvs": "lv", "mal": "ml", "mar": "mr", "mya": "my",
    "nld": "nl", "dut": "nl", "nob": "nb", "npi": "ne", "ory": "or", "pan": "pa", "pes": "fa", "pol": "pl", "por": "pt",
    "ron": "ro", "rum": "ro", "rus": "ru", "slk": "sk", "slv": "sl", "srp": "sr", "swe": "sv", "tam": "ta", "tel": "te",
    "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur", "vie": "vi", "zho": "zh", "zh_CN": "zh",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """From which language into which, as this model takes it.

    `prefix` goes before each segment's text, `frame` around its tokens, `generation` into the generation settings;
    `language` is the source's ISO 639-1 code, for the sentence rules.
    """

    prefix: str
    frame: Frame
    generation: Mapping[str, int] = field(default_factory=dict)
    language: str = "en"


def direction_of(
    params: SummarizationParams | TranslationParams, model_id: str, model: Any, tokenizer: Any, frame: Frame
) -> Direction:
    """How the model is told what `params` ask for; `frame` is the tokenizer's own, with its default source language.

    Raises ModelFault where a language is asked for that the model does not have, or must be named and is not.
    """
    if isinstance(params, SummarizationParams):
        return Direction(prefix=_prefix(params.prefix, model.config, "summarization"), frame=frame)
    language = _short_code(params.source_lang or _declared(tokenizer, "src_lang", "source_lang"))
    if ids := language_ids(tokenizer):
        frame, source = _framed(params, model_id, frame, ids)
        told = _told(params, model_id, model.generation_config, tokenizer, ids)
        return Direction(prefix=params.prefix or "", frame=frame, generation=told, language=_short_code(source))
    if codes := _marian_codes(tokenizer):
        target = _chosen("target_lang", params.target_lang, codes, model_id)
        return Direction(prefix=f">>{target}<< {params.prefix or ''}", frame=frame, language=language)
    if directions := _t5_directions(model.config):
        if params.prefix is not None:  # the prefix itself says what is asked for
            return Direction(prefix=params.prefix, frame=frame, language=language)
        source, target = _t5_direction(params, directions, model_id)
        return Direction(prefix=directions[source, target], frame=frame, language=_short_code(source))
    _check_only_pair(params, model_id, tokenizer)
    return Direction(prefix=params.prefix or "", frame=frame, language=language)


def language_ids(tokenizer: Any) -> dict[str, int]:
    """The tokenizer's language tokens by language code; empty where it has none."""
    ids = getattr(tokenizer, "lang_code_to_id", None)
    if not ids:
        vocabulary = tokenizer.get_added_vocab() if tokenizer.is_fast else {}
        ids = {token: index for token, index in vocabulary.items() if _LANGUAGE_TOKEN.fullmatch(token)}
    return {code: index for code, index in ids.items() if index != tokenizer.unk_token_id}


def _framed(
    params: TranslationParams, model_id: str, frame: Frame, ids: Mapping[str, int]
) -> tuple[Frame, str]:  # fmt: skip
    """The frame that names the source language, and that language: the tokenizer's own where none is asked for."""
    own = [code for code, token in ids.items() if token in frame.before + frame.after]
    if len(own) != 1:
        raise ModelFault(f"The tokenizer of {model_id} does not mark its sources with one of its own languages.")
    source = _chosen("source_lang", params.source_lang or own[0], ids, model_id)
    return frame.with_language(ids[own[0]], ids[source]), source


def _told(
    params: TranslationParams, model_id: str, generation: Any, tokenizer: Any, ids: Mapping[str, int]
) -> dict[str, int]:
    """The generation setting that names the target language.

    It is the first token that is forced; or, for a model whose configuration starts every output with a language (mBART
    fine-tuned for one pair), the token that outputs start from. Where nothing is asked for, the model's own stands.
    """
    starts_with_language = generation.decoder_start_token_id in ids.values()
    target = params.target_lang or _declared(tokenizer, "tgt_lang")
    if target is None and (starts_with_language or generation.forced_bos_token_id is not None):
        return {}
    token = ids[_chosen("target_lang", target, ids, model_id)]
    return {"decoder_start_token_id" if starts_with_language else "forced_bos_token_id": token}


def _chosen(name: str, asked: str | None, known: Any, model_id: str) -> str:
    if asked is not None and asked in known:
        return asked
    codes = ", ".join(sorted(known))
    if asked is None:
        raise ModelFault(f"{model_id} has several target languages: set {name} to one of {codes}.")
    raise ModelFault(f"{model_id} does not know the {name} {asked}: its language codes are {codes}.")


def _marian_codes(tokenizer: Any) -> list[str]:
    return [code[2:-2] for code in getattr(tokenizer, "supported_language_codes", None) or ()]


def _t5_directions(config: Any) -> dict[tuple[str, str], str]:
    """Prefixes by (source, target), as T5's configuration lists them."""
    tasks = getattr(config, "task_specific_params", None) or {}
    found = {task: _T5_DIRECTION.fullmatch(task) for task in tasks}
    return {
        (match[1], match[2]): tasks[task].get("prefix", "") for task, match in found.items() if match is not None
    }  # fmt: skip


def _t5_direction(
    params: TranslationParams, directions: Mapping[tuple[str, str], str], model_id: str
) -> tuple[str, str]:  # fmt: skip
    wanted = (params.source_lang, params.target_lang)
    fitting = [pair for pair in directions if all(w in (None, has) for w, has in zip(wanted, pair, strict=True))]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(f"{source} to {target}" for source, target in directions)
    asked = " to ".join(code or "any" for code in wanted)
    raise ModelFault(
        f"{model_id} translates {known}, and {asked} is {'more than one' if fitting else 'none'} of these: set "
        "source_lang and target_lang to one of them, or set prefix."
    )


def _check_only_pair(params: TranslationParams, model_id: str, tokenizer: Any) -> None:
    """A model of one direction must not be asked for another: it would translate all the same, and wrongly."""
    for name, asked in (("source_lang", params.source_lang), ("target_lang", params.target_lang)):
        own = _declared(tokenizer, name)
        if asked is not None and own is not None and asked != own:
            raise ModelFault(f"{model_id} has one {name}, {own}, and {asked} was asked for: leave {name} out.")
        if asked is not None and own is None and name == "target_lang":
            raise ModelFault(f"{model_id} states no languages to choose from: leave {name} out.")


def _prefix(asked: str | None, config: Any, task: str) -> str:
    if asked is not None:
        return asked
    tasks = getattr(config, "task_specific_params", None) or {}
    return str(tasks.get(task, {}).get("prefix") or "")


def _declared(tokenizer: Any, *names: str) -> str | None:
    for name in names:
        value = getattr(tokenizer, name, None)
        if isinstance(value, str) and value:
            return value
    return None


def _short_code(code: str | None) -> str:
    """ISO 639-1, as sentence rules are named, of `eng_Latn`, `en_XX`, `eng`, `en`."""
    language = (code or "en").split("_")[0]
    return _SHORT_CODES.get(language, language)
