"""Celery's settings, the same for the producer and the worker, each with the reason it is not the default.

Knows Celery's names. Must not know the worker's code: `worker` adds its own `include`. A test freezes this block,
because most of these defaults lose or repeat work.
"""

from __future__ import annotations

import math
from typing import Any

from broker.address import broker_url
from corpusmill.messages import SHARD_QUEUE
from corpusmill.settings import Settings

_SIX_HOURS = 6 * 3600
#: One message has a worker serve shards for a minute before it begins its last one; that minute, and as much to save.
_SERVING_SECONDS = 120
#: How long a worker's child may take to start: importing torch and opening a device.
START_SECONDS = 300.0


def celery_settings(settings: Settings) -> dict[str, Any]:
    """The settings of every Celery app here. Raises InvalidSettings for a broker URL that may not be used."""
    limit = message_limit(settings)
    return {
        "broker_url": broker_url(settings),
        "broker_transport_options": worker_transport(limit),
        # A broker that is down, for however long, costs time and nothing else.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # One list, one exchange of the same name; priorities are the database's business.
        "task_default_queue": SHARD_QUEUE,
        # JSON and nothing else: a message from a stranger is data, never code.
        "task_serializer": "json",
        "accept_content": ["json"],
        # Nobody asks the broker how a shard went; results there would only grow.
        "result_backend": None,
        "task_ignore_result": True,
        # The message is given back when its worker dies, so another starts at once instead of at the next sweep. It may
        # then come twice, which a claim makes harmless.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A shard that raised or ran out of time has been written as such; running it again is the sweeper's decision.
        "task_acks_on_failure_or_timeout": True,
        # One process per device, a fresh interpreter: fork breaks CUDA; the solo and threads pools cannot be stopped.
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        "worker_pool_start_method": "spawn",
        # A shard held back by a busy worker is one that an idle worker cannot have.
        "worker_prefetch_multiplier": 1,
        # A new child that has not reported after 4 s (the default) is killed, and its successor too.
        "worker_proc_alive_timeout": START_SECONDS,
        # The process is killed beyond it: a batch that hangs in native code hears nothing else.
        "task_time_limit": limit,
        # For SIGQUIT, which ends a worker without waiting for its shard.
        "worker_soft_shutdown_timeout": 20.0,
        # A broker that went away says nothing against the shard in hand: finish it, the database decides.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # No message here has an ETA; one from elsewhere must not fill the memory.
        "worker_eta_task_limit": 100,
        # Cancelling and looking at workers go through the database; the reply queues of remote control have no end.
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        # Logs are the worker's own (structlog), not Celery's.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def message_limit(settings: Settings) -> int:
    """Seconds after which the process that answers one message is killed."""
    return math.ceil(settings.shard_limit_seconds) + _SERVING_SECONDS


def worker_transport(limit: int) -> dict[str, Any]:
    """How a worker holds its connections; times in seconds, `limit` that of a message."""
    return {
        # After this long an unacknowledged message is delivered again, on the workers' own clocks. Far above a
        # message's limit, so that it never happens to one that runs; recovery is by lease.
        "visibility_timeout": max(_SIX_HOURS, 2 * limit),
        # Without these a connection that died without a word is waited on for ever.
        "socket_timeout": 30.0,
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
        "health_check_interval": 15,
    }


def producer_transport(limit: int) -> dict[str, Any]:
    """How a producer does: a request handler waits for it, and the sweeper is there for what it cannot do."""
    return worker_transport(limit) | {
        "socket_timeout": 1.0,
        "socket_connect_timeout": 0.5,
        "health_check_interval": 0,  # a check is a second wait
        "max_retries": 0,
    }
