"""Build the demo corpora of reviews and papers again from the packages that they come from.

Knows the two packages and what is taken from them. Must not know models: which reviews the classifier may not see is
said in `demo.reviews`, once, for this script and for the training.

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    pip download --no-deps aclsum==0.1.2
    python -m demo.build_corpora --vader vaderSentiment-3.3.2.tar.gz --aclsum aclsum-0.1.2-py3-none-any.whl

The same packages give the same files, byte for byte. `sentences.en-de.jsonl` was written by hand and has no script.
"""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from demo import CORPORA
from demo.reviews import demo_reviews, read_vader

#: Papers of the ACL Anthology are under CC BY 4.0 from this year on; older ones forbid commercial use and stay out.
FREE_SINCE = 2016
ASPECTS = ("challenge", "approach", "outcome")
SECTIONS = ("abstract", "introduction", "conclusion")
_CAPTION = re.compile(r"^(Figure|Fig\.|Table|Algorithm) *\d+ *[:.]")


def year_of(anthology_id: str) -> int:
    """The year in an ACL Anthology id of the old form (`P19-1352`) or of the new one (`2020.acl-main.528`)."""
    old = re.match(r"[A-Z](\d\d)-", anthology_id)
    if old is None:
        return int(anthology_id[:4])
    short = int(old[1])
    return short + (2000 if short < 60 else 1900)


def detokenize(sentence: str) -> str:
    """Undo the spaces that a tokenizer put around punctuation: `( MT ) do n't .` becomes `(MT) don't.`."""
    text = re.sub(r"\s+", " ", sentence).strip()
    text = re.sub(r"(``|'') ?", '" ', text)
    # Straight quotes open and close in turn, so their spaces fall on opposite sides.
    halves = text.split('"')
    if len(halves) % 2 == 1:
        text = "".join(f'"{half.strip()}"' if index % 2 else half for index, half in enumerate(halves))
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text)
    text = re.sub(r" ' (\w[^']*\w) '", r" '\1'", text)
    text = re.sub(r"s '(?=[ ,.]|$)", "s'", text)
    text = re.sub(r" ([,;:?!)\]}%])", r"\1", text)
    text = re.sub(r" (\.)(?=\s|$|[,;)\]])", r"\1", text)
    text = re.sub(r"\.(\s)([,;)\]])", r".\2", text)
    text = re.sub(r"([(\[{]) ", r"\1", text)
    text = re.sub(r"(\w) - (\w)", r"\1-\2", text)
    text = re.sub(r"(\w) / (\w)", r"\1/\2", text)
    text = re.sub(r"\bhttps? ?: ?//", lambda match: match[0].replace(" ", ""), text)
    return re.sub(r" +", " ", text).strip()


def paper_document(paper: dict[str, Any]) -> dict[str, str]:
    """One paper: introduction and conclusion as paragraphs, the three reference sentences a line each.

    The abstract is kept beside the text and not in it: it is a summary already, and its first sentences are hard to beat.

    Captions and fragments of one or two words, left over from the PDF, are dropped from among the sentences.
    """
    sections = {}
    for section in SECTIONS:
        sentences = [detokenize(sentence) for sentence in paper["sentences"][section]]
        kept = [text for text in sentences if len(text.split()) > 2 and not _CAPTION.match(text)]
        sections[section] = " ".join(kept)
    return {
        "id": paper["id"],
        "title": detokenize(paper["title"]),
        "abstract": sections["abstract"],
        "text": f"{sections['introduction']}\n\n{sections['conclusion']}",
        "reference": "\n".join(detokenize(paper["summary"][aspect]) for aspect in ASPECTS),
        "source": f"https://aclanthology.org/{paper['id']}",
    }


def papers(wheel: Path) -> Iterator[dict[str, str]]:
    """The freely licensed papers of aclsum's wheel, ordered by id."""
    with zipfile.ZipFile(wheel) as archive:
        lines = [
            line
            for split in ("train", "val", "test")
            for line in archive.read(f"aclsum/dataset/{split}.jsonl").decode("utf-8").splitlines()
        ]
    for paper in sorted(map(json.loads, lines), key=lambda paper: str(paper["id"])):
        if year_of(paper["id"]) >= FREE_SINCE:
            yield paper_document(paper)


def reviews(archive: Path) -> Iterator[dict[str, str]]:
    """The reviews of vaderSentiment that the classifier's training leaves out."""
    for review in demo_reviews(read_vader(archive)):
        yield {"id": review.id, "text": review.text, "reference": review.label, "source": review.source}


def write_jsonl(path: Path, documents: Iterable[dict[str, str]]) -> int:
    """Write one document a line; the number written."""
    lines = [json.dumps(document, ensure_ascii=False) + "\n" for document in documents]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vader", type=Path, required=True, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("--aclsum", type=Path, required=True, help="aclsum-0.1.2-py3-none-any.whl")
    parser.add_argument("--out", type=Path, default=CORPORA, help="the folder that gets the two files")
    arguments = parser.parse_args()
    for name, documents in (("reviews", reviews(arguments.vader)), ("papers", papers(arguments.aclsum))):
        path = arguments.out / f"{name}.jsonl"
        print(f"{path}: {write_jsonl(path, documents)} documents, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
