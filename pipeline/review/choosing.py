"""Which documents people look at.

Knows scores and the rules of a review. Must not know where people look. The same rows of the same run give the same choice:
nothing is drawn but by hash.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from math import log
from typing import Any

from corpusmill.schedules import Review
from pipeline.review import Chosen, Why
from pipeline.sinks import Delivered


def choose(rows: Iterable[Delivered], review: Review) -> Iterator[Chosen]:
    """The documents of a run that people look at, in the order of the rows, with the first rule that sends each.

    The audit sample is drawn of those that no rule sends: each by itself with the probability `audit`, by the hash of the
    run's and its own id, so that it is as likely as any other whatever its label, score or place. Where `most` bounds the
    run, the audit sample goes first (what people say of it is the run's quality only while none of it is missing), its
    documents with the lowest hashes where even it is too large, which again favours none; then the doubtful, those furthest
    beyond a rule first. Memory is that of the chosen ones.
    """
    if review.most is None:
        for row in rows:
            found = judged(row, review)
            if found is not None:
                yield Chosen(row=row, why=found[0])
        return
    yield from _bounded(rows, review, review.most)


def judged(row: Delivered, review: Review) -> tuple[Why, float] | None:
    """The rule that sends a document, and how urgent it is, 0 to 1; None where none does. A failed document has no label
    that anybody could look at, and one without a score (a summary, a translation) can only be audited."""
    if row.status != "succeeded" or row.output is None:
        return None
    doubt = _doubt(row, review) if row.score is not None else None
    if doubt is not None:
        return doubt
    at = drawn(row.run_id, row.document_id)
    return ("audit", 1.0 - at) if at < review.audit else None


def drawn(run_id: str, document_id: str) -> float:
    """A document's number in the draw of a run: uniform from 0 (included) to 1, and always the same."""
    digest = hashlib.blake2b(f"{run_id}\0{document_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def margin_of(output: Mapping[str, Any]) -> float | None:
    """The lead of the best label over the second; None where the output has only one."""
    best = sorted(_scores(output), reverse=True)[:2]
    return best[0] - best[1] if len(best) == 2 else None


def entropy_of(output: Mapping[str, Any]) -> float | None:
    """The entropy of the label scores (C. Shannon, 1948), divided by that of an even draw among as many labels: 0 to 1.

    An output holds its best `top_k` labels; what they leave of 1 counts as one label more. None where there are fewer than
    two. Scores of several labels at once are no distribution, and have none.
    """
    scores = _scores(output)
    if "labels" in output:
        return None
    rest = 1.0 - sum(scores)
    shares = [*scores, rest] if rest > 1e-6 else scores
    if len(shares) < 2:
        return None
    total = sum(shares)
    entropy = -sum(share / total * log(share / total) for share in shares if share > 0)
    return min(1.0, entropy / log(len(shares)))  # rounding takes an even draw among five above it


def _doubt(row: Delivered, review: Review) -> tuple[Why, float] | None:
    output, score = row.output or {}, row.score or 0.0
    threshold = review.thresholds.get(row.label or "", review.default)
    if threshold is not None and score < threshold:
        return "threshold", (threshold - score) / threshold
    margin = margin_of(output) if review.margin is not None else None
    if review.margin is not None and margin is not None and margin < review.margin:
        return "margin", (review.margin - margin) / review.margin
    entropy = entropy_of(output) if review.entropy is not None else None
    if review.entropy is not None and entropy is not None and entropy > review.entropy:
        return "entropy", (entropy - review.entropy) / (1.0 - review.entropy)
    return None


def _scores(output: Mapping[str, Any]) -> list[float]:
    scores = output.get("scores")
    return [float(score) for score in scores.values()] if isinstance(scores, Mapping) else []


def _bounded(rows: Iterable[Delivered], review: Review, most: int) -> Iterator[Chosen]:
    kept: list[tuple[bool, float, int, Chosen]] = []
    for number, row in enumerate(rows):
        found = judged(row, review)
        if found is None:
            continue
        why, urgency = found
        # the number never repeats, so that no two rows are compared; of equals the earlier one stays
        entry = (why == "audit", urgency, -number, Chosen(row=row, why=why))
        if len(kept) < most:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)
    yield from (entry[3] for entry in sorted(kept, key=lambda entry: -entry[2]))
