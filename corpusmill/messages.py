"""What goes over the broker: the shard message, which carries an id and nothing else.

Knows names. Must not know how messages are sent or received.
"""

from __future__ import annotations

#: Name of the one Celery task, and of the queue (a Redis list) that holds its messages.
SHARD_MESSAGE = "corpusmill.shard"
SHARD_QUEUE = "corpusmill.shards"
