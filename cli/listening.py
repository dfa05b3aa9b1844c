"""The API's address: a socket that listens there, and whether somebody answers on it.

Knows sockets and one route, `/readyz`. Must not know who answers.
"""

from __future__ import annotations

import errno
import http.client
import json
import socket
import time

from corpusmill.errors import InvalidSettings

#: How long a port is waited for that a server which is just being ended still holds.
_PATIENCE = 3.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 — where to ask for what is bound everywhere


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one. Raises InvalidSettings where the address cannot be had."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return _bound(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise InvalidSettings(
                    f"Cannot listen on {bracketed(host)}:{port}: {error.strerror}. Choose another `--host` or `--port`."
                ) from error
        time.sleep(0.1)


def _bound(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # `localhost` may be both; most clients try the older family first or only
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener


def is_ready(host: str, port: int, *, timeout: float = 1.0) -> bool:
    """Whether `/readyz` answers 200 there: the API is up, and so are its database and broker."""
    return not what_is_missing(host, port, timeout=timeout)


def what_is_missing(host: str, port: int, *, timeout: float = 1.0) -> str:
    """Why `/readyz` does not answer 200 there, as a sentence without its end; empty where it does."""
    connection = http.client.HTTPConnection(_ANYWHERE.get(host, host), port, timeout=timeout)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        if response.status == 200:
            return ""
        checks = json.loads(response.read())["checks"]
        return "; ".join(f"{part}: {check}" for part, check in checks.items() if check != "ok")
    except (OSError, http.client.HTTPException):
        return "the API does not answer"
    except (ValueError, KeyError):
        return "something else answers in the API's place"
    finally:
        connection.close()


def bracketed(host: str) -> str:
    """The host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
