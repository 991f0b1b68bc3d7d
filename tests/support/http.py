"""A real HTTP server on loopback that misbehaves on request.

    with http.serve() as server:
        server.answers["/file"] = [http.Answer(status=500), http.Answer(b"content")]
        ...  # GET server.url + "/file": first 500, from then on the content
        assert server.seen[0].range is None

It runs in a thread of the test process: code that unshares a user namespace has to run in another process.
"""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """How to answer one GET.

    ranges: whether a Range header is honoured. cut: close the connection after so many bytes of the body.
    stall: send so many bytes of the body, then nothing more. pace: seconds before each single byte of the body.
    delay: seconds before the status line. chunked: no Content-Length. endless: repeat the body until the client hangs
    up; implies no length. headers: sent besides, or instead of, those the server makes up. raw: sent again and again,
    at `pace` if there is one, in the place of the whole answer.
    """

    body: bytes = b""
    status: int = 200
    ranges: bool = True
    cut: int | None = None
    stall: int | None = None
    pace: float = 0.0
    delay: float = 0.0
    chunked: bool = False
    endless: bool = False
    raw: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """One request as it came in. path: as in the request line, so a whole URL for a server used as proxy."""

    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        """The Range header."""
        return self.headers.get("Range")


@dataclass
class Server:
    """url: without a slash at the end. answers: by path, one after another; the last one stays.
    folder: where files for all other paths are. seen: the requests so far."""

    url: str
    folder: Path | None
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_answer(self, seen: Seen) -> Answer:
        """Record the request and decide what it gets."""
        with self.lock:
            self.seen.append(seen)
            planned = self.answers.get(seen.path)
            if planned:
                return planned.pop(0) if len(planned) > 1 else planned[0]
        if self.folder is not None:
            file = self.folder / seen.path.lstrip("/")
            if ".." not in file.parts and file.is_file():
                return Answer(file.read_bytes())
        return Answer(b"no such file", status=404)

    def paths(self) -> list[str]:
        """The paths asked for so far, in order."""
        return [seen.path for seen in self.seen]


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    server: Server

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up here on purpose; the default prints a traceback for each."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keep the output of the tests clean."""

    def do_GET(self) -> None:
        assert isinstance(self.server, _Listener)
        server = self.server.server
        answer = server.next_answer(Seen(self.path, dict(self.headers.items())))
        self.close_connection = True
        time.sleep(answer.delay)
        if answer.raw:
            while not server.closing.is_set():
                self._write(answer.raw, answer.pace)
        body = self._send_head(answer)
        if answer.endless:
            while not server.closing.is_set():
                self.wfile.write(body)
        elif answer.pace:
            self._write(body, answer.pace)
        elif answer.chunked:
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        elif answer.stall is not None:
            self.wfile.write(body[: answer.stall])
            server.closing.wait()
        else:
            self.wfile.write(body[: answer.cut])

    do_CONNECT = do_GET

    def _write(self, data: bytes, pace: float) -> None:
        """Write all of `data`; byte by byte, until the server closes, if there is a pace."""
        assert isinstance(self.server, _Listener)
        for piece in (data[at : at + 1] for at in range(len(data))) if pace else [data]:
            if pace and self.server.server.closing.wait(pace):
                return
            self.wfile.write(piece)

    def _send_head(self, answer: Answer) -> bytes:
        """Send status and headers; gives the part of the body that is to follow."""
        status, body, total = answer.status, answer.body, len(answer.body)
        headers = {"Connection": "close"}
        wanted = self.headers.get("Range")
        if status == 200 and answer.ranges and wanted:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            status, body = (206, body[start:]) if start < total else (416, b"")
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}" if body else f"bytes */{total}"
        if answer.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif not answer.endless:
            headers["Content-Length"] = str(len(body))
        self.send_response(status)
        for name, value in (headers | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        return body


@contextmanager
def serve(folder: Path | None = None, tls: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """A server on a free loopback port while the block runs; `folder` holds files to serve, if any; `tls` is a
    certificate and its key, in PEM, for https."""
    listener = _Listener(("127.0.0.1", 0), _Handler)
    scheme = "http"
    if tls:
        scheme = "https"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        listener.socket = context.wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
    listener.server = Server(f"{scheme}://127.0.0.1:{listener.server_port}", folder)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield listener.server
    finally:
        listener.server.closing.set()
        listener.shutdown()
        listener.server_close()
        thread.join()
