"""Emulators are fetched, verified, tried and published: from a signed repository, from a file, through apt for real."""

import dataclasses
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crossroot import apk, apt, arch, emulator, emulator_fetch, fetch
from crossroot.emulator_fetch import Wish
from crossroot.errors import CrossrootError, UsageError
from tests.support import apk_repository as repository
from tests.support import http
from tests.support.apk_repository import Key, Package
from tests.support.http import Answer, Server
from tests.support.identity import Identity, new_folder

RISCV64 = arch.find("riscv64")
HOST = arch.find(os.uname().machine)
NAME = "usr/bin/qemu-riscv64"
KEY = "test@example.org-00000001.rsa.pub"

pytestmark = pytest.mark.emulation


@pytest.fixture(scope="module")
def key() -> Key:
    return repository.new_key(KEY)


@pytest.fixture(scope="module")
def qemu_riscv64() -> bytes:
    return next(path for path in emulator.on_host(RISCV64) if not emulator.why_unusable(path)).read_bytes()


@pytest.fixture(scope="module")
def version() -> str:
    """That of the host's emulator."""
    return emulator.version_of(next(path for path in emulator.on_host(RISCV64) if not emulator.why_unusable(path)))


@dataclass
class Alpine:
    """A mirror with one repository, and a cache for what is fetched from it."""

    server: Server
    key: Key
    cache: Path

    @property
    def folder(self) -> str:
        return f"/latest-stable/community/{HOST.name}"

    def put(self, package: Package, content: bytes | None = None, entry: str = "", branch: str = "") -> None:
        """Publish a package. content, entry: instead of what is right."""
        folder = f"/{branch}/community/{HOST.name}" if branch else self.folder
        content = repository.build(package, self.key) if content is None else content
        index = repository.index([entry or repository.entry(package, len(content))], self.key)
        self.server.answers[f"{folder}/APKINDEX.tar.gz"] = [Answer(index)]
        self.server.answers[f"{folder}/{package.file}"] = [Answer(content)]

    def wish(self, version: str = "") -> Wish:
        return Wish(RISCV64, version, source="alpine", mirrors=[self.server.url])

    def fetch(self, version: str = "") -> emulator.Emulator:
        return emulator_fetch.fetch_emulator(self.wish(version), cache=self.cache)

    def refusal(self, version: str = "") -> str:
        """Why fetching fails; nothing must be published or left over."""
        with pytest.raises(CrossrootError) as caught:
            self.fetch(version)
        left = [path for path in self.cache.rglob("*") if path.is_file() and path.name != ".lock"]
        assert left == []
        return caught.value.message.replace(self.server.url, "").removeprefix(
            "no emulator for riscv64 could be fetched: "
        )


@pytest.fixture
def alpine(tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch) -> Iterator[Alpine]:
    keys = tmp_path / "keys" / HOST.name
    keys.mkdir(parents=True)
    (keys / key.name).write_bytes(key.public)
    monkeypatch.setattr(apk, "KEYS", keys.parent)
    monkeypatch.setattr(fetch, "BACKOFF", 0.001)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with http.serve() as server:
        yield Alpine(server, key, tmp_path / "cache")


def package(content: bytes, version: str = "9.1.2-r0") -> Package:
    return Package("qemu-riscv64", version, HOST.name, {NAME: content})


# --- from Alpine --------------------------------------------------------------------------------------------


def test_an_emulator_comes_from_a_signed_repository(alpine: Alpine, qemu_riscv64: bytes, version: str) -> None:
    alpine.put(package(qemu_riscv64))
    fetched = alpine.fetch()
    assert fetched.version == version
    assert fetched.path == alpine.cache / "emulators/riscv64" / version / "qemu-riscv64"
    assert fetched.path.read_bytes() == qemu_riscv64
    assert emulator.find(RISCV64, cache=alpine.cache) == fetched.path
    assert emulator.info(fetched) == {
        "version": version,
        "sha256": hashlib.sha256(qemu_riscv64).hexdigest(),
        "source": "alpine",
        "package": "qemu-riscv64 9.1.2-r0",
    }
    assert alpine.server.paths() == [
        f"{alpine.folder}/APKINDEX.tar.gz",
        f"{alpine.folder}/qemu-riscv64-9.1.2-r0.apk",
    ]
    left = {path.name for path in alpine.cache.rglob("*") if path.is_file()}
    assert left == {".lock", "info.json", "qemu-riscv64"}


def test_the_newest_package_that_will_do_is_taken(alpine: Alpine, qemu_riscv64: bytes, version: str) -> None:
    packages = [package(qemu_riscv64, f"{number}-r3") for number in (version, "99.0", "100.0", "98.0")]
    packages.append(dataclasses.replace(package(qemu_riscv64, "200.0-r3"), arch="s390x"))
    for each in packages:
        alpine.put(each)
    entries = [repository.entry(each, len(repository.build(each, alpine.key))) for each in packages]
    index = repository.index(entries, alpine.key)
    alpine.server.answers[f"{alpine.folder}/APKINDEX.tar.gz"] = [Answer(index)]
    alpine.fetch(version)
    assert alpine.server.paths()[-1].endswith(f"{version}-r3.apk")
    alpine.fetch()
    assert alpine.server.paths()[-1].endswith("/qemu-riscv64-100.0-r3.apk")


def test_a_key_that_is_not_carried_is_refused(alpine: Alpine) -> None:
    alpine.key = repository.new_key("stranger@example.org-00000002.rsa.pub")
    alpine.put(package(b"x"))
    assert "APKINDEX.tar.gz is signed with an unknown key: RSA.stranger@" in alpine.refusal()


def test_an_index_by_another_key_of_the_same_name_is_refused(alpine: Alpine) -> None:
    alpine.key = repository.new_key(KEY)
    alpine.put(package(b"x"))
    assert "APKINDEX.tar.gz has a wrong signature" in alpine.refusal()


def test_a_package_by_another_key_is_refused(alpine: Alpine) -> None:
    alpine.put(package(b"x"), repository.build(package(b"x"), repository.new_key(KEY)))
    assert "qemu-riscv64-9.1.2-r0.apk has a wrong signature" in alpine.refusal()


def test_other_data_is_refused(alpine: Alpine) -> None:
    good = repository.build(package(b"good"), alpine.key)
    evil = good.removesuffix(repository.data(package(b"good"))) + repository.data(package(b"evil"))
    alpine.put(package(b"good"), evil, repository.entry(package(b"good"), len(evil)))
    assert "is damaged: its data does not have the hash it is signed with" in alpine.refusal()


def test_a_truncated_package_is_refused(alpine: Alpine) -> None:
    good = repository.build(package(b"good"), alpine.key)
    alpine.put(package(b"good"), good[:-10], repository.entry(package(b"good"), len(good)))
    assert f"announces {len(good) - 10} bytes where {len(good)} are expected" in alpine.refusal()
    alpine.put(package(b"good"), good[:-10])
    assert "is damaged" in alpine.refusal()


def test_another_package_under_the_name_is_refused(alpine: Alpine) -> None:
    other = dataclasses.replace(package(b"x"), name="qemu-arm")
    content = repository.build(other, alpine.key)
    alpine.put(package(b"x"), content, repository.entry(package(b"x"), len(content)))
    assert f"is another package: qemu-arm 9.1.2-r0 {HOST.name}, not qemu-riscv64" in alpine.refusal()


def test_names_that_lead_elsewhere_are_not_taken(alpine: Alpine) -> None:
    names = [f"../{NAME}", f"/{NAME}", "usr/bin/../../etc/passwd", "../../../../tmp/crossroot-traversal"]
    alpine.put(dataclasses.replace(package(b""), files=dict.fromkeys(names, b"evil")))
    assert f"has no file {NAME}" in alpine.refusal()
    assert not Path("/tmp/crossroot-traversal").exists()


def test_format_v3_is_refused(alpine: Alpine) -> None:
    alpine.put(package(b"x"), b"ADBd" + bytes(500))
    assert "has Alpine's package format v3, which crossroot does not read yet" in alpine.refusal()
    alpine.server.answers[f"{alpine.folder}/APKINDEX.tar.gz"] = [Answer(b"ADB." + bytes(500))]
    assert "APKINDEX.tar.gz has Alpine's package format v3" in alpine.refusal()


def test_an_older_version_than_asked_for_is_refused(alpine: Alpine) -> None:
    alpine.put(package(b"x"))
    said = alpine.refusal(">=10")
    assert "has only 9.1.2-r0 of qemu-riscv64, not version >=10" in said
    assert alpine.server.paths() == [
        f"/{branch}/community/{HOST.name}/APKINDEX.tar.gz" for branch in ("latest-stable", "edge")
    ]


def test_a_package_with_an_older_emulator_than_it_says_is_refused(
    alpine: Alpine, qemu_riscv64: bytes, version: str
) -> None:
    alpine.put(package(qemu_riscv64, "99.0-r0"))
    assert alpine.refusal("99") == f"the emulator of qemu-riscv64 99.0-r0 has version {version}, not 99"


def test_a_newer_version_comes_from_edge(alpine: Alpine, qemu_riscv64: bytes, version: str) -> None:
    alpine.put(package(b"old", "0.9-r0"))
    alpine.put(package(qemu_riscv64, f"{version}-r0"), branch="edge")
    assert alpine.fetch(">=1").version == version


def test_a_mirror_without_it_and_one_that_does_not_answer_are_named(alpine: Alpine) -> None:
    alpine.put(dataclasses.replace(package(b"x"), name="qemu-arm"))
    wish = dataclasses.replace(alpine.wish(), mirrors=["http://127.0.0.1:9", alpine.server.url])
    with pytest.raises(CrossrootError, match=r"127\.0\.0\.1:9.*no connection.* has no qemu-riscv64"):
        emulator_fetch.fetch_emulator(wish, cache=alpine.cache)


def test_a_file_that_is_no_emulator_is_refused(alpine: Alpine) -> None:
    alpine.put(package(Path("/bin/sh").read_bytes()))
    assert alpine.refusal().startswith("the emulator of qemu-riscv64 9.1.2-r0 is dynamically linked")
    alpine.put(package(b"#!/bin/sh\n"))
    assert alpine.refusal() == "the emulator of qemu-riscv64 9.1.2-r0 is not an ELF executable"


def test_an_emulator_of_another_arch_fails_the_probe(alpine: Alpine) -> None:
    alpine.put(package(Path("/usr/bin/qemu-s390x-static").read_bytes()))
    assert "does not run riscv64 programs: " in alpine.refusal()


def test_a_new_one_that_fails_the_probe_leaves_the_one_before_in_use(
    alpine: Alpine, qemu_riscv64: bytes, version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    alpine.put(package(qemu_riscv64))
    before = alpine.fetch()
    alpine.put(package(Path("/usr/bin/qemu-s390x-static").read_bytes(), "99.0-r0"))
    capsys.readouterr()
    assert alpine.fetch() == before
    said = capsys.readouterr().err
    assert "the emulator of qemu-riscv64 99.0-r0" in said
    assert f"it is not kept, and qemu {version} goes on being used for riscv64" in said
    assert before.path.read_bytes() == qemu_riscv64


def test_another_build_of_the_same_version_replaces_it(alpine: Alpine, qemu_riscv64: bytes) -> None:
    alpine.put(package(qemu_riscv64))
    path = alpine.fetch().path
    rebuilt = qemu_riscv64 + b"another build"
    alpine.put(package(rebuilt, "9.1.2-r1"))
    with path.open("rb") as running:
        fetched = alpine.fetch()
        assert (fetched.path, path.read_bytes()) == (path, rebuilt)
        assert running.read() == qemu_riscv64
    assert emulator.info(fetched)["package"] == "qemu-riscv64 9.1.2-r1"
    assert [entry.name for entry in emulator.folder(RISCV64, alpine.cache).iterdir() if entry.name[0] != "."] == [
        fetched.version
    ]


def test_what_a_killed_fetch_left_is_removed(alpine: Alpine, qemu_riscv64: bytes) -> None:
    left = alpine.cache / "emulators/riscv64/.new-abc"
    left.mkdir(parents=True)
    (left / "qemu-riscv64").write_bytes(b"half")
    alpine.put(package(qemu_riscv64))
    assert len(emulator.fetched(RISCV64, alpine.cache)) == 0
    alpine.fetch()
    assert not left.exists()


# --- when one is needed -------------------------------------------------------------------------------------


@pytest.fixture
def bare_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a host without qemu."""
    monkeypatch.setenv("PATH", f"{tmp_path}/none")
    monkeypatch.setattr(emulator, "_FOLDERS", ())


def ensure(alpine: Alpine, version: str = "") -> Path:
    return emulator_fetch.ensure(RISCV64, None, version, cache=alpine.cache, mirrors=[alpine.server.url])


@pytest.mark.usefixtures("bare_host")
def test_what_is_missing_is_fetched_once_and_said(
    alpine: Alpine, qemu_riscv64: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    alpine.put(package(qemu_riscv64))
    path = ensure(alpine)
    assert "no emulator for riscv64 on this host; fetching one" in capsys.readouterr().err
    requests = len(alpine.server.seen)
    assert ensure(alpine) == path
    assert len(alpine.server.seen) == requests
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("bare_host")
def test_two_that_need_the_same_fetch_it_once(alpine: Alpine, qemu_riscv64: bytes) -> None:
    alpine.put(package(qemu_riscv64))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(ensure(alpine))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == len(alpine.server.seen) == 2  # one index, one package


def test_what_is_there_is_not_fetched(alpine: Alpine, qemu_riscv64: bytes, version: str) -> None:
    assert ensure(alpine).read_bytes() == qemu_riscv64
    assert ensure(alpine, version) == ensure(alpine)
    assert alpine.server.seen == []


def test_a_wrong_request_is_refused_before_anything_is_asked(alpine: Alpine) -> None:
    with pytest.raises(UsageError, match="'new' is not a version of qemu"):
        ensure(alpine, "new")
    with pytest.raises(UsageError, match="'dnf' is no source"):
        emulator_fetch.fetch_emulator(Wish(RISCV64, source="dnf"), cache=alpine.cache)
    with pytest.raises(UsageError, match="this host's own arch"):
        emulator_fetch.fetch_emulator(Wish(HOST), cache=alpine.cache)
    assert not alpine.cache.exists()


def test_a_named_mirror_means_alpine_first() -> None:
    here = ["apt"] if apt.release() else []
    assert emulator_fetch._order(Wish(RISCV64)) == [*here, "alpine"]
    assert emulator_fetch._order(Wish(RISCV64, mirrors=["https://m"])) == ["alpine", *here]
    assert emulator_fetch._order(Wish(RISCV64, branch="edge")) == ["alpine", *here]
    assert emulator_fetch._order(Wish(RISCV64, mirrors=["https://m"], source="apt")) == ["apt"]


# --- from a file --------------------------------------------------------------------------------------------


def test_a_file_is_kept(tmp_path: Path, qemu_riscv64: bytes, version: str) -> None:
    file = tmp_path / "mine"
    file.write_bytes(qemu_riscv64)
    kept = emulator_fetch.add(RISCV64, str(file), "", cache=tmp_path)
    assert (kept.version, kept.path.read_bytes()) == (version, qemu_riscv64)
    assert emulator.info(kept)["source"] == "file"
    assert emulator.info(kept)["package"] == str(file)


def test_a_url_needs_a_hash_and_is_fetched_once(alpine: Alpine, qemu_riscv64: bytes) -> None:
    url = f"{alpine.server.url}/qemu"
    alpine.server.answers["/qemu"] = [Answer(qemu_riscv64)]
    with pytest.raises(UsageError, match="nothing says which file"):
        emulator_fetch.ensure(RISCV64, url, cache=alpine.cache)
    with pytest.raises(CrossrootError, match="wrong sha256"):
        emulator_fetch.ensure(RISCV64, url, sha256="0" * 64, cache=alpine.cache)
    digest = hashlib.sha256(qemu_riscv64).hexdigest()
    path = emulator_fetch.ensure(RISCV64, url, sha256=digest, cache=alpine.cache)
    requests = len(alpine.server.seen)
    shutil.rmtree(alpine.cache / "blobs")
    assert emulator_fetch.ensure(RISCV64, url, sha256=digest, cache=alpine.cache) == path
    assert len(alpine.server.seen) == requests
    assert path.read_bytes() == qemu_riscv64


# --- the probe ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["why_it_fails", "_fails_directly"])
def test_only_what_runs_programs_passes_the_probe(way: str) -> None:
    fails = getattr(emulator_fetch, way)
    good = next(path for path in emulator.on_host(RISCV64) if not emulator.why_unusable(path))
    assert fails(RISCV64, good) == ""
    assert "exited with 255" in fails(arch.find("s390x"), good)


# --- through apt --------------------------------------------------------------------------------------------

FETCH = """
import json, sys
from pathlib import Path
from crossroot import arch, emulator, emulator_fetch
cache, version = Path(sys.argv[1]), sys.argv[2]
wish = emulator_fetch.Wish(arch.find("riscv64"), version, source="apt")
one = emulator_fetch.fetch_emulator(wish, cache=cache)
fails = emulator_fetch.why_it_fails(wish.arch, one.path)
print(json.dumps({**emulator.info(one), "path": str(one.path), "fails": fails}))
"""


def state_of_apt() -> dict[str, int]:
    """What apt keeps for the host, with the times of the last change."""
    folders = [Path("/var/lib/apt/lists"), Path("/var/cache/apt")]
    return {str(path): path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.mark.network
@pytest.mark.slow
def test_apt_gives_the_suites_own_and_a_newer_one(identity: Identity, scratch: Path) -> None:
    if apt.release() is None:
        pytest.skip("needs Debian or Ubuntu")
    cache = new_folder(scratch, identity)
    before = state_of_apt()

    def fetch_version(version: str) -> dict[str, str]:
        result = identity.run([identity.python, "-c", FETCH, cache, version], timeout=200, check=True)
        facts: dict[str, str] = json.loads(result.stdout)
        return facts

    own = fetch_version("")
    assert (own["fails"], own["source"]) == ("", "apt")
    major = int(own["version"].split(".")[0])
    newer = fetch_version(f">={max(major + 1, 10)}")
    assert newer["fails"] == ""
    assert int(newer["version"].split(".")[0]) >= max(major + 1, 10)
    assert newer["path"] != own["path"]
    assert Path(own["path"]).stat().st_uid == identity.uid
    [deb] = (cache / "apt/archives").glob("qemu-user_*.deb")
    with deb.open("r+b") as file:  # as large as before, so that apt itself would be content with it
        file.seek(5000)
        file.write(b"damaged")
    assert fetch_version(newer["version"])["sha256"] == newer["sha256"]
    assert state_of_apt() == before
