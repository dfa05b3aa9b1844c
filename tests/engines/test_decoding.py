"""Slots give the tokens that `generate()` gives for each source alone, whatever is decoded beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from tests.tiny_seq2seq import KINDS, make
from worker.device import Device
from worker.engines import generation
from worker.engines.base import Usage
from worker.engines.budget import Budget
from worker.engines.decoding import SlotDecoder, Source, rules_of

#: Candidates whose scores lie this near may change places between two exact ways of computing them.
NEAR = 1e-5

SETTINGS: dict[str, dict[str, Any]] = {
    "as the model has it": {},
    "greedy": {"num_beams": 1},
    "beams that stop early": {"num_beams": 3, "early_stopping": True},
    "long outputs favoured": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": False},
    "short outputs favoured": {"num_beams": 2, "length_penalty": -0.5, "early_stopping": False},
    "never stopping early": {"num_beams": 2, "length_penalty": 0.7, "early_stopping": "never"},
    "processors": {
        "num_beams": 1, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_length": 8,
        "bad_words_ids": [[5], [7, 8], [20, 21, 22]], "suppress_tokens": [11], "begin_suppress_tokens": [12, 13],
    },
    "processors with beams": {
        "num_beams": 3, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2, "min_length": 6,
        "bad_words_ids": [[9], [30, 31]], "begin_suppress_tokens": [12],
    },
    "forced tokens": {"num_beams": 2, "forced_bos_token_id": 6, "forced_eos_token_id": 2, "early_stopping": True},
    "several end tokens": {"num_beams": 3, "eos_token_id": [0, 1, 2, 40, 41]},
    "sampling": {"num_beams": 1, "do_sample": True, "temperature": 1.4, "top_k": 20},
    "sampling from a nucleus": {
        "num_beams": 1, "do_sample": True, "top_k": 0, "top_p": 0.8, "min_p": 0.01, "typical_p": 0.9,
        "epsilon_cutoff": 1e-4, "eta_cutoff": 1e-4, "repetition_penalty": 1.1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    root: Path = tmp_path_factory.mktemp("models")
    made: dict[str, Tiny] = {}

    def get(kind: str) -> Tiny:
        if kind not in made:
            made[kind] = Tiny(AutoModelForSeq2SeqLM.from_pretrained(make(kind, root / kind)).eval())
        return made[kind]

    return get


class Tiny:
    """A tiny model with its slots, and `generate()` beside it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.plain = generation.own_copy(model)
        self.slots = self.another(160)

    def another(self, batch_tokens: int) -> SlotDecoder:
        budget = Budget(Device(kind="cpu", batch_tokens=batch_tokens))
        return SlotDecoder(self.model, budget, pad=self.model.config.pad_token_id)

    def config(self, chosen: dict[str, Any], longest: int) -> GenerationConfig:
        config = copy.deepcopy(self.model.generation_config)
        fields = {"early_stopping": None, "length_penalty": None} if "num_beams" in chosen else {}
        for name, value in {**fields, **chosen, "max_length": longest}.items():
            setattr(config, name, value)
        return config

    def sources(self, count: int, seed: int, most: int = 40) -> list[np.ndarray[Any, Any]]:
        draw = np.random.default_rng(seed)
        end = self.model.config.eos_token_id
        lengths = draw.integers(1, most, count)
        return [np.append(draw.integers(3, 150, length), end).astype(np.int32) for length in lengths]

    def alone(self, source: np.ndarray[Any, Any], config: GenerationConfig, seed: int) -> list[int]:
        torch.manual_seed(seed)
        with torch.inference_mode():
            ids = torch.from_numpy(source.astype(np.int64))[None]
            tokens: list[int] = self.plain.generate(input_ids=ids, generation_config=config)[0].tolist()
        return tokens


def decoded(slots: SlotDecoder, sources: list[Source], config: GenerationConfig, usage: Usage | None = None) -> Any:
    """Outputs of the sources by key."""
    session = slots.session(rules_of(config, slots.vocabulary))
    session.add(sources)
    return {outcome.source.key: outcome.tokens for outcome in advanced(session, usage or Usage())}


def advanced(session: Any, usage: Usage) -> Iterator[Any]:
    while session.busy:
        yield from session.advance(usage)


#: All families with the settings that differ most, and all settings with two families.
CASES = sorted(
    {(kind, chosen) for kind in KINDS for chosen in ("as the model has it", "beams that stop early", "sampling")}
    | {(kind, chosen) for kind in ("bart", "t5-gated") for chosen in SETTINGS}
)


@pytest.mark.parametrize(("kind", "chosen"), CASES)
def test_every_family_gives_what_generate_gives_alone(
    kind: str, chosen: str, load: Callable[[str], Tiny]
) -> None:  # fmt: skip
    tiny = load(kind)
    config = tiny.config(SETTINGS[chosen], longest=18)
    ids = tiny.sources(7, seed=3)
    usage = Usage()

    outputs = decoded(
        tiny.slots, [Source(one, 18, seed=index, key=index) for index, one in enumerate(ids)], config, usage
    )

    assert [outputs[index] for index in range(7)] == [tiny.alone(one, config, index) for index, one in enumerate(ids)]
    assert usage.busy_slot_steps == usage.slot_steps > 0


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    kind=st.sampled_from(["marian", "bart", "t5", "m2m100"]),
    batch_tokens=st.integers(20, 400),
    count=st.integers(1, 9),
    seed=st.integers(0, 1_000),
    beams=st.integers(1, 4),
    penalty=st.floats(-1.0, 2.0),
    early=st.sampled_from([True, False, "never"]),
    ngram=st.integers(0, 3),
    longest=st.lists(st.integers(2, 16), min_size=9, max_size=9),
)
def test_neither_room_nor_neighbours_nor_lengths_change_an_output(
    kind: str, batch_tokens: int, count: int, seed: int, beams: int, penalty: float, early: Any, ngram: int,
    longest: list[int], load: Callable[[str], Tiny],
) -> None:  # fmt: skip
    tiny = load(kind)
    chosen: dict[str, Any] = {"num_beams": beams, "no_repeat_ngram_size": ngram}
    chosen |= {"length_penalty": penalty, "early_stopping": early} if beams > 1 else {}
    slots = tiny.another(batch_tokens)
    ids = tiny.sources(count, seed, most=25)
    sources = [Source(one, longest[index], key=index) for index, one in enumerate(ids)]

    # a minimum above the longest output counts as that, as the engine has it
    outputs = decoded(slots, sources, tiny.config(chosen, longest=max(longest)))

    for index, one in enumerate(ids):
        config = tiny.config(chosen, longest=longest[index])
        config.min_length = min(config.min_length or 0, longest[index])
        expected = tiny.alone(one, config, 0)
        assert outputs[index] == expected or near_tie(tiny, one, outputs[index], expected)


def near_tie(tiny: Tiny, source: np.ndarray[Any, Any], one: list[int], other: list[int]) -> bool:
    """Whether the reference's scores of both outputs lie within `NEAR`."""

    def score(tokens: list[int]) -> float:
        with torch.inference_mode():
            ids = torch.from_numpy(source.astype(np.int64))[None]
            likely = tiny.model(input_ids=ids, decoder_input_ids=torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
        return float(likely[range(len(tokens) - 1), tokens[1:]].sum())

    return abs(score(one) - score(other)) <= NEAR * max(len(one), len(other))


def test_sources_that_come_later_take_the_slots_that_get_free(load: Callable[[str], Tiny]) -> None:
    tiny = load("marian")
    config = tiny.config({"num_beams": 2}, longest=14)
    short, long = tiny.sources(8, seed=1, most=8), tiny.sources(5, seed=2)
    session = tiny.slots.session(rules_of(config, tiny.slots.vocabulary))
    outputs: dict[Any, Any] = {}
    usage = Usage()

    session.add(Source(one, 14, key=("short", index)) for index, one in enumerate(short))
    while session.waits:
        outputs |= {outcome.source.key: outcome.tokens for outcome in session.advance(usage)}
    assert session.busy
    session.add(Source(one, 14, key=("long", index)) for index, one in enumerate(long))
    outputs |= {outcome.source.key: outcome.tokens for outcome in advanced(session, usage)}

    expected = {("short", index): tiny.alone(one, config, 0) for index, one in enumerate(short)}
    expected |= {("long", index): tiny.alone(one, config, 0) for index, one in enumerate(long)}
    assert outputs == expected
    assert usage.slot_steps == usage.busy_slot_steps


def test_sources_that_are_dropped_leave_the_others_as_they_are(load: Callable[[str], Tiny]) -> None:
    tiny = load("bart")
    config = tiny.config({"do_sample": True, "num_beams": 1}, longest=14)
    ids = tiny.sources(8, seed=5)
    session = tiny.slots.session(rules_of(config, tiny.slots.vocabulary))
    session.add(Source(one, 14, seed=index, key=index) for index, one in enumerate(ids))
    outputs = {outcome.source.key: outcome.tokens for _ in range(3) for outcome in session.advance(Usage())}

    session.drop(lambda source: source.key % 2 == 0)
    outputs |= {outcome.source.key: outcome.tokens for outcome in advanced(session, Usage())}

    kept = {index: tiny.alone(one, config, index) for index, one in enumerate(ids) if index % 2}
    assert {index: tokens for index, tokens in outputs.items() if index % 2} == kept
