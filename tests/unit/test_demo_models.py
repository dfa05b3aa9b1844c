"""The stored demo models load by the ordinary classes, offline, and their cards state the figures beside them."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from demo import MODELS
from demo.cards import TABLES, filled, places
from demo.reviews import LABELS

torch = pytest.importorskip("torch", reason="the demo models need the extra `worker`")
pytest.importorskip("transformers", reason="the demo models need the extra `worker`")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors import safe_open  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from demo.train_classifier import SPECIAL, accuracy, choose_pieces, cut_tokenizer, predict, readable  # noqa: E402

CLASSIFIER = MODELS / "classifier"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(CLASSIFIER / "tokenizer.json"))


def test_the_classifier_with_its_tokenizer_is_at_most_23_megabytes() -> None:
    assert sum(file.stat().st_size for file in CLASSIFIER.iterdir()) <= 23_000_000


def test_the_classifiers_weights_are_half_precision_safetensors_and_nothing_else() -> None:
    assert {file.suffix for file in CLASSIFIER.iterdir()} <= {".safetensors", ".json", ".md"}
    with safe_open(CLASSIFIER / "model.safetensors", framework="pt") as weights:
        assert {str(weights.get_slice(name).get_dtype()) for name in weights.keys()} == {"F16"}  # noqa: SIM118


def test_the_classifiers_labels_are_negative_and_positive() -> None:
    config = json.loads((CLASSIFIER / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert LABELS == ("negative", "positive")


def test_tokenizer_and_embeddings_have_the_same_rows(tokenizer: Tokenizer) -> None:
    config = json.loads((CLASSIFIER / "config.json").read_text(encoding="utf-8"))
    assert sorted(tokenizer.get_vocab().values()) == list(range(config["vocab_size"]))
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    assert config["pad_token_id"] == tokenizer.token_to_id("[PAD]")
    with safe_open(CLASSIFIER / "model.safetensors", framework="pt") as weights:
        rows, _ = weights.get_slice("bert.embeddings.word_embeddings.weight").get_shape()
    assert rows == config["vocab_size"]


def test_a_text_is_framed_by_the_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("Good value.").tokens == ["[CLS]", "good", "value", ".", "[SEP]"]


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=90))
def test_no_ascii_text_is_unknown_to_the_tokenizer(text: str) -> None:
    encoder = Tokenizer.from_file(str(CLASSIFIER / "tokenizer.json"))
    assert "[UNK]" not in encoder.encode(text.replace("[UNK]", "")).tokens


def test_the_ordinary_classes_load_it_offline_and_tell_good_from_bad() -> None:
    texts = ["What a wonderful film, I loved every minute.", "A dull, lifeless mess. I want my money back."]
    assert predict(CLASSIFIER, texts) == ["positive", "negative"]


@pytest.mark.parametrize("name", TABLES)
def test_a_card_states_the_figures_beside_it(name: str) -> None:
    card, stored = places()[name]
    if not stored.exists():
        pytest.skip(f"{name} has no figures yet")
    text = card.read_text(encoding="utf-8")
    assert filled(text, TABLES[name](json.loads(stored.read_text(encoding="utf-8")))) == text


def test_a_card_without_a_place_for_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for figures"):
        filled("# A card\n", "| figures |\n")


@pytest.mark.parametrize(("good", "n"), [(0, 10), (937, 1000), (10, 10)])
def test_the_bounds_of_an_accuracy_are_the_shares_from_which_it_is_1_96_standard_errors_away(good: int, n: int) -> None:
    figure = accuracy(good, n)
    for share in (figure["ci_low"] / 100, figure["ci_high"] / 100):
        distance = (good / n - share) ** 2
        assert distance == pytest.approx(1.96**2 * share * (1 - share) / n, rel=0.01, abs=1e-6)


def test_the_kept_pieces_are_special_then_single_characters_then_the_most_frequent() -> None:
    words = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a", "中", "rare", "often", "never"]
    vocabulary = {word: index for index, word in enumerate(words)}
    counts = Counter({vocabulary["often"]: 5, vocabulary["rare"]: 1})
    assert choose_pieces(vocabulary, counts, 9) == [*SPECIAL, "a", "##a", "often", "rare"]
    assert choose_pieces(vocabulary, counts, 100)[7:] == ["often", "rare", "never"]
    assert not readable("中")


def test_a_cut_tokenizer_splits_what_it_lost_and_leaves_the_rest(tokenizer: Tokenizer) -> None:
    kept = [*SPECIAL, "good", "##s", *"god.", "##o", "##d"]
    cut = cut_tokenizer(tokenizer, kept)
    assert cut.encode("Good goods.").tokens == ["[CLS]", "good", "good", "##s", ".", "[SEP]"]
    assert cut.encode("god").tokens == ["[CLS]", "g", "##o", "##d", "[SEP]"]
    assert cut.encode("value").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    assert max(cut.encode("Good god.").ids) < len(kept)
