"""Prompts for causal models: templates with placeholders, what each task may place in them, and how they are filled.

Knows strings. Must not know tokenizers, models or chat templates.

A name in braces is a placeholder, in doubled braces it is the name in braces; every other brace stands for itself, so
that a template may hold JSON. Filling looks at the template alone: what is put in is never read as a template again.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TEXT = "text"
LABELS = "labels"
SOURCE, TARGET = "source_lang", "target_lang"

CLASSIFY = (
    "Classify the following text. Answer with one of these labels and nothing else: {labels}.\n\n"
    "Text:\n{text}\n\nLabel:"
)
SUMMARIZE = (
    "Summarize the following text in a few sentences. Answer with the summary and nothing else.\n\n"
    "Text:\n{text}\n\nSummary:"
)
TRANSLATE = (
    "Translate the following text from {source_lang} to {target_lang}. Answer with the translation and nothing else.\n\n"
    "Text:\n{text}\n\nTranslation:"
)
#: Where the source's language is not stated.
TRANSLATE_INTO = (
    "Translate the following text to {target_lang}. Answer with the translation and nothing else.\n\n"
    "Text:\n{text}\n\nTranslation:"
)

#: Characters of a template.
MOST_CHARACTERS = 20_000
MOST_LABEL_CHARACTERS = 200
_PLACE = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Template:
    """A template as literal strings and the placeholders between them: `literals` is one longer than `names`."""

    literals: tuple[str, ...]
    names: tuple[str, ...]

    def filled(self, values: Mapping[str, str]) -> str:
        """The template with each placeholder's value in its place. Raises KeyError where one is missing."""
        parts = [self.literals[0]]
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            parts += [values[name], literal]
        return "".join(parts)


def parse(template: str) -> Template:
    """The template, whatever its placeholders are called."""
    literals, names, start = [""], [], 0
    for match in _PLACE.finditer(template):
        literals[-1] += template[start : match.start()]
        start = match.end()
        if match[2]:
            names.append(match[2])
            literals.append("")
        else:
            literals[-1] += "{" + match[1] + "}"
    literals[-1] += template[start:]
    return Template(tuple(literals), tuple(names))


def check_template(template: str, known: Sequence[str]) -> str:
    """The template itself, where it holds `{text}` and no placeholder but the `known` ones.

    Raises ValueError that says what is wrong and how to mend it.
    """
    names = parse(template).names
    listed = ", ".join("{" + name + "}" for name in known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {{{close[0]}}}?" if close else ""
            raise ValueError(
                f"Unknown placeholder {{{name}}}.{hint} There are {listed}; for the word in braces write {{{{{name}}}}}."
            )
    if TEXT not in names:
        raise ValueError("The placeholder {text} is missing: the document's text is put in its place.")
    return template


def check_labels(labels: Sequence[str]) -> Sequence[str]:
    """The labels themselves. Raises ValueError where one is blank, too long, has white space around it or is there twice."""
    seen: set[str] = set()
    for label in labels:
        if not label.strip() or label != label.strip():
            raise ValueError(f"The label {label!r} is blank, or has white space before or after it.")
        if len(label) > MOST_LABEL_CHARACTERS:
            raise ValueError(f"The label {label[:40]!r}… has more than {MOST_LABEL_CHARACTERS} characters.")
        if label in seen:
            raise ValueError(f"The label {label!r} stands there twice.")
        seen.add(label)
    return labels


def listed(labels: Sequence[str]) -> str:
    """The labels as a prompt names them."""
    return ", ".join(labels)
