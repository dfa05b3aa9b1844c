"""gunicorn around the API.

Knows gunicorn's settings, each with its reason. Must not know routes; the application is made in the child, so that a
fault in it is a restart and not the end of the parent.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import ThreadWorker

from corpusmill.settings import Settings


class ApiProcess(ThreadWorker):  # type: ignore[misc]
    """What serves requests. It tells its readers of uploads to end once it is told to itself: requests wait for readers, and
    when the graceful timeout is over gunicorn kills it, as a supervisor then kills them."""

    _end_readers: Callable[[], None] | None = None

    def load_wsgi(self) -> None:
        super().load_wsgi()
        from db.ingest import end_readers

        self._end_readers = end_readers

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM."""
        self._tell()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGQUIT and SIGINT."""
        self._tell()
        super().handle_quit(sig, frame)

    def _tell(self) -> None:
        if self._end_readers is not None:
            self._end_readers()


class Server(BaseApplication):  # type: ignore[misc]
    """One process with threads: the work is waiting for the database, and one pool of connections is enough."""

    def __init__(self, settings: Settings, bind: str) -> None:
        self._settings = settings
        self._options = {
            "bind": bind,
            "workers": 1,
            "worker_class": ApiProcess,
            "threads": settings.api_threads,
            # Seconds the process may give no sign of life, e.g. while one thread holds the interpreter lock.
            "timeout": 120,
            # A caller that waits for a job to change (`?wait=30`) is not waited for when the API is to end. Its readers of
            # uploads have this long to say that they were not killed.
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
        from api.problems import problem
        from corpusmill import logs

        logs.configure(self._settings)
        app = create_app(self._settings)
        # gunicorn comes upon the chunks of a body when a request reads them
        app.register_error_handler(
            ParseException,
            lambda _: problem(400, "Bad Request", "The chunks of the body are not well-formed.", "bad_request"),
        )
        return app
