"""What a document's reference is to each task: a label, labels, or texts.

Knows which references can be used. Must not know what results are held against them.
"""

from __future__ import annotations

from corpusmill.documents import Document

#: Longer labels are cut, because labels are counted by name: a reference that is a whole text is a label of no model.
MOST_LABEL_CHARACTERS = 200


def label_of(value: object) -> str:
    """A label as it is compared and counted: its text, without what a database cannot hold (NUL, lone surrogates)."""
    text = str(value)[:MOST_LABEL_CHARACTERS]
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def true_label(document: Document) -> str | None:
    """The one label that a single-label reference names.

    A list of one label counts as that label. None where there is no reference, a blank one, or a list of several or no
    labels, which no single-label prediction can be held against.
    """
    reference = document.reference
    if isinstance(reference, list):
        reference = reference[0] if len(reference) == 1 else None
    return label_of(reference) if reference is not None and str(reference).strip() else None


def true_labels(document: Document) -> list[str] | None:
    """The labels that hold, sorted and each once, perhaps none; None where there is no reference or a blank one."""
    reference = document.reference
    if reference is None or (not isinstance(reference, list) and not str(reference).strip()):
        return None
    return sorted({label_of(label) for label in (reference if isinstance(reference, list) else [reference])})


def reference_texts(document: Document) -> list[str]:
    """The reference texts, blank ones left out: a missing translation is no translation into nothing."""
    reference = document.reference
    texts = reference if isinstance(reference, list) else [reference]
    return [text for text in texts if isinstance(text, str) and text.strip()]
