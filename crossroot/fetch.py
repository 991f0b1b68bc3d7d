"""Downloads: verified, resumed, retried, mirror after mirror, into a content-addressed cache.

    cache/blobs/sha512/HEX   a whole file, named by its own hash, read-only
    cache/blobs/sha256/HEX   a symlink to it, for those who know only that hash
    cache/partial/NAME.part  a download that is under way, or was interrupted; its flock says which

The cache is never trusted: a blob is hashed again each time, through the descriptor that is then handed out.
The only user of requests, with `pace`.
"""

import errno
import fcntl
import hashlib
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self, TypeVar
from urllib.parse import urlsplit

from crossroot import __version__, ui
from crossroot.errors import CrossrootError, UsageError
from crossroot.record import Record

if TYPE_CHECKING:
    import requests

CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a single byte
ATTEMPTS = 4  # per URL
BACKOFF = 0.5  # seconds before the second attempt; doubles with each further one
LONGEST_RETRY_AFTER = 20.0  # seconds; a server that asks for more is asked again after this
MOST_REDIRECTS = 10
LARGEST = 16 << 30  # bytes; ends a download whose size nobody has told
CHUNK = 64 << 10  # bytes

_HEX_DIGITS = {"sha256": 64, "sha512": 128}

_NAME_MIRROR = "name another mirror with --mirror URL"
_CHECK_NETWORK = f"check the network and the proxy settings (http_proxy, https_proxy), or {_NAME_MIRROR}"
_TRY_AGAIN = f"try again, a download resumes where it stopped; or {_NAME_MIRROR}"
_CHECK_TLS = f"check the clock and the ca-certificates package, or {_NAME_MIRROR}"
_CHECK_ADDRESS = f"check the address, or {_NAME_MIRROR}"

T = TypeVar("T")


class NotFound(CrossrootError):
    """The server answered, and has no such file (404 or 410)."""


class Digest(Record):
    """The hash a file must have. algorithm: sha256 or sha512. value: hex, kept in lower case.

    Raises UsageError for anything else: such a hash comes from a command line or a profile.
    """

    algorithm: str
    value: str

    def __init__(self, algorithm: str, value: str) -> None:
        if algorithm not in _HEX_DIGITS:
            raise UsageError(f"unknown hash algorithm '{algorithm}'", hint="use sha256 or sha512")
        digits = _HEX_DIGITS[algorithm]
        if not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value):
            raise UsageError(
                f"'{value}' is not a {algorithm} hash",
                hint=f"give the {digits} hex digits that `{algorithm}sum FILE` prints",
            )
        super().__init__(algorithm, value.lower())


class Verified(Record):
    """A file that has been hashed, held open so that what was hashed is what is used.

    path: where it lies, for messages. file: open for reading, at offset 0. sha256, sha512: hex. size: bytes.
    Closes the file when used as a context manager.
    """

    path: Path
    file: BinaryIO
    sha256: str
    sha512: str
    size: int

    def hex(self, algorithm: str) -> str:
        """The file's hash by `algorithm`, sha256 or sha512."""
        return {"sha256": self.sha256, "sha512": self.sha512}[algorithm]

    def matches(self, digest: Digest) -> bool:
        """Whether this is the file that `digest` means."""
        return self.hex(digest.algorithm) == digest.value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def prepare() -> None:
    """Import what downloads need beyond this module's own imports: processes forked after this need not, each."""
    from crossroot import pace  # noqa: F401  (and requests)


def download(
    urls: Sequence[str],
    digest: Digest | None,
    *,
    cache: Path,
    size: int | None = None,
    progress: ui.Progress = ui.no_progress,
) -> Verified:
    """The file that `urls` name, from the cache or from the first of them that delivers it.

    digest: the hash it must have; without one it is fetched anew each time. cache: the folder of downloads.
    size: in bytes, if known; a server that announces or sends another is refused. progress: told of bytes.
    A second process that wants the same file waits for the first one and uses its result.
    Raises CrossrootError that names every URL with its cause, NotFound if no server has such a file, UsageError for a
    URL that is not http(s).
    """
    wanted = _Wanted(digest, size, progress)
    with _explain_cache_errors(cache):
        if digest and (found := _cached(cache, digest)):
            return found
        for url in urls:
            _check_url(url)
        with _locked_part(_part_path(cache, urls, digest)) as part:
            # Whoever held the lock before may have finished the job.
            if digest and (found := _cached(cache, digest)):
                return found
            return _publish(cache, part, _fetch_from_any(urls, part, wanted))


def cached(digest: Digest, cache: Path) -> Verified | None:
    """The file `digest` means, if the cache has it intact; a damaged one is deleted."""
    with _explain_cache_errors(cache):
        return _cached(cache, digest)


def read_small(url: str, *, limit: int) -> bytes:
    """The content of a small file, an index or a signature, of at most `limit` bytes; never cached.

    Raises NotFound if the server has no such file, CrossrootError if it can't be had for another reason.
    """

    def attempt() -> bytes:
        with _get(session, url) as response:
            content = bytearray()
            for chunk in _body(response):
                content += chunk
                if len(content) > limit:
                    raise _Failure(f"sends more than the {limit} bytes expected")
            announced = _content_length(response)
            if announced is not None and len(content) < announced:
                raise _truncated(len(content), announced)
            return bytes(content)

    _check_url(url)
    with _session() as session:
        try:
            return _persistently(attempt)
        except _Failure as failure:
            error = NotFound if failure.missing else CrossrootError
            raise error(f"cannot fetch {shown(url)}: {failure.cause}", hint=failure.hint) from failure


def open_local(path: Path, digest: Digest | None) -> Verified:
    """A file of the user's own, compared with `digest` if there is one.

    Raises CrossrootError if it can't be read, is not a regular file, or is not the one `digest` means.
    """
    try:
        verified = _examine(path)
    except OSError as error:
        raise CrossrootError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    if digest and not verified.matches(digest):
        verified.file.close()
        raise CrossrootError(
            f"{path} has a wrong {digest.algorithm}: {_difference(verified, digest)}",
            hint="get the file again, or check the hash",
        )
    return verified


def certificates() -> Path:
    """The file of certificates that downloads trust: the one named in the environment, or that of requests."""
    import certifi

    named = (os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
    return Path(next((path for path in named if path and os.path.isfile(path)), certifi.where()))


def shown(url: str) -> str:
    """`url` fit for a message: without the user name and password in it, without unprintable characters."""
    bare = re.sub(r"^([a-zA-Z]+://)[^/?#]*@", r"\1", url)
    return "".join(char if char.isprintable() else "?" for char in bare)


# --- several URLs, one URL, one request -------------------------------------------------------------------


class _Wanted(Record):
    digest: Digest | None
    size: int | None
    progress: ui.Progress


class _Failure(Exception):
    """Why one URL did not deliver. cause: in words. transient: whether asking it again may help.
    retry_after: seconds the server wants to be left alone. missing: it has no such file."""

    def __init__(
        self,
        cause: str,
        *,
        hint: str = _TRY_AGAIN,
        transient: bool = False,
        retry_after: float = 0.0,
        missing: bool = False,
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint
        self.transient = transient
        self.retry_after = retry_after
        self.missing = missing


def _fetch_from_any(urls: Sequence[str], part: FileIO, wanted: _Wanted) -> Verified:
    """Fill `part` from the first URL that delivers the file wanted; gives it verified, not yet published."""
    failures: dict[str, _Failure] = {}
    with _session() as session:
        for url in urls:
            try:
                return _fetch(session, url, part, wanted)
            except _Failure as failure:
                failures[url] = failure
    if not wanted.digest:
        part.truncate(0)  # it will not be resumed
    causes = "; ".join(f"{shown(url)}: {failure.cause}" for url, failure in failures.items())
    error = NotFound if all(failure.missing for failure in failures.values()) else CrossrootError
    raise error(f"cannot download {causes}", hint=next(iter(failures.values())).hint)


def _fetch(session: "requests.Session", url: str, part: FileIO, wanted: _Wanted) -> Verified:
    """Fill `part` from one URL and check the hash. A part put together from several answers gets a second
    chance from scratch: the piece from an earlier run or another mirror may be what is wrong."""

    def attempt() -> bool:
        return _request_rest(session, url, part, wanted)

    for _ in range(2):
        resumed = _persistently(attempt)
        verified = _examine(Path(part.name))
        if not wanted.digest or verified.matches(wanted.digest):
            return verified
        verified.file.close()
        part.truncate(0)
        wrong = _Failure(
            f"wrong {wanted.digest.algorithm}: {_difference(verified, wanted.digest)}",
            hint=f"compare the hash with what the distribution says, or {_NAME_MIRROR}",
        )
        if not resumed:
            break
    raise wrong


def _request_rest(session: "requests.Session", url: str, part: FileIO, wanted: _Wanted) -> bool:
    """One request for what `part` still lacks, appended to it; gives whether it had something before.

    Ranges are those of RFC 9110, section 14.
    """
    if not wanted.digest:
        part.truncate(0)  # nothing would tell that the file has changed between the two requests
    done = _size(part)
    with _get(session, url, {"Range": f"bytes={done}-"} if done else {}) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # there is no more; the hash tells whether the part is the file
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            part.truncate(0)
            done = 0
        elif not re.match(rf"bytes {done}-", response.headers.get("Content-Range", "")):
            part.truncate(0)
            raise _Failure("answers another range than asked for", transient=True)
        resumed = done > 0
        total = _total(response, done, wanted.size)
        wanted.progress(done, total)
        for chunk in _body(response):
            done += len(chunk)
            if done > (LARGEST if total is None else total):
                part.truncate(0)
                raise _Failure(f"sends more than the {LARGEST if total is None else total} bytes expected")
            _append(part, chunk)
            wanted.progress(done, total)
        if total is not None and done < total:
            raise _truncated(done, total)
        return resumed


def _total(response: "requests.Response", done: int, expected: int | None) -> int | None:
    """Size of the whole file, given that `done` bytes are here and `response` has the rest."""
    announced = _content_length(response)
    if announced is None:
        return expected
    total = done + announced
    if total > LARGEST or expected not in (None, total):
        raise _Failure(f"announces {total} bytes where {expected or f'at most {LARGEST}'} are expected")
    return total


def _persistently(attempt: Callable[[], T]) -> T:
    """What `attempt` gives; it is tried ATTEMPTS times, with pauses, as long as it fails transiently."""
    for earlier in range(ATTEMPTS - 1):
        try:
            return attempt()
        except _Failure as failure:
            if not failure.transient:
                raise
            time.sleep(max(BACKOFF * 2**earlier, failure.retry_after))
    return attempt()


def _session() -> "requests.Session":
    """A session that leaves redirects to _get. requests, even when told not to follow one, reads the whole body
    that comes with it, however long."""
    import requests

    from crossroot import pace

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002
            return None

    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, pace.adapter())
    return session


def _get(session: "requests.Session", url: str, headers: dict[str, str] | None = None) -> "requests.Response":
    """The answer to a GET, body not yet read, redirects followed; raises _Failure unless it is 200, 206 or,
    when a range was asked for, 416."""
    import requests
    import urllib3.exceptions

    # "identity": the bytes must be those that were hashed, and Content-Length must be theirs.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"crossroot/{__version__}"} | (headers or {})
    timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
    for _ in range(MOST_REDIRECTS):
        try:
            response = session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=timeout)
        # Some faults of a URL surface as UnicodeError or urllib3's own errors.
        except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
            raise _explained(error) from error
        if not response.is_redirect:
            try:
                _check_status(response, ranged="Range" in headers)
            except _Failure:
                response.close()
                raise
            return response
        response.close()
        url = _redirect_target(url, response.headers["Location"])
    raise _Failure(f"redirects more than {MOST_REDIRECTS} times", hint=_CHECK_ADDRESS)


def _redirect_target(url: str, location: str) -> str:
    """Where a redirect leads. Never from https to http: then anybody on the way could change the file."""
    from requests.compat import urljoin

    try:
        target = str(urljoin(url, location))
        allowed = ("https",) if urlsplit(url).scheme == "https" else ("http", "https")
        refused = urlsplit(target).scheme not in allowed
    except ValueError:
        target, refused = location, True
    if refused:
        raise _Failure(f"redirects to {shown(target)}, which is refused", hint=_CHECK_ADDRESS)
    return target


def _check_status(response: "requests.Response", *, ranged: bool) -> None:
    status = response.status_code
    if status == 200 or (ranged and status in (206, 416)):
        return
    known = status in HTTPStatus._value2member_map_
    cause = f"the server answers {status}" + (f" {HTTPStatus(status).phrase}" if known else "")
    if status == 429 or status >= 500:
        asked = response.headers.get("Retry-After", "")
        seconds = float(asked) if re.fullmatch(r"[0-9]{1,9}", asked) else 0.0
        raise _Failure(cause, transient=True, retry_after=min(seconds, LONGEST_RETRY_AFTER))
    raise _Failure(cause, hint=_CHECK_ADDRESS, missing=status in (404, 410))


def _content_length(response: "requests.Response") -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None


def _body(response: "requests.Response") -> Iterator[bytes]:
    """The body in chunks, as sent: requests would unpack what is marked `Content-Encoding: gzip`, as some
    servers mark every .tar.gz."""
    import urllib3.exceptions

    # The callers compare the length themselves, and keep what did arrive.
    response.raw.enforce_content_length = False
    try:
        # read1, as read would wait for all of CHUNK.
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            yield chunk
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _explained(error) from error


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"'{shown(url)}' is not an http or https URL", hint="give a URL that starts with https://")


# --- causes in words --------------------------------------------------------------------------------------


def _truncated(done: int, total: int) -> _Failure:
    return _Failure(f"the connection ended after {done} of {total} bytes", transient=True)


def _explained(error: BaseException) -> _Failure:
    """What a failed request means. requests and urllib3 wrap the error of the system, which says it best."""
    import ssl

    import requests

    from crossroot import pace

    chain = list(_chain(error))
    by_proxy = isinstance(error, requests.exceptions.ProxyError)
    where = "the proxy" if by_proxy else "the server"
    for link in chain:
        match link:
            case ssl.SSLCertVerificationError():
                return _Failure(f"TLS failure: {link.verify_message}", hint=_CHECK_TLS)
            case ssl.SSLError():
                return _Failure(f"TLS failure: {link.reason or link}", hint=_CHECK_TLS, transient=True)
            case socket.gaierror():
                cause = f"the name of {where} can't be resolved ({link.strerror})"
                temporary = link.errno == socket.EAI_AGAIN
                return _Failure(cause, hint=_CHECK_NETWORK, transient=temporary)
            case pace.TooSlow():
                return _Failure(f"{where} sends less than {pace.SLOWEST} bytes a second", transient=True)
            case TimeoutError():
                return _Failure(f"{where} takes too long to answer", hint=_CHECK_NETWORK, transient=True)
            case OSError(errno=int(), strerror=str()):
                cause = f"no connection to {where} ({link.strerror})"
                return _Failure(cause, hint=_CHECK_NETWORK, transient=True)
    if isinstance(error, ValueError):
        return _Failure("the address is not a valid URL", hint=_CHECK_ADDRESS)
    what = "does not connect" if by_proxy else "breaks off or speaks no valid HTTP"
    return _Failure(f"{where} {what} ({shown(str(chain[-1]))})", hint=_CHECK_NETWORK, transient=True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error`, what caused it, what caused that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _difference(verified: Verified, digest: Digest) -> str:
    return f"expected {digest.value}, got {verified.hex(digest.algorithm)}"


@contextmanager
def _explain_cache_errors(cache: Path) -> Iterator[None]:
    """Errors of the network have become _Failure by then: an OSError comes from a file in the cache."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise CrossrootError(
            f"cannot keep downloads in {cache}: {error.strerror}",
            hint=("free some space" if full else "make it writable") + ", or set CROSSROOT_CACHE to another folder",
        ) from error


# --- files of the cache -----------------------------------------------------------------------------------


def _blob_path(cache: Path, algorithm: str, value: str) -> Path:
    return cache / "blobs" / algorithm / value


def _part_path(cache: Path, urls: Sequence[str], digest: Digest | None) -> Path:
    if digest:
        return cache / "partial" / f"{digest.algorithm}-{digest.value}.part"
    return cache / "partial" / f"url-{hashlib.sha256(urls[0].encode()).hexdigest()}.part"


def _cached(cache: Path, digest: Digest) -> Verified | None:
    """The file `digest` means, if the cache has it intact; a damaged one is deleted."""
    path = _blob_path(cache, digest.algorithm, digest.value)
    try:
        verified = _examine(path)
    except FileNotFoundError:
        return None
    if verified.matches(digest):
        return verified.but(path=_blob_path(cache, "sha512", verified.sha512))
    verified.file.close()
    ui.note(f"{path} is damaged; it is fetched again")
    path.unlink(missing_ok=True)
    return None


def _publish(cache: Path, part: FileIO, verified: Verified) -> Verified:
    """Give the finished `part` its place among the blobs, by one rename."""
    blob = _blob_path(cache, "sha512", verified.sha512)
    blob.parent.mkdir(parents=True, exist_ok=True)
    # Read-only not before it has its place: a part that one killed in between leaves could not be opened again.
    Path(part.name).replace(blob)
    os.fchmod(part.fileno(), 0o444)
    link = _blob_path(cache, "sha256", verified.sha256)
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(f"../sha512/{verified.sha512}")
    except FileExistsError:
        pass  # from an earlier download of the same file
    return verified.but(path=blob)


@contextmanager
def _locked_part(path: Path) -> Iterator[FileIO]:
    """The partial download `path`, open for appending and locked; waits as long as another process has it.

    It stays for the next time, unless there is nothing in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a+b", buffering=0) as part:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                ui.note("another crossroot is downloading this file; waiting for it")
                fcntl.flock(part, fcntl.LOCK_EX)
            if _still_at(path, part):
                try:
                    yield part
                finally:
                    if _size(part) == 0 and _still_at(path, part):
                        path.unlink()
                return
            # Its last owner has published the file: this descriptor is now that of a blob.


def _still_at(path: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _append(part: FileIO, data: bytes) -> None:
    """Write all of `data`; one write() may stop short, when the disk is nearly full for instance."""
    rest = memoryview(data)
    while rest:
        rest = rest[part.write(rest) :]


def _examine(path: Path) -> Verified:
    """Open and hash the regular file `path`. O_NONBLOCK: opening a FIFO must not wait for its other end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        sha256, sha512, size = hashlib.sha256(), hashlib.sha512(), 0
        while block := file.read(1 << 20):
            sha256.update(block)
            sha512.update(block)
            size += len(block)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return Verified(path, file, sha256.hexdigest(), sha512.hexdigest(), size)
