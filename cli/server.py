"""gunicorn around the API.

Knows gunicorn's settings, each with its reason. Must not know routes; the application is made in the child, so that a
fault in it is a restart and not the end of the parent.
"""

from __future__ import annotations

from typing import Any

from gunicorn.app.base import BaseApplication

from corpusmill.settings import Settings


class Server(BaseApplication):  # type: ignore[misc]
    """One process with threads: the work is waiting for the database, and one pool of connections is enough."""

    def __init__(self, settings: Settings, bind: str) -> None:
        self._settings = settings
        self._options = {
            "bind": bind,
            "workers": 1,
            "worker_class": "gthread",
            "threads": settings.api_threads,
            # Seconds the process may give no sign of life, e.g. while one thread holds the interpreter lock.
            "timeout": 120,
            # A caller that waits for a job to change (`?wait=30`) is not waited for when the API is to end.
            "graceful_timeout": 1,
            "keepalive": 5,
            "errorlog": "-",
            # Nobody controls this gunicorn but by signals; its socket would be shared by all instances of a user.
            "control_socket_disable": True,
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from api.app import create_app
        from corpusmill import logs

        logs.configure(self._settings)
        return create_app(self._settings)
