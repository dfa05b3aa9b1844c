"""What the bench concludes from its figures: goals, equality and tables. Nothing here measures time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import agreement, corpora
from bench.answers import Agreement, Answers, agreement_of_scores, agreement_of_texts
from bench.batching import by_length
from bench.machine import machine, versions
from bench.models import make_translator
from bench.names import CT2, ONNX, OURS
from bench.peak import encoder_operations
from bench.plain import Generate, padding_share
from bench.reach import CPU_GOALS, GPU_GOALS, Goal, verdict
from bench.report import markdown, save, write_between_markers
from bench.tables import Group, Row, optional
from bench.timing import Variant, alternate

GOAL = Goal("labels", "the better of two", "group", (ONNX, CT2), 1.1, 1.3)


def row(name: str, seconds: float, **more: Any) -> Row:
    return Row(name=name, documents=10, cpu_seconds=seconds, wall_seconds=2 * seconds, rounds=3, same=10, **more)


def group(*rows: Row, by_wall: bool = False, key: str = "group") -> Group:
    return Group(key=key, title="Group", corpus="ten texts", reference=OURS, rows=rows, by_wall=by_wall)


def test_a_goal_is_held_against_the_faster_of_its_rivals() -> None:
    found = GOAL.found({"group": group(row(OURS, 1.0), row(ONNX, 3.0), row(CT2, 1.2))})
    assert found == pytest.approx(1.2)
    assert verdict(GOAL, found) == "yes"


def test_a_goal_compares_rates_where_the_rows_had_different_numbers_of_texts() -> None:
    many = replace(row(OURS, 1.0), documents=100)
    assert GOAL.found({"group": group(many, row(CT2, 1.0))}) == pytest.approx(10.0)


def test_a_goal_goes_by_tokens_where_outputs_are_not_of_one_length() -> None:
    goal = replace(GOAL, by_tokens=True)
    rows = (row(OURS, 1.0, facts={"generated_tokens": 300}), row(CT2, 1.0, facts={"generated_tokens": 100}))
    assert goal.found({"group": group(*rows)}) == pytest.approx(3.0)


def test_a_group_of_several_processes_goes_by_wall_seconds() -> None:
    ours = replace(row(OURS, 5.0), wall_seconds=1.0)
    assert GOAL.found({"group": group(ours, row(CT2, 1.0), by_wall=True)}) == pytest.approx(2.0)


def test_a_rival_whose_answers_differ_is_no_comparison() -> None:
    differing = row(CT2, 0.1, gated=True, holds=False)
    assert GOAL.found({"group": group(row(OURS, 1.0), row(ONNX, 2.0), differing)}) == pytest.approx(2.0)
    found = GOAL.found({"group": group(row(OURS, 1.0), differing)})
    assert isinstance(found, str)
    assert verdict(GOAL, found).startswith("not measured")


def test_no_goal_is_reached_with_answers_that_had_to_be_equal_and_are_not() -> None:
    wrong = row(OURS, 0.1, gated=True, holds=False)
    assert isinstance(GOAL.found({"group": group(wrong, row(CT2, 1.0))}), str)


def test_a_goal_without_its_row_says_why() -> None:
    rows = (row(OURS, 1.0), Row(name=ONNX, skipped="not installed: onnxruntime"))
    assert verdict(GOAL, GOAL.found({"group": group(*rows)})) == "not measured: not installed: onnxruntime"
    assert GOAL.found({}) == "not run"


def test_every_goal_names_a_floor_that_is_not_above_its_aim() -> None:
    assert all(0 < goal.least <= goal.aim for goal in [*CPU_GOALS, *GPU_GOALS])


def test_answers_that_must_be_equal_and_are_not_are_faults_of_their_group() -> None:
    differing = row(OURS, 1.0, gated=True, holds=False, compared=10)
    assert group(differing).faults == ["Group: our engine agrees with our engine on 10 of 10"]
    assert group(row(OURS, 1.0, gated=True)).faults == []


def test_scores_may_differ_in_the_sixth_place_and_labels_not_at_all() -> None:
    reference = Answers(scores=[{"a": 0.7, "b": 0.3}])
    assert agreement_of_scores(reference, Answers(scores=[{"a": 0.700004, "b": 0.299996}])).holds
    assert not agreement_of_scores(reference, Answers(scores=[{"a": 0.70002, "b": 0.29998}])).holds
    assert not agreement_of_scores(reference, Answers(scores=[{"a": 0.3, "b": 0.7}])).holds


def test_a_near_tie_is_excused_and_another_difference_is_not() -> None:
    reference, other = Answers(texts=["a b c", "d e"]), Answers(texts=["a b x", "d e"])
    assert agreement_of_texts(reference, other, lambda *_: True).holds
    assert not agreement_of_texts(reference, other).holds


def test_near_ties_are_excused_in_one_text_of_a_thousand() -> None:
    assert Agreement(n=3_000, same=2_997, near_ties=3).holds
    assert not Agreement(n=3_000, same=2_996, near_ties=4).holds


def test_an_output_is_a_near_tie_of_itself_only_where_the_model_cannot_tell_two_tokens_apart(tmp_path: Path) -> None:
    plain = Generate(make_translator("marian", tmp_path / "marian", tiny=True))
    source = corpora.joined_sentences(1, 12, 0.1, 10, 14).texts[0]
    made = plain.run([source], 1, max_length=8).texts[0].split()
    assert made, "a source without an output shows nothing"
    other = " ".join([corpora.source_words()[7] if made[0] != corpora.source_words()[7] else "a", *made[1:]])
    assert not plain.near_tie(source, " ".join(made), other)
    assert not plain.near_tie(source, " ".join(made), other, beams=4)


def test_variants_take_turns_and_each_round_begins_with_another() -> None:
    order: list[str] = []
    variants = [Variant(name, lambda name=name: order.append(name)) for name in "abc"]  # type: ignore[misc]
    timed = alternate(variants, 2)
    assert order == ["a", "b", "c", "b", "c", "a"]
    assert [one.name for one in timed] == ["a", "b", "c"]
    assert all(len(one.cpu) == len(one.wall) == 2 for one in timed)


def test_an_encoders_operations_are_those_of_its_linear_layers_and_of_attention() -> None:
    config = SimpleNamespace(hidden_size=4, intermediate_size=8, num_hidden_layers=2)
    assert encoder_operations(config, [3]) == 2 * (2 * (4 * 16 + 2 * 32) * 3 + 4 * 4 * 9)


def test_what_a_last_layer_leaves_out_is_not_counted() -> None:
    """Keys and values of all tokens; the rest, and attention to them, for one token of each text."""
    config = SimpleNamespace(hidden_size=4, intermediate_size=8, num_hidden_layers=2)
    first = 2 * (4 * 16 + 2 * 32) * 3 + 4 * 4 * 9
    last = 2 * (2 * 16) * 3 + 2 * (2 * 16 + 2 * 32) + 4 * 4 * 3
    assert encoder_operations(config, [3], one_read=True) == first + last
    assert encoder_operations(config, [1], one_read=True) == encoder_operations(config, [1])


def test_batches_by_length_keep_their_budget_and_every_text() -> None:
    lengths = [5, 1, 9, 30, 2, 2]
    batches = list(by_length(lengths, 10))
    assert sorted(place for batch in batches for place in batch) == list(range(6))
    assert all(len(batch) == 1 or max(lengths[place] for place in batch) * len(batch) <= 10 for batch in batches)


def test_padding_is_counted_in_the_order_given() -> None:
    assert padding_share([4, 1, 1, 4], 2) == pytest.approx(1 - 10 / 16)
    assert padding_share([4, 1, 1, 4], 1) == 0


def test_texts_are_the_same_in_every_run_and_drawn_ones_have_a_long_tail() -> None:
    texts = corpora.drawn(200).texts
    assert texts == corpora.drawn(200).texts
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[180] > 2 * lengths[100]


def test_a_program_that_fails_is_a_row_that_says_why() -> None:
    made, skipped = optional("other", lambda: 1 // 0)
    assert made is None
    assert skipped is not None
    assert skipped.skipped == "ZeroDivisionError: integer division or modulo by zero"


def test_groups_that_are_not_run_again_stay_in_the_file_and_in_the_tables(tmp_path: Path) -> None:
    about = {"machine": {"cores": "2"}, "versions": {"torch": "2"}, "date": "2026-01-01", "command": "python -m bench"}
    save(tmp_path / "cpu.json", [group(row(OURS, 1.0), key="first")], about)
    kept = save(tmp_path / "cpu.json", [group(row(OURS, 2.0), key="second")], about)
    assert list(kept) == ["first", "second"]
    text = markdown(kept, CPU_GOALS)
    assert text.count("### Group") == 2
    assert "| our engine | 1.00 | 2.00 | 0% | 10.00 | 1.00 | 10/10 |" in text


def test_tables_go_between_their_markers_and_nothing_else_changes(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- bench:cpu -->\nold\n<!-- /bench:cpu -->\nafter\n", encoding="utf-8")
    write_between_markers("cpu", "new\n", document)
    expected = "before\n<!-- bench:cpu -->\nnew\n<!-- /bench:cpu -->\nafter\n"
    assert document.read_text(encoding="utf-8") == expected
    with pytest.raises(ValueError, match="bench:gpu"):
        write_between_markers("gpu", "new", document)


def test_the_documents_have_a_place_for_each_measurement(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    copy = tmp_path / "performance.md"
    copy.write_text(text, encoding="utf-8")
    for name in ("cpu", "cpu-amd", "agreement", "gpu"):
        write_between_markers(name, "tables", copy)


def test_what_is_told_of_the_machine_names_no_host_user_or_directory() -> None:
    assert set(machine()) <= {"processor", "cores", "memory", "system"}
    assert str(Path.home()) not in json.dumps([machine(), versions()])


def test_what_rounding_costs_is_a_row_for_each_precision_and_the_reason_where_there_is_none() -> None:
    found = [
        agreement.Rounded("float32", 4, 4, 0.0, {"accuracy": 0.75}),
        agreement.Rounded("int8", 4, 3, 0.25, {"accuracy": 0.5}),
        agreement.Rounded("CTranslate2 int8", skipped="not installed"),
    ]
    rows = agreement.table("Reviews", found).splitlines()
    assert rows[2:] == [
        "| precision | as in float32 | scores within | accuracy |",
        "|---|---:|---:|---:|",
        "| float32 | 4/4 | 0e+00 | 0.75 |",
        "| int8 | 3/4 | 2e-01 | 0.5 |",
        "| CTranslate2 int8 | not installed | | |",
    ]


def test_accuracy_goes_by_the_likeliest_label() -> None:
    answers = Answers(scores=[{"good": 0.9, "bad": 0.1}, {"good": 0.6, "bad": 0.4}])
    assert agreement.accuracy(answers, ["good", "bad"]) == {"accuracy": 0.5}
