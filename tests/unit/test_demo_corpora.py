"""The demo corpora are what their notes say: whole, labelled, and unseen in training."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from demo import CORPORA
from demo.build_corpora import FREE_SINCE, detokenize, paper_document, year_of
from demo.reviews import (
    DEMO_DOCUMENTS,
    LABELS,
    LEAST_VALENCE,
    Review,
    demo_reviews,
    normal_form,
    read_uci,
    without_duplicates,
)

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
NAMES = ("reviews", "papers", "sentences.en-de")


def corpus(name: str) -> list[dict[str, Any]]:
    lines = (CORPORA / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == "", "the last line ends in a newline"
    return [json.loads(line) for line in lines]


def shared(relative: str) -> Path:
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"the training data ({relative}) is not on this machine")
    return path


def review(source: str, number: str, text: str, label: str = "positive") -> Review:
    group = f"{source}-{number.partition('_')[0]}"
    return Review(source=source, id=f"{source}-{number}", group=group, text=text, label=label)


@pytest.mark.parametrize("name", NAMES)
def test_every_document_has_an_id_of_its_own_a_text_and_a_reference(name: str) -> None:
    documents = corpus(name)
    assert len({document["id"] for document in documents}) == len(documents)
    for document in documents:
        assert all(isinstance(value, str) for value in document.values())
        assert document["text"].strip() == document["text"] != ""
        assert document["reference"].strip() == document["reference"] != ""


@pytest.mark.parametrize("name", NAMES)
def test_no_text_stands_twice_in_a_corpus(name: str) -> None:
    forms = [normal_form(document["text"]) for document in corpus(name)]
    assert len(set(forms)) == len(forms)


def test_the_corpora_are_small_enough_to_be_stored() -> None:
    assert sum((CORPORA / f"{name}.jsonl").stat().st_size for name in NAMES) < 1_500_000


def test_the_reviews_carry_both_labels_about_equally_often_and_no_other() -> None:
    labels = [document["reference"] for document in corpus("reviews")]
    assert set(labels) == set(LABELS)
    assert len(labels) == sum(DEMO_DOCUMENTS.values())
    assert 0.45 < labels.count("positive") / len(labels) < 0.55


def test_no_review_of_the_demo_is_left_in_the_training_set() -> None:
    documents = corpus("reviews")
    kept_out = [
        Review(source=d["source"], id=d["id"], group=d["id"].partition("_")[0], text=d["text"], label=d["reference"])
        for d in documents
    ]
    training = without_duplicates(read_uci(shared("uci_sls")), kept_out)
    assert len(training) > 1_900
    assert not {normal_form(r.text) for r in training} & {normal_form(d["text"]) for d in documents}


def test_a_text_leaves_training_for_its_review_its_normal_form_or_most_of_its_words() -> None:
    kept_out = [review("products", "7_1", "The battery of this camera lasts all day, really.")]
    same_review = review("products", "7_2", "Nothing else to say about it.")
    same_words = review("phones", "1", "the battery of this camera LASTS all day -- really")
    most_words = review("phones", "2", "The battery of this camera lasts all day!")
    other = review("phones", "3", "The battery of this phone is dead after an hour.")
    assert without_duplicates([same_review, same_words, most_words, other], kept_out) == [other]


def test_short_texts_leave_training_only_for_the_same_words() -> None:
    kept_out = [review("products", "7_1", "works very great")]
    near, same = review("phones", "1", "works great"), review("phones", "2", "Works very great!")
    assert without_duplicates([near, same], kept_out) == [near]


def test_without_anything_kept_out_training_keeps_everything() -> None:
    reviews = [review("phones", "1", "works great")]
    assert without_duplicates(reviews, []) == reviews


def test_the_demo_takes_each_text_once_and_only_sources_it_names() -> None:
    texts = [f"number {n} of the sentences about a film" for n in range(5)]
    reviews = [review("films", str(n), text) for n, text in enumerate([*texts, *texts])]
    reviews += [review("tweets", "1", "a tweet that is long enough to be shown"), review("films", "99", "too short")]
    chosen = demo_reviews(reviews)
    assert sorted(r.text for r in chosen) == texts
    assert demo_reviews(list(reversed(reviews))) == chosen, "the order of the source does not matter"


def test_no_sentence_of_the_translation_corpus_was_seen_by_the_translator() -> None:
    with gzip.open(shared("tatoeba_pairs/deu.txt.gz"), "rt", encoding="utf-8") as lines:
        seen = {normal_form(line.split("\t")[0]) for line in lines}
    for document in corpus("sentences.en-de"):
        sentences = [document["text"], *re.split(r"(?<=[.!?])\s+", document["text"])]
        assert not [sentence for sentence in sentences if normal_form(sentence) in seen]


def test_paragraphs_and_their_references_break_their_lines_alike() -> None:
    documents = corpus("sentences.en-de")
    assert [d["kind"] for d in documents].count("sentence") >= 200
    paragraphs = [d for d in documents if d["kind"] == "paragraph"]
    assert any("\n" in d["text"] for d in paragraphs)
    for document in documents:
        assert document["text"].count("\n") == document["reference"].count("\n")


def test_the_papers_are_of_the_years_whose_licence_allows_to_pass_them_on() -> None:
    documents = corpus("papers")
    assert min(year_of(document["id"]) for document in documents) >= FREE_SINCE
    for document in documents:
        assert document["source"].endswith(document["id"])
        assert document["text"].count("\n\n") == 1, "introduction, conclusion"
        assert document["abstract"] not in document["text"]
        assert len(document["reference"].split("\n")) == 3, "challenge, approach, outcome"


@pytest.mark.parametrize(
    ("anthology_id", "year"), [("P19-1352", 2019), ("E93-1001", 1993), ("2020.acl-main.528", 2020), ("N03-1020", 2003)]
)
def test_an_anthology_id_of_either_form_gives_its_year(anthology_id: str, year: int) -> None:
    assert year_of(anthology_id) == year


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("Current ( MT ) systems , however , do n't work .", "Current (MT) systems, however, don't work."),
        ("as shown by Morin et al . ( 2007 ) .", "as shown by Morin et al. (2007)."),
        ('the English word " Long " is here', 'the English word "Long" is here'),
        ("the users ' intent and the model 's state", "the users' intent and the model's state"),
        ("1 - 5 points / 20 %", "1-5 points/20%"),
        ("", ""),
    ],
)
def test_detokenizing_takes_the_spaces_of_a_tokenizer_out(tokens: str, text: str) -> None:
    assert detokenize(tokens) == text


def test_a_paper_loses_its_captions_and_fragments() -> None:
    sentences = ["A first sentence here .", "Figure 1 : What a caption says .", "1"]
    paper = {
        "id": "P19-1352",
        "title": "A Title",
        "sentences": {"abstract": sentences, "introduction": sentences, "conclusion": sentences},
        "summary": {"challenge": "One .", "approach": "Two .", "outcome": "Three ."},
    }
    document = paper_document(paper)
    assert document["text"] == "A first sentence here.\n\nA first sentence here."
    assert document["abstract"] == "A first sentence here."
    assert document["reference"] == "One.\nTwo.\nThree."


def test_near_neutral_is_below_the_valence_that_the_notes_state() -> None:
    notes = (CORPORA / "README.md").read_text(encoding="utf-8")
    assert f"0 than {LEAST_VALENCE} " in notes
