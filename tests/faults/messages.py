"""Messages as they lie in the broker, taken apart and put together otherwise.

Knows kombu's envelope and Celery's second protocol. Must not know what becomes of a message.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any


def rewritten(
    message: bytes, arguments: Sequence[Any] | None = None, named: Mapping[str, Any] | None = None, **headers: Any
) -> bytes:
    """The message with other arguments (by default its own, and none by name) and headers, under an identity of its own."""
    found = json.loads(message)
    own, _, embedded = json.loads(base64.b64decode(found["body"]))
    body = json.dumps([own if arguments is None else list(arguments), dict(named or {}), embedded])
    found["body"] = base64.b64encode(body.encode()).decode()
    identity = str(uuid.uuid4())
    found["properties"] |= {"delivery_tag": str(uuid.uuid4()), "correlation_id": identity}
    found["headers"] |= {"id": identity, **headers}
    return json.dumps(found).encode()


def of_type(message: bytes, content_type: str) -> bytes:
    """The message as if its body were of another type."""
    found = json.loads(rewritten(message))
    found["content-type"] = content_type
    return json.dumps(found).encode()
