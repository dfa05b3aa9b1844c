"""What a variant answered, and whether two variants answered the same.

Knows labels, scores and texts. Must not know who answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

#: How far a score may be from the reference's in float32, and how close two candidates of the reference must be for
#: either to count as right.
SCORE_TOLERANCE = 1e-5
NEAR_TIE = 1e-5
#: Share of outputs that may differ from the reference by such near-ties.
MOST_NEAR_TIES = 0.001


@dataclass(frozen=True, slots=True)
class Answers:
    """One answer for each text, in their order: label to score, or a text. `facts` are figures beside them."""

    scores: Sequence[dict[str, float]] = ()
    texts: Sequence[str] = ()
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far answers agree with the reference's. `same` of `n` are equal; `near_ties` of the others are excused."""

    n: int
    same: int
    near_ties: int = 0
    largest_difference: float | None = None

    @property
    def holds(self) -> bool:
        """Whether they count as equal in float32. A single near-tie is allowed however few texts there are."""
        differing = self.n - self.same
        close = self.largest_difference is None or self.largest_difference <= SCORE_TOLERANCE
        return close and differing <= self.near_ties and self.near_ties <= max(1, MOST_NEAR_TIES * self.n)


def agreement_of_scores(reference: Answers, answers: Answers) -> Agreement:
    """Labels compared for equality, scores by their largest difference."""
    pairs = list(zip(reference.scores, answers.scores, strict=True))
    same = sum(max(a, key=a.__getitem__) == max(b, key=b.__getitem__) for a, b in pairs)
    largest = max(abs(a[label] - b[label]) for a, b in pairs for label in a)
    return Agreement(len(pairs), same, largest_difference=largest)


def agreement_of_texts(
    reference: Answers, answers: Answers, near_tie: Callable[[int, str, str], bool] = lambda *_: False
) -> Agreement:
    """Texts compared word for word. `near_tie` is asked of each that differs: its index, the reference's text, the other."""
    pairs = list(zip(reference.texts, answers.texts, strict=True))
    differing = [place for place, (a, b) in enumerate(pairs) if a.split() != b.split()]
    excused = sum(near_tie(place, *pairs[place]) for place in differing)
    return Agreement(len(pairs), len(pairs) - len(differing), near_ties=excused)
