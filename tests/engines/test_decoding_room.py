"""What a session of slots holds, what happens where the memory is full, and what is not decoded in slots."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from tests.tiny_seq2seq import make
from worker.device import Device
from worker.engines.base import Usage
from worker.engines.budget import Budget
from worker.engines.decoding import SlotDecoder, Source, Unsupported, room, rules_of
from worker.engines.decoding import slots as slots_module
from worker.engines.decoding.families import FAMILIES
from worker.engines.decoding.forward import Extent, forward
from worker.engines.decoding.graphs import rounded
from worker.engines.decoding.rules import KNOWN
from worker.engines.decoding.slots import Group, Size, Slots

LONGEST = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory: Path = tmp_path_factory.mktemp("models") / "marian"
    return AutoModelForSeq2SeqLM.from_pretrained(make("marian", directory)).eval()


class Memory:
    """Makes the decoder's products, and runs out of memory above so many rows in a step, or tokens in a source batch."""

    def __init__(self) -> None:
        self.rows = self.tokens = 1_000
        self.tried: list[int] = []

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        is_head, is_cross = len(weight) > 140, len(weight) == 2 * 2 * 32

        def product(x: torch.Tensor) -> torch.Tensor:
            if is_head:
                self.tried.append(len(x))
            if (is_head and len(x) > self.rows) or (is_cross and len(x) > self.tokens):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return functional.linear(x, weight, bias)

        return product


def slots_of(model: Any, batch_tokens: int = 640, **options: Any) -> SlotDecoder:
    budget = Budget(Device(kind="cpu", batch_tokens=batch_tokens))
    return SlotDecoder(model, budget, pad=model.config.pad_token_id, **options)


def config_of(model: Any, **chosen: Any) -> GenerationConfig:
    config = copy.deepcopy(model.generation_config)
    config.max_length = LONGEST
    for name, value in chosen.items():
        setattr(config, name, value)
    return config


def sources(count: int, seed: int = 0, most: int = 30) -> list[Source]:
    draw = np.random.default_rng(seed)
    ids = [draw.integers(3, 120, draw.integers(1, most)).astype(np.int32) for _ in range(count)]
    return [Source(one, LONGEST, key=index) for index, one in enumerate(ids)]


def outputs_of(slots: SlotDecoder, given: list[Source], config: GenerationConfig, **seen: Any) -> dict[int, Any]:
    session = slots.session(rules_of(config, slots.vocabulary))
    session.add(given)
    outputs: dict[int, Any] = {}
    while session.busy:
        for outcome in session.advance(seen.get("usage") or Usage()):
            outputs[outcome.source.key] = outcome.tokens
        if "look" in seen:
            seen["look"](session)
    return outputs


@pytest.mark.parametrize("beams", [1, 3])
def test_full_memory_halves_the_slots_for_good_and_changes_no_output(beams: int, model: Any) -> None:
    config, given = config_of(model, num_beams=beams), sources(14, most=4)
    expected = outputs_of(slots_of(model), given, config)
    memory = Memory()
    slots = slots_of(model, linear=memory.linear)
    memory.rows = 6

    memory.tried.clear()
    assert outputs_of(slots, given, config) == expected
    assert max(memory.tried) > 6
    memory.tried.clear()
    assert outputs_of(slots, given, config) == expected
    assert 1 <= max(memory.tried) <= 6, "what did not fit once is not tried again"


def test_a_source_that_does_not_fit_alone_has_no_output_and_the_others_have_theirs(model: Any) -> None:
    config, given = config_of(model), sources(6, most=6)
    expected = outputs_of(slots_of(model), given, config)
    memory = Memory()
    slots = slots_of(model, linear=memory.linear)
    memory.tokens = 20
    huge = Source(np.full(40, 5, dtype=np.int32), LONGEST, key=6)

    assert outputs_of(slots, [*given, huge], config) == {**expected, 6: None}


def test_errors_that_are_not_about_memory_pass_through(model: Any) -> None:
    def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        def product(x: torch.Tensor) -> torch.Tensor:
            if broken:
                raise RuntimeError("device-side assert triggered")
            return functional.linear(x, weight, bias)

        return product

    broken = False
    slots = slots_of(model, linear=linear)
    broken = True
    with pytest.raises(RuntimeError, match="device-side assert"):
        outputs_of(slots, sources(3), config_of(model))


@pytest.mark.parametrize("beams", [1, 4])
def test_caches_stay_within_the_budget_and_there_are_more_of_them_for_shorter_sources(
    beams: int, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_HELD", 1)
    slots = slots_of(model, batch_tokens=100 * beams)
    held: list[tuple[int, int]] = []

    def look(session: Any) -> None:
        size = session._slots.size
        caches = [cache for group in session._slots.groups for caches in group.caches for cache in caches]
        assert sum(cache.nbytes for cache in caches) <= 100 * beams * slots.decoder.token_bytes
        held.append((size.slots, size.source))

    long = [Source(np.full(length, 5, dtype=np.int32), 10, key=length) for length in range(1, 62, 2)]
    outputs = outputs_of(slots, long, config_of(model, num_beams=beams), look=look)

    assert len(outputs) == len(long)
    assert held[0][0] < held[-1][0]
    assert held[0][1] > held[-1][1]


def test_a_source_longer_than_the_slots_waits_until_there_is_room(model: Any) -> None:
    config = config_of(model)
    short, long = sources(6, seed=1, most=5), sources(4, seed=2, most=60)
    expected = outputs_of(slots_of(model), short, config), outputs_of(slots_of(model), long, config)
    session = slots_of(model, batch_tokens=64).session(rules_of(config, model.config.vocab_size))
    session.add(Source(one.ids, LONGEST, key=(0, one.key)) for one in short)
    outcomes = session.advance(Usage())
    session.add(Source(one.ids, LONGEST, key=(1, one.key)) for one in long)
    while session.busy:
        outcomes += session.advance(Usage())

    outputs = {outcome.source.key: outcome.tokens for outcome in outcomes}
    assert outputs == {(which, key): tokens for which in (0, 1) for key, tokens in expected[which].items()}


@pytest.mark.parametrize("beams", [1, 3])
def test_slots_that_never_move_give_what_those_give_that_follow_their_sources(
    beams: int, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups so small, and room given in steps so short, that several grow and shrink while others stand."""
    monkeypatch.setattr(slots_module, "_GRAIN", 2)
    monkeypatch.setattr(slots_module, "_TOGETHER", 2)
    config, given = config_of(model, num_beams=beams), sources(40)
    groups: list[list[tuple[int, int]]] = []

    def look(session: Any) -> None:
        groups.append([(group.source, group.output) for group in session._slots.groups])

    expected = outputs_of(slots_of(model, batch_tokens=128 * beams), given, config, look=look)
    outputs = [[output for _, output in step] for step in groups]
    assert any(len(set(step)) > 1 for step in outputs), "groups have room for outputs of different lengths"
    assert any(now < before for one, other in pairwise(outputs) for before, now in zip(one, other, strict=False))
    groups.clear()
    monkeypatch.setattr(slots_module, "_FOLLOWING", frozenset())
    fixed = slots_of(model, batch_tokens=128 * beams)

    assert outputs_of(fixed, given, config, look=look) == expected
    assert {len(step) for step in groups} == {1}


def full(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def full_at(nth: int, owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Has the nth call of a method find the memory full; the calls, as they come."""
    method, calls = getattr(owner, name), list[Any]()

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        return (full if len(calls) == nth else method)(*arguments)

    monkeypatch.setattr(owner, name, failing)
    return calls


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("nth", [1, 3, 8, 20, 45])
def test_full_memory_where_caches_grow_loses_no_source(
    nth: int, beams: int, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When slots are laid out, when a source takes one, and when one that is moved makes its new group grow."""
    monkeypatch.setattr(slots_module, "_TOGETHER", 3)
    config, given = config_of(model, num_beams=beams), sources(40)
    expected = outputs_of(slots_of(model, batch_tokens=320 * beams), given, config)
    slots = slots_of(model, batch_tokens=320 * beams)
    calls = full_at(nth, Group, "resize", monkeypatch)
    assert outputs_of(slots, given, config) == expected
    assert len(calls) > nth
    assert slots.budget.tokens >= 100 * beams, "the budget is halved, not given up"


@pytest.mark.parametrize("moves_until", [1, 5])
def test_full_memory_where_sources_leave_loses_neither_outputs_nor_sources(
    moves_until: int, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, given = config_of(model), sources(40)
    expected = outputs_of(slots_of(model), given, config)
    calls = full_at(moves_until, Slots, "move", monkeypatch)
    assert outputs_of(slots_of(model), given, config) == expected
    assert len(calls) > moves_until


def test_full_memory_where_sources_are_dropped_keeps_the_others(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, given = config_of(model), sources(20)
    expected = outputs_of(slots_of(model), given, config)
    slots = slots_of(model)
    session = slots.session(rules_of(config, slots.vocabulary))
    session.add(given)
    outcomes = session.advance(Usage())

    with monkeypatch.context() as patched:
        patched.setattr(Slots, "move", full)
        session.drop(lambda source: source.key % 2 == 0)
    while session.busy:
        outcomes += session.advance(Usage())

    outputs = {outcome.source.key: outcome.tokens for outcome in outcomes}
    assert {key: outputs[key] for key in range(1, 20, 2)} == {key: expected[key] for key in range(1, 20, 2)}


def test_a_long_source_gives_room_to_its_own_group_only_and_takes_it_along(model: Any) -> None:
    lengths: list[list[int]] = []

    def look(session: Any) -> None:
        held = [one for one in session._slots.groups if one.first < session._slots.live]
        lengths.append([group.source for group in held])
        assert all(cache.shape[2] == group.source for group in held for cache in group.cross_keys)

    long = Source(np.full(60, 5, dtype=np.int32), 4, key="long")
    short = [Source(np.full(6, 5, dtype=np.int32), LONGEST, key=index) for index in range(20)]
    outputs = outputs_of(slots_of(model), [long, *short], config_of(model, min_length=LONGEST), look=look)

    assert len(outputs) == 21
    assert lengths[0] == [60, 6, 6]
    assert lengths[-2] == [6, 6, 6]


@pytest.mark.parametrize(("lengths", "batches"), [([9] * 60, 1), ([60] * 6 + [20] * 2, 2), ([40, 20, 10, 5], 1)])
def test_sources_of_about_one_length_go_through_the_encoder_together(
    lengths: list[int], batches: int, model: Any
) -> None:
    """On a CPU, where padding costs what tokens do; a few short ones are no work for a batch of their own."""
    config, usage = config_of(model), Usage()
    given = [Source(np.full(length, 5, dtype=np.int32), 3, key=index) for index, length in enumerate(lengths)]
    outputs_of(slots_of(model), given, config, usage=usage)
    assert usage.batches == batches


def test_a_step_that_covers_more_than_it_must_gives_the_same_scores(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, where few shapes are captured and each step takes the next larger one."""
    monkeypatch.setattr(slots_module, "_FOLLOWING", frozenset())
    slots = slots_of(model)
    with torch.inference_mode():
        made = Slots(slots.decoder, Size(slots=8, source=100, output=70, beams=2))
        ids = [source.ids for source in sources(3)]
        for slot, encoded in enumerate(slots.runner.encode(ids)):
            made.admit(encoded.crosses, 4, LONGEST, slot)
        made.live = 3
        extent = Extent(3, max(map(len, ids)), 1)
        covering = rounded(extent, made)
        assert (covering.slots, covering.source, covering.output) == (4, 64, 64)
        scores, more = forward(slots.decoder, made, extent), forward(slots.decoder, made, covering)
    torch.testing.assert_close(more[:6, : slots.vocabulary], scores[:, : slots.vocabulary], rtol=1e-5, atol=1e-5)


def test_a_decoder_whose_scores_are_not_the_models_own_is_refused_when_it_is_read(model: Any) -> None:
    def halves(weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
        return lambda x: functional.linear(x, weight.half().float() * 1.01, bias)

    with pytest.raises(Unsupported, match="differ from the model's own"):
        slots_of(model, linear=halves)
    assert slots_of(model, linear=halves, tolerance=1.0).vocabulary == model.config.vocab_size


def test_an_architecture_that_is_not_known_is_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FAMILIES, "MarianMTModel")
    with pytest.raises(Unsupported, match="architecture MarianMTModel"):
        slots_of(model)


@pytest.mark.parametrize("name", sorted({name for name in vars(GenerationConfig()) if name[0] != "_"} - KNOWN))
def test_no_generation_setting_is_dropped(name: str, model: Any) -> None:
    config = config_of(model)
    setattr(config, name, 7)
    with pytest.raises(Unsupported, match=name):
        rules_of(config, 200)


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ({"num_beams": 2, "do_sample": True}, "num_beams with do_sample"),
        ({"bad_words_ids": [[5_000]]}, "none of the head's 200"),
        ({"do_sample": True, "temperature": 2}, "generate.. refuses"),
        ({"encoder_no_repeat_ngram_size": 2}, "encoder_no_repeat_ngram_size"),
        ({"invented_by_a_checkpoint": 1}, "invented_by_a_checkpoint"),
        ({"decoder_start_token_id": None, "bos_token_id": None}, "start from"),
    ],
)
def test_settings_that_slots_do_not_decode_are_refused(chosen: dict[str, Any], why: str, model: Any) -> None:
    with pytest.raises(Unsupported, match=why):
        rules_of(config_of(model, **chosen), 200)
