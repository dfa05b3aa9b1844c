"""Templates of prompts: what may stand in them, and that a document's text is data."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpusmill import prompts
from corpusmill.prompts import check_labels, check_template, parse

KNOWN = (prompts.TEXT, prompts.LABELS)
HOSTILE = st.text(st.sampled_from("{}textlabels %$\\n0.!"), max_size=40)


@given(text=HOSTILE, labels=HOSTILE)
def test_what_is_put_in_stands_there_to_the_character(text: str, labels: str) -> None:
    template = parse("a {labels} b {text}{text} {c")
    assert template.filled({"text": text, "labels": labels}) == f"a {labels} b {text}{text} {{c"


@given(template=st.text(st.sampled_from("{}ab_ text"), max_size=30))
def test_a_template_without_placeholders_says_itself_but_for_doubled_names(template: str) -> None:
    parsed = parse(template)
    if not parsed.names and "{{" not in template:
        assert parsed.filled({}) == template


def test_braces_that_are_no_placeholder_stand_for_themselves() -> None:
    json = 'Answer as {"label": {"name": 1}} or {}, { text }, {0}: {text}'
    assert parse(json).names == ("text",)
    assert parse(json).filled({"text": "{labels}"}) == json.replace("{text}", "{labels}")


def test_a_name_in_doubled_braces_is_the_name_in_braces() -> None:
    assert parse("say {{name}}: {text}").filled({"text": "x"}) == "say {name}: x"
    check_template("say {{name}}: {text}", KNOWN)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Label it.", "{text} is missing"),
        ("Label {{text}}.", "{text} is missing"),
        ("Label {txt}.", "Unknown placeholder {txt}. Did you mean {text}?"),
        ("{text} {lables}", "Did you mean {labels}?"),
        ("{text} {a}", "for the word in braces write {{a}}"),
        ("{text} {source_lang}", "There are {text}, {labels}"),
    ],
)
def test_a_template_is_refused_with_how_to_mend_it(template: str, message: str) -> None:
    with pytest.raises(ValueError, match="placeholder") as refused:
        check_template(template, KNOWN)
    assert message in str(refused.value)


@pytest.mark.parametrize("labels", [["a", "a"], ["a", ""], ["a", " "], ["a", "b "]])
def test_labels_that_cannot_be_told_apart_are_refused(labels: list[str]) -> None:
    with pytest.raises(ValueError, match=r"The label .* (blank|twice)"):
        check_labels(labels)


def test_the_tasks_own_prompts_hold_their_own_placeholders() -> None:
    check_template(prompts.CLASSIFY, KNOWN)
    check_template(prompts.SUMMARIZE, [prompts.TEXT])
    check_template(prompts.TRANSLATE, [prompts.TEXT, prompts.SOURCE, prompts.TARGET])
    check_template(prompts.TRANSLATE_INTO, [prompts.TEXT, prompts.TARGET])


def test_the_documentation_states_the_tasks_own_prompts() -> None:
    stated = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text(encoding="utf-8")
    for prompt in (prompts.CLASSIFY, prompts.SUMMARIZE, prompts.TRANSLATE):
        instruction, text, ending = prompt.split("\n\n")
        assert f"`{instruction}`" in stated
        assert text == "Text:\n{text}"
        assert f"`{ending}`" in stated
    assert "without `from …`" in stated
    assert prompts.TRANSLATE.replace(" from {source_lang}", "") == prompts.TRANSLATE_INTO
