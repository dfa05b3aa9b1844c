"""Who may ask: the operator's key beyond loopback, and no page of another site on it.

Knows headers. Must not know routes but the few that answer without a key.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from flask import Flask, request

from corpusmill.errors import Forbidden, Unauthorized
from corpusmill.settings import Settings

#: Probes of orchestrators carry no key, and the page and its documentation hold no data.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/", "/docs", "/openapi.json"})


def register(app: Flask, settings: Settings) -> None:
    """Check every request before its view."""

    @app.before_request
    def _check() -> None:
        if settings.api_key:
            if request.path not in OPEN_PATHS and not request.path.startswith("/assets/"):
                _require_key(settings.api_key)
        else:
            _require_own_site(settings)

    @app.after_request
    def _harden(response):  # type: ignore[no-untyped-def]
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        response.headers.setdefault(
            "Content-Security-Policy",
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
        )
        return response


def _require_key(key: str) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Unauthorized("Send the operator's key: `Authorization: Bearer <CORPUSMILL_API_KEY>`.")
    if not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise Unauthorized("The key is not this server's CORPUSMILL_API_KEY.")


def _require_own_site(settings: Settings) -> None:
    """On loopback no key is asked for, so a page elsewhere must not be able to use the browser as its hands: neither by a
    name that was pointed at 127.0.0.1 (DNS rebinding) nor by a request across sites."""
    allowed = {name.strip().lower() for name in settings.allowed_hosts.split(",") if name.strip()}
    try:
        host = (urlsplit("//" + request.host).hostname or "").lower()
    except ValueError as error:
        raise Forbidden("The Host of the request is no name.") from error
    if not (_is_loopback(host) or host in allowed):
        raise Forbidden(f"The Host {host!r} is not this machine; name it in CORPUSMILL_ALLOWED_HOSTS if it is meant.")
    origin = request.headers.get("Origin")
    if origin is not None:
        try:
            site = urlsplit(origin)
            name = (site.hostname or "").lower()
        except ValueError as error:
            raise Forbidden("The Origin of the request is no address.") from error
        if site.scheme not in {"http", "https"} or not (_is_loopback(name) or name in allowed):
            raise Forbidden("Requests from another site's page are refused.")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
