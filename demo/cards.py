"""Write the figures of a model's `figures.json` into its card.

Knows the marks between which a card's figures stand, and how each model's figures read as a table. Must not know how
they were measured: the training scripts and `demo.compare_summaries` do.

    python -m demo.cards            fills every card that has figures beside it
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo import MODELS

_BETWEEN = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the first column left, the others right."""
    rule = ("---", *("---:",) * (len(head) - 1))
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, rule, *rows))


def classifier_figures(figures: dict[str, Any]) -> str:
    """Accuracy by held-out set with n and interval, and what the model was trained on."""

    def rows(name: str, note: str) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for source, row in figures.get(name, {}).items():
            interval = f"{row['ci_low']:.1f}–{row['ci_high']:.1f}"
            found.append((f"{source}, {note}", f"{row['accuracy']:.1f} %", interval, str(row["n"])))
        return found

    accuracies = table(
        ("held-out set", "accuracy", "95 % interval", "n"),
        [
            *rows("source_not_trained_on", "a source never trained on"),
            *rows("demo_corpus", "demo corpus: other reviews of a source trained on"),
            *rows("siblings_without_one_source", "a sibling trained without this source"),
        ],
    )
    counts = ", ".join(f"{count:,} {source}" for source, count in figures["trained_on"].items())
    return (
        f"{accuracies}\n{figures['parameters'] / 1e6:.2f} million parameters; {figures['bytes'] / 1e6:.1f} MB with the "
        f"tokenizer. Trained on {sum(figures['trained_on'].values()):,} reviews ({counts}) in "
        f"{figures['seconds'] / 60:.0f} minutes on one CPU thread.\n"
    )


def translator_figures(figures: dict[str, Any]) -> str:
    """sacreBLEU and chrF on the held-out sentences, greedy and with four beams, and the size of the training."""
    scores = table(
        ("decoding", "BLEU, first reference", "BLEU, all references", "chrF"),
        [
            (name, *(f"{figures[key][score]:.1f}" for score in ("bleu", "bleu_all_references", "chrf")))
            for name, key in (("greedy", "greedy"), ("4 beams", "beam4"))
        ],
    )
    return (
        f"{scores}\nOn {figures['held_out_sentences']:,} held-out English sentences; signature "
        f"`{figures['greedy']['signature']}`. {figures['parameters'] / 1e6:.2f} million parameters, trained on "
        f"{figures['train_pairs']:,} pairs in {figures['steps']:,} steps, {figures['seconds'] / 3600:.1f} hours.\n"
    )


def summarizer_figures(figures: dict[str, Any]) -> str:
    """ROUGE of the extractive method and of LEAD-3 with the paired difference, by what the documents consist of."""
    rows: list[tuple[str, ...]] = []
    lengths = []
    for name, own in figures["on"].items():
        for rouge, row in own["rouge"].items():
            scores = (f"{row['extractive']:.2f}", f"{row['lead']:.2f}", f"{row['difference']:+.2f}")
            rows.append((f"{name}, {rouge}", *scores, f"{row['ci_low']:+.2f} to {row['ci_high']:+.2f}"))
        lengths.append(f"{name} {own['words_extractive']:.0f} and {own['words_lead']:.0f}")
    reference = next(iter(figures["on"].values()))["words_reference"]
    return (
        f"{table(('F-measure', 'extractive', 'LEAD-3', 'difference', '95 % interval'), rows)}\n"
        f"{figures['documents']} documents, {figures['sentences']} sentences a summary; means over documents, intervals of "
        f"the paired difference by {figures['resamples']:,} bootstrap samples. Words a summary, extractive and LEAD-3: "
        f"{'; '.join(lengths)}; the references have {reference:.0f}.\n"
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "classifier": classifier_figures,
    "translator": translator_figures,
    "summarizer": summarizer_figures,
}


def filled(card: str, figures: str) -> str:
    """The card's text with `figures` between its marks. Raises ValueError where it has none."""
    if not _BETWEEN.search(card):
        raise ValueError("the card has no place for figures: <!-- figures --> … <!-- /figures -->")
    return _BETWEEN.sub(lambda match: f"{match[1]}{figures}{match[2]}", card)


def places(models: Path = MODELS) -> dict[str, tuple[Path, Path]]:
    """By model: its card and its figures. The summarizer stores no weights, so its two files stand in the root."""
    return {
        "classifier": (models / "classifier" / "README.md", models / "classifier" / "figures.json"),
        "translator": (models / "translator" / "README.md", models / "translator" / "figures.json"),
        "summarizer": (models / "summarizer.md", models / "summarizer.figures.json"),
    }


def fill_cards(models: Path = MODELS) -> list[str]:
    """Fill every card that has figures; the names of those models."""
    done = []
    for name, (card, figures) in places(models).items():
        if card.exists() and figures.exists():
            text = TABLES[name](json.loads(figures.read_text(encoding="utf-8")))
            card.write_text(filled(card.read_text(encoding="utf-8"), text), encoding="utf-8")
            done.append(name)
    return done


if __name__ == "__main__":
    print("filled: " + (", ".join(fill_cards()) or "none"))
