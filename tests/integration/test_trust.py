"""A mirror that lies: each lie is refused or survived, with a message of its own, and leaves no root."""

import dataclasses
import gzip
import hashlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.support import archives, expect, http
from tests.support.identity import Crossroot

TRUE = archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64"))


@pytest.fixture
def server() -> Iterator[http.Server]:
    with http.serve() as found:
        archives.serve_release(found, TRUE)
        yield found


@pytest.fixture
def crossroot(crossroot: Crossroot) -> Crossroot:
    """With an empty cache, too."""
    return dataclasses.replace(crossroot, cache=crossroot.tmp / "cache")


def create(server: http.Server, *more: str) -> list[str]:
    return ["create", "riscv64", "--mirror", server.url, *more]


def test_a_mirror_that_goes_back_to_an_older_release(crossroot: Crossroot, server: http.Server) -> None:
    def run(version: str, *more: str) -> "subprocess.CompletedProcess[str]":
        archives.serve_release(server, TRUE, version)
        return crossroot.run("create", "riscv64", "--force", "--mirror", server.url, *more)

    assert run("3.20.3").returncode == 0
    assert run("3.20.10").returncode == 0
    hint = expect.error(run("3.20.9"), "names Alpine 3.20.9, but has named 3.20.10 before")
    assert "--allow-downgrade" in hint
    expect.roots(crossroot.store, "riscv64")
    assert run("3.20.9", "--allow-downgrade").returncode == 0
    assert run("3.20.9").returncode == 0


def test_what_is_pinned_may_be_old(crossroot: Crossroot, server: http.Server) -> None:
    crossroot.run(*create(server), check=True)
    archives.serve_release(server, TRUE, "3.20.1")
    digest = hashlib.sha512(TRUE).hexdigest()
    crossroot.run(*create(server, "--force", "--sha512", digest), check=True)


def test_a_release_that_never_arrived_whole_is_not_remembered(crossroot: Crossroot, server: http.Server) -> None:
    archives.serve_release(server, TRUE, "3.20.99")
    server.answers[archives.ARCHIVE.replace(archives.VERSION, "3.20.99")] = [http.Answer(status=404)]
    expect.error(crossroot.run(*create(server)), "404")
    archives.serve_release(server, TRUE)
    crossroot.run(*create(server), check=True)


LIES = {
    "another archive": ([http.Answer(TRUE[:-9] + bytes(9))], "wrong sha512"),
    "a longer archive": ([http.Answer(TRUE + b"x")], f"announces {len(TRUE) + 1} bytes where {len(TRUE)} are expected"),
    "an endless archive": ([http.Answer(TRUE, endless=True)], f"sends more than the {len(TRUE)} bytes expected"),
    "another scheme": ([http.Answer(status=302, headers={"Location": "ftp://127.0.0.1/x"})], "redirect"),
    "a file of ours": ([http.Answer(status=302, headers={"Location": "file:///etc/passwd"})], "redirect"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_the_archive(lie: str, crossroot: Crossroot, server: http.Server) -> None:
    answers, said = LIES[lie]
    server.answers[archives.ARCHIVE] = answers
    expect.error(crossroot.run(*create(server)), said)
    expect.roots(crossroot.store)


def test_an_archive_of_another_arch(crossroot: Crossroot, server: http.Server) -> None:
    archives.serve_release(server, archives.COMPRESSIONS["tar.gz"](archives.rootfs("aarch64")))
    expect.error(crossroot.run(*create(server)), "is a rootfs for aarch64, not for riscv64")
    expect.roots(crossroot.store)


# Each line stands for ten times the one before it.
LAUGHS = b"- &a0 [x]\n" + b"".join(b"- &a%d [%s]\n" % (n + 1, b", ".join([b"*a%d" % n] * 10)) for n in range(40))
LAUGHS += b"- {flavor: alpine-minirootfs, version: *a40}\n"
BOMB = gzip.compress(b"- flavor: alpine-minirootfs\n" + bytes(64 << 20))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http.Answer(BOMB), "it is not YAML"),
        (http.Answer(BOMB, headers={"Content-Encoding": "gzip"}), "it is not YAML"),
        (http.Answer(b"- [" * 1000, endless=True), "sends more than the 262144 bytes expected"),
        (http.Answer(LAUGHS), "version is no text"),
        (http.Answer(archives.index(TRUE).replace(b"riscv64\n", b"aarch64\n")), "arch is 'aarch64'"),
    ],
    ids=["bomb", "bomb that says so", "endless", "laughs", "arch"],
)
def test_a_lie_in_the_index(answer: http.Answer, said: str, crossroot: Crossroot, server: http.Server) -> None:
    server.answers[archives.INDEX] = [answer]
    expect.error(crossroot.run(*create(server)), said)
    expect.roots(crossroot.store)


def test_a_cached_archive_that_is_swapped_is_fetched_again(crossroot: Crossroot, server: http.Server) -> None:
    crossroot.run(*create(server), check=True)
    blob = crossroot.cache / "blobs/sha512" / hashlib.sha512(TRUE).hexdigest()
    blob.chmod(0o644)
    blob.write_bytes(archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64", {"evil": b""})))
    result = crossroot.run(*create(server, "--force"), check=True)
    assert "is damaged; it is fetched again" in result.stderr
    assert not (crossroot.store / "roots/riscv64/rootfs/evil").exists()
