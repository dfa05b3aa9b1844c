"""Train the demo translator: a small Marian-architecture model, English to German, from the Tatoeba pairs.

Knows: the pairs file, SentencePiece, a plain PyTorch training loop. Knows nothing of the service: what it leaves is a
Hugging Face directory (`config.json`, `model.safetensors`, `source.spm`, …) like any other.

    python -m demo.train_translator --pairs deu.txt.gz --work demo/build/translator --out demo/models/translator

The run can be cut at any moment and started again with the same arguments: it goes on from its last checkpoint. The
learning rate is constant after the warm-up and falls linearly over the last quarter of `--steps`, so a run may be made
longer or shorter while it is under way by starting it again with another `--steps` (a schedule of the "warm-up, stable,
decay" kind, Hu et al. 2024, arXiv:2404.06395). The weights that are kept are an exponential moving average.

2,000 English sentences are held out for the figures and 1,000 for watching the run; a sentence is held out with every
pair whose English side differs from it only in case, punctuation or white space, so none of them is seen in training.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel

PAD, EOS, UNK = 0, 1, 2
SEED = 20_26
HELD_TEST, HELD_DEV = 2_000, 1_000
#: Share of training examples that are two to five pairs joined, so that long sources are seen at all: the pairs' median
#: is 30 characters, and a model trained on them alone stops after the first sentence.
JOINED_SHARE = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """English sources with all their German translations, split without overlap."""

    train: list[tuple[str, str]]
    dev: list[tuple[str, list[str]]]
    test: list[tuple[str, list[str]]]


def normal_form(sentence: str) -> str:
    """What two spellings of one sentence share: lower-case letters and digits, single spaces."""
    return " ".join(re.findall(r"\w+", sentence.lower()))


def read_pairs(path: Path) -> Pairs:
    """Read `English<TAB>German` lines and split them by the English side's normal form."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        pairs = [tuple(line.rstrip("\n").split("\t")[:2]) for line in lines]
    groups: dict[str, list[tuple[str, str]]] = {}
    for source, target in pairs:
        groups.setdefault(normal_form(source), []).append((source, target))
    keys = sorted(key for key in groups if key)
    random.Random(SEED).shuffle(keys)
    held = {key: index for index, key in enumerate(keys[: HELD_TEST + HELD_DEV])}

    def split(low: int, high: int) -> list[tuple[str, list[str]]]:
        chosen = []
        for key in keys[low:high]:
            source = groups[key][0][0]
            chosen.append((source, [target for english, target in groups[key] if english == source]))
        return chosen

    train = [pair for key in keys if key not in held for pair in groups[key]]
    return Pairs(train=train, test=split(0, HELD_TEST), dev=split(HELD_TEST, HELD_TEST + HELD_DEV))


def train_tokenizer(pairs: Pairs, prefix: Path, size: int) -> sentencepiece.SentencePieceProcessor:
    """A joint unigram vocabulary of both languages, kept at `prefix`.model."""
    model = prefix.with_suffix(".model")
    if not model.exists():
        text = prefix.with_suffix(".txt")
        text.write_text("".join(f"{source}\n{target}\n" for source, target in pairs.train), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(prefix), vocab_size=size, model_type="unigram", character_coverage=1.0,
            pad_id=PAD, eos_id=EOS, unk_id=UNK, bos_id=-1, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>",
            byte_fallback=False, minloglevel=2,
        )  # fmt: skip
        text.unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(model))


def build_model(arguments: argparse.Namespace) -> MarianMTModel:
    """A Marian model with sinusoidal positions (so the position range costs no weights) and tied embeddings."""
    torch.manual_seed(SEED)
    width = arguments.width
    config = MarianConfig(
        vocab_size=arguments.pieces, d_model=width, encoder_layers=arguments.encoder_layers,
        decoder_layers=arguments.decoder_layers, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, max_position_embeddings=512, activation_function="relu",
        scale_embedding=True, dropout=0.1, attention_dropout=0.0, activation_dropout=0.0, pad_token_id=PAD,
        eos_token_id=EOS, bos_token_id=None, decoder_start_token_id=PAD, forced_eos_token_id=None,
    )  # fmt: skip
    return MarianMTModel(config)


@dataclass(frozen=True, slots=True)
class Examples:
    """Token ids of both sides, each ending in EOS."""

    sources: list[np.ndarray]
    targets: list[np.ndarray]

    def epoch(self, rng: random.Random, budget: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of (sources, targets), padded with PAD, about `budget` padded tokens a side, shuffled."""
        plain = list(range(len(self.sources)))
        rng.shuffle(plain)
        examples: list[tuple[int, ...]] = []
        while plain:
            count = rng.randint(2, 5) if rng.random() < JOINED_SHARE / 3.0 else 1
            examples.append(tuple(plain.pop() for _ in range(min(count, len(plain)))))
        for start in range(0, len(examples), 20_000):
            window = sorted(examples[start : start + 20_000], key=self._lengths)
            batches: list[list[tuple[int, ...]]] = [[]]
            longest = 0
            for example in window:
                target, source = self._lengths(example)
                longest = max(longest, source, target)
                if batches[-1] and longest * (len(batches[-1]) + 1) > budget:
                    batches.append([])
                    longest = max(source, target)
                batches[-1].append(example)
            rng.shuffle(batches)
            for batch in batches:
                yield self._pad(self.sources, batch), self._pad(self.targets, batch)

    def _lengths(self, example: tuple[int, ...]) -> tuple[int, int]:
        return (
            sum(len(self.targets[k]) for k in example) - len(example) + 1,
            sum(len(self.sources[k]) for k in example) - len(example) + 1,
        )

    @staticmethod
    def _pad(side: list[np.ndarray], batch: list[tuple[int, ...]]) -> torch.Tensor:
        rows = [np.concatenate([side[k][:-1] for k in example] + [[EOS]]) for example in batch]
        padded = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int64)
        for index, row in enumerate(rows):
            padded[index, : len(row)] = row
        return torch.from_numpy(padded)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 1_000) -> float:
    """Linear warm-up, constant, and a linear fall to a fiftieth of the peak over the last quarter of the run."""
    decay_start = int(steps * 0.75)
    if step < warmup:
        return peak * (step + 1) / warmup
    if step < decay_start:
        return peak
    return peak * max(0.02, (steps - step) / max(1, steps - decay_start))


def translate(model: MarianMTModel, tokenizer: sentencepiece.SentencePieceProcessor, sentences: list[str],
              beams: int = 1) -> list[str]:  # fmt: skip
    """Translate in length-sorted batches of 64; outputs in the order of the sentences."""
    encoded = [[*ids[:510], EOS] for ids in tokenizer.encode(sentences)]
    order = sorted(range(len(encoded)), key=lambda k: len(encoded[k]))
    outputs = [""] * len(encoded)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            width = max(len(encoded[k]) for k in rows)
            ids = torch.tensor([encoded[k] + [PAD] * (width - len(encoded[k])) for k in rows])
            generated = model.generate(
                input_ids=ids, attention_mask=(ids != PAD).long(), max_length=min(512, 2 * width + 20), num_beams=beams,
                bad_words_ids=[[PAD]], early_stopping=beams > 1,
            )  # fmt: skip
            for k, row in zip(rows, generated.tolist(), strict=True):
                outputs[k] = tokenizer.decode([token for token in row if token > UNK])
    return outputs


def bleu(hypotheses: list[str], references: list[list[str]]) -> dict[str, float | str]:
    """sacreBLEU against the first reference of each sentence, and against all of them."""
    from sacrebleu.metrics import BLEU, CHRF

    most = max(map(len, references))
    first = [[row[0] for row in references]]
    every = [[row[k] if k < len(row) else None for row in references] for k in range(most)]
    metric = BLEU()
    single = metric.corpus_score(hypotheses, first).score
    signature = str(metric.get_signature())
    return {"bleu": single, "bleu_all_references": BLEU().corpus_score(hypotheses, every).score,
            "chrf": CHRF().corpus_score(hypotheses, first).score, "signature": signature}  # fmt: skip


def train(arguments: argparse.Namespace) -> None:
    """Train until `--steps`, writing a checkpoint every `--checkpoint-steps`; then write the model and its figures."""
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(arguments.pairs)
    tokenizer = train_tokenizer(pairs, work / "pieces", arguments.pieces)
    model = build_model(arguments)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    checkpoint = work / "checkpoint.pt"
    step, seconds, epoch = 0, 0.0, 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, seconds, epoch = state["average"], state["step"], state["seconds"], state["epoch"]
        print(f"going on from step {step}", flush=True)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(pairs.train)} pairs", flush=True)
    sides = ([s for s, _ in pairs.train], [t for _, t in pairs.train])
    examples = Examples(*([np.asarray([*ids, EOS]) for ids in tokenizer.encode(side)] for side in sides))
    loss_of = torch.nn.CrossEntropyLoss(ignore_index=-100, label_smoothing=0.1)
    model.train()
    started, tokens, first_step = time.monotonic(), 0, step
    while step < arguments.steps:
        epoch += 1
        for source, target in examples.epoch(random.Random(SEED + epoch), arguments.batch_tokens):
            if step >= arguments.steps:
                break
            rate = learning_rate(step, arguments.steps, arguments.rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            shifted = torch.cat([torch.full((len(target), 1), PAD), target[:, :-1]], dim=1)
            logits = model(input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=shifted).logits
            loss = loss_of(logits.flatten(0, 1), target.masked_fill(target == PAD, -100).flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            tokens += int((target != PAD).sum())
            decay = min(0.999, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, value in model.state_dict().items():
                    average[name].lerp_(value, 1 - decay)
            if step % 100 == 0:
                passed = time.monotonic() - started
                print(f"step {step} epoch {epoch} loss {loss.item():.3f} rate {rate:.2e} {tokens / passed:.0f} target "
                      f"tokens/s {(step - first_step) / passed:.2f} steps/s", flush=True)  # fmt: skip
            if step % arguments.checkpoint_steps == 0 or step == arguments.steps:
                total = seconds + time.monotonic() - started
                partial = checkpoint.with_suffix(".partial")
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average,
                            "step": step, "seconds": total, "epoch": epoch}, partial)  # fmt: skip
                partial.rename(checkpoint)
            if step % arguments.watch_steps == 0:
                watched = build_model(arguments)
                watched.load_state_dict(average)
                sample = pairs.dev[:300]
                figures = bleu(translate(watched, tokenizer, [s for s, _ in sample]), [r for _, r in sample])
                print(f"step {step} development {json.dumps(figures)}", flush=True)
    model.load_state_dict(average)
    write(model, tokenizer, pairs, arguments, seconds + time.monotonic() - started, step)


def write(model: MarianMTModel, tokenizer: sentencepiece.SentencePieceProcessor, pairs: Pairs,
          arguments: argparse.Namespace, seconds: float, steps: int) -> None:  # fmt: skip
    """Write the half-precision model, its tokenizer, and `figures.json` with what it reaches on the held-out set."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    model = model.half().float()  # the figures are those of the weights as stored
    sources, references = [s for s, _ in pairs.test], [r for _, r in pairs.test]
    figures: dict[str, object] = {
        "parameters": sum(p.numel() for p in model.parameters()), "steps": steps, "seconds": round(seconds),
        "train_pairs": len(pairs.train), "held_out_sentences": len(sources),
        "greedy": bleu(translate(model, tokenizer, sources, 1), references),
        "beam4": bleu(translate(model, tokenizer, sources, 4), references),
    }  # fmt: skip
    model.generation_config.update(
        num_beams=4, early_stopping=True, max_length=512, bad_words_ids=[[PAD]], forced_eos_token_id=None,
        pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD,
    )  # fmt: skip
    model.half().save_pretrained(out)
    for name in ("source.spm", "target.spm"):
        (out / name).write_bytes((arguments.work / "pieces.model").read_bytes())
    vocabulary = {tokenizer.id_to_piece(k): k for k in range(tokenizer.get_piece_size())}
    (out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=0), encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de", "model_max_length": 512,
        "unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>", "separate_vocabs": False,
    }, indent=2) + "\n", encoding="utf-8")  # fmt: skip
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="gzipped English<TAB>German lines")
    parser.add_argument(
        "--work", type=Path, default=Path("demo/build/translator"), help="checkpoints and the vocabulary"
    )
    parser.add_argument("--out", type=Path, default=Path("demo/models/translator"), help="where the model goes")
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--batch-tokens", type=int, default=4_000, help="padded tokens a side of a batch")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--encoder-layers", type=int, default=3)
    parser.add_argument("--decoder-layers", type=int, default=2)
    parser.add_argument("--pieces", type=int, default=8_000, help="size of the joint vocabulary")
    parser.add_argument("--checkpoint-steps", type=int, default=500)
    parser.add_argument("--watch-steps", type=int, default=3_000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments)


if __name__ == "__main__":
    main()
