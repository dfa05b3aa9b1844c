"""Where the broker is: one URL in kombu's form, checked, and the plain Redis client for it.

Knows URLs and which of them may be used. Must not know Celery.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from corpusmill.errors import InvalidSettings
from corpusmill.settings import Settings

#: `sun_path` holds 108 bytes with the closing zero on Linux and 104 on macOS.
_LONGEST_SOCKET = 100
_FORMS = "`redis://`, `rediss://` or `redis+socket://`"


def broker_url(settings: Settings) -> str:
    """The broker's URL in kombu's form; the embedded one's where none is set.

    Raises InvalidSettings for a URL that kombu could not use, and for one that would send messages over a network
    without a password: whoever can write to the queue can keep the workers from working.
    """
    if not settings.broker_url:
        return socket_url(socket_path(settings.data_dir))
    try:
        parts = urlsplit(settings.broker_url)
        _ = parts.port, _database(parts)
    except ValueError as error:
        # The URL is not shown, nor what is wrong in it: that may be a piece of the password.
        raise InvalidSettings(
            "CORPUSMILL_BROKER_URL: the port and the database are numbers, and `/`, `:` and `@` in a password are "
            "written %2F, %3A and %40."
        ) from error
    if parts.scheme in {"redis+socket", "unix"}:
        if not parts.path.startswith("/") or parts.hostname:
            raise InvalidSettings("CORPUSMILL_BROKER_URL: a socket needs an absolute path: `redis+socket:///run/…`.")
        # Written out: `geturl` would leave away the two slashes before a path without a host.
        return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={_database(parts)}"
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
        raise InvalidSettings(f"CORPUSMILL_BROKER_URL: not a broker that can be used; give {_FORMS} with a host.")
    if parts.scheme == "redis" and not parts.password and not _is_loopback(parts.hostname):
        raise InvalidSettings(
            f"CORPUSMILL_BROKER_URL: `{parts.hostname}` is not this machine, and the URL has no password. Give the "
            "broker one (`requirepass`) and write `redis://:PASSWORD@HOST:PORT/0`, or use `rediss://`."
        )
    return _verified(parts).geturl()


def redis_client(url: str, *, timeout: float = 1.0) -> redis.Redis:
    """A client for a URL of `broker_url`; connects when first used, waits `timeout` seconds per answer, tries once."""
    parts = urlsplit(url)
    waits: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
    }
    if parts.scheme != "redis+socket":
        return redis.Redis.from_url(url, **waits)
    return redis.Redis(
        unix_socket_path=unquote(parts.path),
        db=_database(parts),
        username=unquote(parts.username or "") or None,
        password=unquote(parts.password or "") or None,
        **waits,
    )


def socket_url(path: Path) -> str:
    """kombu's URL of a Unix socket."""
    return f"redis+socket://{quote(str(path))}?virtual_host=0"


def socket_path(data_dir: Path) -> Path:
    """Where the embedded broker of a data directory listens: in it, or, where that path is too long for a socket, in a
    short private directory whose name is recorded in `broker/socket`."""
    folder = data_dir.absolute() / "broker"
    plain = folder / "valkey.sock"
    if len(os.fsencode(plain)) <= _LONGEST_SOCKET:
        return plain
    record = folder / "socket"
    if record.exists():
        return Path(record.read_text(encoding="utf-8"))
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    runtime = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(runtime) / f"corpusmill-{os.getuid()}-{digest}" / "valkey.sock"


def _database(parts: SplitResult) -> int:
    """The database's number: in the path of a host's URL, in the query of a socket's."""
    if parts.scheme in {"redis", "rediss"}:
        return int(parts.path.strip("/") or 0)
    query = parse_qs(parts.query)
    return int((query.get("virtual_host") or query.get("db") or ["0"])[0].strip("/") or 0)


def _verified(parts: SplitResult) -> SplitResult:
    """With the server's certificate checked unless the URL says otherwise: kombu's own default is not to look at it."""
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.scheme != "rediss" or "ssl_cert_reqs" in query:
        return parts
    return parts._replace(query=urlencode(query | {"ssl_cert_reqs": "required"}))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
