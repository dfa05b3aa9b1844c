"""The doorbell: tells workers that shards are waiting, and runs the embedded Valkey where no broker is given.

The broker may be emptied or lost at any moment; nothing here is the only copy of anything. Celery and Redis are known
to this package and `worker` alone. It must not know what a shard holds.
"""
