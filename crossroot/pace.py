"""Answers of a server that is given up when it is too slow: the timeout of a socket starts anew with each byte.

    session.mount("http://", pace.adapter())

What is measured is what arrives, so that nothing of HTTP is a hiding-place: neither the headers, which have to be there
in time, nor the lines between the chunks of a body, nor the answer of a proxy.
"""

import http.client
import io
import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

SLOWEST = 1 << 10  # bytes of a body per second, on the average over PATIENCE
PATIENCE = 60.0  # seconds; in which the status line and all headers have to come as well


class TooSlow(OSError):
    """The server sends the body with less than SLOWEST bytes a second."""


def adapter() -> HTTPAdapter:
    """An adapter for sessions of requests, whose answers end with TooSlow, or TimeoutError in the headers."""
    return _Adapter()


class _Reader(io.RawIOBase):
    """What arrives on a socket. in_head: whether the status line and the headers are not over yet."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self.stream = stream
        self.in_head = True
        self._start()

    def _start(self) -> None:
        self.start, self.received = time.monotonic(), 0

    def end_head(self) -> None:
        self.in_head = False
        self._start()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.stream.readinto(buffer) or 0
        self.received += count
        elapsed = time.monotonic() - self.start
        if elapsed > PATIENCE:
            if self.in_head:
                raise TimeoutError
            if self.received < SLOWEST * elapsed:
                raise TooSlow
            self._start()
        return count

    def close(self) -> None:
        self.stream.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reader = _Reader(self.fp.detach())
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        super().begin()
        self._reader.end_head()


class _Connection(HTTPConnection):
    response_class = _Answer


class _TlsConnection(HTTPSConnection):
    response_class = _Answer


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS = {"http": _Pool, "https": _TlsPool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager
