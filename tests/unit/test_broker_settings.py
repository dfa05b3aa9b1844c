"""Celery's settings are frozen here: most of its defaults lose or repeat work, so a change must be meant."""

from __future__ import annotations

from typing import Any

from celery.app.defaults import NAMESPACES, flatten

from broker.settings import celery_settings, producer_transport
from corpusmill.settings import Settings

FROZEN: dict[str, Any] = {
    "broker_url": "redis://127.0.0.1:6379/0",
    "broker_transport_options": {
        "visibility_timeout": 21_600,
        "socket_timeout": 30.0,
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
        "health_check_interval": 15,
    },
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "task_default_queue": "corpusmill.shards",
    "task_serializer": "json",
    "accept_content": ["json"],
    "result_backend": None,
    "task_ignore_result": True,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_acks_on_failure_or_timeout": True,
    "worker_pool": "prefork",
    "worker_concurrency": 1,
    "worker_pool_start_method": "spawn",
    "worker_prefetch_multiplier": 1,
    "worker_proc_alive_timeout": 300.0,
    "task_time_limit": 3_720,
    "worker_soft_shutdown_timeout": 20.0,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_eta_task_limit": 100,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
}


def of(**settings: Any) -> Settings:
    return Settings(broker_url="redis://127.0.0.1:6379/0", **settings)


def test_the_settings_are_these_and_no_others() -> None:
    assert celery_settings(of()) == FROZEN


def test_celery_knows_every_name() -> None:
    known = set(dict(flatten(NAMESPACES)))
    assert set(celery_settings(of())) <= known


def test_a_message_may_take_a_shards_limit_and_the_minute_before_it() -> None:
    assert celery_settings(of(shard_limit_seconds=10.5))["task_time_limit"] == 11 + 120


def test_no_message_is_delivered_again_while_it_may_still_be_answered() -> None:
    conf = celery_settings(of(shard_limit_seconds=24 * 3600))
    assert conf["broker_transport_options"]["visibility_timeout"] == 2 * conf["task_time_limit"]


def test_a_producer_waits_about_two_seconds_at_most() -> None:
    transport = producer_transport(3_600)
    assert transport["socket_connect_timeout"] + transport["socket_timeout"] <= 2
    assert transport["max_retries"] == 0
    assert transport["visibility_timeout"] == 21_600, "every user of one broker must agree on it"
