"""A Label Studio labelling configuration: which of its tags shows the text, and which takes the label.

Knows the XML of tags (https://labelstud.io/tags/). Must not know requests. The vendor's own validator judges it too, where
there is one (`pipeline.review.vendor`); this reading is needed to write a prediction at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from corpusmill.errors import PlaceFault

#: Tags that show a text.
_TEXTS = {"Text", "HyperText", "Paragraphs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """What a prediction and an answer are written with. `field` is the key of a task's data that holds the text,
    `pair_field` the second text's, where there is one. `choices` are the labels that can be chosen; empty: the answer is a
    text that people write."""

    control: str
    shows: str
    field: str
    pair_field: str | None
    choices: frozenset[str]
    several: bool

    def result(self, output: Any, key: str) -> list[dict[str, Any]]:
        """A prediction's result, for what a model says of a document. Raises PlaceFault where it cannot be said."""
        if not self.choices:
            text = output.get("summary") or output.get("translation") or output.get("label")
            return [self._region(key, "textarea", {"text": [str(text)]})]
        labels = list(output["labels"]) if "labels" in output else [output["label"]]
        missing = [label for label in labels if label not in self.choices]
        if missing:
            known = ", ".join(sorted(self.choices)[:10])
            raise PlaceFault(
                f"The labelling configuration has no choice {missing[0]!r} in {self.control!r} (it has {known}): add it, or "
                "name it with an alias."
            )
        if len(labels) != 1 and not self.several:
            raise PlaceFault(
                f'The model gives several labels: write choice="multiple" on <Choices name={self.control!r}>.'
            )
        return [self._region(key, "choices", {"choices": labels})]

    def answer(self, annotation: Any) -> Any:
        """The label, labels or text in an annotation; None where this control was left empty."""
        for region in annotation.get("result") or ():
            if region.get("from_name") == self.control:
                value = region.get("value", {})
                found = value.get("choices") or value.get("text")
                if found:
                    found = found if isinstance(found, list) else [found]
                    return found if self.several else found[0]
        return [] if self.several and annotation.get("result") == [] else None

    def _region(self, key: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        return {"id": key[:10], "from_name": self.control, "to_name": self.shows, "type": kind, "value": value}


def parse_config(xml: str, *, text_pair: bool = False) -> LabelConfig:
    """The configuration of a project. Raises PlaceFault saying what is missing in it and how to add it."""
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 — expat refuses entities that expand without bound
    except ElementTree.ParseError as error:
        raise PlaceFault(f"The project's labelling configuration is not XML: {error}.") from error
    texts = [
        (tag.get("name", ""), tag.get("value", "")[1:])
        for tag in root.iter()
        if tag.tag in _TEXTS and tag.get("value", "").startswith("$")
    ]
    if not texts:
        raise PlaceFault(
            'The project\'s labelling configuration shows no text: add <Text name="text" value="$text"/> to it.'
        )
    shown = dict(texts)
    control = _control(root, shown)
    shows = control.get("toName", "").split(",")[0]
    others = [field for name, field in texts if name != shows]
    if text_pair and not others:
        raise PlaceFault(
            "The documents are pairs, and the project's labelling configuration shows one text: add a second <Text>."
        )
    return LabelConfig(
        control=control.get("name", ""), shows=shows, field=shown[shows], pair_field=others[0] if others else None,
        choices=_choices(control), several=control.get("choice", "single") == "multiple",
    )  # fmt: skip


def _control(root: ElementTree.Element, shown: dict[str, str]) -> ElementTree.Element:
    for kind in ("Choices", "TextArea"):
        found = [tag for tag in root.iter(kind) if tag.get("toName", "").split(",")[0] in shown and tag.get("name")]
        if found:
            return found[0]
    raise PlaceFault(
        "The project's labelling configuration takes no label for its text: add "
        '<Choices name="label" toName="text"> with a <Choice> for each label, or a <TextArea>.'
    )


def _choices(control: ElementTree.Element) -> frozenset[str]:
    """What annotations say for each choice: its alias, or else its value."""
    return frozenset(tag.get("alias") or tag.get("value") or "" for tag in control.iter("Choice"))
