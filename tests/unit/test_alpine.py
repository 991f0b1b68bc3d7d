"""Alpine's index, and the signatures of its archives, from a loopback mirror."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossroot import arch, fetch
from crossroot.distros import alpine
from crossroot.errors import CrossrootError, UsageError
from crossroot.fetch import Verified, open_local
from tests.support import http
from tests.support.http import Answer, Server
from tests.support.mirror import Mirror

RISCV64 = arch.find("riscv64")
ARCHIVE = b"not really an archive"
SHA512 = hashlib.sha512(ARCHIVE).hexdigest()

ENTRY = {
    "title": '"Mini root filesystem"',
    "branch": "v3.20",
    "arch": "riscv64",
    "version": "3.20.3",
    "flavor": "alpine-minirootfs",
    "file": "alpine-minirootfs-3.20.3-riscv64.tar.gz",
    "date": "2024-09-06",
    "time": "11:20:05",
    "size": str(len(ARCHIVE)),
    "sha256": hashlib.sha256(ARCHIVE).hexdigest(),
    "sha512": SHA512,
}


def index(**changes: str) -> bytes:
    """A latest-releases.yaml as Alpine writes it, a standard image first; `changes` to the minirootfs entry."""
    lines = [f"  {key}: {value}" for key, value in (ENTRY | changes).items() if value]
    return "\n".join(["---", "-", "  flavor: alpine-standard", "  file: x.iso", "-", *lines, ""]).encode()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and no proxy of the machine between the tests and loopback."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "BACKOFF", 0.001)


@pytest.fixture
def server() -> Iterator[Server]:
    with http.serve() as server:
        put_index(server, "latest-stable", index())
        yield server


def put_index(server: Server, branch: str, content: bytes, mirror: str = "", arch: str = "riscv64") -> None:
    server.answers[f"{mirror}/{branch}/releases/{arch}/latest-releases.yaml"] = [Answer(content)]


# --- the index ----------------------------------------------------------------------------------------------


def test_the_newest_release_of_latest_stable_is_found_in_its_own_branch(server: Server) -> None:
    release = alpine.find_minirootfs(RISCV64, "latest-stable", [server.url])
    url = f"{server.url}/v3.20/releases/riscv64/alpine-minirootfs-3.20.3-riscv64.tar.gz"
    assert release == alpine.Release(
        version="3.20.3",
        branch="v3.20",
        arch="riscv64",
        mirror=server.url,
        urls=(url,),
        index_url=f"{server.url}/latest-stable/releases/riscv64/latest-releases.yaml",
        signature_url=f"{url}.asc",
        sha512=SHA512,
        size=len(ARCHIVE),
    )


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        *(("3.20.3", "3.20.10"), ("3.9.6", "3.20.0"), ("3.21.0_rc2", "3.21.0"), ("3.21.0_rc1", "3.21.0_rc2")),
        *(("20240606", "20240923"), ("3.20.3", "20240923"), ("3.20", "3.20.1")),
    ],
)
def test_versions_are_compared_by_their_numbers(older: str, newer: str) -> None:
    assert alpine.is_older(older, newer)
    assert not alpine.is_older(newer, older)
    assert not alpine.is_older(newer, newer)


def test_a_version_that_is_a_date_stays_text(server: Server) -> None:
    content = index(branch="edge", version="20240923", file="alpine-minirootfs-20240923-riscv64.tar.gz", size="7")
    put_index(server, "edge", content)
    release = alpine.find_minirootfs(RISCV64, "edge", [server.url])
    assert (release.version, release.branch, release.size) == ("20240923", "edge", 7)
    assert release.urls[0].endswith("/edge/releases/riscv64/alpine-minirootfs-20240923-riscv64.tar.gz")


def test_the_archive_is_found_on_any_mirror_the_one_that_answered_first(server: Server, tmp_path: Path) -> None:
    put_index(server, "v3.20", index(), mirror="/second")
    mirrors = [f"{server.url}/first/", f"{server.url}/second/", f"{server.url}/third"]
    release = alpine.find_minirootfs(RISCV64, "v3.20", mirrors)
    assert release.mirror == f"{server.url}/second"
    path = "v3.20/releases/riscv64/alpine-minirootfs-3.20.3-riscv64.tar.gz"
    assert release.urls == tuple(f"{server.url}/{name}/{path}" for name in ("second", "first", "third"))
    server.answers[f"/third/{path}"] = [Answer(ARCHIVE)]
    digest = fetch.Digest("sha512", release.sha512)
    with fetch.download(release.urls, digest, cache=tmp_path, size=release.size) as archive:
        assert archive.file.read() == ARCHIVE


def test_a_mirror_with_a_bad_index_is_passed_over(server: Server) -> None:
    put_index(server, "v3.20", b"<html>", mirror="/bad")
    put_index(server, "v3.20", index(), mirror="/good")
    release = alpine.find_minirootfs(RISCV64, "v3.20", [f"{server.url}/bad", f"{server.url}/good"])
    assert release.mirror == f"{server.url}/good"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("file", ""),
        ("file", "../../../../etc/passwd"),
        ("file", "/etc/passwd"),
        ("file", "https://evil.example/alpine-minirootfs-3.20.3-riscv64.tar.gz"),
        ("file", "alpine-minirootfs-3.20.2-riscv64.tar.gz"),
        ("file", "alpine-minirootfs-3.20.3-aarch64.tar.gz"),
        ("file", "[alpine-minirootfs-3.20.3-riscv64.tar.gz]"),
        ("arch", ""),
        ("arch", "aarch64"),
        ("version", ""),
        ("version", "{a: b}"),
        ("version", "3.20.3/../.."),
        ("version", '"3.20.3\\n"'),
        ("version", "3.19.3"),
        ("branch", ""),
        ("branch", "edge"),
        ("branch", "latest-stable"),
        ("branch", ".."),
        ("branch", "v3.20/.."),
        ("sha512", ""),
        ("sha512", SHA512[:-1]),
        ("sha512", SHA512[:-1] + "g"),
        ("sha512", "[]"),
        ("size", ""),
        ("size", "-1"),
        ("size", "0"),
        ("size", "many"),
        ("size", "9" * 5000),
        ("size", "1e3"),
    ],
)
def test_an_unsound_field_is_refused(server: Server, key: str, value: str) -> None:
    put_index(server, "latest-stable", index(**{key: value}))
    with pytest.raises(CrossrootError, match=r"latest-releases.yaml is not a sound index: ") as caught:
        alpine.find_minirootfs(RISCV64, "latest-stable", [server.url])
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300
    assert "--mirror" in caught.value.hint


def test_the_index_of_another_branch_is_refused(server: Server) -> None:
    old = index(branch="v3.19", version="3.19.1", file="alpine-minirootfs-3.19.1-riscv64.tar.gz")
    put_index(server, "v3.20", old)
    with pytest.raises(CrossrootError, match=r"not a sound index: branch is 'v3\.19'"):
        alpine.find_minirootfs(RISCV64, "v3.20", [server.url])


def test_a_version_of_another_branch_is_refused(server: Server) -> None:
    mixed = index(branch="v3.20", version="3.2.1", file="alpine-minirootfs-3.2.1-riscv64.tar.gz")
    put_index(server, "v3.20", mixed)
    with pytest.raises(CrossrootError, match=r"version 3\.2\.1 is not of branch v3\.20"):
        alpine.find_minirootfs(RISCV64, "v3.20", [server.url])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is not a list"),
        (b"<html>: [", "it is not YAML"),
        (b"\xff\xfe\xff", "it is not YAML"),
        (b"\0", "it is not YAML"),
        (b"[" * 100_000, "it is not YAML"),
        (b'"\\U00110000"', "it is not YAML"),
        (b'"\\UFFFFFFFF"', "it is not YAML"),
        (b"{[]: 1}", "it is not"),
        (b"flavor: alpine-minirootfs", "it is not a list"),
        (b"[alpine-minirootfs, 1, null]", "it has no alpine-minirootfs"),
        (b"- {flavor: [alpine-minirootfs]}", "it has no alpine-minirootfs"),
        (b"- &a [*a]", "it is not YAML"),
        (b"!!python/object/apply:os.system [false]", "it has no alpine-minirootfs"),
        (b" " * 300_000, "sends more than"),
    ],
)
def test_an_index_that_is_none_is_refused(server: Server, content: bytes, why: str) -> None:
    put_index(server, "latest-stable", content)
    with pytest.raises(CrossrootError, match=why):
        alpine.find_minirootfs(RISCV64, "latest-stable", [server.url])


@pytest.mark.parametrize(
    ("name", "branch", "hint"),
    [
        ("riscv64", "v3.19", "riscv64 since v3.20"),
        ("loongarch64", "v3.20", "loongarch64 since v3.21"),
        ("loongarch64", "v3.9", "loongarch64 since v3.21"),
        ("riscv64", "v3.99", "--branch latest-stable"),
        ("s390x", "edge", "--branch latest-stable"),
        ("m68k", "latest-stable", "--from"),
    ],
)
def test_a_branch_or_arch_that_does_not_exist_gets_a_hint(server: Server, name: str, branch: str, hint: str) -> None:
    with pytest.raises(CrossrootError, match=f"no Alpine {branch} for {name}: .*404") as caught:
        alpine.find_minirootfs(arch.find(name), branch, [server.url])
    assert hint in caught.value.hint


def test_an_unreachable_mirror_is_not_taken_for_a_missing_branch() -> None:
    with pytest.raises(CrossrootError, match="Connection refused") as caught:
        alpine.find_minirootfs(RISCV64, "v3.19", ["http://127.0.0.1:1"])
    assert "since" not in caught.value.hint
    assert "network" in caught.value.hint


def test_the_error_names_every_mirror(server: Server) -> None:
    with pytest.raises(CrossrootError) as caught:
        alpine.find_minirootfs(RISCV64, "v3.20", [f"{server.url}/a", f"{server.url}/b"])
    assert f"{server.url}/a/v3.20" in caught.value.message
    assert f"{server.url}/b/v3.20" in caught.value.message


@pytest.mark.parametrize("branch", ["", "..", "v3.20/..", "3.20", "V3.20", "v3.20\n", "stable", "v3", "v1.99999999"])
def test_what_is_no_branch_is_a_usage_error(server: Server, branch: str) -> None:
    with pytest.raises(UsageError, match="is not a branch of Alpine"):
        alpine.find_minirootfs(RISCV64, branch, [server.url])
    assert server.seen == []


@pytest.mark.parametrize("branch", ["3.20", "3.20.3", "v3.20.3"])
def test_a_version_in_place_of_a_branch_is_explained(branch: str) -> None:
    with pytest.raises(UsageError) as caught:
        alpine.find_minirootfs(RISCV64, branch, [])
    assert "perhaps you meant v3.20" in caught.value.hint


def test_repositories_are_main_and_community_of_the_branch() -> None:
    expected = "https://m.example/alpine/v3.20/main\nhttps://m.example/alpine/v3.20/community\n"
    assert alpine.repositories("https://m.example/alpine", "v3.20") == expected
    assert alpine.repositories("https://m.example/alpine/", "v3.20") == expected


@pytest.mark.alpine
def test_a_real_mirror_is_understood(mirror: Mirror, tmp_path: Path) -> None:
    for name in mirror.arches:
        release = alpine.find_minirootfs(arch.find(name), "latest-stable", [mirror.url])
        assert (release.arch, release.mirror) == (name, mirror.url)
    digest = fetch.Digest("sha512", release.sha512)
    with fetch.download(release.urls, digest, cache=tmp_path, size=release.size) as archive:
        assert archive.file.read(2) == b"\x1f\x8b"


# --- signatures ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `archive`, `archive.asc` by a fresh key, `keyring.gpg` that has the key, `keyring.asc` and
    `inline.gpg`, a message that contains the archive."""
    folder = tmp_path_factory.mktemp("signed")
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    (folder / "archive").write_bytes(ARCHIVE)

    def gpg(*arguments: str) -> None:
        command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
        subprocess.run([*command, "--passphrase", "", *arguments], cwd=folder, check=True, capture_output=True)

    gpg("--quick-generate-key", "Test <test@example.org>", "ed25519", "sign", "never")
    gpg("--output", "keyring.gpg", "--export")
    gpg("--output", "keyring.asc", "--armor", "--export")
    gpg("--output", "archive.asc", "--armor", "--detach-sign", "archive")
    gpg("--output", "inline.gpg", "--sign", "archive")
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True, capture_output=True)
    return folder


@pytest.fixture
def archive(signed: Path) -> Iterator[Verified]:
    with open_local(signed / "archive", None) as archive:
        yield archive


def test_a_good_signature_is_accepted(signed: Path, archive: Verified, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(signed)
    alpine.verify_signature(archive, (signed / "archive.asc").read_bytes(), Path("keyring.gpg"))
    assert archive.file.read() == ARCHIVE


def test_the_open_archive_is_what_is_checked(signed: Path, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(b"something else")
    with open_local(path, None) as archive:
        path.unlink()
        shutil.copy(signed / "archive", path)
        with pytest.raises(CrossrootError, match="BAD signature"):
            alpine.verify_signature(archive, (signed / "archive.asc").read_bytes(), signed / "keyring.gpg")


@pytest.mark.parametrize("signature", [b"", b"nonsense", b"-----BEGIN PGP SIGNATURE-----\n\n=aaaa\n"])
def test_what_is_no_signature_is_refused(signed: Path, archive: Verified, signature: bytes) -> None:
    with pytest.raises(CrossrootError, match=f"the signature of {archive.path} is not good") as caught:
        alpine.verify_signature(archive, signature, signed / "keyring.gpg")
    assert "keyring.gpg" in caught.value.hint


def test_a_signed_message_is_no_detached_signature(signed: Path, archive: Verified) -> None:
    with pytest.raises(CrossrootError, match=r"the signature of .* is not good"):
        alpine.verify_signature(archive, (signed / "inline.gpg").read_bytes(), signed / "keyring.gpg")


def test_a_key_that_is_not_in_the_keyring_is_refused(signed: Path, archive: Verified, tmp_path: Path) -> None:
    (tmp_path / "empty.gpg").touch()
    with pytest.raises(CrossrootError, match="No public key"):
        alpine.verify_signature(archive, (signed / "archive.asc").read_bytes(), tmp_path / "empty.gpg")


def test_keyrings_other_than_the_one_given_do_not_count(
    signed: Path, archive: Verified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(signed / "keyring.gpg", tmp_path / "trustedkeys.gpg")
    monkeypatch.setenv("GNUPGHOME", os.fspath(tmp_path))
    (tmp_path / "empty.gpg").touch()
    with pytest.raises(CrossrootError, match="No public key"):
        alpine.verify_signature(archive, (signed / "archive.asc").read_bytes(), tmp_path / "empty.gpg")


def test_an_armored_keyring_is_explained(signed: Path, archive: Verified) -> None:
    with pytest.raises(CrossrootError, match="ASCII-armored") as caught:
        alpine.verify_signature(archive, (signed / "archive.asc").read_bytes(), signed / "keyring.asc")
    assert "gpg --dearmor" in caught.value.hint


def test_a_missing_keyring_is_said_so(signed: Path, archive: Verified) -> None:
    with pytest.raises(CrossrootError, match=r"cannot read the keyring .*: No such file"):
        alpine.verify_signature(archive, b"", signed / "none.gpg")


def test_a_missing_gpgv_is_said_so(
    signed: Path, archive: Verified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(CrossrootError, match="gpgv is not installed") as caught:
        alpine.verify_signature(archive, b"", signed / "keyring.gpg")
    assert "install" in caught.value.hint
