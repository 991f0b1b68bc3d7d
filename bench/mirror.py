"""A folder as an Alpine mirror."""

import contextlib
import functools
import http.server
import os
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def served(mirror: str) -> Iterator[str]:
    """The URL of a mirror; a folder is served on loopback."""
    if "://" in mirror:
        yield mirror
        return
    handler = functools.partial(_Quiet, directory=os.path.abspath(mirror))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""
