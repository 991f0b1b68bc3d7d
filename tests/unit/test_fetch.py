"""Downloads from a real server on loopback that fails in the ways mirrors do."""

import errno
import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossroot import fetch, pace
from crossroot.errors import CrossrootError, UsageError
from crossroot.fetch import Digest, NotFound, Verified, download, open_local, read_small
from tests.support import http
from tests.support.http import Answer, Server

BODY = b"".join(b"%d, " % number for number in range(50_000))  # no two pieces alike
SHA256 = Digest("sha256", hashlib.sha256(BODY).hexdigest())
SHA512 = Digest("sha512", hashlib.sha512(BODY).hexdigest())
OTHER = bytes(reversed(BODY))
CLOSED_PORT = "http://127.0.0.1:1/file"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and no proxy of the machine between the tests and loopback."""
    monkeypatch.setattr(fetch, "BACKOFF", 0.001)
    monkeypatch.setattr(fetch, "READ_TIMEOUT", 5.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with http.serve() as server:
        server.answers["/file"] = [Answer(BODY)]
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def content(verified: Verified) -> bytes:
    with verified:
        return verified.file.read()


def files(cache: Path) -> set[str]:
    """Everything in the cache that is not a folder."""
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if not path.is_dir()}


def blobs(body: bytes = BODY) -> set[str]:
    """What the cache consists of when it has `body` and nothing else."""
    sha256, sha512 = hashlib.sha256(body).hexdigest(), hashlib.sha512(body).hexdigest()
    return {f"blobs/sha512/{sha512}", f"blobs/sha256/{sha256}"}


# --- digests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [
        ("sha256", ""),
        ("sha256", "0" * 63),
        ("sha256", "0" * 128),
        ("sha512", "0" * 64),
        ("sha512", "g" * 128),
        ("sha256", "0" * 64 + "\n"),
        ("sha256", "../" + "0" * 61),
        ("md5", "0" * 32),
    ],
)
def test_a_malformed_hash_is_a_usage_error(algorithm: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        Digest(algorithm, value)
    assert caught.value.hint


def test_a_hash_in_upper_case_means_the_same() -> None:
    assert Digest("sha256", SHA256.value.upper()) == SHA256


# --- the ordinary way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [SHA256, SHA512, None], ids=["sha256", "sha512", "no hash"])
def test_a_download_is_stored_under_its_hash(server: Server, cache: Path, digest: Digest | None) -> None:
    with download([server.url + "/file"], digest, cache=cache) as verified:
        assert verified.file.read() == BODY
        assert (verified.sha256, verified.sha512, verified.size) == (SHA256.value, SHA512.value, len(BODY))
        assert verified.path == cache / "blobs/sha512" / SHA512.value
    assert verified.path.read_bytes() == BODY
    assert verified.path.stat().st_mode & 0o777 == 0o444
    assert files(cache) == blobs()
    assert verified.file.closed


@pytest.mark.parametrize("first", [SHA256, SHA512])
@pytest.mark.parametrize("second", [SHA256, SHA512])
def test_a_cached_file_is_found_by_either_hash(server: Server, cache: Path, first: Digest, second: Digest) -> None:
    content(download([server.url + "/file"], first, cache=cache))
    again = download([server.url + "/file"], second, cache=cache)
    assert content(again) == BODY
    assert again.path == cache / "blobs/sha512" / SHA512.value
    assert len(server.seen) == 1


def test_without_a_hash_the_file_is_fetched_anew(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(BODY), Answer(OTHER)]
    assert content(download([server.url + "/file"], None, cache=cache)) == BODY
    assert content(download([server.url + "/file"], None, cache=cache)) == OTHER
    assert files(cache) == blobs(BODY) | blobs(OTHER)


def test_an_empty_file_can_be_downloaded(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(b"")]
    digest = Digest("sha512", hashlib.sha512().hexdigest())
    assert content(download([server.url + "/file"], digest, cache=cache)) == b""
    assert files(cache) == blobs(b"")


def test_progress_tells_bytes_and_the_total(server: Server, cache: Path) -> None:
    reports: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None) -> None:
        reports.append((done, total))

    content(download([server.url + "/file"], SHA512, cache=cache, progress=progress))
    assert reports[0] == (0, len(BODY))
    assert reports[-1] == (len(BODY), len(BODY))
    assert reports == sorted(reports)


def test_what_a_server_marks_as_gzip_is_kept_as_sent(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(BODY, headers={"Content-Encoding": "gzip"})]
    assert content(download([server.url + "/file"], SHA512, cache=cache)) == BODY


def test_the_server_is_asked_for_the_file_as_it_is(server: Server, cache: Path) -> None:
    content(download([server.url + "/file"], SHA512, cache=cache))
    assert server.seen[0].headers["Accept-Encoding"] == "identity"


def test_a_body_without_a_length_is_accepted(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(BODY, chunked=True)]
    assert content(download([server.url + "/file"], SHA512, cache=cache, size=len(BODY))) == BODY


def test_redirects_are_followed(server: Server, cache: Path) -> None:
    server.answers["/start"] = [Answer(status=302, headers={"Location": "/file"})]
    assert content(download([server.url + "/start"], SHA512, cache=cache)) == BODY
    assert server.paths() == ["/start", "/file"]


def test_the_proxy_of_the_environment_is_used(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://mirror.invalid/file"
    server.answers[url] = [Answer(BODY)]
    monkeypatch.setenv("http_proxy", server.url)
    assert content(download([url], SHA512, cache=cache)) == BODY


# --- the cache is not trusted -------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", [SHA256, SHA512])
def test_a_damaged_cached_file_is_fetched_again(
    server: Server, cache: Path, digest: Digest, capsys: pytest.CaptureFixture[str]
) -> None:
    verified = download([server.url + "/file"], digest, cache=cache)
    content(verified)
    verified.path.chmod(0o644)
    verified.path.write_bytes(BODY[:-1] + b"!")
    again = download([server.url + "/file"], digest, cache=cache)
    assert content(again) == BODY
    assert again.path.read_bytes() == BODY
    assert "damaged" in capsys.readouterr().err
    assert len(server.seen) == 2
    assert files(cache) == blobs()


def test_a_damaged_cached_file_goes_even_if_there_is_no_other(server: Server, cache: Path) -> None:
    verified = download([server.url + "/file"], SHA512, cache=cache)
    content(verified)
    verified.path.chmod(0o644)
    verified.path.write_bytes(OTHER)
    with pytest.raises(CrossrootError, match="404"):
        download([server.url + "/none"], SHA512, cache=cache)
    assert not verified.path.exists()


def test_what_was_hashed_is_what_is_read(server: Server, cache: Path) -> None:
    with download([server.url + "/file"], SHA512, cache=cache) as verified:
        verified.path.unlink()
        verified.path.write_bytes(OTHER)
        assert verified.file.read() == BODY


# --- interrupted downloads ----------------------------------------------------------------------------------


def test_a_truncated_body_is_resumed_where_it_ended(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(BODY, cut=100_001), Answer(BODY)]
    assert content(download([server.url + "/file"], SHA512, cache=cache)) == BODY
    assert [seen.range for seen in server.seen] == [None, "bytes=100001-"]


def test_without_a_hash_nothing_is_resumed(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(OTHER, cut=100_001), Answer(BODY)]
    assert content(download([server.url + "/file"], None, cache=cache)) == BODY
    assert [seen.range for seen in server.seen] == [None, None]


def test_the_next_mirror_resumes_what_the_first_began(server: Server, cache: Path) -> None:
    server.answers["/dying"] = [Answer(BODY, cut=1000), Answer(status=404)]
    urls = [server.url + "/dying", server.url + "/file"]
    assert content(download(urls, SHA512, cache=cache)) == BODY
    assert (server.seen[-1].path, server.seen[-1].range) == ("/file", "bytes=1000-")


def test_the_next_call_resumes_what_this_one_left(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(BODY, cut=1000), Answer(status=404), Answer(BODY)]
    with pytest.raises(CrossrootError, match="404"):
        download([server.url + "/file"], SHA512, cache=cache)
    assert files(cache) == {f"partial/sha512-{SHA512.value}.part"}
    assert content(download([server.url + "/file"], SHA512, cache=cache)) == BODY
    assert server.seen[-1].range == "bytes=1000-"
    assert files(cache) == blobs()


def test_a_server_that_ignores_ranges_delivers_from_the_start(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(BODY, cut=1000), Answer(BODY, ranges=False)]
    assert content(download([server.url + "/file"], SHA512, cache=cache)) == BODY


def test_a_wrong_range_is_not_taken_for_the_right_one(server: Server, cache: Path) -> None:
    wrong = Answer(BODY, headers={"Content-Range": f"bytes 5-{len(BODY) - 1}/{len(BODY)}"})
    server.answers["/file"] = [Answer(BODY, cut=1000), wrong, Answer(BODY)]
    assert content(download([server.url + "/file"], SHA512, cache=cache)) == BODY
    assert [seen.range for seen in server.seen] == [None, "bytes=1000-", None]


def leave_part(cache: Path, data: bytes) -> None:
    part = cache / "partial" / f"sha512-{SHA512.value}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data)


@pytest.mark.parametrize(
    "left",
    [OTHER[:1000], OTHER, BODY + b"more", b"\0" * len(BODY)],
    ids=["short", "complete", "too long", "zeros after a power cut"],
)
def test_a_bad_partial_download_is_started_over(server: Server, cache: Path, left: bytes) -> None:
    leave_part(cache, left)
    assert content(download([server.url + "/file"], SHA512, cache=cache, size=len(BODY))) == BODY
    assert [seen.range for seen in server.seen] == [f"bytes={len(left)}-", None]
    assert files(cache) == blobs()


def test_a_download_complete_but_not_yet_published_is_used(server: Server, cache: Path) -> None:
    leave_part(cache, BODY)
    assert content(download([server.url + "/file"], SHA512, cache=cache)) == BODY
    assert [seen.range for seen in server.seen] == [f"bytes={len(BODY)}-"]


def test_a_mirror_that_always_breaks_off_and_lies_is_given_up(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(OTHER, cut=1000), Answer(OTHER)] * 10
    with pytest.raises(CrossrootError, match="wrong sha512"):
        download([server.url + "/file"], SHA512, cache=cache)
    assert len(server.seen) == 4
    assert files(cache) == set()


SCRIPT = """
import sys
from pathlib import Path
from crossroot.fetch import Digest, download
digest = Digest("sha512", sys.argv[2]) if sys.argv[2] else None
with download([sys.argv[1]], digest, cache=Path(sys.argv[3])) as verified:
    print(len(verified.file.read()))
"""


def start_download(server: Server, cache: Path, sha512: str = SHA512.value) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, server.url + "/file", sha512, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_part(cache: Path, size: int) -> None:
    part = cache / "partial" / f"sha512-{SHA512.value}.part"
    deadline = time.monotonic() + 20
    while not part.exists() or part.stat().st_size < size:
        assert time.monotonic() < deadline, "the download does not get on"
        time.sleep(0.005)


def test_a_killed_download_is_resumed(server: Server, cache: Path) -> None:
    stalled = 2 * fetch.CHUNK
    server.answers["/file"] = [Answer(BODY, stall=stalled), Answer(BODY)]
    with start_download(server, cache) as process:
        wait_for_part(cache, stalled)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert content(download([server.url + "/file"], SHA512, cache=cache)) == BODY
    assert [seen.range for seen in server.seen] == [None, f"bytes={stalled}-"]


def test_two_processes_download_a_file_once(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(BODY, delay=0.7)]
    with start_download(server, cache) as one, start_download(server, cache) as two:
        outputs = [one.communicate(timeout=30), two.communicate(timeout=30)]
    assert [output[0] for output in outputs] == [f"{len(BODY)}\n"] * 2
    assert "waiting" in "".join(output[1] for output in outputs)
    assert len(server.seen) == 1
    assert files(cache) == blobs()


def test_one_that_waited_leaves_the_published_file_alone(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(BODY, delay=0.7), Answer(OTHER)]
    with start_download(server, cache, "") as one, start_download(server, cache, "") as two:
        outputs = [one.communicate(timeout=30), two.communicate(timeout=30)]
    assert "waiting" in "".join(output[1] for output in outputs)
    assert files(cache) == blobs(BODY) | blobs(OTHER)
    assert (cache / "blobs/sha512" / SHA512.value).read_bytes() == BODY


def test_the_one_that_waits_takes_over_when_the_other_is_killed(server: Server, cache: Path) -> None:
    stalled = 2 * fetch.CHUNK
    server.answers["/file"] = [Answer(BODY, stall=stalled), Answer(BODY)]
    with start_download(server, cache) as one:
        wait_for_part(cache, stalled)
        with start_download(server, cache) as two:
            assert two.stderr is not None
            assert "waiting" in two.stderr.readline()
            one.kill()
            assert two.communicate(timeout=30)[0] == f"{len(BODY)}\n"
    assert server.seen[-1].range == f"bytes={stalled}-"


# --- mirrors that fail --------------------------------------------------------------------------------------


def test_server_errors_are_retried(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(status=500), Answer(status=503), Answer(BODY)]
    assert content(download([server.url + "/file"], SHA512, cache=cache)) == BODY


def test_retry_after_is_honoured_within_bounds(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "LONGEST_RETRY_AFTER", 0.2)
    server.answers["/file"] = [Answer(status=429, headers={"Retry-After": "86400"}), Answer(BODY)]
    start = time.monotonic()
    assert content(download([server.url + "/file"], SHA512, cache=cache)) == BODY
    assert 0.2 <= time.monotonic() - start < 5


def test_a_server_that_stays_broken_is_given_up(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(status=502)]
    with pytest.raises(CrossrootError, match="502 Bad Gateway") as caught:
        download([server.url + "/file"], SHA512, cache=cache)
    assert len(server.seen) == fetch.ATTEMPTS
    assert "--mirror" in caught.value.hint


@pytest.mark.parametrize("status", [403, 404, 410, 451])
def test_a_missing_file_sends_to_the_next_mirror_at_once(server: Server, cache: Path, status: int) -> None:
    server.answers["/missing"] = [Answer(status=status)]
    urls = [server.url + "/missing", server.url + "/file"]
    assert content(download(urls, SHA512, cache=cache)) == BODY
    assert server.paths() == ["/missing", "/file"]


def test_a_wrong_hash_names_url_expected_and_got(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(OTHER)]
    with pytest.raises(CrossrootError) as caught:
        download([server.url + "/file"], SHA256, cache=cache)
    got = hashlib.sha256(OTHER).hexdigest()
    assert caught.value.message == (
        f"cannot download {server.url}/file: wrong sha256: expected {SHA256.value}, got {got}"
    )
    assert caught.value.hint
    assert len(server.seen) == 1
    assert files(cache) == set()


def test_a_mirror_with_the_wrong_file_is_passed_over(server: Server, cache: Path) -> None:
    server.answers["/wrong"] = [Answer(OTHER)]
    urls = [server.url + "/wrong", server.url + "/file"]
    assert content(download(urls, SHA512, cache=cache)) == BODY
    assert server.seen[-1].range is None
    assert files(cache) == blobs()


def test_the_error_names_each_mirror_with_its_cause(server: Server, cache: Path) -> None:
    server.answers["/missing"] = [Answer(status=404)]
    server.answers["/wrong"] = [Answer(OTHER)]
    urls = [server.url + "/missing", CLOSED_PORT, server.url + "/wrong"]
    with pytest.raises(CrossrootError) as caught:
        download(urls, SHA512, cache=cache)
    first, second, third = caught.value.message.removeprefix("cannot download ").split("; ")
    assert first == f"{server.url}/missing: the server answers 404 Not Found"
    assert second == f"{CLOSED_PORT}: no connection to the server (Connection refused)"
    assert third.startswith(f"{server.url}/wrong: wrong sha512")


def test_a_slow_server_times_out(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "READ_TIMEOUT", 0.05)
    server.answers["/file"] = [Answer(BODY, delay=0.5)]
    with pytest.raises(CrossrootError, match="takes too long"):
        download([server.url + "/file"], SHA512, cache=cache)


def test_a_body_that_stalls_is_resumed(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "READ_TIMEOUT", 0.2)
    server.answers["/file"] = [Answer(BODY, stall=fetch.CHUNK), Answer(BODY)]
    assert content(download([server.url + "/file"], SHA512, cache=cache)) == BODY
    assert [seen.range for seen in server.seen] == [None, f"bytes={fetch.CHUNK}-"]


SLOW = "the server sends less than 1024 bytes a second"
LATE = "the server takes too long to answer"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(BODY, pace=0.02), SLOW),
        (Answer(b"5;" + b"x" * 100, pace=0.02, headers={"Transfer-Encoding": "chunked"}), SLOW),
        (Answer(raw=b"HTTP/1.1 200 OK", pace=0.02), LATE),
        (Answer(raw=b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 100, pace=0.001), LATE),
        # Newer Pythons count them.
        (Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\n"), f"{LATE}|more than 100 interim responses"),
    ],
    ids=["body", "between chunks", "status line", "headers", "never done announcing"],
)
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxied"])
def test_a_server_that_sends_each_byte_just_in_time_is_given_up(
    answer: Answer, said: str, proxied: bool, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "PATIENCE", 0.2)
    url = server.url + "/file"
    if proxied:
        monkeypatch.setenv("http_proxy", server.url)
        url = "http://unreachable.invalid/file"
    server.answers["/file"] = server.answers[url] = [answer]
    with pytest.raises(CrossrootError, match=said):
        download([url], SHA512, cache=cache)
    with pytest.raises(CrossrootError, match=said):
        read_small(url, limit=len(BODY))


def test_a_proxy_that_never_ends_its_answer_is_given_up(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "PATIENCE", 0.2)
    monkeypatch.setenv("https_proxy", server.url)
    server.answers["unreachable.invalid:443"] = [Answer(raw=b"HTTP/1.1 200 OK\r\n", pace=0.02)]
    with pytest.raises(CrossrootError, match="takes too long to answer"):
        download(["https://unreachable.invalid/file"], SHA512, cache=cache)


def test_an_endless_body_is_cut_off(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(BODY, endless=True)]
    with pytest.raises(CrossrootError, match=f"more than the {len(BODY)} bytes"):
        download([server.url + "/file"], SHA512, cache=cache, size=len(BODY))
    assert files(cache) == set()


def test_an_endless_body_of_unknown_size_is_cut_off(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "LARGEST", 1_000_000)
    server.answers["/file"] = [Answer(BODY, endless=True)]
    with pytest.raises(CrossrootError, match="more than the 1000000 bytes"):
        download([server.url + "/file"], None, cache=cache)
    assert files(cache) == set()


@pytest.mark.parametrize("size", [len(BODY) - 1, len(BODY) + 1])
def test_another_size_than_expected_is_refused(server: Server, cache: Path, size: int) -> None:
    with pytest.raises(CrossrootError, match=f"announces {len(BODY)} bytes where {size} are expected"):
        download([server.url + "/file"], SHA512, cache=cache, size=size)


def test_a_body_shorter_than_announced_is_an_error(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(BODY, cut=10)]
    with pytest.raises(CrossrootError, match=f"ended after 10 of {len(BODY)} bytes"):
        download([server.url + "/file"], None, cache=cache)
    assert files(cache) == set()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/file", "//[broken/"])
def test_a_redirect_to_another_scheme_is_refused(server: Server, cache: Path, target: str) -> None:
    server.answers["/file"] = [Answer(status=301, headers={"Location": target})]
    with pytest.raises(CrossrootError, match=r"redirects to .* refused"):
        download([server.url + "/file"], SHA512, cache=cache)


def test_the_body_of_a_redirect_is_not_read(server: Server, cache: Path) -> None:
    redirect = Answer(b"x" * 1000, status=302, endless=True, headers={"Location": "/file"})
    server.answers["/start"] = [redirect]
    assert content(download([server.url + "/start"], SHA512, cache=cache)) == BODY


def test_a_redirect_in_circles_ends(server: Server, cache: Path) -> None:
    server.answers["/file"] = [Answer(status=302, headers={"Location": "/file"})]
    with pytest.raises(CrossrootError, match="redirects more than"):
        download([server.url + "/file"], SHA512, cache=cache)


def test_a_name_that_does_not_resolve_is_said_so(cache: Path) -> None:
    with pytest.raises(CrossrootError, match="name of the server can't be resolved") as caught:
        download(["http://mirror.invalid/file"], SHA512, cache=cache)
    assert "proxy" in caught.value.hint


def test_a_name_is_looked_up_again_only_if_the_failure_may_pass() -> None:
    assert fetch._explained(socket.gaierror(socket.EAI_AGAIN, "try again")).transient
    assert not fetch._explained(socket.gaierror(socket.EAI_NONAME, "unknown")).transient


def test_a_dead_proxy_is_said_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(CrossrootError, match=r"no connection to the proxy \(Connection refused\)"):
        download(["http://mirror.invalid/file"], SHA512, cache=cache)


def test_a_server_that_speaks_something_else_is_said_so(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = os.fork()
        if process == 0:
            for _ in range(fetch.ATTEMPTS):
                connection, _address = listener.accept()
                connection.recv(4096)
                connection.sendall(b"220 \x1b[31mftp\r\n")
                connection.close()
            os._exit(0)
        with pytest.raises(CrossrootError, match="no valid HTTP") as caught:
            download([f"http://127.0.0.1:{listener.getsockname()[1]}/file"], SHA512, cache=cache)
        os.waitpid(process, 0)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("url", ["", "file", "/etc/passwd", "file:///etc/passwd", "ftp://h/f", "http://", "http://[/"])
def test_what_is_not_an_http_url_is_a_usage_error(cache: Path, url: str) -> None:
    with pytest.raises(UsageError, match="not an http or https URL"):
        download([url], SHA512, cache=cache)


@pytest.mark.parametrize("url", ["http://h:99999/", "http://.h/", f"http://{'h' * 64}.h/"])
def test_an_impossible_host_is_an_error(cache: Path, url: str) -> None:
    with pytest.raises(CrossrootError, match="cannot download"):
        download([url], SHA512, cache=cache)


def test_passwords_are_not_shown(cache: Path) -> None:
    with pytest.raises(CrossrootError) as caught:
        download(["http://me:secret@127.0.0.1:1/file"], SHA512, cache=cache)
    assert caught.value.message.startswith("cannot download http://127.0.0.1:1/file: ")


# --- TLS ----------------------------------------------------------------------------------------------------


@pytest.fixture
def https_server(tmp_path: Path) -> Iterator[Server]:
    """A server with a certificate that nobody has signed."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    with http.serve(tls=(certificate, key)) as secure:
        secure.answers["/file"] = [Answer(BODY)]
        yield secure


def test_a_certificate_that_nobody_signed_is_refused_at_once(https_server: Server, cache: Path) -> None:
    with pytest.raises(CrossrootError, match=r"TLS failure: self.signed certificate") as caught:
        download([https_server.url + "/file"], SHA512, cache=cache)
    assert "ca-certificates" in caught.value.hint
    assert https_server.seen == []


def test_https_works_with_a_trusted_certificate(
    https_server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
    assert content(download([https_server.url + "/file"], SHA512, cache=cache)) == BODY


def test_a_redirect_from_https_to_http_is_refused(
    https_server: Server, server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
    https_server.answers["/file"] = [Answer(status=302, headers={"Location": server.url + "/file"})]
    with pytest.raises(CrossrootError, match=r"redirects to .* refused"):
        download([https_server.url + "/file"], SHA512, cache=cache)
    assert server.seen == []


def test_https_to_a_plain_server_is_a_tls_failure(server: Server, cache: Path) -> None:
    with pytest.raises(CrossrootError, match="TLS failure"):
        download([server.url.replace("http:", "https:") + "/file"], SHA512, cache=cache)


# --- the cache folder ---------------------------------------------------------------------------------------


def test_a_disk_that_gets_full_is_said_so(server: Server, cache: Path) -> None:
    # A limit on the size of files makes write() fail half-way, as a full disk does.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CrossrootError, match=f"cannot keep downloads in {cache}: File too large") as caught:
            download([server.url + "/file"], SHA512, cache=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free some space" in caught.value.hint
    assert content(download([server.url + "/file"], SHA512, cache=cache)) == BODY
    assert server.seen[-1].range == "bytes=100000-"


def test_a_full_disk_is_told_to_free_space(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetch, "_append", append)
    with pytest.raises(CrossrootError, match="No space left on device") as caught:
        download([server.url + "/file"], SHA512, cache=cache)
    assert "CROSSROOT_CACHE" in caught.value.hint


def test_a_cache_that_can_not_be_written_is_said_so(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CrossrootError, match="Not a directory") as caught:
        download([server.url + "/file"], SHA512, cache=tmp_path / "file/cache")
    assert "CROSSROOT_CACHE" in caught.value.hint
    assert server.seen == []


# --- small files and local ones -----------------------------------------------------------------------------


def test_a_small_file_is_read(server: Server) -> None:
    server.answers["/index"] = [Answer(status=500), Answer(b"index", cut=2), Answer(b"index")]
    assert read_small(server.url + "/index", limit=5) == b"index"


@pytest.mark.parametrize("answer", [Answer(b"x" * 6), Answer(b"x" * 6, chunked=True), Answer(b"x", endless=True)])
def test_a_small_file_beyond_its_limit_is_refused(server: Server, answer: Answer) -> None:
    server.answers["/index"] = [answer]
    with pytest.raises(CrossrootError, match="more than the 5 bytes"):
        read_small(server.url + "/index", limit=5)


def test_a_missing_small_file_is_told_apart(server: Server) -> None:
    with pytest.raises(NotFound, match=r"cannot fetch .*/none: the server answers 404 Not Found"):
        read_small(server.url + "/none", limit=5)
    with pytest.raises(CrossrootError, match="Connection refused") as caught:
        read_small(CLOSED_PORT, limit=5)
    assert not isinstance(caught.value, NotFound)


@pytest.mark.parametrize("digest", [SHA256, SHA512, None])
def test_a_local_file_is_opened(tmp_path: Path, digest: Digest | None) -> None:
    file = tmp_path / "file"
    file.write_bytes(BODY)
    verified = open_local(file, digest)
    assert content(verified) == BODY
    assert (verified.path, verified.sha512, verified.size) == (file, SHA512.value, len(BODY))


def test_a_local_file_with_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(OTHER)
    with pytest.raises(CrossrootError, match=f"wrong sha256: expected {SHA256.value}, got [0-9a-f]{{64}}$"):
        open_local(file, SHA256)
    assert file.exists()


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, why in [
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory|not a regular file"),
        (tmp_path / "fifo", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
    ]:
        with pytest.raises(CrossrootError, match=f"cannot read {path}: ({why})"):
            open_local(path, None)
