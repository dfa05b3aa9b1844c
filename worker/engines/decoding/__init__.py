"""A decoder loop of our own for sequence-to-sequence models: a fixed set of slots, refilled as sources finish.

`SlotDecoder` reads the weights of a transformers model once (`families`), `Rules` is what its generation settings come
to (`rules`), and a `Session` takes sources and gives their outputs, token for token those of `generate()` for each
source alone. Everything that is not decoded here raises `Unsupported`, and the caller keeps to `generate()`.
"""

from worker.engines.decoding.rules import Rules, Unsupported, rules_of
from worker.engines.decoding.session import Outcome, Session, SlotDecoder, Source

__all__ = ["Outcome", "Rules", "Session", "SlotDecoder", "Source", "Unsupported", "rules_of"]
