"""Broker URLs: which are understood, and which are refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.address import broker_url, redis_client, socket_path, socket_url
from corpusmill.errors import InvalidSettings
from corpusmill.settings import Settings


def of(url: str) -> str:
    return broker_url(Settings(broker_url=url))


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("redis://127.0.0.1:6379/3", "redis://127.0.0.1:6379/3"),
        ("redis://localhost", "redis://localhost"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("redis://:pa%40ss@queue:6379/0", "redis://:pa%40ss@queue:6379/0"),
        ("redis+socket:///run/valkey.sock", "redis+socket:///run/valkey.sock?virtual_host=0"),
        ("redis+socket://:secret@/run/v.sock?virtual_host=2", "redis+socket://:secret@/run/v.sock?virtual_host=2"),
        ("unix:///run/valkey.sock?db=1", "redis+socket:///run/valkey.sock?virtual_host=1"),
        ("rediss://queue:6380/0?ssl_cert_reqs=none", "rediss://queue:6380/0?ssl_cert_reqs=none"),
    ],
)
def test_a_url_that_may_be_used_is_put_into_kombus_form(given: str, used: str) -> None:
    assert of(given) == used


def test_a_tls_brokers_certificate_is_verified_unless_the_url_says_otherwise() -> None:
    assert of("rediss://queue:6380/0") == "rediss://queue:6380/0?ssl_cert_reqs=required"


@pytest.mark.parametrize("url", ["redis://queue:6379/0", "redis://10.0.0.7", "redis://user@queue"])
def test_a_broker_beyond_this_machine_needs_a_password(url: str) -> None:
    with pytest.raises(InvalidSettings, match="has no password"):
        of(url)


@pytest.mark.parametrize(
    "url", ["amqp://localhost", "redis://", "localhost:6379", "sentinel://a;b", "redis+socket://run/v.sock", "unix://v"]
)
def test_what_is_no_broker_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="CORPUSMILL_BROKER_URL"):
        of(url)


@pytest.mark.parametrize(
    "url", ["redis://localhost:port", "redis://localhost/name", "redis+socket:///v?virtual_host=x", "redis://[::1"]
)
def test_a_port_or_database_that_is_no_number_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="are numbers"):
        of(url)


def test_no_refusal_shows_the_password() -> None:
    with pytest.raises(InvalidSettings) as caught:
        of("redis://:hunter2@queue:port")
    assert "hunter2" not in str(caught.value)


def test_without_a_url_the_embedded_brokers_socket_is_used(tmp_path: Path) -> None:
    data = Path("/srv/corpusmill")
    assert broker_url(Settings(data_dir=data)) == "redis+socket:///srv/corpusmill/broker/valkey.sock?virtual_host=0"


def test_a_data_directory_whose_path_is_too_long_for_a_socket_gets_a_short_one_of_its_own() -> None:
    long, other = Path("/" + "d" * 120), Path("/" + "e" * 120)
    assert len(str(socket_path(long))) <= 100
    assert socket_path(long) == socket_path(long)
    assert socket_path(long) != socket_path(other)


def test_a_recorded_socket_wins_over_what_the_environment_says_now(tmp_path: Path) -> None:
    data = tmp_path / ("d" * 100)
    (data / "broker").mkdir(parents=True)
    (data / "broker" / "socket").write_text("/run/user/1000/short/valkey.sock")
    assert socket_path(data) == Path("/run/user/1000/short/valkey.sock")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (socket_url(Path("/data/a b/v.sock")), {"path": "/data/a b/v.sock", "db": 0, "password": None}),
        ("redis+socket://:pa%40ss@/v.sock?virtual_host=2", {"path": "/v.sock", "db": 2, "password": "pa@ss"}),
        ("redis://:pa%40ss@queue:6390/3", {"host": "queue", "port": 6390, "db": 3, "password": "pa@ss"}),
    ],
)
def test_the_plain_client_goes_where_kombu_goes(url: str, expected: dict[str, object]) -> None:
    client = redis_client(url)
    used = client.connection_pool.connection_kwargs
    client.close()
    assert {name: used.get(name) for name in expected} == expected
    assert used["socket_timeout"] == 1.0
