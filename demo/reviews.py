"""The labelled reviews behind the sentiment classifier: where they are from, and which of them stay out of training.

Knows the two published collections, the labels, the documents that the demo corpus keeps for itself, and what a near
duplicate is. Must not know models: it imports no torch.

The first collection is in the source distribution of vaderSentiment 3.3.2 (MIT licence; Hutto and Gilbert 2014):
sentences of film reviews (rottentomatoes.com, after Pang and Lee 2004), of product reviews (amazon.com, after Hu and
Liu 2004) and tweets, each with the mean valence that 20 raters gave it between -4 and 4. The second is UCI's Sentiment
Labelled Sentences (CC BY 4.0; Kotzias et al. 2015): 1,000 sentences each of amazon.com and yelp.com, labelled 0 or 1.
"""

from __future__ import annotations

import html
import io
import random
import re
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

LABELS = ("negative", "positive")
#: Sentences whose mean valence is nearer to 0 than this are near-neutral, and their sign is chance: they are left out.
LEAST_VALENCE = 0.5
#: Share of words two texts have in common (Jaccard) from which on they count as near duplicates.
NEAR_DUPLICATE = 0.75

VADER_FILES = {
    "films": "movieReviewSnippets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
UCI_FILES = {"phones": "amazon_cells_labelled.txt", "restaurants": "yelp_labelled.txt"}
SOURCES = (*VADER_FILES, *UCI_FILES)
#: How many documents of a source the demo corpus takes, and the fewest characters of one worth showing.
DEMO_DOCUMENTS = {"films": 600, "products": 400}
DEMO_CHARACTERS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One labelled sentence. `id` is unique over all sources; `group` names the review it was cut from, where known."""

    source: str
    id: str
    group: str
    text: str
    label: str


def normal_form(text: str) -> str:
    """What two spellings of one text share: lower-case letters and digits, single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def read_vader(archive: Path) -> list[Review]:
    """The labelled sentences of vaderSentiment's source distribution (`vaderSentiment-3.3.2.tar.gz`).

    Raises FileNotFoundError where the archive lacks one of the files.
    """
    with tarfile.open(archive) as outer:
        inner_name = next((name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz")), None)
        if inner_name is None:
            raise FileNotFoundError(f"{archive} holds no hutto_ICWSM_2014.tar.gz: is it the source distribution?")
        member = outer.extractfile(inner_name)
        assert member is not None
        data = member.read()
    reviews = []
    with tarfile.open(fileobj=io.BytesIO(data)) as inner:
        for source, name in VADER_FILES.items():
            file = inner.extractfile(f"hutto_ICWSM_2014/{name}")
            if file is None:
                raise FileNotFoundError(f"{archive} holds no {name}")
            for line in file.read().decode("utf-8").splitlines():
                number, valence, text = html.unescape(line).split("\t", 2)
                if abs(float(valence)) >= LEAST_VALENCE:
                    # Product sentences are numbered review_sentence; those of films and tweets stand alone.
                    group = f"{source}-{number.split('_')[0]}"
                    label = LABELS[float(valence) > 0]
                    reviews.append(
                        Review(source=source, id=f"{source}-{number}", group=group, text=text.strip(), label=label)
                    )
    return reviews


def read_uci(folder: Path) -> list[Review]:
    """The sentences of UCI's amazon.com and yelp.com files below `folder`."""
    reviews = []
    for source, name in UCI_FILES.items():
        lines = (folder / name).read_text(encoding="utf-8").split("\n")
        for number, line in enumerate((line for line in lines if line.strip()), start=1):
            text, label = line.rsplit("\t", 1)
            review_id = f"{source}-{number}"
            reviews.append(
                Review(source=source, id=review_id, group=review_id, text=text.strip(), label=LABELS[int(label)])
            )
    return reviews


def demo_reviews(reviews: Iterable[Review]) -> list[Review]:
    """The documents of the demo corpus: whole groups, drawn by a hash of their name, shuffled, without duplicates."""
    chosen: list[Review] = []
    seen: set[str] = set()
    for source, wanted in DEMO_DOCUMENTS.items():
        own = [review for review in reviews if review.source == source]
        own.sort(key=lambda review: (zlib.crc32(review.group.encode()), review.group, review.id))
        taken = 0
        for review in own:
            form = normal_form(review.text)
            if taken < wanted and len(review.text) >= DEMO_CHARACTERS and form not in seen:
                seen.add(form)
                chosen.append(review)
                taken += 1
    random.Random(len(chosen)).shuffle(chosen)
    return chosen


def without_duplicates(reviews: Sequence[Review], kept_out: Sequence[Review]) -> list[Review]:
    """`reviews` without those that share a group, a normal form or most of their words with one of `kept_out`."""
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer

    groups = {review.group for review in kept_out}
    forms = {normal_form(review.text) for review in kept_out}
    candidates = [review for review in reviews if review.group not in groups and normal_form(review.text) not in forms]
    if not candidates or not kept_out:
        return candidates
    vectorizer = CountVectorizer(binary=True, preprocessor=normal_form, token_pattern=r"\S+")
    vectorizer.fit([review.text for review in (*candidates, *kept_out)])
    here = vectorizer.transform([review.text for review in candidates])
    there = vectorizer.transform([review.text for review in kept_out])
    shared = (here @ there.T).tocoo()
    words_here, words_there = np.asarray(here.sum(axis=1)).ravel(), np.asarray(there.sum(axis=1)).ravel()
    jaccard = shared.data / (words_here[shared.row] + words_there[shared.col] - shared.data)
    # Of two or three words too many texts share two: short ones are duplicates only where their normal form is.
    near = shared.row[(jaccard >= NEAR_DUPLICATE) & (words_here[shared.row] >= 4)]
    dropped = set(near.tolist())
    return [review for row, review in enumerate(candidates) if row not in dropped]
